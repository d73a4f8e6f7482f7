"""What a metric costs once its features are there."""

import statistics
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np

from hpdm_eval.benchmarks.results import Measured
from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.fvd import fvd
from hpdm_eval.metrics.registry import get_metric
from hpdm_eval.metrics.settings import MetricSettings
from hpdm_eval.metrics.uncertainty import GROUPS, Jackknife, Target, deal, grouped_jackknife
from hpdm_eval.protocols import load_protocol
from hpdm_eval.support.threads import one_thread
from hpdm_eval.support.timing import rates_by_round

DIRECT, SUMS, WHOLE = "jackknife, joined moments", "jackknife, projected sums", "fvd with interval"


def bench_interval(
    *, clips: int = 2048, features: int = 400, rounds: int = 3, seed: int = 0, quiet: bool = False
) -> Measured:
    """Time FVD with its 95 % interval from features: of one side by two methods, and all of it.

    clips: on each side, features: of each. "joined moments" multiplies both covariances for each group that is left
    out; "projected sums" is what fvd does.
    """
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(np.arange(1, features + 1))
    x, y = (rng.normal(size=(clips, features)) * scale * width for width in (1.1, 1.0))
    samples, reference = (
        SimpleNamespace(features=side, distribution=side, moments=Moments.of(side), count=clips) for side in (x, y)
    )
    settings = MetricSettings(
        protocol=load_protocol("native"), seed=seed, options=get_metric("fvd").defaults() | {"interval": True}
    )

    def whole():
        with warnings.catch_warnings(), one_thread():
            warnings.simplefilter("ignore")
            return fvd(samples, reference, settings)

    stages = {
        DIRECT: (1, lambda: direct_jackknife(x, reference.moments, seed=seed)),
        SUMS: (1, lambda: grouped_jackknife(x, reference.moments, seed=seed)),
        WHOLE: (1, whole),
    }
    rates = rates_by_round(stages, rounds, quiet)
    seconds = {name: [1 / rate for rate in own] for name, own in rates.items()}
    first, second = (stages[name][1]() for name in (DIRECT, SUMS))
    result = {
        "bench": "interval",
        "clips": clips,
        "features": features,
        "rounds": rounds,
        "seed": seed,
        "seconds": seconds,
        "ratio": statistics.median(old / new for old, new in zip(seconds[DIRECT], seconds[SUMS])),
        "differences": {
            name: abs(getattr(second, name) / getattr(first, name) - 1) for name in ("value", "standard_error", "bias")
        },
    }
    return Measured(result=result, lines=_lines(result))


@one_thread()
def direct_jackknife(samples: np.ndarray, reference: Moments, *, seed: int = 0) -> Jackknife:
    """`grouped_jackknife` by moments of all groups but one, joined, and a distance from their covariance."""
    target, parts = Target(reference), [Moments.of(samples[rows]) for rows in deal(len(samples), seed=seed)]
    value = target.distance(_join(parts))
    without = np.array([target.distance(_join(parts[:out] + parts[out + 1 :])) for out in range(len(parts))])
    share = len(samples) / np.array([part.n for part in parts])
    pseudo = share * value - (share - 1) * without
    corrected = len(parts) * value - ((1 - 1 / share) * without).sum()
    error = np.sqrt(np.mean(np.square(pseudo - corrected) / (share - 1)))
    return Jackknife(value=value, standard_error=float(error), bias=float(value - corrected), groups=len(parts))


def _join(parts: list[Moments]) -> Moments:
    joined = Moments(parts[0].dimension)
    for part in parts:
        joined.merge(part)
    return joined


def _lines(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['clips']:,} clips of {result['features']} features on each side, {GROUPS} groups", ""]
    lines += [
        f"{name:<28}{statistics.median(own):>8.3f} s   ({min(own):.3f} to {max(own):.3f})"
        for name, own in result["seconds"].items()
    ]
    differences = ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in result["differences"].items())
    return lines + ["", f"one side: {result['ratio']:.2f} times as fast; relative differences: {differences}"]
