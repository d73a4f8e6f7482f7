"""Metrics that other packages register on the clips themselves."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hpdm.support.errors import InputError
from hpdm_eval.clips.source import Clip, ClipSource
from hpdm_eval.evaluation.comparison import as_figures, open_set
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.reference_statistics import is_statistics
from hpdm_eval.metrics.registry import MetricInfo
from hpdm_eval.metrics.settings import MetricSettings
from hpdm_eval.records.record import Record, make_record
from hpdm_eval.support.caught import caught_warnings


class Clips:
    """A set of clips, as often as it is iterated: `Clip`s with `video` uint8 [T, H, W, 3], `name` and `label`."""

    def __init__(self, source: ClipSource) -> None:
        self.source, self.complete = source, False
        self.names: list[str] = []  # of the last iteration

    def __iter__(self) -> Iterator[Clip]:
        self.names = []
        for clip in self.source:
            self.names.append(clip.name)
            yield clip
        self.complete = True

    def __len__(self) -> int:
        return len(self.source)

    def summary(self) -> dict[str, Any]:
        """The record's entry for them; reads what the metric has left out."""
        if not self.complete:
            for _ in self:
                pass
        return self.source.summary()


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedClips:
    """What a metric on clips made of an evaluation."""

    record: Record
    returned: Any  # by the metric's function
    names: list[str]  # of the samples, in order


def evaluate_clips(metric: MetricInfo, evaluation: Evaluation, options: Mapping[str, Any]) -> Record:
    """The Record of a registered metric with needs="clips". Raises InputError for a reference of statistics."""
    return judge_clips(metric, evaluation, options).record


def judge_clips(metric: MetricInfo, evaluation: Evaluation, options: Mapping[str, Any]) -> JudgedClips:
    """The Record of a registered metric with needs="clips", and what its function returned. Raises InputError."""
    started = time.time()
    if metric.reference and evaluation.reference is not None and is_statistics(evaluation.reference):
        raise InputError(
            f"{evaluation.reference} holds statistics of features; {metric.name} needs the clips themselves"
        )
    roles = ["samples", *(["reference"] if metric.reference and evaluation.reference is not None else [])]
    sets = {role: Clips(open_set(role, evaluation)) for role in roles}
    return judge_sets(metric, sets, evaluation, options, started)


class SetOfClips(Protocol):
    """What a metric on clips gets of each role."""

    def __iter__(self) -> Iterator[Clip]: ...

    def __len__(self) -> int: ...

    @property
    def names(self) -> list[str]:
        """Of the clips, in order, after an iteration."""
        ...

    def summary(self) -> dict[str, Any]:
        """The record's entry for them."""
        ...


def judge_sets(
    metric: MetricInfo,
    sets: Mapping[str, SetOfClips],
    evaluation: Evaluation,
    options: Mapping[str, Any],
    started: float,
) -> JudgedClips:
    """As `judge_clips` of sets of clips, {role: SetOfClips}."""
    settings = MetricSettings(protocol=evaluation.protocol, seed=evaluation.seed, options=options)
    with caught_warnings() as said:
        returned = metric.function()(sets["samples"], sets.get("reference"), settings)
        figures = as_figures(returned, metric, settings)
    own = figures.pop("settings", None)
    summaries = {role: clips.summary() for role, clips in sets.items()}
    protocol = evaluation.protocol
    record = make_record(
        started=started,
        metric=figures.pop("metric", metric.name),
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        num_samples=summaries["samples"]["clips"],
        num_reference=summaries["reference"]["clips"] if "reference" in summaries else None,
        samples=summaries["samples"],
        reference=summaries.get("reference"),
        seed=evaluation.seed,
        warnings=tuple(dict.fromkeys([*evaluation.limit_remarks, *said()])),
        extra=({"settings": own} if own else {}) | evaluation.limit_entry,
        **figures,
    )
    return JudgedClips(record=record, returned=returned, names=sets["samples"].names)
