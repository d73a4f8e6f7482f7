"""Clips cut out of video files: which frames, which part of the picture, at which size.

Shapes: C colours (RGB), T frames, H rows, W columns; clips are uint8 in 0..255.
"""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F

from hpdm.data.accounts import BROKEN, TOO_SHORT, with_hints
from hpdm.data.index import IndexedVideo
from hpdm.data.jobs import run
from hpdm.errors import InputError
from hpdm.video import formats
from hpdm.video.pixels import UnreadablePicture, read_picture
from hpdm.video.reader import DecodingError, VideoReader
from hpdm.video.timeline import Timeline, exact_rate


# Workers import this module with torch before the time of their first job begins to count.
RUN = f"{__name__}:{run.__name__}"


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

    def refusal(self, video: IndexedVideo, fps=None):
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

    def refusal_of_shape(self, picture):
        """Why pictures of the `height` and `width` of `picture` make no clip, or None."""
        rows, columns = largest_box(picture.height, picture.width, self.height, self.width)
        if rows * columns < self.least_kept * picture.height * picture.width:
            return f"cropping leaves less than {self.least_kept:.0%} of the picture"
        return None

    def rate(self, native_fps):
        """Frames per second of the clips of a file of `native_fps`."""
        return (self.fps or native_fps) / self.stride

    def last_start(self, timeline: Timeline):
        """Number of the last frame with which a clip can begin; negative for a video too short for one."""
        if not (self.fps and timeline.tick):
            return timeline.frames - 1 - (self.frames - 1) * self.stride
        latest = timeline.end - Fraction((self.frames - 1) * self.stride) / exact_rate(self.fps) / timeline.tick
        first_too_late = -(-latest // 1)
        if timeline.ticks is None:
            return min(int(first_too_late), timeline.frames) - 1
        return int(np.searchsorted(timeline.ticks, int(first_too_late))) - 1

    def indices(self, timeline: Timeline, random):
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
    that takes the place of the file's times.
    """

    path: str
    sampling: ClipSampling
    random: np.random.Generator
    fps: float | None = None

    def run(self):
        """uint8 [C,T,H,W] as an array; raises DecodingError for a damaged file. `random` has then made its draws."""
        sampling = self.sampling
        fitting = Fitting(sampling.height, sampling.width, self.random if sampling.crop == "random" else None)
        if formats.is_image(self.path):
            try:
                frames = fitting(np.array(read_picture(self.path))[None])
            except UnreadablePicture as error:
                raise DecodingError(str(error)) from error
            frames = np.repeat(frames, sampling.frames, axis=0)
            return np.ascontiguousarray(frames.swapaxes(0, 1))
        before = self.random.bit_generator.state

        def choose(timeline):
            # Asked again for a damaged file, it draws the same numbers again.
            self.random.bit_generator.state, fitting.place = before, None
            return sampling.indices(Timeline.even(timeline.frames, self.fps) if self.fps else timeline, self.random)

        with VideoReader(self.path) as video:
            frames, _ = video.read_chosen(choose, fitting)
        return np.ascontiguousarray(frames.swapaxes(0, 1))


class FolderClips:
    """One clip per reading from each video of an index that has a label and is long enough.

    `labels` is path → class id, -1 for a video without a class. `left_out` is path → reason of the videos that are
    not used, broken ones included; `broken` lists the files that no decoder opens; `about` is what else the
    description says.
    """

    in_process, function = False, RUN  # decoders crash and hang
    images = 0

    def __init__(self, index, labels, class_names, sampling, about):
        self.root, self.class_names, self.sampling, self.about = index.root, class_names, sampling, about
        self.broken = [file for file in index.broken if file.path in labels]
        self.left_out = {file.path: BROKEN for file in self.broken}
        self.all_labels, self.videos, self.labels = labels, [], []
        for video in index.videos:
            if video.path not in labels:
                continue
            if reason := sampling.refusal(video):
                self.left_out[video.path] = reason
                continue
            self.videos.append(video)
            self.labels.append(labels[video.path])
        if not self.videos:
            raise InputError(f"no video in {self.root} is usable: {with_hints(Counter(self.left_out.values()))}")

    def __len__(self):
        return len(self.videos)

    def name(self, item):
        """Path of video `item` below the folder, which is how messages and lists of files call it."""
        return self.videos[item].path

    def job(self, item, random):
        """FileJob of one clip of video `item`."""
        return FileJob(path=str(self.root / self.videos[item].path), sampling=self.sampling, random=random)

    def captions(self, item):
        """How many captions item `item` has."""
        return 0

    def told(self, item, caption=0):
        """Class id of video `item`."""
        return self.labels[item]

    def contents(self):
        """(path, bytes, frames, class) of each video that is used, which makes up the data's fingerprint."""
        names = [self.class_names[label] if label >= 0 else "" for label in self.labels]
        return [(video.path, video.size, video.frames, f"{label} {name}".strip())
                for video, label, name in zip(self.videos, self.labels, names, strict=True)]

    def describe(self):
        """What the folder holds: counts of videos and classes, and what was left out and why; JSON-able."""
        reasons = Counter(self.left_out.values())
        return {
            "path": str(self.root),
            **self.about,
            "videos_found": len(self.all_labels),
            "videos": len(self.videos),
            "classes": len(self.class_names),
            "classes_present": len(set(self.labels) - {-1}),
            "frames_in_total": sum(video.frames for video in self.videos),
            "dropped": {reason: count for reason, count in reasons.items() if reason != BROKEN},
            "broken": [{"path": file.path, "reason": file.reason} for file in self.broken],
            "per_class": self._per_class(),
        }

    def _per_class(self):
        """Class name → what of it was found, used and left out; classes without any file are not listed."""
        classes = {}
        for path, label in sorted(self.all_labels.items(), key=lambda item: item[1]):
            name = self.class_names[label] if label >= 0 else ""
            entry = classes.setdefault(name, {"found": 0, "used": 0, "left_out": Counter()})
            entry["found"] += 1
            if path in self.left_out:
                entry["left_out"][self.left_out[path]] += 1
            else:
                entry["used"] += 1
        return {name: entry | {"left_out": dict(entry["left_out"])} for name, entry in classes.items()}


class Fitting:
    """Callable that brings frames of one video to a size: uint8 [T,H0,W0,C] → uint8 [T,C,height,width].

    What is kept is the largest box of the target's shape: the one in the middle, or with a NumPy Generator one at
    `random`, all with equal probability, drawn at the first call. Antialiased bilinear in integer arithmetic: within
    one grey level of the exact result, several times faster.
    """

    def __init__(self, height, width, random=None):
        self.height, self.width, self.random, self.place = height, width, random, None

    def __call__(self, frames):
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


def fit(frames, height, width, random=None):
    """uint8 [T,H0,W0,C] → uint8 [C,T,height,width], as `Fitting`."""
    return np.ascontiguousarray(Fitting(height, width, random)(frames).swapaxes(0, 1))


def largest_box(rows, columns, height, width):
    """Rows and columns of the largest box of the shape of `height` x `width` in a picture of `rows` x `columns`."""
    return min(rows, max(1, round(columns * height / width))), min(columns, max(1, round(rows * width / height)))
