"""Where clips come from beside folders of videos: drawn from formulas, or averaged from larger clips.

Shapes: C colours, T frames, H rows, W columns; clips are uint8 in 0..255.
"""

import torch
import torch.nn.functional as F

from hpdm.data.captions import said
from hpdm.data.procedural import CLASS_NAMES, procedural_clip, render_scene, sample_scene
from hpdm.data.ranges import to_model_range, to_uint8
from hpdm.data.scene_captions import describe_scene

PROCEDURAL = "procedural"
PROCEDURAL_FPS = 25.0  # what a model is told of procedural videos


class ProceduralClips:
    """Clips drawn from formulas, as a data set of `videos` videos of the given size.

    With captions there are as many `images`, which are frames from the middle of other videos, standing still.
    """

    class_names = CLASS_NAMES

    def __init__(self, *, videos, seed, frames, height, width, captions=False):
        self.videos, self.seed, self.size = videos, seed, (frames, height, width)
        self.captions, self.images = captions, videos if captions else 0

    def __len__(self):
        return self.videos + self.images

    def name(self, item):
        return f"procedural clip {item}"

    def read(self, item, random):
        """(uint8 [C,T,H,W], class id, or `said` of it) of clip `item`; nothing about it is random."""
        frames, height, width = self.size
        if not self.captions:
            video, label = procedural_clip(self.seed, item, *self.size)
            return torch.from_numpy(video).permute(3, 0, 1, 2), label
        scene, _ = sample_scene(self.seed, item)
        still = item >= self.videos
        video = torch.from_numpy(render_scene(scene, 1 if still else frames, height, width)).permute(3, 0, 1, 2)
        told = said(describe_scene(scene, still), 0 if still else PROCEDURAL_FPS, height, width)
        return video.expand(-1, frames, -1, -1), told

    def describe(self):
        about = {"path": PROCEDURAL, "videos": self.videos, "classes": len(CLASS_NAMES), "procedural_seed": self.seed}
        return about | ({"images": self.images} if self.captions else {})


class AveragedClips:
    """Clips of another source, averaged over so many (frames, rows, columns)."""

    def __init__(self, source, shrink):
        self.source, self.shrink = source, shrink
        self.class_names, self.images = source.class_names, getattr(source, "images", 0)

    def __len__(self):
        return len(self.source)

    def name(self, item):
        return self.source.name(item)

    def read(self, item, random):
        video, told = self.source.read(item, random)
        return to_uint8(F.avg_pool3d(to_model_range(video), self.shrink)), told

    def describe(self):
        return self.source.describe() | {"shrink": list(self.shrink)}
