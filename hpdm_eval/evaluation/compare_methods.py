"""Several sets of samples compared with one reference: figures with their errors, and a test for every pair.

What is measured, which way is better and how far a figure can go are the metrics' own words, see `MetricInfo.compared`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.evaluation.clip_metrics import judge_clips
from hpdm_eval.evaluation.comparison import Comparison, as_figures
from hpdm_eval.evaluation.comparisons import Comparisons
from hpdm_eval.evaluation.dead_tokens import count_dead_tokens
from hpdm_eval.evaluation.seams import TilingPlan, find_plan, judge_tiling, stored_losslessly
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.evaluation.sides import Side
from hpdm_eval.metrics.pairs import Estimate, Pair, compare_pairs
from hpdm_eval.metrics.registry import FigureInfo, MetricInfo, all_metrics, get_metric
from hpdm_eval.metrics.seams import parse_patch
from hpdm_eval.metrics.settings import MetricSettings
from hpdm_eval.metrics.uncertainty import GROUPS, jackknife_errors
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import Record
from hpdm_eval.support.threads import one_thread

STANDARD_ERROR = "standard error"  # of a record's value, where its details hold one
FIRST = "fvd"  # what hinders this metric hinders all others

Values = dict[str, float]  # by figure
Errors = Sequence[float] | np.ndarray  # of the figures, in their order


@dataclass(frozen=True, kw_only=True)
class Method:
    """One set of samples: its records by metric, and its estimates by figure."""

    name: str
    records: dict[str, Record]
    estimates: dict[str, Estimate | float]  # a bare value where there is no standard error
    metrics: dict[str, MetricInfo]  # by figure

    def value(self, figure: str) -> float:
        """A figure's value."""
        estimate = self.estimates[figure]
        return estimate.value if isinstance(estimate, Estimate) else estimate

    def record_of(self, figure: str) -> Record:
        """The record that holds a figure."""
        return self.records[self.metrics[figure].name]

    def interval(self, figure: str) -> tuple[float, float] | None:
        """95 %, cut to the range that the figure can have: the record's own where the figure is its value."""
        info, estimate = self.metrics[figure].compared()[figure], self.estimates[figure]
        record = self.record_of(figure)
        if record.ci95 is not None and info.headline:
            return record.ci95
        return estimate.interval(info.low, info.high) if isinstance(estimate, Estimate) else None


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """Sets of samples, the best first, and the tests of all pairs of every figure that all have."""

    methods: list[Method]
    figures: dict[str, FigureInfo]
    pairs: dict[str, list[Pair]]  # empty where a set has no standard error
    missing: list[str]  # what could not be had and why, each text once for all sets

    @property
    def records(self) -> list[Record]:
        """All records, each with its set's name and with what the tests of its figures said."""
        return [
            replace(record, extra={**record.extra, "name": method.name, "pairs": self._tests_of(method, metric)})
            for method in self.methods
            for metric, record in method.records.items()
        ]

    def _tests_of(self, method: Method, metric: str) -> list[dict[str, Any]]:
        return [
            {"figure": figure, **asdict(pair)}
            for figure, pairs in self.pairs.items()
            for pair in pairs
            if method.metrics[figure].name == metric and method.name in (pair.first, pair.second)
        ]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured of every set."""

    metrics: tuple[str, ...] | None = None  # names; None: all that can be had
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of single metrics, over their defaults
    patch: str | Sequence[int] | None = None  # of all samplers' tiles; None: as each samples.json says


def compare_methods(
    sets: Mapping[str, Evaluation], measuring: Measuring | None = None, sort_by: str | None = None
) -> MethodComparison:
    """Measure several sets and test every pair of them.

    sets: an evaluation for each name, which differ in the samples and how they are read alone. Sets of different sizes
    are cut to the smallest, since most figures change with the number of samples. sort_by: a figure; None: the first.
    Raises InputError where a metric that was asked for cannot be had.
    """
    measuring = measuring or Measuring()
    sets, comparisons, references = dict(sets), {}, {}
    for name, evaluation in sets.items():
        comparisons[name] = Comparisons(evaluation, references)
    counts = {name: own.of(get_metric(FIRST)).samples.count for name, own in comparisons.items()}
    if len(set(counts.values())) > 1:
        fewest = min(counts.values())
        text = ", ".join(f"{count} ({name})" for name, count in counts.items())
        note(f"sets of {text}: all are cut to {fewest}", next(iter(sets.values())).quiet)
        for name, evaluation in sets.items():
            cut = replace(evaluation, protocol=evaluation.protocol.changed(num_samples=fewest))
            comparisons[name] = Comparisons(cut, references)
    places = {name: evaluation.samples for name, evaluation in sets.items()}
    missing: dict[str, None] = {}
    methods = [_measure_method(name, own, measuring, places, missing) for name, own in comparisons.items()]
    figures = {
        figure: about
        for figure, about in all_figures().items()
        if all(figure in method.estimates for method in methods)
    }
    if sort_by is not None and sort_by not in figures:
        raise InputError(f"--sort {sort_by}: that figure could not be had for all sets; there are {', '.join(figures)}")
    methods = sort_methods(methods, sort_by or next(iter(figures)), figures)
    pairs = {figure: pair_tests(methods, figure) for figure in figures}
    return MethodComparison(methods=methods, figures=figures, pairs=pairs, missing=list(missing))


def compared_metrics() -> list[MetricInfo]:
    """The metrics that a comparison of methods takes: on features, on clips, and on the tiles of samples alone."""
    return [
        info
        for info in all_metrics()
        if info.extracts or info.needs == "clips" or (info.needs == "tilings" and info.name in ON_PIXELS)
    ]


def all_figures() -> dict[str, FigureInfo]:
    """The figures that a comparison may show, in the order of their metrics."""
    return {figure: about for info in compared_metrics() for figure, about in info.compared().items()}


def sort_methods(methods: Sequence[Method], figure: str, figures: Mapping[str, FigureInfo]) -> list[Method]:
    """The best first."""
    return sorted(methods, key=lambda method: method.value(figure), reverse=figures[figure].higher_is_better)


def pair_tests(methods: Sequence[Method], figure: str) -> list[Pair]:
    """Tests of all pairs, or none where a set has no standard error."""
    estimates = [method.estimates[figure] for method in methods]
    known = [estimate for estimate in estimates if isinstance(estimate, Estimate)]
    return compare_pairs(known) if len(known) == len(estimates) else []


def tiling_plans(folders: Mapping[str, Place], patch: str | Sequence[int] | None = None) -> dict[str, TilingPlan]:
    """{name: TilingPlan} for sets of samples, {name: folder}: each as its own samples.json says.

    Sets that do not say, or were sampled as one patch, are looked at where the first set's tiles meet that does, so
    that all have the figure. patch: of all sets. Raises InputError where no set says.
    """
    plans, reasons = {}, []
    for name, folder in folders.items():
        try:
            plans[name] = find_plan(folder, patch)
        except InputError as error:
            reasons.append(str(error))
    if not plans:
        raise InputError(reasons[0])
    first = next(iter(plans))
    return {
        name: plans.get(name) or replace(plans[first], lossless=stored_losslessly(folder), source=f"as {first}")
        for name, folder in folders.items()
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """A metric of one set."""

    record: Record
    values: Values
    errors: Errors | None = None  # None: there are none
    groups: int = GROUPS  # of the jackknife

    def estimates(self, name: str) -> dict[str, Estimate | float]:
        if self.errors is None:
            return dict(self.values)
        return {
            figure: Estimate(name=name, value=value, standard_error=float(error), groups=self.groups)
            for (figure, value), error in zip(self.values.items(), self.errors, strict=True)
        }


def _measure_method(
    name: str, comparisons: Comparisons, measuring: Measuring, places: Mapping[str, Place], missing: dict[str, None]
) -> Method:
    """Judge one set; what it lacks is put into `missing`. places: the folders of all sets."""
    records, estimates, metrics = {}, {}, {}
    for metric in measuring.metrics or [info.name for info in compared_metrics()]:
        info = get_metric(metric)
        options = {**info.defaults(), **measuring.options.get(metric, {})}
        try:
            if info.extracts:
                measured = _on_features(info, options, comparisons)
            elif info.needs == "clips":
                measured = _on_clips(info, options, comparisons.evaluation)
            else:
                plans = tiling_plans(places, measuring.patch) if metric == "seams" else {}
                measured = ON_PIXELS[metric](pixel_evaluation(comparisons), options, plans.get(name))
        except InputError as error:
            if measuring.metrics or metric == FIRST:
                raise
            missing[f"no {metric}: {error}"] = None
        else:
            records[metric] = measured.record
            estimates |= measured.estimates(name)
            metrics |= dict.fromkeys(measured.values, info)
    method = Method(name=name, records=records, estimates=estimates, metrics=metrics)
    for figure, info in metrics.items():
        if info.compared()[figure].headline:
            records[info.name] = replace(records[info.name], ci95=method.interval(figure))
    return method


def pixel_evaluation(comparisons: Comparisons) -> Evaluation:
    """The evaluation of metrics on the samples' own pixels: as many clips, chosen alike, not resized."""
    comparison = comparisons.of(get_metric(FIRST))
    protocol = load_protocol(
        "native",
        num_samples=comparison.samples.count,
        samples_selection=comparison.protocol.samples_selection,
        value_range=comparison.protocol.value_range,
    )
    return replace(comparisons.evaluation, protocol=protocol, reference=None)


def _seams(evaluation: Evaluation, options: Mapping[str, Any], plan: TilingPlan | None) -> _Measured:
    if plan is None:
        raise InputError("nothing says how the samples were tiled; give --patch")
    judged = judge_tiling(evaluation, plan)
    return _per_clip("seams", judged.record, judged.pooled.scores, [clip.name for clip in judged.clips], evaluation)


def _dead_tokens(evaluation: Evaluation, options: Mapping[str, Any], plan: TilingPlan | None) -> _Measured:
    counted = count_dead_tokens(evaluation, parse_patch(options["token"]))
    return _per_clip("dead-tokens", counted.record, counted.rates, [clip.name for clip in counted.clips], evaluation)


ON_PIXELS: dict[str, Callable[..., _Measured]] = {"seams": _seams, "dead-tokens": _dead_tokens}


def _on_clips(info: MetricInfo, options: Mapping[str, Any], evaluation: Evaluation) -> _Measured:
    """A registered metric on clips; its standard error is known where it returns a number for every clip."""
    judged = judge_clips(info, evaluation, options)
    values = _values(info, {"value": judged.record.value, "details": judged.record.details})
    try:
        scores = np.asarray(judged.returned, np.float64)
    except (TypeError, ValueError):
        scores = np.zeros(0)
    if len(values) != 1 or scores.shape != (len(judged.names),):
        return _Measured(record=judged.record, values=values)
    return _per_clip(next(iter(values)), judged.record, scores, judged.names, evaluation)


def _per_clip(
    figure: str, record: Record, scores: np.ndarray, names: Sequence[str], evaluation: Evaluation
) -> _Measured:
    """A figure that is the mean of a number per clip, by the jackknife over clips."""
    clips_per_video = evaluation.protocol.samples_clips_per_video or 1
    sources = sources_of(names, evaluation.group_by, clips_per_video)
    values = {figure: record.value}
    try:
        errors = jackknife_errors(
            lambda rows: np.array([scores[rows].mean()]), len(names), seed=evaluation.seed, sources=sources
        )
    except InputError:  # too few clips
        return _Measured(record=record, values=values)
    return _Measured(record=record, values=values, errors=errors, groups=_groups(sources))


def _on_features(info: MetricInfo, options: Mapping[str, Any], comparisons: Comparisons) -> _Measured:
    """A metric on features; its standard errors are its own where it states one, else of a jackknife over clips."""
    comparison = comparisons.of(info)
    record = comparison.record(info, options)
    values = _values(info, {"value": record.value, "details": record.details})
    stated = next((entry for entry in record.details if entry.get("figure") == STANDARD_ERROR), None)
    if stated is not None and len(values) == 1:
        return _Measured(record=record, values=values, errors=[stated["value"]], groups=stated["groups"])
    own = comparison.samples
    if own.features is None:
        return _Measured(record=record, values=values)
    try:
        errors = _jackknife(info, options, comparison, list(values))
    except InputError:  # too few clips; the figure's own warning says so
        return _Measured(record=record, values=values)
    return _Measured(record=record, values=values, errors=errors, groups=_groups(own.sources))


def _jackknife(
    info: MetricInfo, options: Mapping[str, Any], comparison: Comparison, figures: Sequence[str]
) -> np.ndarray:
    """Standard errors of a metric's figures, the set's clips left out group by group."""
    own, function = comparison.samples, info.function()
    settings = MetricSettings(protocol=comparison.protocol, seed=comparison.seed, options=options)

    def statistic(rows: np.ndarray) -> np.ndarray:
        returned = function(_rows(info, own, rows), comparison.reference, settings)
        values = _values(info, as_figures(returned, info, settings))
        return np.array([values[figure] for figure in figures])

    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")  # the whole set has warned
        return jackknife_errors(statistic, own.count, seed=comparison.seed, sources=own.sources)


def _rows(info: MetricInfo, side: Side, rows: np.ndarray) -> Side:
    """Some of a set's clips; where probabilities are all that is looked at, without moments of their features."""
    if info.needs == "probabilities" and side.probabilities is not None:
        summary = {**side.summary, "clips": len(rows)}
        return replace(side, features=None, probabilities=side.probabilities[rows], summary=summary, sources=None)
    return side.rows(rows)


def _values(info: MetricInfo, figures: Mapping[str, Any]) -> Values:
    """The figures that a comparison shows, of a record's value and details."""
    named = {entry.get("figure"): entry.get("value") for entry in figures.get("details", ())}
    return {
        figure: figures["value"] if about.headline or figure not in named else named[figure]
        for figure, about in info.compared().items()
    }


def _groups(sources: Sequence[str] | None) -> int:
    return GROUPS if sources is None else min(GROUPS, len(set(sources)))
