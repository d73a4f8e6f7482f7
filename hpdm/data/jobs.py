"""Making one clip, in a worker process or in this one.

Torch is imported only where it computes something, so that workers start quickly.

Shapes: C colours, T frames, H rows, W columns; clips are uint8 in 0..255.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hpdm.data.procedural import procedural_clip, render_scene, sample_scene
from hpdm.video.workers import MOST_SECONDS, seconds_for, seconds_for_bytes

RUN = "hpdm.data.jobs:run"


class SourceJob(Protocol):
    """A source's part of a clip: one of a file also has `fetched()`, and a `path` or a `member`."""

    def run(self) -> np.ndarray:
        """uint8 [C,T,H,W]; may raise DecodingError."""


@dataclass(frozen=True, kw_only=True)
class ClipJob:
    """A clip to be made: all that decides it.

    source: the source's part. random: the NumPy Generator of this clip, the one that `source` draws from. captions: how
    many texts to choose from. flip: mirror half of the clips left to right.
    """

    source: SourceJob
    random: np.random.Generator
    captions: int = 0
    flip: bool = False

    def fetched(self) -> "ClipJob":
        """The job with what the process that runs it cannot reach; see `FileJob.fetched`."""
        return replace(self, source=self.source.fetched()) if hasattr(self.source, "fetched") else self

    def run(self) -> tuple[np.ndarray, int]:
        """(uint8 array [C,T,H,W], number of the caption chosen)."""
        video = self.source.run()
        caption = int(self.random.integers(self.captions)) if self.captions > 1 else 0
        if self.flip and self.random.random() < 0.5:
            video = np.ascontiguousarray(video[..., ::-1])
        return video, caption


@dataclass(frozen=True, kw_only=True)
class ProceduralJob:
    """One procedural clip of `size` (frames, rows, columns)."""

    seed: int
    item: int
    size: tuple[int, int, int]
    captions: bool
    still: bool

    def run(self) -> np.ndarray:
        frames, height, width = self.size
        if self.captions:
            scene, _ = sample_scene(self.seed, self.item)
            video = render_scene(scene, 1 if self.still else frames, height, width)
            video = np.repeat(video, frames // len(video), axis=0)
        else:
            video, _ = procedural_clip(self.seed, self.item, *self.size)
        return np.ascontiguousarray(video.transpose(3, 0, 1, 2))


@dataclass(frozen=True, kw_only=True)
class AveragedJob:
    """A clip that another job makes, averaged over `shrink` (frames, rows, columns)."""

    source: SourceJob
    shrink: tuple[int, int, int]

    @property
    def path(self) -> Any:
        return getattr(self.source, "path", None)

    @property
    def member(self) -> Any:
        return getattr(self.source, "member", None)

    def fetched(self) -> "AveragedJob":
        return replace(self, source=self.source.fetched()) if hasattr(self.source, "fetched") else self

    def run(self) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        from hpdm.data.ranges import to_model_range, to_uint8

        video = to_model_range(torch.from_numpy(self.source.run()))
        return to_uint8(F.avg_pool3d(video, self.shrink)).numpy()


def seconds_of(job: "ClipJob") -> float:
    """Time limit of a job by the size of its file."""
    if member := getattr(job.source, "member", None):
        return seconds_for_bytes(member.size)
    path = getattr(job.source, "path", None)
    return seconds_for(path) if path else MOST_SECONDS


def run(job: "ClipJob", settings: Any = None) -> tuple[tuple[np.ndarray, int] | None, str | None]:
    """((array, caption), None) of a ClipJob, or (None, why its file cannot be read); runs in a worker process."""
    from hpdm.video.reader import DecodingError  # here, so that clips without files need no decoder

    try:
        return job.run(), None
    except DecodingError as error:
        return None, str(error)
    except Exception as error:  # what a decoder's binding raises on a damaged file costs that file, whatever it is
        return None, f"cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
