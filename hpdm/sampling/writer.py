"""The samples folder: one file per sample and `samples.json`, which says how they were made.

Files appear whole or not at all, so a folder is valid whenever a run stops, and the same command continues it. Several
processes may write to one folder: each writes the samples that are its own.

Shapes: clips are uint8 [T, H, W, 3].
"""

import fcntl
import json
import re
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch

from hpdm.config.sampling import SAMPLERS
from hpdm.data.ranges import to_uint8
from hpdm.support.environment import git_revision, package_versions
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, read_json, write_json, writing
from hpdm.video.formats import DEFAULT_CRF
from hpdm.video.writer import write_video

MANIFEST = "samples.json"
# What folders were made with whose manifest does not yet name these settings.
BEFORE_THERE_WERE_OTHERS = {**SAMPLERS["paper"], "calls": "exact"}
SAMPLE_NAME = re.compile(r"(\d{5,})_c(\d{3,})\.(mp4|npy)")
Sample = TypedDict("Sample", {"index": int, "label": int, "file": str, "class": NotRequired[str]})


def to_clips(videos: torch.Tensor) -> np.ndarray:
    """Float [B, C, T, H, W] in [-1, 1] → uint8 array [B, T, H, W, 3]."""
    return to_uint8(videos).permute(0, 2, 3, 4, 1).cpu().numpy()


class SamplesFolder:
    """Writes samples to `folder`, which belongs to one group of settings.

    settings: flat, JSON-able; everything that decides a sample's content. about: further entries of the manifest.
    names: of classes by label, where they are known; the manifest says them of each sample.
    Raises InputError where the folder was made with other settings, or holds videos that nobody accounts for.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: dict,
        about: dict,
        *,
        fps: float = 25,
        crf: int = DEFAULT_CRF,
        names: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))  # as they will be read back
        self.about, self.names = about, names
        self.format, self.fps, self.crf = settings["format"], fps, crf
        self._check()

    def name(self, index: int, label: int) -> str:
        """File name of a sample."""
        return f"{index:05d}_c{label:03d}.{self.format}"

    def has(self, index: int, label: int) -> bool:
        """Whether a sample has been written."""
        return (self.folder / self.name(index, label)).is_file()

    def write(self, index: int, label: int, clip: np.ndarray) -> None:
        """Write one clip, atomically."""
        path = self.folder / self.name(index, label)
        if self.format == "mp4":
            write_video(path, clip, fps=self.fps, crf=self.crf)
            return
        with atomic_file(path) as file:
            np.save(file, clip, allow_pickle=False)

    def finished(self) -> list[Sample]:
        """The samples in the folder: index, label, file and, where it is known, the name of the class."""
        found = (SAMPLE_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        samples: list[Sample] = [
            {"index": int(m[1]), "label": int(m[2]), "file": m[0]} for m in found if m and m[3] == self.format
        ]
        for sample in samples:
            if sample["label"] < len(self.names):
                sample["class"] = self.names[sample["label"]]
        return sorted(samples, key=lambda sample: sample["index"])

    def write_manifest(self) -> None:
        """Write `samples.json` for what the folder holds now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / ".samples.lock"):
            samples = self.finished()
            write_json(
                self.folder / MANIFEST,
                {
                    "schema": 1,
                    "settings": self.settings,
                    **self.about,
                    "versions": package_versions(),
                    "git": git_revision(),
                    "updated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "count": len(samples),
                    "samples": samples,
                },
            )

    def _check(self):
        path = self.folder / MANIFEST
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; name a folder for the samples")
        if not path.is_file():
            if self.folder.is_dir() and any(SAMPLE_NAME.fullmatch(p.name) for p in self.folder.iterdir()):
                raise InputError(f"{self.folder} holds samples but no {MANIFEST}; name an empty folder")
            return
        try:
            before = read_json(path)["settings"]
        except (InputError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a manifest of samples; name another folder") from error
        if not isinstance(before, dict):
            raise InputError(f"{path} is not a manifest of samples; name another folder")
        before = {key: old for key, old in BEFORE_THERE_WERE_OTHERS.items() if key in self.settings} | before
        changed = [
            f"{key}: {json.dumps(before.get(key))} -> {json.dumps(self.settings.get(key))}"
            for key in sorted(before.keys() | self.settings.keys())
            if before.get(key) != self.settings.get(key)
        ]
        if changed:
            raise InputError(f"{self.folder} was made with other settings ({'; '.join(changed)}); name another folder")


@contextmanager
def _locked(path):
    with writing(path, kept="the samples are kept"):
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed below
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
