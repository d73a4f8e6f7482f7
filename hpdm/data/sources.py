"""Where clips come from besides video folders: drawn from formulas, or averaged from larger clips.

A source has `len()`, `class_names`, `images` (how many of its last items are still), and for each item `name`, `job`
(the part of a ClipJob that makes it), `captions` (how many) and `told` (what is delivered besides the clip);
`in_process` says whether its jobs may run in the process that trains, `function` which function of which module runs
them in others.

Shapes: C colours, T frames, H rows, W columns; clips are uint8 in 0..255.
"""

from typing import TYPE_CHECKING, Any

import torch

from hpdm.config.data import PROCEDURAL
from hpdm.data.jobs import RUN, AveragedJob, ProceduralJob
from hpdm.data.procedural import CLASS_NAMES, sample_scene
from hpdm.data.scene_captions import describe_scene

if TYPE_CHECKING:
    import numpy as np


PROCEDURAL_FPS = 25.0  # frame rate that conditions a model on procedural videos


def captioned(caption: str, fps: float, height: int, width: int) -> dict:
    """What data with captions deliver beside a clip."""
    return {"label": -1, "caption": caption, "measures": torch.tensor([fps, height, width], dtype=torch.float32)}


class ProceduralClips:
    """Clips drawn from formulas, as a data set of `videos` videos of the given size.

    With captions there are as many `images`, which are frames from the middle of other videos, standing still.
    """

    class_names = CLASS_NAMES
    in_process, function = True, RUN

    def __init__(self, *, videos: int, seed: int, frames: int, height: int, width: int, captions: bool = False) -> None:
        self.videos, self.seed, self.size = videos, seed, (frames, height, width)
        self.captioned, self.images = captions, videos if captions else 0

    def __len__(self):
        return self.videos + self.images

    def name(self, item: int) -> str:
        return f"procedural clip {item}"

    def job(self, item: int, random: "np.random.Generator") -> ProceduralJob:
        """The clip of an item; nothing about it is random."""
        still = self._still(item)
        return ProceduralJob(seed=self.seed, item=item, size=self.size, captions=self.captioned, still=still)

    def captions(self, item: int) -> int:
        return int(self.captioned)

    def conditions(self, item: int, caption: int = 0) -> Any:
        """Class id of clip `item`, or `said` of it."""
        if not self.captioned:
            return item % len(CLASS_NAMES)
        _, height, width = self.size
        scene, _ = sample_scene(self.seed, item)
        still = self._still(item)
        return captioned(describe_scene(scene, still), 0 if still else PROCEDURAL_FPS, height, width)

    def contents(self) -> None:
        return None

    def describe(self) -> dict:
        about = {"path": PROCEDURAL, "videos": self.videos, "classes": len(CLASS_NAMES), "procedural_seed": self.seed}
        return about | ({"images": self.images} if self.captioned else {})

    def _still(self, item):
        return item >= self.videos


class AveragedClips:
    """Clips of another source, averaged over so many (frames, rows, columns)."""

    def __init__(self, source: Any, shrink: tuple[int, int, int]) -> None:
        self.source, self.shrink = source, shrink

    def __len__(self):
        return len(self.source)

    def __getattr__(self, name):
        return getattr(self.source, name)

    def job(self, item: int, random: "np.random.Generator") -> AveragedJob:
        return AveragedJob(source=self.source.job(item, random), shrink=self.shrink)

    def describe(self) -> dict:
        return self.source.describe() | {"shrink": list(self.shrink)}
