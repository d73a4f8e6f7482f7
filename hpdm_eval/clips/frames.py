"""Which frames of a video make a clip, how a contact sheet is cut into clips, and orders at random.

Everything here is a pure function of its arguments; random choices come from (seed, name) alone, so a clip does not
change when other files appear beside it.
"""

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from hpdm.support.errors import InputError
from hpdm.video.timeline import Timeline
from hpdm.video.walk import natural_key
from hpdm_eval.clips.sheets import better_counts, better_padding, find_layout, layouts, some_frames

__all__ = ["FrameRule", "Grid", "NoVideo", "Rejected", "natural_key", "parse_grid", "seeded_key"]


class Rejected(Exception):
    """This clip cannot be used; the message is the reason that the record lists."""


class NoVideo(Rejected):
    """This file was never meant to be clips; beside videos it is passed over instead of rejected."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A contact sheet of `rows` x `columns` clips with `padding` pixels between them, and around or behind them."""

    rows: int
    columns: int
    padding: int = 0

    def __len__(self) -> int:
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}" + (f"+{self.padding}" if self.padding else "")

    def cell_size(self, height: int, width: int) -> tuple[int, ...]:
        """(height, width) of one clip on a sheet of that size; raises Rejected where it does not divide."""
        found = [layouts(size, count, self.padding) for size, count in ((height, self.rows), (width, self.columns))]
        if not all(found):
            raise Rejected(
                f"{height}x{width} px do not divide into a grid of {self}; give --grid rows x columns + "
                "padding, as in 1x8+2, or pick the sheets with --match"
            )
        return tuple(axis[0].cell for axis in found)

    def cut(self, sheet: np.ndarray, cell: int) -> np.ndarray:
        """View of clip number `cell` (row by row, from 0) of `sheet` [T,H,W,C]; raises Rejected as `locate`."""
        top, left, height, width = self.locate(sheet)[cell]
        return sheet[:, top : top + height, left : left + width]

    def locate(self, sheet: np.ndarray) -> list[tuple[int, int, int, int]]:
        """(top, left, height, width) in pixels of each clip on `sheet` [T,H,W,C], row by row.

        Clips are found with a border before the first and without, and on sheets that were scaled to multiples of 16
        px, see `sheets`. Raises Rejected where the size does not divide, and where padding would be left in the clips.
        """
        sheet = some_frames(sheet)
        self.cell_size(*sheet.shape[1:3])
        padding = better_padding(sheet, self.rows, self.columns, self.padding) if np.ptp(sheet) else None
        if padding is not None:
            right = Grid(rows=self.rows, columns=self.columns, padding=padding)
            raise Rejected(f"clips cut by a grid of {self} would keep the border between them; --grid {right} fits")
        counts = better_counts(sheet, self.rows, self.columns, self.padding) if np.ptp(sheet) else None
        if counts is not None:
            right = Grid(rows=counts[0], columns=counts[1], padding=counts[2])
            raise Rejected(f"the sheet shows borders that a grid of {self} does not have; --grid {right} fits")
        found = find_layout(sheet, self.rows, self.columns, self.padding)
        if found is None:
            raise Rejected(
                f"{sheet.shape[1]}x{sheet.shape[2]} px do not divide into a grid of {self}, and no padding "
                "is seen where scaling would have put it"
            )
        down, across = found
        return [
            (down.start(row), across.start(column), down.cell, across.cell)
            for row in range(self.rows)
            for column in range(self.columns)
        ]


def parse_grid(text: str | Grid | None) -> Grid | None:
    """Read "RxC" or "RxC+PAD" into a Grid; None and Grid pass through. Raises InputError."""
    if text is None or isinstance(text, Grid):
        return text
    match = re.fullmatch(r"([1-9][0-9]{0,3})[xX]([1-9][0-9]{0,3})(?:\+([0-9]{1,4}))?", text.strip())
    if not match:
        raise InputError(f"--grid {text}: write rows x columns and, where clips are padded, the pixels: 1x8 or 1x8+2")
    rows, columns, padding = (int(group or 0) for group in match.groups())
    return Grid(rows=rows, columns=columns, padding=padding)


@dataclass(frozen=True, kw_only=True)
class FrameRule:
    """Which frames of a video make a clip.

    frames: how many, None for all. start: "first", "center", "random", or "subsampled" (evenly over the whole video,
    from its first frame). stride: every so many frames, after resampling to `fps` (None: as they come).
    short: what happens to a video with too few frames, "reject" or "loop" (repeat from its beginning).
    clips: how many of one video. Several with start "first" are spread evenly from the first frame to the last, with
    "center" each lies in the middle of one of as many equal parts, with "random" one starts at random in each part.
    """

    frames: int | None
    start: str = "first"
    stride: int = 1
    fps: float | None = None
    short: str = "reject"
    clips: int = 1

    def indices(self, timeline: Timeline, seed: int, name: str, number: int = 0) -> np.ndarray:
        """Frame numbers int64 [frames] of clip `number` of the video with this Timeline.

        Resampling takes the frames nearest in time. Raises Rejected for a video that is too short.
        """
        if timeline.frames < 1:
            raise Rejected("no frames")
        numbers = timeline.resampled(self.fps) if self.fps else np.arange(timeline.frames, dtype=np.int64)
        if self.frames is None:
            return numbers[:: self.stride]
        stride = max(len(numbers) // self.frames, 1) if self.start == "subsampled" else self.stride
        steps = np.arange(self.frames, dtype=np.int64) * stride
        spare = len(numbers) - (int(steps[-1]) + 1)
        if spare < 0:
            if self.short != "loop":
                rate = f" at {self.fps:g} fps" if self.fps and timeline.rate else ""
                raise Rejected(
                    f"too short: {len(numbers)} frames{rate}, {int(steps[-1]) + 1} needed; --short loop repeats it"
                )
            if number == 0:
                return numbers[steps % len(numbers)]
        if number > max(spare, 0):
            raise Rejected(
                f"too short for {self.clips} different clips: it holds {max(spare, 0) + 1}; set clips_per_video"
            )
        return numbers[steps + self._offset(spare, seed, name, number)]

    def _offset(self, spare, seed, name, number):
        """Start of clip `number` where `spare` starts follow the first one."""
        if self.clips == 1:
            return {"center": spare // 2, "random": _draw(seed, name, spare + 1)}.get(self.start, 0)
        clips = min(self.clips, spare + 1)  # different ones
        if self.start == "first":
            return number * spare // max(clips - 1, 1)
        low, high = number * (spare + 1) // clips, (number + 1) * (spare + 1) // clips
        return low + _draw(seed, name, high - low) if self.start == "random" else (low + high - 1) // 2


def seeded_key(seed: int, name: str) -> bytes:
    """32 bytes that order names at random, each independently of which other names there are."""
    return hashlib.sha256(f"order\0{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def _draw(seed, name, bound):
    digest = hashlib.sha256(f"start\0{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:16], "big") % bound
