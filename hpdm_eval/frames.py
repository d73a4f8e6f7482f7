"""Which frames of a video make a clip, how a contact sheet is cut into clips, and how names are ordered.

Everything here is a pure function of its arguments; random choices come from (seed, name) alone, so a clip does not
change when other files appear beside it.
"""

import hashlib
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hpdm.errors import InputError
from hpdm_eval.sheets import better_padding, find_layout, layouts


class Rejected(Exception):
    """This clip cannot be used; the message is the reason that the record lists."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A contact sheet of `rows` x `columns` clips with `padding` pixels between them, and around or behind them."""

    rows: int
    columns: int
    padding: int = 0

    def __len__(self):
        return self.rows * self.columns

    def __str__(self):
        return f"{self.rows}x{self.columns}" + (f"+{self.padding}" if self.padding else "")

    def cell_size(self, height, width):
        """(height, width) of one clip on a sheet of that size; raises Rejected where it does not divide."""
        found = [layouts(size, count, self.padding) for size, count in ((height, self.rows), (width, self.columns))]
        if not all(found):
            raise Rejected(f"{height}x{width} px do not divide into a grid of {self}")
        return tuple(axis[0].cell for axis in found)

    def cut(self, sheet, cell):
        """View of clip number `cell` (row by row, from 0) of `sheet` [T,H,W,C].

        Clips are found with a border before the first and without, and on sheets that were scaled to multiples of 16
        px, see `sheets`. Raises Rejected where the size does not divide, and where padding would be left in the clips.
        """
        self.cell_size(*sheet.shape[1:3])
        padding = better_padding(sheet, self.rows, self.columns, self.padding)
        if padding is not None:
            right = Grid(rows=self.rows, columns=self.columns, padding=padding)
            raise Rejected(f"clips cut by a grid of {self} would keep the border between them; --grid {right} fits")
        found = find_layout(sheet, self.rows, self.columns, self.padding)
        if found is None:
            raise Rejected(f"{sheet.shape[1]}x{sheet.shape[2]} px do not divide into a grid of {self}, and no padding "
                           "is seen where scaling would have put it")
        down, across = found
        row, column = divmod(cell, self.columns)
        top, left = down.start(row), across.start(column)
        return sheet[:, top:top + down.cell, left:left + across.cell]


def parse_grid(text):
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
    """

    frames: int | None
    start: str = "first"
    stride: int = 1
    fps: float | None = None
    short: str = "reject"

    def indices(self, count, rate, seed, name):
        """Frame numbers int64 [frames] in a video of `count` frames at `rate` frames per second (None: unknown).

        Raises Rejected for a video that is too short.
        """
        if count < 1:
            raise Rejected("no frames")
        timeline = resampled_frames(count, rate, self.fps)
        if self.frames is None:
            return timeline[::self.stride]
        stride = max(len(timeline) // self.frames, 1) if self.start == "subsampled" else self.stride
        steps = np.arange(self.frames, dtype=np.int64) * stride
        spare = len(timeline) - (int(steps[-1]) + 1)
        if spare < 0:
            if self.short == "loop":
                return timeline[steps % len(timeline)]
            raise Rejected(f"too short: {len(timeline)} frames, {int(steps[-1]) + 1} needed")
        offset = {"center": spare // 2, "random": _draw(seed, name, spare + 1)}.get(self.start, 0)
        return timeline[steps + offset]


def resampled_frames(count, rate, fps):
    """Frame numbers int64 that show a video of `count` frames at `rate` per second at `fps` per second instead.

    Output frame k stands at time k/fps and takes the source frame nearest in time (source frame i stands at i/rate;
    of two equally near, the later). Rates are read as fractions with denominators up to 1001, so 29.97 is 30000/1001
    and long videos do not drift. Without a rate or a wish the frames stay as they are.
    """
    if fps is None or rate is None:
        return np.arange(count, dtype=np.int64)
    step = Fraction(rate).limit_denominator(1001) / Fraction(fps).limit_denominator(1001)
    top, bottom = step.numerator, step.denominator
    length = -(-(2 * count - 1) * bottom // (2 * top))
    return (2 * np.arange(length, dtype=np.int64) * top + bottom) // (2 * bottom)


def natural_key(name):
    """Sort key that puts frame2 before frame10, path component by path component."""
    parts = []
    for part in name.split("/"):
        pieces = re.split("([0-9]+)", part)
        parts.append(tuple(int(piece) if i % 2 else piece for i, piece in enumerate(pieces)))
    return parts, name


def seeded_key(seed, name):
    """32 bytes that order names at random, each independently of which other names there are."""
    return hashlib.sha256(f"order\0{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def _draw(seed, name, bound):
    digest = hashlib.sha256(f"start\0{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:16], "big") % bound
