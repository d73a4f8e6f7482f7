"""What `hpdm-eval compare` measures of every set: records, and figures with their standard errors."""

import warnings
from dataclasses import dataclass, replace

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.commands import fid, fvd, inception_score, kvd, prdc
from hpdm_eval.commands.all_metrics import METRICS, comparison_for
from hpdm_eval.commands.dead_tokens import count_dead_tokens
from hpdm_eval.commands.seams import find_plan, judge_tiling, stored_losslessly
from hpdm_eval.metrics.inception_score import inception_score as score_of
from hpdm_eval.metrics.kernel import kernel_video_distance
from hpdm_eval.metrics.pairs import Estimate
from hpdm_eval.metrics.prdc import prdc as prdc_of
from hpdm_eval.metrics.uncertainty import GROUPS, grouped_jackknife, jackknife_errors
from hpdm_eval.protocols import load_protocol

PIXEL_METRICS = ("seams", "dead-tokens")  # judged on the samples' own pixels, whatever the protocol resizes
ALL_METRICS = METRICS + PIXEL_METRICS


@dataclass(frozen=True)
class Kind:
    """What is known of a figure before it is measured."""

    metric: str  # whose record holds it
    higher: bool  # is better
    low: float = -np.inf  # the least it can be
    high: float = np.inf


FIGURES = {
    "fvd": Kind("fvd", False, 0),
    "kvd": Kind("kvd", False),
    "precision": Kind("prdc", True, 0, 1),
    "recall": Kind("prdc", True, 0, 1),
    "density": Kind("prdc", True, 0),
    "coverage": Kind("prdc", True, 0, 1),
    "is": Kind("is", True, 1),
    "fid": Kind("fid", False, 0),
    "seams": Kind("seams", False),
    "dead-tokens": Kind("dead-tokens", False, 0),
}
HEADLINE = {"prdc": "coverage"}  # the figure that is a record's value, where it is not called as the metric is
HIGHER = {"prdc": "coverage", "is": None}  # metrics on features of which higher is better, and their unit


@dataclass(frozen=True, kw_only=True)
class Method:
    """One set of samples: its records by metric, and its estimates by figure."""

    name: str
    records: dict
    estimates: dict  # Estimate, or a bare value where there is no standard error

    def value(self, figure):
        found = self.estimates[figure]
        return found.value if isinstance(found, Estimate) else found

    def metric_of(self, figure):
        """The metric whose record holds the figure."""
        return FIGURES[figure].metric

    def higher_is_better(self, figure):
        """The figure's direction."""
        return FIGURES[figure].higher

    def interval(self, figure):
        """95 %, cut to the range that the figure can have: the record's own where the figure is its value."""
        record, found = self.records[FIGURES[figure].metric], self.estimates[figure]
        if record.ci95 is not None and HEADLINE.get(record.metric, record.metric) == figure:
            return record.ci95
        return found.interval(FIGURES[figure].low, FIGURES[figure].high) if isinstance(found, Estimate) else None


def measure_method(name, options, known, references, metrics, settings, missing) -> Method:
    """Judge one set; what it lacks is put into `missing`, each text once for all sets.

    metrics: those asked for, or None for all that can be had. settings: {"splits", "neighbours", "token": (frames,
    rows, columns), "plans": a function that gives {name: TilingPlan}}.
    known, references: as `comparison_for` takes them.
    """
    records, estimates = {}, {}
    for metric in metrics or ALL_METRICS:
        try:
            if metric in PIXEL_METRICS:
                comparison = comparison_for("fvd", options, known, references)
                record, found = _on_pixels(metric, name, options, comparison, settings)
            else:
                comparison = comparison_for(metric, options, known, references)
                record = comparison.record(
                    metric,
                    _measure(metric, options, settings),
                    higher_is_better=metric in HIGHER,
                    unit=HIGHER.get(metric),
                )
                found = _on_features(name, record, comparison, options["seed"], settings)
        except InputError as error:
            if metrics or metric == "fvd":
                raise
            missing[f"no {metric}: {error}"] = None
        else:
            records[metric] = record
            estimates |= found
    method = Method(name=name, records=records, estimates=estimates)
    for metric, record in records.items():
        headline = HEADLINE.get(metric, metric)
        records[metric] = replace(record, ci95=method.interval(headline))
    return method


def tiling_plans(folders, patch=None):
    """{name: TilingPlan} for sets of samples, {name: folder}: each as its own samples.json says.

    Sets that do not say, or were sampled as one patch, are looked at where the first set's tiles meet that does, so
    that all have the figure. patch: of all sets, as text. Raises InputError where no set says.
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


def _measure(metric, options, settings):
    seed = options["seed"]
    return {
        "fvd": lambda x, y, protocol: fvd.measure(x, y, protocol, interval=True, seed=seed),
        "kvd": lambda x, y, protocol: kvd.measure(x, y, seed=seed),
        "prdc": lambda x, y, protocol: prdc.measure(x, y, settings["neighbours"]),
        "is": lambda x, y, protocol: inception_score.measure(x, settings["splits"], seed),
        "fid": fid.measure,
    }[metric]


def _on_features(name, record, comparison, seed, settings):
    """{figure: Estimate or value} of a record, by the jackknife over the set's own clips."""
    own, other, metric = comparison.samples, comparison.reference, record.metric
    values = {metric: record.value}
    if metric == "prdc":
        values = {entry["figure"]: entry["value"] for entry in record.details}
    statistics = {
        "kvd": lambda rows: [kernel_video_distance(own.features[rows], other.features)],
        "prdc": lambda rows: [
            getattr(prdc_of(own.features[rows], other.features, settings["neighbours"]), key) for key in values
        ],
        "is": lambda rows: [score_of(own.probabilities[rows], settings["splits"], seed).mean],
    }
    try:
        if metric == "fvd":
            errors = [
                grouped_jackknife(
                    own.features, other.moments, ddof=comparison.protocol.ddof, seed=seed, sources=own.sources
                ).standard_error
            ]
        elif metric in statistics:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said once by the figure itself
                errors = jackknife_errors(statistics[metric], own.count, seed=seed, sources=own.sources)
        else:
            return values
    except InputError:  # too few clips; the figure's own warning says so
        return values
    groups = GROUPS if own.sources is None else min(GROUPS, len(set(own.sources)))
    return _estimates(name, values, errors, groups)


def _on_pixels(metric, name, options, comparison, settings):
    """(record, {figure: Estimate or value}) of as many clips as they are, chosen alike, by the jackknife over clips."""
    count, value_range = comparison.samples.count, comparison.protocol.value_range
    rule = comparison.protocol.samples_selection
    protocol = load_protocol("native", num_samples=count, samples_selection=rule, value_range=value_range)
    if metric == "seams":
        judged = judge_tiling(options["samples"], protocol, settings["plans"]()[name], options)
        record, clips, values = judged.record, judged.clips, judged.pooled.scores
    else:
        counted = count_dead_tokens(options["samples"], protocol, settings["token"], options)
        record, clips, values = counted.record, counted.clips, counted.rates
    sources = sources_of([clip.name for clip in clips], options["group_by"])
    try:
        errors = jackknife_errors(
            lambda rows: [values[rows].mean()], record.num_samples, seed=options["seed"], sources=sources
        )
    except InputError:
        return record, {metric: record.value}
    groups = GROUPS if sources is None else min(GROUPS, len(set(sources)))
    return record, _estimates(name, {metric: record.value}, errors, groups)


def _estimates(name, values, errors, groups=GROUPS):
    return {
        figure: Estimate(name=name, value=value, standard_error=float(error), groups=groups)
        for (figure, value), error in zip(values.items(), errors, strict=True)
    }
