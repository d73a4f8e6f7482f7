"""Features of clips: batched extraction that keeps one batch in memory, and the file they are stored in.

N clips, B batch, T frames, H rows, W columns, D feature dimensions, K classes.
"""

import json
import zipfile
from dataclasses import dataclass, field
from itertools import groupby, islice

import numpy as np
import torch

from hpdm.console import progress
from hpdm.errors import InputError
from hpdm.files import atomic_file

FRAMES_PER_CLIP = 16  # a forward pass takes `batch` clips of this length, or as many frames in longer ones


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """Features float32 [N, D] of N clips, their names, and probabilities float32 [N, K] of a classifier."""

    features: np.ndarray
    names: list[str]
    probabilities: np.ndarray | None = None
    manifest: dict = field(default_factory=dict)  # JSON-able: how the features were made

    def save(self, path):
        """Write an .npz with `features`, `names`, `manifest` (JSON text) and, if any, `probabilities`."""
        arrays = {"features": self.features, "names": np.array(self.names, dtype=np.str_),
                  "manifest": np.array(json.dumps(self.manifest))}
        if self.probabilities is not None:
            arrays["probabilities"] = self.probabilities
        with atomic_file(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; raises InputError for any other file."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            features, names = arrays["features"], arrays["names"].tolist()
            manifest = json.loads(str(arrays["manifest"]))
        except KeyError as error:
            raise InputError(f"{path}: not a features file, it lacks {error}; "
                             "`hpdm-eval features` makes one") from error
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a readable features file ({error})") from error
        if features.ndim != 2 or len(features) != len(names):
            raise InputError(f"{path}: damaged, features are {list(features.shape)} for {len(names)} names")
        return cls(features=features, names=names, probabilities=arrays.get("probabilities"), manifest=manifest)


def iterate_features(source, backbone, batch=8, quiet=False):
    """Yield (names, features float32 [B, D], probabilities float32 [B, K]) in the order of `source`.

    source: a ClipSource, or any iterable of clips with a length. Memory does not grow with the number of clips. Clips
    of different length or size go through the network apart. Raises InputError for a clip that is too short for it.
    """
    with progress(total=len(source), unit="clip", description=backbone.name, quiet=quiet) as bar:
        for clips in _batched(source, batch):
            features, probabilities = _extract(clips, backbone, batch)
            yield [clip.name for clip in clips], features, probabilities
            bar.update(len(clips))


def extract_features(source, backbone, *, batch=8, quiet=False, on_batch=None):
    """Features of all clips as a FeatureSet, whose manifest holds the backbone.

    on_batch: called with (names, features, probabilities) after every batch.
    """
    names, features, probabilities = [], [], []
    for part in iterate_features(source, backbone, batch, quiet):
        if on_batch is not None:
            on_batch(*part)
        names += part[0]
        features.append(part[1])
        probabilities.append(part[2])
    return FeatureSet(features=np.concatenate(features), names=names, probabilities=np.concatenate(probabilities),
                      manifest={"backbone": backbone.describe()})


def _extract(clips, backbone, batch):
    """Features and probabilities of at most `batch` clips, in their order."""
    for clip in clips:
        if len(clip.video) < backbone.min_frames:
            raise InputError(f"{clip.name}: {len(clip.video)} frames; {backbone.name} needs at least "
                             f"{backbone.min_frames}")
    results = [None] * len(clips)
    by_shape = sorted(range(len(clips)), key=lambda index: clips[index].video.shape)
    for shape, group in groupby(by_shape, key=lambda index: clips[index].video.shape):
        at_once = max(batch * FRAMES_PER_CLIP // shape[0], 1)
        for indices in _batched(group, at_once):
            videos = torch.from_numpy(np.stack([clips[index].video for index in indices]))
            for index, *result in zip(indices, *backbone.extract(videos)):
                results[index] = result
    features, probabilities = zip(*results)
    return torch.stack(features).numpy(), torch.stack(probabilities).numpy()


def _batched(items, size):
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
