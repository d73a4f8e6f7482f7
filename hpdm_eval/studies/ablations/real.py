"""Real clips at the resolution of each pyramid level: as statistics to compare samples with, and as files.

What a level is compared with is made from full clips the way that its training patches were.

Clips are uint8 [T, H, W, 3].
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpdm.config import Config
from hpdm.data.loader import PROCEDURAL, open_clips
from hpdm.data.procedural_folders import REAL_SEED, REFERENCE_SEED
from hpdm.data.ranges import to_model_range, to_uint8
from hpdm.pyramid import shrink_video
from hpdm.support.environment import git_revision, package_versions
from hpdm.support.files import atomic_file
from hpdm.video.reader import DecodingError
from hpdm_eval.clips.jobs import clip_digest
from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.comparison import open_backbone
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.extraction import extract_moments
from hpdm_eval.features.reference_statistics import Statistics
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import command_line, utc_now


class RealClips:
    """`Clip`s of one level, drawn or decoded as they are asked for; once iterated, `summary()` is a record's entry.

    count: the first so many videos of the data; None takes all. procedural_seed: which procedural clips. frames: only
    the first so many of each clip.
    """

    def __init__(
        self,
        config: Config,
        level: int,
        count: int | None = None,
        *,
        procedural_seed: int = REFERENCE_SEED,
        frames: int | None = None,
        quiet: bool = False,
    ) -> None:
        data = dataclasses.replace(config.data, procedural_seed=procedural_seed, flip=False)
        frames_full, height, width = config.pyramid.resolution(config.pyramid.levels - 1)
        self.clips = open_clips(
            data,
            frames=frames_full,
            height=height,
            width=width,
            seed=config.training.seed,
            num_classes=config.network.num_classes,
            quiet=quiet,
        )
        self.source = self.clips.source
        self.levels, self.level, self.shrink = config.pyramid.levels, level, config.training.shrink
        self.split = config.pyramid.split
        self.frames = frames
        self.path = str(config.data.path)
        if count is None and config.data.path == PROCEDURAL:
            raise ValueError("procedural clips have no end: name a count")
        self.count = min(count or len(self.source), len(self.source))
        self.rejected, self._digests = [], []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Clip]:
        self.rejected, self._digests = [], []
        for item in range(self.count):
            name = self.source.name(item)
            try:
                video, label = self.clips.read(item, np.random.default_rng([REFERENCE_SEED, item]))
            except DecodingError as error:
                self.rejected.append({"path": name, "reason": str(error)})
                continue
            clip = self.at_level(video)
            self._digests.append(clip_digest(clip))
            label = label["label"] if isinstance(label, dict) else label  # data with captions say more than a class
            yield Clip(name=name, video=clip, digest=self._digests[-1], label=str(label), position=item)

    def at_level(self, video: torch.Tensor) -> np.ndarray:
        """The clip of the level of a full-size video uint8 [C, T, H, W]."""
        if self.level + 1 < self.levels:
            levels = shrink_video(to_model_range(video)[None], self.levels, self.shrink, self.split)
            video = to_uint8(levels[self.level])[0]
        return np.ascontiguousarray(video.permute(1, 2, 3, 0)[: self.frames].numpy())

    def summary(self) -> dict[str, Any]:
        """{"path", "sha256", "clips", "rejected", "split"}, after a whole iteration."""
        digest = hashlib.sha256("".join(f"{line}\n" for line in sorted(self._digests)).encode())
        return {
            "path": self.path,
            "sha256": digest.hexdigest(),
            "clips": len(self._digests),
            "rejected": self.rejected,
            "split": None,
        }


def write_statistics(
    path: Path,
    config: Config,
    level: int,
    *,
    count: int | None,
    backbone: str,
    frames: int | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> None:
    """Statistics of real clips of a level under the protocol `native`, as `hpdm-eval fvd --reference` takes them."""
    protocol = load_protocol("native", backbone=backbone, **({"frames": frames} if frames else {}))
    clips = RealClips(config, level, count, frames=frames, quiet=quiet)
    network = open_backbone(Evaluation(protocol=protocol, samples=clips.path), torch.device(device))
    moments = extract_moments(clips, network, quiet=quiet)
    Statistics(
        moments=moments,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        backbone=network.describe(),
        source={**clips.summary(), "level": level, "shrink": clips.shrink},
        seed=0,
        made={"command": command_line(), "versions": package_versions(), "git": git_revision(), "created": utc_now()},
    ).save(path)


def write_real_samples(
    folder: Path, config: Config, count: int, quiet: bool = False, levels: Sequence[int] | None = None
) -> None:
    """Real clips as a folder of samples: `folder`/level0/00000_c000.npy and so on, exact arrays.

    A folder that an interrupted call left is completed. levels: which; None takes all.
    """
    for level in range(config.pyramid.levels) if levels is None else levels:
        for clip in RealClips(config, level, count, procedural_seed=REAL_SEED, quiet=quiet):
            assert clip.label is not None  # `RealClips` names the class of every clip
            path = folder / f"level{level}" / f"{clip.position:05d}_c{int(clip.label):03d}.npy"
            if not path.exists():
                with atomic_file(path) as file:
                    np.save(file, clip.pixels, allow_pickle=False)
