"""Fréchet video distance of two sets: the figure, how sure it is, and how it depends on the number of samples."""

import warnings
from typing import Any

from hpdm.support.errors import InputError
from hpdm_eval.metrics import uncertainty
from hpdm_eval.metrics.frechet import SVD_ROOTS, frechet_distance
from hpdm_eval.metrics.settings import MetricSettings

CORRECTED, INFINITY = "corrected", "fvd-infinity"
AGAINST = "{} against this reference"  # whose own sampling bias stays in it


def fvd(samples: Any, reference: Any, settings: MetricSettings) -> dict[str, Any]:
    """The record's fields of two `Side`s: the distance under the protocol's ddof and square root, and what is beside
    it.

    Options: at, sizes of random subsets; interval, whether to compute one; over, "samples" or "both", what it
    resamples; extrapolate, whether to extrapolate to infinitely many samples. What too few samples make impossible is
    left out with a warning that says so. Raises InputError for a protocol of Inception Scores.
    """
    protocol, seed = settings.protocol, settings.seed
    at, over, extrapolate = settings["at"], settings["over"], settings["extrapolate"]
    if protocol.is_splits is not None:
        raise InputError(f"protocol {protocol.name} is one of Inception Scores; use it with `hpdm-eval is`")
    value = frechet_distance(samples.distribution, reference.distribution, ddof=protocol.ddof, root=protocol.root)
    own = {"at": list(at), "extrapolate": extrapolate} | ({"interval_over": over} if settings["interval"] else {})
    figures: dict[str, Any] = {"value": value, "settings": own}
    details: list[dict[str, Any]] = []
    common = {"ddof": protocol.ddof, "seed": seed}
    if settings["interval"]:
        figures["ci95"] = _attempt("no interval", _interval, samples, reference, value, over, details, common)
    for size in at:
        _attempt(f"no fvd@{size}", _at, samples, reference, size, details, protocol, seed)
    if extrapolate:
        _attempt("no FVD-infinity", _infinity, samples, reference, details, common)
    return {**figures, "details": tuple(details)}


def subset_figure(samples: Any, reference: Any, size: int, protocol: Any, seed: int = 0) -> dict[str, Any]:
    """{"figure": "fvd@SIZE", "value": mean, "spread", "fresh_spread", "draws"} of two `Side`s under a protocol."""
    draws = uncertainty.DRAWS if size < samples.count else 1
    # single precision rounds moments and features differently
    other = reference.distribution if protocol.root in SVD_ROOTS else reference.moments
    distances = uncertainty.subset_distances(
        samples.features, other, size, draws=draws, ddof=protocol.ddof, root=protocol.root, seed=seed
    )
    return {
        "figure": f"fvd@{size}",
        "value": float(distances.mean()),
        "spread": float(distances.std(ddof=1)) if draws > 1 else None,
        "fresh_spread": uncertainty.fresh_spread(distances, size, samples.count),
        "draws": draws,
    }


def _interval(samples, reference, value, over, details, common):
    """Bounds of the figure; adds its standard error and the corrected value to `details`."""
    sources, reference_sources = (getattr(side, "sources", None) for side in (samples, reference))
    own = uncertainty.grouped_jackknife(samples.features, reference.moments, sources=sources, **common)
    other = None
    if reference.features is not None:
        try:
            other = uncertainty.grouped_jackknife(
                reference.features, samples.moments, sources=reference_sources, **{**common, "seed": common["seed"] + 1}
            )
        except InputError:
            if over == "both":
                raise
    if over == "both" and other is None:
        raise InputError(
            "an interval over samples and reference needs the reference's features; make its "
            "statistics with `hpdm-eval stats --keep-features`"
        )
    figure = uncertainty.both_sides(own, other) if over == "both" else own
    entry = {"figure": "standard error", "value": figure.standard_error, "groups": figure.groups, "over": over}
    counted = {
        name: len(set(known))
        for name, known in (("sources", sources), ("reference_sources", reference_sources))
        if known is not None and (name == "sources" or over == "both")
    }
    details.append(entry | counted)
    _corrected(samples, reference, value, own, other, details)
    half = figure.half_width()
    # single-precision roots of legacy numerics can be negative themselves
    return min(max(value - half, 0.0), value), value + half


def _corrected(samples, reference, value, own, other, details):
    """Add the value without sampling bias: of both sides where the reference's features are enough for it."""
    dimension = samples.moments.dimension
    needed = uncertainty.fewest_for_correction(dimension)
    if samples.count < needed:
        warnings.warn(
            f"no bias-corrected value: it needs {needed} clips for {dimension} features, there are {samples.count}"
        )
        return
    name, found = CORRECTED, own
    if other is None:
        name = AGAINST.format(CORRECTED)
        warnings.warn(
            f"{name} keeps the bias of its {reference.count} clips: their features are not known; "
            "`hpdm-eval stats --keep-features` stores them"
        )
    elif reference.count < needed:
        name = AGAINST.format(CORRECTED)
        warnings.warn(f"{name} keeps the bias of its {reference.count} clips: correcting that needs {needed}")
    else:
        found = uncertainty.both_sides(own, other)
    corrected, half = value - found.bias, found.half_width()
    entry = {"figure": name, "value": corrected, "bias": found.bias, "ci95": [corrected - half, corrected + half]}
    details.append(entry | ({"bias_of_reference": other.bias} if name == CORRECTED else {}))


def _at(samples, reference, size, details, protocol, seed):
    details.append(subset_figure(samples, reference, size, protocol, seed))


def _infinity(samples, reference, details, common):
    """Extrapolation of both sides where the reference's features are enough for it, else of the samples alone."""
    sources, reference_sources = (getattr(side, "sources", None) for side in (samples, reference))
    name, over, other = INFINITY, "both", reference.features
    if other is None or reference.count < uncertainty.fewest_for_extrapolation(samples.moments.dimension):
        name, over, other = AGAINST.format(INFINITY), "samples", reference.moments
    line = uncertainty.extrapolate(
        samples.features, other, over=over, sources=sources, reference_sources=reference_sources, **common
    )
    details.append(
        {
            "figure": name,
            "value": line.value,
            "r2": line.r2,
            "residual": line.residual,
            "curvature": line.curvature,
            "points": len(line.sizes),
            "smallest": line.sizes[0],
        }
    )


def _attempt(what, function, *arguments):
    try:
        return function(*arguments)
    except InputError as error:
        warnings.warn(f"{what}: {error}")
        return None
