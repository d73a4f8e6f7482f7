"""Clips cut out of video files: which frames, which part of the picture, at which size.

Shapes: C colours (RGB), T frames, H rows, W columns; clips are uint8 in 0..255.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from hpdm.data.accounts import BROKEN, TOO_SHORT, with_hints
from hpdm.data.jobs import run
from hpdm.data.members import Member
from hpdm.data.table import IndexedVideo, Rows
from hpdm.support.errors import InputError
from hpdm.video import formats
from hpdm.video.pixels import UnreadablePicture, read_picture
from hpdm.video.reader import DecodingError, VideoReader
from hpdm.video.timeline import Timeline, exact_rate

if TYPE_CHECKING:
    from hpdm.data.table import VideoTable


# Workers import this module with torch before the time of their first job begins to count.
RUN = f"{__name__}:{run.__name__}"
BROKEN_CODE, USABLE = -1, 0  # codes of `ClipSampling.refusals`; reasons have numbers above


@dataclass(frozen=True, kw_only=True)
class ClipSampling:
    """Which frames make a clip, and its size in pixels."""

    frames: int
    height: int
    width: int
    start: str = "random"
    stride: int = 1
    fps: float | None = None
    short: str = "drop"
    crop: str = "center"
    least_kept: float = 0.0

    def refusal(self, video: IndexedVideo, fps: Any = None) -> str | None:
        """Why a video makes no clip, or None; `fps` is a frame rate that takes the place of the file's times."""
        if reason := self.refusal_of_shape(video):
            return reason
        if self.fps and not (fps or video.fps):
            return "no frame rate in the file"
        if self.short == "loop":
            return None
        if (video.frames_at(self.fps, fps) if self.fps else video.frames) > (self.frames - 1) * self.stride:
            return None
        rate = f" of {self.fps:g} fps" if self.fps else ""
        stride = f" at stride {self.stride}" if self.stride > 1 else ""
        return f"{TOO_SHORT} for {self.frames} frames{rate}{stride}"

    def refusals(
        self, table: "VideoTable", rows: np.ndarray, fps: Any = None, still: Any = None
    ) -> tuple[np.ndarray, list[str]]:
        """(code int32 of each of the `rows` of a table, reasons by code): USABLE, BROKEN_CODE or why not.

        fps: frame rates [len(rows)] in place of the files' times, 0 for none. still: bool [len(rows)], pictures, which
        are judged by their shape alone. Equal videos are judged once.
        """
        codes, reasons = np.zeros(len(rows), np.int32), [""]
        codes[table.broken[rows]] = BROKEN_CODE
        places = (codes == USABLE).nonzero()[0]
        if not len(places):
            return codes, reasons
        whole = rows[places]
        fps = np.zeros(len(rows)) if fps is None else fps
        still = np.zeros(len(rows), bool) if still is None else still
        # Beyond what a clip needs the number of frames makes no difference, unless times decide.
        frames = table.frames[whole] if self.fps else np.minimum(table.frames[whole], self.frames * self.stride)
        columns = [table.height[whole], table.width[whole], frames, still[places]]
        if self.fps:
            columns += [table.fps[whole], table.seconds[whole], table.even[whole], fps[places]]
        firsts, group = _groups(columns)
        found = np.zeros(len(firsts), np.int32)
        for number, first in enumerate(firsts):
            video, own = table.entry(whole[first]), float(fps[places[first]]) or None
            assert isinstance(video, IndexedVideo)  # broken files have their code
            reason = self.refusal_of_shape(video) if still[places[first]] else self.refusal(video, own)
            if reason and reason not in reasons:
                reasons.append(reason)
            found[number] = reasons.index(reason) if reason else USABLE
        codes[places] = found[group]
        return codes, reasons

    def refusal_of_shape(self, picture: Any) -> str | None:
        """Why pictures of the `height` and `width` of `picture` make no clip, or None."""
        rows, columns = largest_box(picture.height, picture.width, self.height, self.width)
        if rows * columns < self.least_kept * picture.height * picture.width:
            return f"cropping leaves less than {self.least_kept:.0%} of the picture"
        return None

    def rate(self, native_fps: float) -> float:
        """Frames per second of the clips of a file of `native_fps`."""
        return (self.fps or native_fps) / self.stride

    def last_start(self, timeline: Timeline) -> int:
        """Number of the last frame with which a clip can begin; negative for a video too short for one."""
        if not (self.fps and timeline.tick):
            return timeline.frames - 1 - (self.frames - 1) * self.stride
        latest = timeline.end - Fraction((self.frames - 1) * self.stride) / exact_rate(self.fps) / timeline.tick
        first_too_late = -(-latest // 1)
        if timeline.ticks is None:
            return min(int(first_too_late), timeline.frames) - 1
        return int(np.searchsorted(timeline.ticks, int(first_too_late))) - 1

    def indices(self, timeline: Timeline, random: np.random.Generator) -> np.ndarray:
        """Frame numbers of one clip, int64 [T]: every `stride`-th frame, with `fps` set those nearest in time.

        random: a NumPy Generator. A video too short for the clip starts at its first frame and begins again at its end.
        Raises DecodingError for one that is to be dropped.
        """
        last = self.last_start(timeline)
        if last < 0:
            if self.short == "drop":
                raise DecodingError(f"shows {timeline.frames} frames only, which is {TOO_SHORT} for a clip")
            return self._looped(timeline)
        start = {"first": 0, "center": last // 2, "random": int(random.integers(last + 1))}[self.start]
        return timeline.resampled(self.fps, self.frames, start=start, stride=self.stride)

    def _looped(self, timeline):
        if not (self.fps and timeline.tick):
            return self.stride * np.arange(self.frames, dtype=np.int64) % timeline.frames
        ticks, once = timeline.ticks, timeline.frames
        if ticks is not None:
            once = int(2 * timeline.end - ticks[-1])  # with the last frame shown as long as the one before
        span = Fraction((self.frames - 1) * self.stride) / exact_rate(self.fps) / timeline.tick
        times = int(span // once) + 2
        if ticks is not None:
            ticks = (ticks + once * np.arange(times)[:, None]).reshape(-1)
        repeated = Timeline(timeline.frames * times, timeline.tick, ticks)
        return repeated.resampled(self.fps, self.frames, stride=self.stride) % timeline.frames


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """One clip to be cut out of a file, for a worker process: everything that decides it, in a form that travels.

    random: NumPy Generator that the start and the place of the crop are drawn from, in this order. fps: a frame rate
    that takes the place of the file's times. member: where the file is in a shard; `path` is then only its name.
    """

    path: str
    sampling: ClipSampling
    random: np.random.Generator
    fps: float | None = None
    member: Member | None = None

    def fetched(self) -> "FileJob":
        """The job with all that another process cannot reach."""
        return self if self.member is None else replace(self, member=self.member.fetched())

    def run(self) -> np.ndarray:
        """uint8 [C,T,H,W] as an array; raises DecodingError for a damaged file. `random` has then made its draws."""
        sampling = self.sampling
        fitting = Fitting(sampling.height, sampling.width, self.random if sampling.crop == "random" else None)
        content = None if self.member is None else self.member.load()
        if formats.is_image(self.path):
            try:
                frames = fitting(np.array(read_picture(self.path, content))[None])
            except UnreadablePicture as error:
                raise DecodingError(str(error)) from error
            frames = np.repeat(frames, sampling.frames, axis=0)
            return np.ascontiguousarray(frames.swapaxes(0, 1))
        before = self.random.bit_generator.state

        def choose(timeline):
            # Asked again for a damaged file, it draws the same numbers again.
            self.random.bit_generator.state, fitting.place = before, None
            return sampling.indices(Timeline.even(timeline.frames, self.fps) if self.fps else timeline, self.random)

        with VideoReader(self.path if content is None else content) as video:
            frames, _ = video.read_chosen(choose, fitting)
        return np.ascontiguousarray(frames.swapaxes(0, 1))


class FolderClips:
    """One clip per reading from each video of a table that is long enough.

    `rows` are the table's rows that are chosen, `ids` their class ids, -1 for a video without a class. `used` are those
    that make clips, `labels` their class ids, `videos` their IndexedVideos; `left_out` is path → reason of the other
    ones, also broken ones; `broken` lists the files that no decoder opens; `about` is what else the description says.
    """

    in_process, function = False, RUN  # decoders crash and hang
    images = 0

    def __init__(
        self,
        root: str | Path,
        table: "VideoTable",
        rows: np.ndarray,
        ids: np.ndarray,
        class_names: Sequence[str],
        sampling: "ClipSampling",
        about: dict,
    ) -> None:
        self.root, self.table, self.rows, self.ids = root, table, rows, ids
        self.class_names, self.sampling, self.about = class_names, sampling, about
        self._codes, self._reasons = sampling.refusals(table, rows)
        fits = self._codes == USABLE
        self.used, self.labels = rows[fits], ids[fits]
        if not len(self.used):
            counts = Counter(self.dropped) + Counter({BROKEN: int((self._codes == BROKEN_CODE).sum())})
            raise InputError(f"no video in {self.root} is usable: {with_hints(counts)}")

    def __len__(self) -> int:
        return len(self.used)

    @property
    def videos(self) -> Rows:
        return Rows(self.used, self.table.entry)

    @property
    def broken(self) -> list:
        return [self.table.entry(row) for row in self.rows[self._codes == BROKEN_CODE]]

    @property
    def dropped(self) -> dict[str, int]:
        """Reason → count of the videos that are whole and not used."""
        return _counted(self._codes[self._codes > USABLE], self._reasons)

    @property
    def left_out(self) -> dict[str, str]:
        codes = self._codes[self._codes != USABLE]
        paths = self.table.path.chosen(self.rows[self._codes != USABLE])
        return {path: self._reasons[code] if code > USABLE else BROKEN for path, code in zip(paths, codes, strict=True)}

    def name(self, item: int) -> str:
        """Path of video `item` below the folder, which is how messages and lists of files call it."""
        return self.table.path[int(self.used[item])]

    def job(self, item: int, random: np.random.Generator) -> "FileJob":
        """FileJob of one clip of video `item`."""
        return file_job(self.root, self.table, self.used[item], self.sampling, random)

    def captions(self, item: int) -> int:
        """How many captions item `item` has."""
        return 0

    def conditions(self, item: int, caption: int = 0) -> int:
        """Class id of video `item`."""
        return int(self.labels[item])

    def contents(self) -> Iterator[tuple]:
        """Yield (path, bytes, frames, class) of each video that is used, by path: the data's fingerprint."""
        names = {
            label: f"{label} {self.class_names[label] if label >= 0 else ''}".strip()
            for label in np.unique(self.labels).tolist()
        }
        order = slice(None) if (np.diff(self.used) > 0).all() else np.argsort(self.used)
        rows, labels = self.used[order], self.labels[order].tolist()
        sizes, frames = self.table.size[rows].tolist(), self.table.frames[rows].tolist()
        for path, size, count, label in zip(self.table.path.chosen(rows), sizes, frames, labels, strict=True):
            yield path, size, count, names[label]

    def describe(self) -> dict:
        """What the folder holds: counts of videos and classes, and what was left out and why; JSON-able."""
        return {
            "path": str(self.root),
            **self.about,
            "videos_found": len(self.rows),
            "videos": len(self.used),
            "classes": len(self.class_names),
            "classes_present": len(set(np.unique(self.labels).tolist()) - {-1}),
            "frames_in_total": int(self.table.frames[self.used].sum()),
            "dropped": self.dropped,
            "broken": [{"path": file.path, "reason": file.reason} for file in self.broken],
            "per_class": self._per_class(),
        }

    def _per_class(self):
        """Class name → what of it was found, used and left out; classes without any file are not listed."""
        classes = {}
        groups, counts = np.unique(np.stack([self.ids, self._codes]), axis=1, return_counts=True)
        for (label, code), count in zip(groups.T.tolist(), counts.tolist(), strict=True):
            name = self.class_names[label] if label >= 0 else ""
            entry = classes.setdefault(name, {"found": 0, "used": 0, "left_out": {}})
            entry["found"] += count
            if code == USABLE:
                entry["used"] += count
            else:
                entry["left_out"][self._reasons[code] if code > USABLE else BROKEN] = count
        return classes


def file_job(
    root: str | Path,
    table: "VideoTable",
    row: int,
    sampling: "ClipSampling",
    random: np.random.Generator,
    fps: Any = None,
) -> "FileJob":
    """FileJob of one clip of a row of a table, of a file below the folder `root` or inside a shard."""
    row = int(row)
    if not table.in_shards:
        return FileJob(path=str(Path(root, table.path[row])), sampling=sampling, random=random, fps=fps)
    shard = table.about["shards"][int(table.shard[row])]
    member = Member(
        name=table.path[row],
        shard=f"{str(root).rstrip('/')}/{shard}",
        offset=int(table.offset[row]),
        size=int(table.size[row]),
    )
    return FileJob(path=member.name, member=member, sampling=sampling, random=random, fps=fps)


def _counted(codes, reasons):
    numbers, counts = np.unique(codes, return_counts=True)
    return {reasons[number]: count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)}


def _groups(columns):
    """(first row of each group of equal rows, group of every row) of several columns [n]."""
    group = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        _, group = np.unique(group * len(values) + inverse, return_inverse=True)
    _, first = np.unique(group, return_index=True)
    return first, group


class Fitting:
    """Callable that brings frames of one video to a size: uint8 [T,H0,W0,C] → uint8 [T,C,height,width].

    What is kept is the largest box of the target's shape: the one in the middle, or with a NumPy Generator one at
    `random`, all with equal probability, drawn at the first call. Antialiased bilinear in integer arithmetic: within
    one grey level of the exact result, several times faster.
    """

    def __init__(self, height: int, width: int, random: np.random.Generator | None = None) -> None:
        self.height, self.width, self.random = height, width, random
        self.place: tuple[int, ...] | None = None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        rows, columns = frames.shape[1:3]
        box_rows, box_columns = largest_box(rows, columns, self.height, self.width)
        if self.place is None:
            spare = rows - box_rows, columns - box_columns
            self.place = tuple(n // 2 if self.random is None else int(self.random.integers(n + 1)) for n in spare)
        top, left = self.place
        box = frames[:, top : top + box_rows, left : left + box_columns].transpose(0, 3, 1, 2)
        if (box_rows, box_columns) == (self.height, self.width):
            return box
        size = self.height, self.width
        return F.interpolate(torch.from_numpy(box), size, mode="bilinear", align_corners=False, antialias=True).numpy()


def fit(frames: np.ndarray, height: int, width: int, random: np.random.Generator | None = None) -> np.ndarray:
    """uint8 [T,H0,W0,C] → uint8 [C,T,height,width], as `Fitting`."""
    return np.ascontiguousarray(Fitting(height, width, random)(frames).swapaxes(0, 1))


def largest_box(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the largest box of the shape of `height` x `width` in a picture of `rows` x `columns`."""
    return min(rows, max(1, round(columns * height / width))), min(columns, max(1, round(rows * width / height)))
