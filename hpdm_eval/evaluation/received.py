"""From features of clips that came as tensors to a `Side`, and to a comparison whose records are those of files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpdm.support.errors import InputError
from hpdm_eval.backbones import Backbone, PerFrame
from hpdm_eval.clips import tensors
from hpdm_eval.clips.frames import Rejected
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import ClipSource, set_digest
from hpdm_eval.evaluation.comparison import (
    Comparison,
    check_statistics,
    judge_warnings,
    open_source,
    read_side,
    remarks_on_copies,
    statistics_remarks,
)
from hpdm_eval.evaluation.incoming import MEMORY, Gathered, Role, SharedNetwork, clip_name
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.evaluation.sides import Side
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.ordered_moments import OrderedMoments
from hpdm_eval.features.reference_statistics import Statistics
from hpdm_eval.protocols import Protocol

DIGEST = slice(2, 6)  # columns of `Gathered.clips`


@dataclass(frozen=True, kw_only=True, eq=False)
class Received:
    """All clips of one role: their `Side`, and what a record says beside it."""

    side: Side
    digests: list[str]
    prefix: bool = False  # whether there were more clips than were wanted
    remarks: tuple[str, ...] = ()


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
        ordered = OrderedMoments(dimension)
        for position, part in zip(positions.tolist(), parts, strict=True):
            ordered.add(position, part)
        moments = OrderedMoments.joined(dimension, [ordered.parts()])
    else:
        kept = np.concatenate(parts)
        features, probabilities = kept[:, :dimension].copy(), kept[:, dimension:].copy()
        moments = Moments.of(features)
        sources = sources_of([clip_name(position) for position in positions], group_by, role.settings.rule.clips)
    last = positions[-1] if more else None
    summary = summary_of(digests, rejections(gathered.rejected, role, backbone.min_frames, last), more)
    return Received(
        side=Side(moments=moments, features=features, probabilities=probabilities, summary=summary, sources=sources),
        digests=digests,
        prefix=more > 0,
        remarks=range_remarks(gathered, role),
    )


def summary_of(digests: list[str], rejected: list[dict[str, str]], more: int) -> dict[str, Any]:
    """The record's entry of clips that came as tensors, as `ClipSource.summary` of files; more: clips not taken."""
    copies = len(digests) - len(set(digests))
    return {
        "path": MEMORY,
        "sha256": set_digest(digests),
        "clips": len(digests),
        "rejected": rejected,
        "split": None,
        **({"classes": {"available": len(digests) + more, "of": 1, "taken": 1, "lost": []}} if more else {}),
        **({"duplicates": copies} if copies else {}),
    }


def rejections(rejected: torch.Tensor, role: Role, min_frames: int, last: int | None = None) -> list[dict[str, str]]:
    """[{"path", "reason"}] of what was not used, up to the position `last`, as a record lists it."""
    entries = []
    for position, *shape in sorted(rejected.tolist()):
        if last is not None and position > last:
            break
        try:
            repeat = position % role.settings.rule.clips
            tensors.plan(shape, role.settings, [clip_name(position)], repeat=repeat, min_frames=min_frames)
        except Rejected as rejection:
            entries.append({"path": clip_name(position), "reason": str(rejection)})
    return entries


def range_remarks(gathered: Gathered, role: Role) -> tuple[str, ...]:
    """A warning where floats that are taken for -1..1 never fall below 0."""
    if not 0 <= gathered.lowest < float("inf"):
        return ()
    return (
        f"no value of the {role.name} is below 0, and they were read as {tensors.FLOAT_RANGE}; if they are 0..1, say "
        'value_range="0..1"',
    )


def used_protocol(protocol: Protocol, *, samples: bool, reference: bool = False) -> Protocol:
    """The protocol that a record names where the first clips of more counted, of either role: that is "sorted"."""
    changes = {
        key: "sorted"
        for key, prefix in (("samples_selection", samples), ("selection", reference))
        if prefix and getattr(protocol, key) != "sorted"
    }
    return protocol.changed(**changes) if changes else protocol


def open_reference(evaluation: Evaluation, network: SharedNetwork) -> ClipSource | Statistics:
    """The reference of an evaluation, a path; raises InputError where it does not fit the network."""
    source = open_source("reference", evaluation)
    if isinstance(source, Statistics):
        check_statistics(source, network.backbone, evaluation)
    return source


def read_reference(evaluation: Evaluation, network: SharedNetwork, shared: bool = False) -> Received:
    """Features of the reference, a path; shared: whether all processes call this and share the work."""
    source = open_reference(evaluation, network)
    side = read_side(source, network.backbone, evaluation, shared)
    if isinstance(source, Statistics):
        return Received(side=side, digests=[], remarks=statistics_remarks(source, evaluation))
    return Received(side=side, digests=source.digests)


def comparison_of(
    evaluation: Evaluation, network: SharedNetwork, samples: Received, reference: Received | None, started: float
) -> Comparison:
    """The `Comparison` of clips that came as tensors."""
    digests = {"samples": samples.digests}
    if reference is not None and reference.digests:
        digests["reference"] = reference.digests
    return Comparison(
        started=started,
        device=network.device,
        protocol=used_protocol(
            evaluation.protocol, samples=samples.prefix, reference=reference is not None and reference.prefix
        ),
        backbone=network.backbone,
        samples=samples.side,
        reference=None if reference is None else reference.side,
        seed=evaluation.seed,
        remarks=(
            *judge_warnings(evaluation),
            *evaluation.limit_remarks,
            *remarks_on_copies(digests),
            *samples.remarks,
            *(reference.remarks if reference is not None else ()),
        ),
        extra=evaluation.limit_entry,
    )


def _nothing(gathered: Gathered, role: Role, backbone: Backbone | PerFrame) -> str:
    entries = rejections(gathered.rejected, role, backbone.min_frames)
    if not entries:
        return f"no clips among the {role.name}: nothing came"
    return (
        f"no usable clip among the {role.name}: {len(entries)} rejected, the first is {entries[0]['path']}: "
        f"{entries[0]['reason']}"
    )
