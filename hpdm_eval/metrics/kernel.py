"""Squared maximum mean discrepancy with a polynomial kernel, k(a, b) = (gamma a.b + coef)^degree.

    MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)                       (Gretton et al., JMLR 13, 2012)

Kernel video distance (KVD) is its unbiased estimate with degree 3, gamma 1/D and coef 1 on the features of FVD, where
the means within a set leave out pairs of a clip with itself; it can come out below 0. JEDi's variant (arXiv 2410.05203)
is 100 times the biased estimate with degree 2, gamma 1/D and coef 0, which is never below 0.

The sums run over blocks in float64: memory does not grow with the square of the number of clips.

Shapes: x [N, D], y [M, D].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.features.moments import Features
from hpdm_eval.metrics.settings import MetricSettings

BLOCK = 2048


@dataclass(frozen=True, kw_only=True)
class SubsetDistance:
    """Mean and standard deviation (ddof 0) of a distance over random subsets of both sides."""

    mean: float
    std: float
    subsets: int
    subset_size: int


def polynomial_mmd(
    x: Features, y: Features, *, degree: int = 3, gamma: float | None = None, coef: float = 1.0, biased: bool = False
) -> float:
    """Squared MMD of features x [N, D] and y [M, D] as a float; gamma None is 1 / D.

    Raises InputError for fewer than two clips, unequal dimensions, or values that are not finite.
    """
    x, y = _checked(x, y)
    gamma = 1 / x.shape[1] if gamma is None else gamma

    from sklearn.metrics.pairwise import polynomial_kernel  # takes a second to import

    def kernel(a, b):
        return polynomial_kernel(a, b, degree=degree, gamma=gamma, coef0=coef)

    def within(side):
        total = _total(kernel, side, side)
        n = len(side)
        if biased:
            return total / n**2
        diagonal = ((np.square(side).sum(axis=1) * gamma + coef) ** degree).sum()
        return (total - diagonal) / (n * (n - 1))

    return float(within(x) + within(y) - 2 * _total(kernel, x, y) / (len(x) * len(y)))


def kernel_video_distance(x: Features, y: Features) -> float:
    """KVD: unbiased, degree 3, gamma 1 / D, coef 1."""
    return polynomial_mmd(x, y)


def jedi_distance(x: Features, y: Features) -> float:
    """JEDi's form: 100 times the biased estimate with degree 2, gamma 1 / D, coef 0."""
    return 100 * polynomial_mmd(x, y, degree=2, coef=0.0, biased=True)


def over_subsets(
    distance: Callable[[np.ndarray, np.ndarray], float],
    x: np.ndarray,
    y: np.ndarray,
    *,
    subsets: int,
    subset_size: int,
    seed: int = 0,
) -> SubsetDistance:
    """`SubsetDistance` of `distance(x, y)` over random subsets without repetition, as KID is usually reported.

    Raises InputError where a side has fewer clips than `subset_size`.
    """
    x, y = np.asarray(x), np.asarray(y)
    if min(len(x), len(y)) < subset_size:
        raise InputError(
            f"subsets of {subset_size} clips cannot be drawn from {len(x)} and {len(y)}; give a smaller --subset-size"
        )
    random = np.random.default_rng(seed)
    values = [
        distance(
            x[random.choice(len(x), subset_size, replace=False)], y[random.choice(len(y), subset_size, replace=False)]
        )
        for _ in range(subsets)
    ]
    return SubsetDistance(
        mean=float(np.mean(values)), std=float(np.std(values)), subsets=subsets, subset_size=subset_size
    )


def _total(kernel, a, b):
    return sum(
        kernel(a[i : i + BLOCK], b[j : j + BLOCK]).sum()
        for i in range(0, len(a), BLOCK)
        for j in range(0, len(b), BLOCK)
    )


def _checked(x, y):
    x, y = (np.asarray(side, np.float64) for side in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(
            f"features of both sides must be [clips, dimensions] of one backbone, got {list(x.shape)} "
            f"and {list(y.shape)}"
        )
    if min(len(x), len(y)) < 2:
        raise InputError(f"a kernel distance needs at least 2 clips on each side, got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("features are not finite; check the backbone's weights and precision")
    return x, y


VARIANTS = {"kvd": kernel_video_distance, "jedi": jedi_distance}


def kvd(samples: Any, reference: Any, settings: MetricSettings) -> dict[str, Any]:
    """The record's fields of two `Side`s that hold features.

    Options: variant, "kvd" or "jedi"; subsets, how many random ones beside the whole; subset_size, their clips.
    """
    distance, subsets, subset_size = VARIANTS[settings["variant"]], settings["subsets"], settings["subset_size"]
    x, y = samples.need_features("kvd"), reference.need_features("kvd")
    figures: dict[str, Any] = {"value": distance(x, y)}
    if settings["variant"] != "kvd":
        figures["metric"] = f"mmd-{settings['variant']}"
    if subsets:
        figures["settings"] = {"subsets": subsets, "subset_size": subset_size}
        mean = over_subsets(distance, x, y, subsets=subsets, subset_size=subset_size, seed=settings.seed)
        detail = {"figure": "mean over subsets", "value": mean.mean, "std": mean.std}
        figures["details"] = (detail | {"subsets": mean.subsets, "subset_size": mean.subset_size},)
    return figures
