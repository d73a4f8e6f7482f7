"""Clips cut out of video files: which frames, which part of the picture, at which size.

Shapes: C colours (RGB), T frames, H rows, W columns; clips are uint8 in 0..255.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from hpdm.data.decoding import read_frames
from hpdm.errors import InputError

STARTS = ("random", "first", "center")
SHORT = ("drop", "loop")
CROPS = ("center", "random")


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

    def offsets(self, native_fps):
        """Frames of the file after the clip's first that the clip takes, int64 [T], first is 0.

        With `fps` set, the nearest frames of a file of `native_fps` to the times `stride * i / fps`.
        """
        step = self.stride * (native_fps / self.fps if self.fps else 1.0)
        return np.floor(np.arange(self.frames) * step + 0.5).astype(np.int64)

    def refusal(self, frames, native_fps):
        """Why a video of that length and rate makes no clip, or None."""
        if self.fps and not native_fps:
            return "no frame rate in the file"
        if self.short == "drop" and self.offsets(native_fps)[-1] >= frames:
            rate = f" of {self.fps:g} fps" if self.fps else ""
            stride = f" at stride {self.stride}" if self.stride > 1 else ""
            return f"too short for {self.frames} frames{rate}{stride}"
        return None

    def refusal_of_shape(self, height, width):
        """Why pictures of that size make no clip, or None."""
        rows, columns = largest_box(height, width, self.height, self.width)
        kept = rows * columns / (height * width)
        return f"cropping leaves less than {self.least_kept:.0%} of the picture" if kept < self.least_kept else None

    def rate(self, native_fps):
        """Frames per second of the clips of a file of `native_fps`."""
        return (self.fps or native_fps) / self.stride

    def indices(self, frames, native_fps, random):
        """Frame numbers of one clip from a video of `frames` frames, int64 [T]; `random` is a NumPy Generator.

        A video too short for the clip starts at its first frame and begins again at its end.
        """
        offsets = self.offsets(native_fps)
        room = frames - 1 - int(offsets[-1])  # the last start that leaves the clip inside the video
        if room < 0:
            return offsets % frames
        start = {"first": 0, "center": room // 2, "random": int(random.integers(room + 1))}[self.start]
        return start + offsets


class FolderClips:
    """One clip per reading from each video of an index that has a label and is long enough.

    `labels` is path → class id, -1 for a video without a class. `dropped` counts the videos left out by reason,
    `broken` lists the files that no decoder opens, `about` is what else the description shall say.
    """

    def __init__(self, index, labels, class_names, sampling, about):
        self.root, self.class_names, self.sampling, self.about = index.root, class_names, sampling, about
        self.broken = [file for file in index.broken if file.path in labels]
        self.dropped = Counter()
        self.videos, self.labels = [], []
        for video in index.videos:
            if video.path not in labels:
                continue
            reason = sampling.refusal(video.frames, video.fps) or sampling.refusal_of_shape(video.height, video.width)
            if reason:
                self.dropped[reason] += 1
                continue
            self.videos.append(video)
            self.labels.append(labels[video.path])
        if not self.videos:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "all broken"
            raise InputError(f"no video in {self.root} is usable: {reasons}; data.short=loop repeats short videos")

    def __len__(self):
        return len(self.videos)

    def name(self, item):
        """Path of video `item`, for messages."""
        return str(self.root / self.videos[item].path)

    def read(self, item, random):
        """(uint8 [C,T,H,W], class id) of one clip of video `item`; raises DecodingError for a damaged file."""
        video = self.videos[item]
        frames = read_frames(self.root / video.path, self.sampling.indices(video.frames, video.fps, random))
        place = random if self.sampling.crop == "random" else None
        return fit(frames, self.sampling.height, self.sampling.width, place), self.labels[item]

    def describe(self):
        """What the folder holds: counts of videos and classes, and what was left out and why; JSON-able."""
        return {
            "path": str(self.root),
            **self.about,
            "videos": len(self.videos),
            "classes": len(self.class_names),
            "classes_present": len(set(self.labels) - {-1}),
            "frames_in_total": sum(video.frames for video in self.videos),
            "dropped": dict(self.dropped),
            "broken": [{"path": file.path, "reason": file.reason} for file in self.broken],
        }


def largest_box(rows, columns, height, width):
    """Rows and columns of the largest box of the shape of `height` x `width` in a picture of `rows` x `columns`."""
    return min(rows, max(1, round(columns * height / width))), min(columns, max(1, round(rows * width / height)))


def fit(frames, height, width, random=None):
    """uint8 [T,H0,W0,C] → uint8 [C,T,height,width]: the largest box of the target's shape, resized.

    It is the one in the middle, or with a NumPy Generator one at `random`, all with equal probability. Antialiased
    bilinear in integer arithmetic: within one grey level of the exact result, several times faster.
    """
    rows, columns = frames.shape[1:3]
    box_rows, box_columns = largest_box(rows, columns, height, width)
    top, left = (rows - box_rows) // 2, (columns - box_columns) // 2
    if random is not None:
        top, left = int(random.integers(rows - box_rows + 1)), int(random.integers(columns - box_columns + 1))
    box = torch.from_numpy(frames)[:, top : top + box_rows, left : left + box_columns].permute(0, 3, 1, 2)
    if (box_rows, box_columns) != (height, width):
        box = F.interpolate(box, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    return box.transpose(0, 1).contiguous()
