"""Features of clips: batched extraction that keeps one batch in memory, and the file they are stored in.

N clips, B batch, T frames, H rows, W columns, D feature dimensions, K classes.
"""

import json
from dataclasses import dataclass, field
from itertools import groupby, islice

import numpy as np
import torch

from hpdm.console import progress
from hpdm.errors import InputError
from hpdm.files import atomic_file
from hpdm_eval.backbones.backbone import check_frames
from hpdm_eval.distributed import failing_together, gather, rank_and_size
from hpdm_eval.metrics.frechet import Moments
from hpdm_eval.npz import read_npz

FRAMES_PER_CLIP = 16  # a forward pass takes `batch` clips of this length, or as many frames in longer ones
BATCH_BYTES = 256 << 20  # of clips in a batch that is read, unless a single clip is larger


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
        arrays = read_npz(path)
        try:
            features, names = arrays["features"], arrays["names"].tolist()
            manifest = json.loads(str(arrays["manifest"]))
        except KeyError as error:
            raise InputError(f"{path}: not a features file, it lacks {error}; "
                             "`hpdm-eval features` makes one") from error
        except ValueError as error:
            raise InputError(f"{path}: not a readable features file ({error})") from error
        if features.ndim != 2 or len(features) != len(names):
            raise InputError(f"{path}: damaged, features are {list(features.shape)} for {len(names)} names")
        return cls(features=features, names=names, probabilities=arrays.get("probabilities"), manifest=manifest)


def iterate_features(source, backbone, batch=8, quiet=False, cache=None):
    """Yield (names, features float32 [B, D], probabilities float32 [B, K]) in the order of `source`.

    source: a ClipSource, or any iterable of clips with a length. Memory does not grow with the number of clips. Clips
    of different length or size go through the network apart. Raises InputError for a clip that is too short or too long
    for it. cache: a FeatureCache.
    """
    for clips, results in _iterate(source, backbone, batch, quiet, cache):
        yield [clip.name for clip in clips], *map(np.stack, zip(*results))


def extract_features(source, backbone, *, batch=8, quiet=False, on_batch=None, cache=None):
    """Features of all clips as a FeatureSet, whose manifest holds the backbone.

    on_batch: called with (names, features, probabilities) after every batch. cache: a FeatureCache. Where the source is
    shared among processes, which must then all call this, each runs its share and all get everything.
    """
    rows = []
    with failing_together():
        for clips, results in _iterate(source, backbone, batch, quiet, cache):
            if on_batch is not None:
                on_batch([clip.name for clip in clips], *map(np.stack, zip(*results)))
            rows += [(clip.position, clip.name, *result) for clip, result in zip(clips, results)]
            del clips  # they may be large, and the next are read before this name is used again
        if _processes(source) > 1:
            rows = sorted((row for part in gather(rows) for row in part), key=lambda row: row[0])
    _, names, features, probabilities = zip(*rows)
    return FeatureSet(features=np.stack(features), names=list(names), probabilities=np.stack(probabilities),
                      manifest={"backbone": backbone.describe()})


def extract_moments(source, backbone, *, batch=8, quiet=False, cache=None):
    """`Moments` of the features of all clips, or of all their frames under a `PerFrame` backbone; flat in memory.

    Where the source is shared among processes, they work as in `extract_features`.
    """
    moments = Moments(backbone.feature_dim)
    with failing_together():
        for _, results in _iterate(source, backbone, batch, quiet, cache):
            moments.update(np.concatenate([features.reshape(-1, backbone.feature_dim) for features, _ in results]))
        if _processes(source) == 1:
            return moments
        first, *others = gather(moments)
    for other in others:
        first.merge(other)
    return first


def _processes(source):
    """How many processes share a source."""
    return rank_and_size()[1] if getattr(source, "shared", False) else 1


def _iterate(source, backbone, batch, quiet, cache):
    """(clips, [(features, probabilities) of each]) batch by batch."""
    total = -(-len(source) // _processes(source))
    with progress(total=total, unit="clip", description=backbone.name, quiet=quiet) as bar:
        for clips in _batches(source, batch):
            for clip in clips:
                check_frames(backbone, len(clip.video), clip.name)
            results = [cache and cache.get(clip.digest) for clip in clips]
            missing = [index for index, result in enumerate(results) if result is None]
            for index, result in zip(missing, _extract([clips[index] for index in missing], backbone, batch)):
                results[index] = result
                if cache is not None:
                    cache.put(clips[index].digest, *result)
            count = len(clips)
            yield clips, results
            del clips
            bar.update(count)


def _extract(clips, backbone, batch):
    """(features, probabilities) as arrays for each of at most `batch` clips, in their order."""
    results = [None] * len(clips)
    by_shape = sorted(range(len(clips)), key=lambda index: clips[index].video.shape)
    for shape, group in groupby(by_shape, key=lambda index: clips[index].video.shape):
        at_once = max(batch * FRAMES_PER_CLIP // shape[0], 1)
        for indices in _batched(group, at_once):
            videos = [clips[index].video for index in indices]
            videos = torch.from_numpy(videos[0][None] if len(videos) == 1 else np.stack(videos))
            for index, *result in zip(indices, *backbone.extract(videos)):
                results[index] = [values.numpy() for values in result]
    return results


def _batches(source, size):
    """Lists of up to `size` clips, and of up to BATCH_BYTES, or of one that is larger."""
    clips, held = [], 0
    for clip in source:
        if clips and (len(clips) == size or held + clip.video.nbytes > BATCH_BYTES):
            yield clips
            clips, held = [], 0
        clips.append(clip)
        held += clip.video.nbytes
        del clip
        if len(clips) == size:
            yield clips
            clips, held = [], 0
    if clips:
        yield clips


def _batched(items, size):
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
