"""From videos that come as tensors, batch by batch, to a `Side`: what metric classes and streams share.

A clip's features, digest and place in the order are tensors, so that they can be gathered from several processes; a
`Side` made of them is that of the same clips in files, to the last bit on a CPU. B clips, T frames, H rows, W columns,
D feature dimensions, K classes.
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
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import decode_settings, set_digest
from hpdm_eval.evaluation.comparison import open_backbone
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.evaluation.sides import Side
from hpdm_eval.features.calls import network_calls
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.ordered_moments import OrderedMoments
from hpdm_eval.protocols import Protocol

MEMORY = "<memory>"  # in place of a path
DIGEST = slice(2, 6)  # columns of `Gathered.clips`
KNOWN_BYTES = 64 << 20  # of features of the latest clips, kept for other metrics
HASHING_THREADS = 4

Features = tuple[np.ndarray, np.ndarray]  # features [D] or [T, D], and probabilities [K] or [T, K], of one clip


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
        protocol = evaluation.protocol
        number = protocol.num_samples if name == "samples" else protocol.num_reference
        return cls(
            name=name,
            settings=decode_settings(protocol, name == "reference", None, evaluation.seed),
            wanted=min(filter(None, (number, evaluation.limit)), default=None),
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


class Extractor:
    """A network on one device, and the features of the clips it saw last, so that metrics that share it ask it once."""

    def __init__(self, evaluation: Evaluation, per_frame: bool, device: torch.device):
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


_extractors: weakref.WeakValueDictionary[tuple, Extractor] = weakref.WeakValueDictionary()


def shared_extractor(evaluation: Evaluation, per_frame: bool, device: torch.device) -> Extractor:
    """The Extractor of a network on a device, the same one for all that need it, and as long as any of them does.

    Raises InputError where the network cannot be loaded or cannot see the protocol's clips.
    """
    name = backbone_name(evaluation.protocol.backbone)
    key = (_text(_network_settings(evaluation, per_frame)), find_backbone(name), str(device))
    extractor = _extractors.get(key)
    if extractor is None:
        extractor = Extractor(evaluation, per_frame, device)
        _extractors[key] = extractor
    return extractor


def fingerprint(evaluation: Evaluation, per_frame: bool) -> torch.Tensor:
    """int64 [32], bytes of a SHA-256 over all that decides which features are kept of videos."""
    roles = [str(Role.of(name, evaluation)) for name in ("samples", "reference")]
    text = _text([roles, _network_settings(evaluation, per_frame)])
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.int64)


def collect(
    videos: torch.Tensor, role: Role, extractor: Extractor, *, first: int, step: int = 1, have: int = 0
) -> Gathered:
    """What is kept of videos [B, T, H, W, C], see `tensors.as_clips`, on the extractor's device.

    first, step: numbers of the videos in the order over all processes are first, first + step, ... have: clips that
    there are already. Raises InputError for values that are in no range, and under `strict` for the first unusable one.
    """
    name, lowest = tensors.check_range(videos, role.settings.value_range)
    count, shape, per_video = len(videos), tuple(videos.shape[1:4]), role.settings.rule.clips
    about = {"seen": count, "lowest": lowest if name == tensors.FLOAT_RANGE else float("inf")}
    if role.wanted is not None and have >= role.wanted:
        return _gathered([], [], [], beyond=count * per_video, **about)
    videos = videos.to(extractor.device)
    rows, clips, rejected = [], [], []
    for repeat in range(per_video):
        positions = [(first + step * number) * per_video + repeat for number in range(count)]
        try:
            indices = tensors.plan(
                shape,
                role.settings,
                [_name(position) for position in positions],
                repeat=repeat,
                min_frames=extractor.backbone.min_frames,
            )
        except Rejected as rejection:
            if role.strict:
                raise InputError(f"{_name(positions[0])}: {rejection} (--strict)") from rejection
            rejected += [(position, *shape) for position in positions]
            continue
        for start in range(0, count, extractor.batch):  # as many are in memory as floats
            part = slice(start, start + extractor.batch)
            cut = tensors.cut(videos[part], indices[part], role.settings, name)
            digests = _digests(cut)
            for position, digest, result in zip(positions[part], digests, extractor(cut, digests), strict=True):
                kept = _rows(result, isinstance(extractor.backbone, PerFrame))
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Received:
    """Clips that came as tensors, all of them: their `Side`, and what a record says beside it."""

    side: Side
    digests: list[str]
    prefix: bool  # whether there were more clips than were wanted
    remarks: tuple[str, ...]


def receive(gathered: Gathered, role: Role, backbone: Backbone | PerFrame, group_by: str = "auto") -> Received:
    """The clips in the order of their positions; the first `wanted` count.

    Raises InputError where there are none.
    """
    clips = gathered.clips.cpu().numpy()
    order = np.argsort(clips[:, 0], kind="stable")  # several processes may have used the same positions
    ends = np.cumsum(clips[:, 1])
    taken = order[: role.wanted]
    if not len(taken):
        raise InputError(_nothing(gathered, role, backbone))
    rows = gathered.rows.cpu().numpy()
    parts = [rows[ends[clip] - clips[clip, 1] : ends[clip]] for clip in taken]
    positions = clips[taken, 0]
    digests = [clip[DIGEST].astype("<i8").tobytes().hex() for clip in clips[taken]]
    more = gathered.beyond + len(order) - len(taken)
    dimension, probabilities, features, sources = backbone.feature_dim, None, None, None
    if isinstance(backbone, PerFrame):
        moments = OrderedMoments(dimension)
        for position, part in zip(positions.tolist(), parts, strict=True):
            moments.add(position, part)
        moments = OrderedMoments.joined(dimension, [moments.parts()])
    else:
        kept = np.concatenate(parts)
        features, probabilities = kept[:, :dimension].copy(), kept[:, dimension:].copy()
        moments = Moments.of(features)
        sources = sources_of([_name(position) for position in positions], group_by, role.settings.rule.clips)
    last = positions[-1] if more else None
    summary = {
        "path": MEMORY,
        "sha256": set_digest(digests),
        "clips": len(taken),
        "rejected": rejections(gathered.rejected, role, backbone.min_frames, last),
        "split": None,
        **({"classes": {"available": len(taken) + more, "of": 1, "taken": 1, "lost": []}} if more else {}),
        **({"duplicates": copies} if (copies := len(digests) - len(set(digests))) else {}),
    }
    return Received(
        side=Side(moments=moments, features=features, probabilities=probabilities, summary=summary, sources=sources),
        digests=digests,
        prefix=more > 0,
        remarks=range_remarks(gathered, role),
    )


def rejections(rejected: torch.Tensor, role: Role, min_frames: int, last: int | None = None) -> list[dict[str, str]]:
    """[{"path", "reason"}] of what was not used, up to the position `last`, as a record lists it."""
    entries = []
    for position, *shape in sorted(rejected.tolist()):
        if last is not None and position > last:
            break
        try:
            repeat = position % role.settings.rule.clips
            tensors.plan(shape, role.settings, [_name(position)], repeat=repeat, min_frames=min_frames)
        except Rejected as rejection:
            entries.append({"path": _name(position), "reason": str(rejection)})
    return entries


def range_remarks(gathered: Gathered, role: Role) -> tuple[str, ...]:
    """A warning where floats that are taken for -1..1 never fall below 0."""
    if not 0 <= gathered.lowest < float("inf"):
        return ()
    return (
        f"no value of the {role.name} is below 0, and they were read as {tensors.FLOAT_RANGE}; if they are 0..1, say "
        'value_range="0..1"',
    )


def used_protocol(protocol: Protocol, samples: Received | None, reference: Received | None = None) -> Protocol:
    """The protocol that a record names: of a stream the first clips count, which is `sorted` where there were more."""
    changes = {
        key: "sorted"
        for key, received in (("samples_selection", samples), ("selection", reference))
        if received is not None and received.prefix and getattr(protocol, key) != "sorted"
    }
    return protocol.changed(**changes) if changes else protocol


def _nothing(gathered: Gathered, role: Role, backbone: Backbone | PerFrame) -> str:
    entries = rejections(gathered.rejected, role, backbone.min_frames)
    if not entries:
        return f"no clips among the {role.name}: nothing came"
    return (
        f"no usable clip among the {role.name}: {len(entries)} rejected, the first is {entries[0]['path']}: "
        f"{entries[0]['reason']}"
    )


def _name(position: int) -> str:
    return f"{MEMORY}#{position}"


def _network_settings(evaluation: Evaluation, per_frame: bool) -> Mapping[str, Any]:
    keys = ("weights", "c3d_mean", "unverified", "precision", "batch")
    protocol = {
        key: getattr(evaluation.protocol, key) for key in ("backbone", "backbone_resize", "bn_epsilon", "frames")
    }
    own = {field.name: getattr(evaluation, field.name) for field in fields(evaluation) if field.name in keys}
    return {**protocol, **own, "per_frame": per_frame}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
