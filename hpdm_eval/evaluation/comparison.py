"""The way from two sets of clips to a record that all metrics on features share.

Evaluation → clips and backbone → features of both sides → the metric's figures → record
"""

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json, sha256_file
from hpdm.support.hub_file import local_file
from hpdm.support.progress import note
from hpdm_eval.backbones import Backbone, PerFrame, backbone_name, load_backbone
from hpdm_eval.backbones.backbone import Extractor, check_frames
from hpdm_eval.backbones.loading import KINDS
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import ClipSource, open_clips
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.evaluation.sides import Side
from hpdm_eval.features.cache import FeatureCache
from hpdm_eval.features.calls import call_size
from hpdm_eval.features.extraction import extract_features, extract_moments
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.reference_statistics import Statistics, is_statistics
from hpdm_eval.metrics.registry import MetricInfo
from hpdm_eval.metrics.score_tests import mean_interval
from hpdm_eval.metrics.settings import MetricSettings
from hpdm_eval.protocols import Protocol
from hpdm_eval.records.record import Record, make_record
from hpdm_eval.support.caught import caught_warnings
from hpdm_eval.support.threads import one_thread

MANY_COPIES = 100  # from one clip in so many on, copies are worth a remark
FAMILIES = ("videomae", "vjepa", "i3d", "c3d", "inception", "shapes3d")


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Both sides of a comparison, read; what is left is arithmetic."""

    started: float  # time.time()
    device: torch.device
    protocol: Protocol
    backbone: Backbone | PerFrame
    samples: Side
    reference: Side | None
    seed: int
    remarks: tuple[str, ...] = ()  # on both sets of clips and on the judge, for every record
    extra: Mapping[str, Any] = field(default_factory=dict)  # further entries of every record

    def record(self, metric: MetricInfo, options: Mapping[str, Any] | None = None) -> Record:
        """The Record of one metric on features; what its function warns of is in it.

        options: the metric's own, over its defaults.
        """
        settings = MetricSettings(
            protocol=self.protocol, seed=self.seed, options={**metric.defaults(), **(options or {})}
        )
        with caught_warnings() as said, one_thread():
            figures = as_figures(metric.function()(self.samples, self.reference, settings), metric, settings)
        return self.record_of(metric, figures, said())

    def record_of(self, metric: MetricInfo, figures: Mapping[str, Any], said: Iterable[str] = ()) -> Record:
        """The Record of figures that are computed already, a dict of the record's fields."""
        figures = dict(figures)
        settings = figures.pop("settings", None)
        merged = _merged.get()
        return make_record(
            started=self.started,
            device=self.device,
            metric=figures.pop("metric", metric.name),
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            protocol={**self.protocol.to_dict(), "hash": self.protocol.hash()},
            num_samples=self.samples.count,
            num_reference=self.reference and self.reference.count,
            samples=self.samples.summary,
            reference=self.reference and self.reference.summary,
            backbone=self.backbone.describe(),
            seed=self.seed,
            warnings=tuple(dict.fromkeys([*self.remarks, *said])),
            extra=({"settings": settings} if settings else {})
            | dict(self.extra)
            | ({"shards": merged.shards} if merged else {}),
            **figures,
        )


def as_figures(returned: Any, metric: MetricInfo, settings: MetricSettings) -> dict[str, Any]:
    """What a metric's function returned as fields of a record: a number, an array of one per clip, or those fields.

    Raises InputError, naming the metric, for anything else and for figures that are not finite.
    """
    if isinstance(returned, Mapping):
        figures = dict(returned)
    elif isinstance(returned, int | float | np.number):
        figures = {"value": float(returned)}
    else:
        try:
            values = np.asarray(returned, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"metric {metric.name} returned {type(returned).__name__}; return a number, an array of "
                'one number per clip, or a dict with "value"'
            ) from error
        if values.ndim != 1 or not len(values):
            raise InputError(
                f"metric {metric.name} returned an array of shape {list(values.shape)}, expected one number per clip"
            )
        interval = mean_interval(values, np.random.default_rng(settings.seed))
        figures = {"value": float(values.mean()), "ci95": interval}
    if "value" not in figures:
        raise InputError(f'metric {metric.name} returned a dict without "value"')
    figures["value"] = float(figures["value"])
    if not math.isfinite(figures["value"]):
        raise InputError(f"metric {metric.name} is {figures['value']} on these clips")
    if figures.get("ci95") is not None:
        figures["ci95"] = tuple(float(end) for end in figures["ci95"])
    if metric.options and "settings" not in figures and not isinstance(metric.measure, str):
        figures["settings"] = dict(settings.options)  # tells records of one set apart
    return figures


def compare(evaluation: Evaluation, *, reference: Side | None = None, per_frame: bool = False) -> Comparison:
    """Read both sides of an evaluation; without a reference in it, the samples alone.

    reference: the side that an earlier call of the same settings read, to save reading it again. per_frame: single
    frames are what is compared. Everything that can be found wrong without running the network is, before it runs.
    """
    started = time.time()
    opened = open_comparison(evaluation, reference, per_frame)
    sides = {role: read_side(source, opened.backbone, evaluation) for role, source in opened.sources.items()}
    remarks = remarks_on_copies(
        {role: source.digests for role, source in opened.sources.items() if isinstance(source, ClipSource)}
    )
    return Comparison(
        started=started,
        device=opened.device,
        protocol=evaluation.protocol,
        backbone=opened.backbone,
        samples=sides["samples"],
        reference=reference or sides.get("reference"),
        seed=evaluation.seed,
        remarks=(*opened.remarks, *remarks),
        extra=evaluation.limit_entry,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A comparison before the network runs: everything that can be found wrong without it has been looked at."""

    evaluation: Evaluation
    device: torch.device
    sources: dict[str, ClipSource | Statistics]  # by role
    backbone: Backbone | PerFrame
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Shards whose features are being merged."""

    shards: tuple[dict[str, Any], ...]  # what records say of them
    caches: frozenset[str]  # names of their folders


_merged: ContextVar[Merged | None] = ContextVar("merged shards", default=None)


@contextmanager
def merged_from(shards: list[dict[str, Any]]) -> Iterator[None]:
    """Within the block, records say that their features come from these shards."""
    keys = ("number", "clips", "hardware", "versions", "git")
    merged = Merged(
        shards=tuple({key: shard[key] for key in keys} for shard in shards),
        caches=frozenset(name for shard in shards for name in shard["caches"]),
    )
    token = _merged.set(merged)
    try:
        yield
    finally:
        _merged.reset(token)


def open_comparison(evaluation: Evaluation, reference: Side | None = None, per_frame: bool = False) -> Opened:
    """`Opened` as `compare` does it. Raises InputError."""
    device = choose_device(evaluation.device)
    roles = ["samples", *(["reference"] if evaluation.reference is not None and reference is None else [])]
    sources = {role: open_source(role, evaluation) for role in roles}
    backbone = open_backbone(evaluation, device, per_frame)
    remarks = judge_warnings(evaluation) + evaluation.limit_remarks
    stored = sources.get("reference")
    if isinstance(stored, Statistics):
        check_statistics(stored, backbone, evaluation)
        remarks += statistics_remarks(stored, evaluation)
    return Opened(evaluation=evaluation, device=device, sources=sources, backbone=backbone, remarks=remarks)


def statistics_remarks(stored: Statistics, evaluation: Evaluation) -> tuple[str, ...]:
    """A warning where the reference's statistics are of a few clips because a limit said so."""
    limit = stored.source.get("limit")
    text = f"{evaluation.reference} was made with --limit {limit}: a quick look, no figure to compare"
    return (text,) * bool(limit)


def check_statistics(stored: Statistics, backbone: Backbone | PerFrame, evaluation: Evaluation) -> None:
    """Raise InputError where the reference's statistics do not fit the evaluation; say what nothing in them tells."""
    protocol, where = evaluation.protocol, str(evaluation.reference)
    stored.check_match(protocol, backbone.describe(), where)
    check_dimension(stored, backbone, where)
    drawn = protocol.selection != "sorted" and protocol.num_reference is not None
    if stored.foreign:
        note(
            f"{where}: statistics of another tool, of {stored.moments.n} clips; nothing in it says "
            "which clips, network and protocol they are of",
            evaluation.quiet,
        )
    elif stored.seed != evaluation.seed and (protocol.start == "random" or drawn):
        note(f"{where} was drawn with --seed {stored.seed}, the samples are with {evaluation.seed}", evaluation.quiet)


def judge_warnings(evaluation: Evaluation) -> tuple[str, ...]:
    """Warnings of a judge whose features the samples' model was trained with; InputError unless that is allowed."""
    backbone = evaluation.protocol.backbone
    known = dict.fromkeys(evaluation.trained_with, "--trained-with")
    manifest = Path(evaluation.samples, "samples.json")
    if manifest.is_file():
        known |= dict.fromkeys(_trained_with(manifest), str(manifest))
    for name, source in known.items():
        if _family(name) == _family(backbone):
            text = f"the samples' model was trained with features of {name} ({source}), and {backbone} is to judge them"
            if not evaluation.allow_trained_judge:
                raise InputError(
                    f"{text}: its figure would measure the training; --allow-trained-judge computes it "
                    "nevertheless and marks it"
                )
            return (f"{text}: no measure of their quality",)
    return ()


def _trained_with(manifest: Path) -> list[str]:
    try:
        names = parse_json(manifest.read_bytes()).get("trained_with") or []
    except (OSError, ValueError, AttributeError):
        return []  # what is wrong with it is said where it is needed
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _family(name: str) -> str:
    """What networks of one kind share: videomae:some/folder, VideoMAE-v2 → videomae; i3d-kinetics400 → i3d."""
    word = re.sub("[^a-z0-9]", "", name.partition(":")[0].lower())
    return next((family for family in FAMILIES if word.startswith(family)), word)


def open_source(role: str, evaluation: Evaluation) -> ClipSource | Statistics:
    """`Statistics` where the reference is a file of them, else a ClipSource."""
    path, protocol = local_file(evaluation.path(role)), evaluation.protocol
    if role == "reference" and is_statistics(path):
        return Statistics.load(path, protocol.num_reference)
    return open_set(role, evaluation)


def open_set(role: str, evaluation: Evaluation) -> ClipSource:
    """The clips of a role, at most as many as the evaluation's limit."""
    reading = evaluation.reading(role) | {"role": role, "num": evaluation.most(role)}
    return open_clips(evaluation.path(role), evaluation.protocol, **reading)


def check_dimension(stored: Statistics, backbone: Backbone | PerFrame, where: Place) -> None:
    """Raise InputError where `Statistics` have another number of features than the network makes."""
    if stored.moments.dimension != backbone.feature_dim:
        raise InputError(
            f"{where} is of {stored.moments.dimension} features, {backbone.name} makes "
            f"{backbone.feature_dim}: another network made it; --backbone says which"
        )


def remarks_on_copies(digests: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Texts on clips that are in a set more than once, or in both; digests: of the clips of each role."""
    remarks = []
    for role, all_of_them in digests.items():
        copies = len(all_of_them) - len(set(all_of_them))
        if copies * MANY_COPIES >= len(all_of_them):
            remarks.append(f"{copies} of {len(all_of_them)} {role} clips equal another one of them, pixel for pixel")
    if len(digests) == 2 and (both := set(digests["samples"]) & set(digests["reference"])):
        same = sum(digest in both for digest in digests["samples"])
        remarks.append(f"{same} of {len(digests['samples'])} samples are reference clips too, pixel for pixel")
    return tuple(remarks)


def open_backbone(evaluation: Evaluation, device: torch.device, per_frame: bool = False) -> Backbone | PerFrame:
    """The backbone that an evaluation names; InputError where it cannot see the protocol's clips."""
    protocol = evaluation.protocol
    name = backbone_name(protocol.backbone)
    where = f"protocol {protocol.label}"
    if name in KINDS and protocol.frames is not None and not per_frame:
        check_frames(cast(Extractor, KINDS[name]), protocol.frames, where)  # before the weights are missed
    backbone = load_backbone(
        name,
        weights=evaluation.weights and local_file(evaluation.weights),
        unverified=evaluation.unverified,
        device=device,
        precision=evaluation.precision,
        # a protocol states the epsilon of the network it was published with, which is always I3D
        bn_epsilon=protocol.bn_epsilon if name == "i3d-kinetics400" else None,
        resize_rule=protocol.backbone_resize,
        c3d_mean=evaluation.c3d_mean and local_file(evaluation.c3d_mean),
    )
    if per_frame:
        return PerFrame(backbone)
    if protocol.frames is not None:
        check_frames(backbone, protocol.frames, where)
    return backbone


def read_side(
    source: ClipSource | Statistics, backbone: Backbone | PerFrame, evaluation: Evaluation, shared: bool = True
) -> Side:
    """Run the network over a ClipSource, or take what the `Statistics` hold.

    shared: whether several processes, where there are any, all call this and share the work.
    """
    if isinstance(source, Statistics):
        stored = {
            "statistics": str(evaluation.reference),
            "statistics_sha256": sha256_file(local_file(evaluation.path("reference"))),
            "seed": source.seed,
        }
        sources = None if evaluation.group_by == "none" else source.sources
        return Side(
            moments=source.moments,
            features=source.features,
            probabilities=None,
            summary={**source.source, **stored},
            sources=sources,
        )
    source.prepare(min_frames=backbone.min_frames, shared=shared)
    cache = open_cache(backbone, evaluation)
    reading: dict[str, Any] = {"batch": evaluation.batch, "quiet": evaluation.quiet, "cache": cache}
    merged = _merged.get()
    if merged and (
        not cache or cache.for_calls(call_size(backbone, evaluation.batch)).folder.name not in merged.caches
    ):
        raise InputError(
            "the shards were made on another kind of processor, or with other libraries or weights than "
            "are here, and features differ by that: run hpdm-eval merge where they were made"
        )
    if isinstance(backbone, PerFrame):
        return Side(
            moments=extract_moments(source, backbone, **reading),
            features=None,
            probabilities=None,
            summary=source.summary(),
        )
    extracted = extract_features(source, backbone, **reading)
    return Side(
        moments=Moments.of(extracted.features),
        features=extracted.features,
        probabilities=extracted.probabilities,
        summary=source.summary(),
        sources=sources_of(extracted.names, evaluation.group_by, source.settings.rule.clips),
    )


def open_cache(backbone: Backbone | PerFrame, evaluation: Evaluation) -> FeatureCache | None:
    """The cache of features that an evaluation uses, None where it uses none, or where a registered network's code is
    in no file, so that nothing says whether it is still the same."""
    if not evaluation.cache or not getattr(getattr(backbone, "backbone", backbone), "cacheable", True):
        return None
    return FeatureCache(backbone, verify=evaluation.verify_cache)
