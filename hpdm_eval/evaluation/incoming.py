"""From videos that come as tensors, batch by batch, to features: what metric classes and streams share.

A clip's features, digest and place in the order are tensors, so that they can be gathered from several processes. They
are those of the same clips in files, to the last bit on a CPU; `received` makes a `Side` of them. B clips, T frames, H
rows, W columns, C channels, D feature dimensions, K classes.
"""

import hashlib
import json
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from hpdm.support.errors import InputError
from hpdm_eval.backbones import Backbone, PerFrame, backbone_name
from hpdm_eval.backbones.registry import find_backbone
from hpdm_eval.clips import tensors
from hpdm_eval.clips.frames import Rejected
from hpdm_eval.clips.jobs import DecodeSettings, clip_digest
from hpdm_eval.clips.source import decode_settings
from hpdm_eval.evaluation.comparison import open_backbone
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.calls import network_calls

OF_FILES = ("grid", "match")  # settings of samples in files
MEMORY = "<memory>"  # in place of a path
KNOWN_BYTES = 64 << 20  # of features of the latest clips, kept for other metrics
HASHING_THREADS = 4

Features = tuple[np.ndarray, ...]  # features [D] or [T, D], and probabilities [K] or [T, K], of one clip


@dataclass(frozen=True, kw_only=True)
class Role:
    """How clips of one role are read."""

    name: str  # "samples" or "reference"
    settings: DecodeSettings
    wanted: int | None  # at most so many, the first ones; None: all
    strict: bool

    @classmethod
    def of(cls, name: str, evaluation: Evaluation) -> "Role":
        """The role of an evaluation by its name."""
        return cls(
            name=name,
            settings=decode_settings(evaluation.protocol, name == "reference", None, evaluation.seed),
            wanted=evaluation.most(name),
            strict=evaluation.strict,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Gathered:
    """What is kept of videos: of one batch, or of all.

    rows: features, and behind them probabilities, float32 [R, D+K], a row a clip or, of single frames, [R, D], a row a
    frame. clips: int64 [N, 6], of each clip its position, its number of rows, and its SHA-256. rejected: int64 [M, 4],
    position, T, H and W of what was not used.
    """

    rows: torch.Tensor
    clips: torch.Tensor
    rejected: torch.Tensor
    seen: int = 0  # videos
    beyond: int = 0  # clips that came when there were enough, and were not looked at
    lowest: float = float("inf")  # value of floats in -1..1


class SharedNetwork:
    """A network on one device, and the features of the clips it saw last, so that metrics that share it ask it once."""

    def __init__(self, evaluation: Evaluation, per_frame: bool, device: torch.device) -> None:
        self.backbone: Backbone | PerFrame = open_backbone(evaluation, device, per_frame)
        self.batch, self.device = evaluation.batch, device
        self._known: OrderedDict[str, Features] = OrderedDict()
        self._bytes = 0

    def __call__(self, clips: torch.Tensor, digests: Sequence[str]) -> list[Features]:
        """Features of clips uint8 [B, T, H, W, 3]; digests: of each, see `clip_digest`."""
        found = {digest: self._known[digest] for digest in digests if digest in self._known}
        missing = {digest: clip for digest, clip in zip(digests, clips, strict=True) if digest not in found}
        if missing:
            on_cpu = self.device.type == "cpu"
            videos = [clip.numpy() if on_cpu else clip for clip in missing.values()]
            # What a training loop has switched on must not reach the network.
            with torch.autocast(self.device.type, enabled=False), network_calls(self.backbone, self.batch) as extract:
                results = extract(videos)
            found |= dict(zip(missing, results, strict=True))
        for digest in digests:
            self._remember(digest, found[digest])
        return [found[digest] for digest in digests]

    def _remember(self, digest: str, features: Features) -> None:
        if digest in self._known:
            self._known.move_to_end(digest)
            return
        self._known[digest] = features
        self._bytes += sum(part.nbytes for part in features)
        while self._bytes > KNOWN_BYTES and len(self._known) > 1:
            self._bytes -= sum(part.nbytes for part in self._known.popitem(last=False)[1])


_networks: weakref.WeakValueDictionary[tuple, SharedNetwork] = weakref.WeakValueDictionary()


def shared_network(evaluation: Evaluation, per_frame: bool, device: torch.device) -> SharedNetwork:
    """A network on a device, the same object for all that need it, for as long as any of them does.

    Raises InputError where the network cannot be loaded or cannot see the protocol's clips.
    """
    name = backbone_name(evaluation.protocol.backbone)
    key = (_text(_network_settings(evaluation, per_frame)), find_backbone(name), str(device))
    network = _networks.get(key)
    if network is None:
        network = SharedNetwork(evaluation, per_frame, device)
        _networks[key] = network
    return network


def fingerprint(evaluation: Evaluation, per_frame: bool) -> torch.Tensor:
    """int64 [32], bytes of a SHA-256 over all that decides which features are kept of videos."""
    roles = [str(Role.of(name, evaluation)) for name in ("samples", "reference")]
    text = _text([roles, _network_settings(evaluation, per_frame)])
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.int64)


def collect(
    videos: torch.Tensor, role: Role, network: SharedNetwork, *, first: int, step: int = 1, have: int = 0
) -> Gathered:
    """What is kept of videos [B, T, H, W, C], see `tensors.as_clips`, on the network's device.

    first, step: numbers of the videos in the order over all processes are first, first + step, ... have: clips that
    there are already. Raises InputError for values that are in no range, and under `strict` for the first unusable one.
    """
    if not len(videos):
        return _gathered([], [], [])
    name, lowest = tensors.check_range(videos, role.settings.value_range)
    count, shape, per_video = len(videos), tuple(videos.shape[1:4]), role.settings.rule.clips
    about = {"seen": count, "lowest": lowest if name == tensors.FLOAT_RANGE else float("inf")}
    if role.wanted is not None and have >= role.wanted:
        return _gathered([], [], [], beyond=count * per_video, **about)
    videos = videos.to(network.device)
    rows, clips, rejected = [], [], []
    for repeat in range(per_video):
        positions = [(first + step * number) * per_video + repeat for number in range(count)]
        try:
            indices = tensors.plan(
                shape,
                role.settings,
                [clip_name(position) for position in positions],
                repeat=repeat,
                min_frames=network.backbone.min_frames,
            )
        except Rejected as rejection:
            if role.strict:
                raise InputError(f"{clip_name(positions[0])}: {rejection} (--strict)") from rejection
            rejected += [(position, *shape) for position in positions]
            continue
        for start in range(0, count, network.batch):  # as many are in memory as floats
            part = slice(start, start + network.batch)
            cut = tensors.cut(videos[part], indices[part], role.settings, name)
            digests = _digests(cut)
            for position, digest, result in zip(positions[part], digests, network(cut, digests), strict=True):
                kept = _rows(result, isinstance(network.backbone, PerFrame))
                rows.append(kept)
                clips.append((position, len(kept), *np.frombuffer(bytes.fromhex(digest), "<i8")))
    return _gathered(rows, clips, rejected, **about)


def _gathered(rows, clips, rejected, **about) -> Gathered:
    return Gathered(
        rows=torch.from_numpy(np.concatenate(rows)) if rows else torch.zeros(0, 0),
        clips=torch.tensor(clips, dtype=torch.int64).reshape(-1, 6),
        rejected=torch.tensor(rejected, dtype=torch.int64).reshape(-1, 4),
        **about,
    )


def _rows(result: Features, per_frame: bool) -> np.ndarray:
    features, probabilities = result
    return features if per_frame else np.concatenate([features, probabilities])[None]


def _digests(clips: torch.Tensor) -> list[str]:
    arrays = clips.cpu().numpy()
    if clips.device.type == "cpu" or len(arrays) == 1:
        return [clip_digest(clip) for clip in arrays]
    with ThreadPoolExecutor(HASHING_THREADS, "digests") as pool:
        return list(pool.map(clip_digest, arrays))


def clip_name(position: int) -> str:
    """What a record calls the clip at a position."""
    return f"{MEMORY}#{position}"


def parts_of(batch: Any) -> list[torch.Tensor]:
    """The videos of a batch, each [B, T, H, W, C].

    A batch is a tensor or an array; a list or tuple of clips, of 4 axes each, which may differ in size; or what a
    data set returns: a tuple, list or dict whose first entry, or the one called video or videos, is the batch.
    """
    if isinstance(batch, Mapping):
        named = next((key for key in ("video", "videos") if key in batch), next(iter(batch), None))
        if named is None:
            raise InputError("a batch is an empty dict; expected videos in it")
        return parts_of(batch[named])
    if isinstance(batch, list | tuple):
        if not batch:
            raise InputError("a batch is empty; expected videos in it")
        if all(getattr(item, "ndim", 0) == 4 for item in batch):
            return [tensors.as_clips(item) for item in batch]
        return parts_of(batch[0])
    return [tensors.as_clips(batch)]


def _network_settings(evaluation: Evaluation, per_frame: bool) -> Mapping[str, Any]:
    keys = ("weights", "c3d_mean", "unverified", "precision", "batch")
    protocol = {
        key: getattr(evaluation.protocol, key) for key in ("backbone", "backbone_resize", "bn_epsilon", "frames")
    }
    own = {field.name: getattr(evaluation, field.name) for field in fields(evaluation) if field.name in keys}
    return {**protocol, **own, "per_frame": per_frame}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
