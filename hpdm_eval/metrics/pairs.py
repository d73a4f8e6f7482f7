"""Which of several sets of samples differ in a metric: a test for every pair, corrected for their number.

A figure comes with a standard error by a grouped jackknife (`uncertainty.py`). The sets are drawn independently of each
other and compared with one reference, which is taken as given, so the error of a difference is the root of both squares
added. Student's t, with degrees of freedom after Welch and Satterthwaite, gives p-values and intervals; over all pairs
of a metric the p-values are corrected after Holm (1979), which keeps the chance of any false difference at the level,
whatever the dependence between pairs.

Bias is no matter here as long as the sets are equally large: what too few samples add to a Fréchet distance is then
alike for sets alike. Sets of different sizes must be cut to one size before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure of one set and how sure it is."""

    name: str  # of the set
    value: float
    standard_error: float
    groups: int  # of the jackknife

    def interval(self, low: float = -np.inf, high: float = np.inf, level: float = 1 - LEVEL) -> tuple[float, float]:
        """Two-sided interval of the value, cut to the range that the figure can have."""
        half = stats.t.ppf((1 + level) / 2, self.groups - 1) * self.standard_error
        return float(max(self.value - half, low)), float(min(self.value + half, high))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sets in one metric."""

    first: str
    second: str
    difference: float  # first - second
    ci95: tuple[float, float]  # of the difference, not corrected
    p_value: float  # two-sided
    adjusted: float  # after Holm, over all pairs of the metric
    significant: bool  # at 5 % after the correction


def compare_pairs(estimates: Sequence[Estimate], level: float = LEVEL) -> list[Pair]:
    """All pairs of the estimates of one metric, in their order."""
    drafts = []
    for first, second in combinations(estimates, 2):
        difference = first.value - second.value
        variances = np.square([first.standard_error, second.standard_error])
        error = float(np.sqrt(variances.sum()))
        if error > 0:
            freedom = variances.sum() ** 2 / (variances**2 / [first.groups - 1, second.groups - 1]).sum()
            p_value = float(2 * stats.t.sf(abs(difference) / error, freedom))
            half = float(stats.t.ppf(1 - LEVEL / 2, freedom) * error)
        else:
            p_value, half = float(difference == 0), 0.0
        drafts.append((first.name, second.name, float(difference), (difference - half, difference + half), p_value))
    adjusted = holm([draft[-1] for draft in drafts])
    return [
        Pair(
            first=first,
            second=second,
            difference=difference,
            ci95=ci95,
            p_value=p_value,
            adjusted=corrected,
            significant=corrected <= level,
        )
        for (first, second, difference, ci95, p_value), corrected in zip(drafts, adjusted, strict=True)
    ]


def holm(p_values: ArrayLike) -> list[float]:
    """p-values corrected for their number after Holm: the smallest times n, the next times n - 1, never falling."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()
