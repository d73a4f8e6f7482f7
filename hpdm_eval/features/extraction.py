"""Features of clips: batched extraction that keeps one batch in memory, and the file they are stored in.

Features of a clip are a function of that clip alone, see `calls`: neither `batch` nor the number of processes, of
threads or of clips that are cached already moves a bit of them. (Not so on a GPU, where `batch` does.)

N clips, B batch, T frames, H rows, W columns, D feature dimensions, K classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json
from hpdm.support.progress import progress
from hpdm_eval.backbones.backbone import Extractor, check_frames
from hpdm_eval.clips.source import Clip, ClipSource
from hpdm_eval.features.cache import FeatureCache
from hpdm_eval.features.calls import call_size, network_calls
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.ordered_moments import OrderedMoments
from hpdm_eval.support.distributed import failing_together, gather, rank_and_size
from hpdm_eval.support.heap import Heap
from hpdm_eval.support.npz import read_npz
from hpdm_eval.support.rows import Rows

BATCH_BYTES = 256 << 20  # of clips in a batch that is read, unless a single clip is larger


class Clips(Protocol):
    """A `ClipSource`, or any other clips that can be counted and iterated."""

    def __iter__(self) -> Iterator[Clip]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """Features float32 [N, D] of N clips, their names, and probabilities float32 [N, K] of a classifier."""

    features: np.ndarray
    names: list[str]
    probabilities: np.ndarray | None = None
    manifest: dict = field(default_factory=dict)  # JSON-able: how the features were made

    def save(self, path: str | Path) -> None:
        """Write an .npz with `features`, `names`, `manifest` (JSON text) and, if any, `probabilities`."""
        arrays: dict[str, Any] = {
            "features": self.features,
            "names": np.array(self.names, dtype=np.str_),
            "manifest": np.array(json.dumps(self.manifest)),
        }
        if self.probabilities is not None:
            arrays["probabilities"] = self.probabilities
        with atomic_file(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> FeatureSet:
        """Read what `save` wrote; raises InputError for any other file."""
        arrays = read_npz(path)
        try:
            features, names = arrays["features"], arrays["names"].tolist()
            manifest = parse_json(str(arrays["manifest"]))
        except KeyError as error:
            raise InputError(
                f"{path}: not a features file, it lacks {error}; `hpdm-eval features` makes one"
            ) from error
        except ValueError as error:
            raise InputError(f"{path}: not a readable features file ({error})") from error
        if features.ndim != 2 or len(features) != len(names):
            raise InputError(f"{path}: damaged, features are {list(features.shape)} for {len(names)} names")
        return cls(features=features, names=names, probabilities=arrays.get("probabilities"), manifest=manifest)


def iterate_features(
    source: Clips, backbone: Extractor, batch: int = 8, quiet: bool = False, cache: FeatureCache | None = None
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Yield (names, features float32 [B, D], probabilities float32 [B, K]) in the order of `source`.

    source: a ClipSource, or any iterable of clips with a length. Memory does not grow with the number of clips. Clips
    of different length or size go through the network apart. Raises InputError for a clip that is too short or too long
    for it. cache: a FeatureCache.
    """
    for clips, results in _iterate(source, backbone, batch, quiet, cache):
        features, probabilities = map(np.stack, zip(*results))
        yield [clip.name for clip in clips], features, probabilities


def extract_features(
    source: Clips,
    backbone: Extractor,
    *,
    batch: int = 8,
    quiet: bool = False,
    on_batch: Callable[[list[str], np.ndarray, np.ndarray], None] | None = None,
    cache: FeatureCache | None = None,
) -> FeatureSet:
    """Features of all clips as a FeatureSet, whose manifest holds the backbone.

    on_batch: called with (names, features, probabilities) after every batch. cache: a FeatureCache. Where the source is
    shared among processes, which must then all call this, each runs its share and all get everything.
    """
    clips_seen: list[tuple[int, str]] = []
    features, probabilities = Rows(), Rows()
    with failing_together():
        for clips, results in _iterate(source, backbone, batch, quiet, cache):
            if on_batch is not None:
                on_batch([clip.name for clip in clips], *map(np.stack, zip(*results)))
            clips_seen += [(clip.position, clip.name) for clip in clips]
            for own_features, own_probabilities in results:
                features.add(own_features)
                probabilities.add(own_probabilities)
            del clips, results  # they may be large, and the next are read before these names are used again
        share = clips_seen, features, probabilities
        shares = gather(share) if _processes(source) > 1 else [share]
    shares = [share for share in shares if share[0]]  # there may be fewer clips than processes
    places = [place for known, _, _ in shares for place in known]
    order = list(range(len(places)))
    if len(shares) > 1:
        order.sort(key=lambda index: places[index][0])
    return FeatureSet(
        features=np.concatenate([own.array() for _, own, _ in shares])[order],
        names=[places[index][1] for index in order],
        probabilities=np.concatenate([own.array() for _, _, own in shares])[order],
        manifest={"backbone": backbone.describe()},
    )


def extract_moments(
    source: Clips, backbone: Extractor, *, batch: int = 8, quiet: bool = False, cache: FeatureCache | None = None
) -> Moments:
    """`Moments` of the features of all clips, or of all their frames under a `PerFrame` backbone; flat in memory.

    Where the source is shared among processes, they work as in `extract_features`.
    """
    moments, number = OrderedMoments(backbone.feature_dim), 0
    with failing_together():
        for clips, results in _iterate(source, backbone, batch, quiet, cache):
            for clip, (features, _) in zip(clips, results):
                position = clip.position if hasattr(clip, "owned") else number
                moments.add(position, features.reshape(-1, backbone.feature_dim), getattr(clip, "owned", (0, None)))
                number += 1
            del clip, clips  # as above
        parts = moments.parts()
        return OrderedMoments.joined(backbone.feature_dim, gather(parts) if _processes(source) > 1 else [parts])


def fill_cache(
    source: ClipSource, backbone: Extractor, batch: int, quiet: bool, cache: FeatureCache
) -> tuple[FeatureCache, int]:
    """Have a FeatureCache hold the features of all clips; returns (the one of calls of `batch`, number of clips)."""
    count = sum(len(clips) for clips, _ in _iterate(source, backbone, batch, quiet, cache))
    return cache.for_calls(call_size(backbone, batch)), count


def _processes(source):
    """How many processes share a source."""
    return rank_and_size()[1] if getattr(source, "shared", False) else 1


def _iterate(source, backbone, batch, quiet, cache):
    """(clips, [(features, probabilities) of each]) batch by batch."""
    total = -(-len(source) // _processes(source))
    cache = cache and cache.for_calls(call_size(backbone, batch)).for_set(getattr(source, "path", None))
    with (
        _remembering(source, cache, quiet),
        network_calls(backbone, batch) as extract,
        progress(total=total, unit="clip", description=backbone.name, quiet=quiet) as bar,
    ):
        heap = Heap()
        for clips in _batches(source, batch):
            for clip in clips:
                check_frames(backbone, clip.length if clip.video is None else len(clip.video), clip.name)
            results = [_known(clip) or cache and cache.get(clip.digest) for clip in clips]
            missing = [index for index, result in enumerate(results) if result is None]
            for index, result in zip(missing, extract([clips[index].video for index in missing])):
                results[index] = result
                if cache is not None:
                    cache.put(clips[index].digest, *result)
            count = len(clips)
            yield clips, results
            del clips
            heap.tidy()
            bar.update(count)


@contextmanager
def _remembering(source, cache, quiet):
    """Let a ClipSource pass over decoding what the cache knows, and say at the end what the cache has to say."""
    if cache is None:
        yield
        return
    try:
        if hasattr(source, "remembering"):
            with source.remembering(cache) as remembered:
                yield
            remembered.settle(quiet)
        else:
            yield
    finally:
        cache.settle(quiet)


def _known(clip):
    return getattr(clip, "known", None)


def _batches(source, size):
    """Lists of up to `size` clips, and of up to BATCH_BYTES, or of one that is larger."""
    clips, held = [], 0
    for clip in source:
        taken = 0 if clip.video is None else clip.video.nbytes
        if clips and (len(clips) == size or held + taken > BATCH_BYTES):
            yield clips
            clips, held = [], 0
        clips.append(clip)
        held += taken
        del clip
        if len(clips) == size:
            yield clips
            clips, held = [], 0
    if clips:
        yield clips
