"""Differences between two sets of samples made from the same noise: pair by pair, so that what both share cancels.

Sample i of both sets comes from the same seed and shows the same class. A Fréchet distance is no mean over clips; the
error of the difference of two is found by leaving out groups of pairs, from both sets at once (grouped jackknife, see
hpdm_eval/metrics/uncertainty.py). Both sets are equally large, so the bias of few clips cancels where they are alike.
Where a set is hardly further from the reference than another draw of the reference would be, intervals are too wide.
Sets of several seeds are joined: other seeds are other clips of the same generator. What the interval covers is
simulated in tests/hpdm_eval/studies/test_pairing.py.

N clips of a set, M of the reference, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.score_tests import mean_t_interval
from hpdm_eval.metrics.uncertainty import GROUPS, Target, jackknife_errors


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference with its 95 % interval; None where there are too few clips for one."""

    value: float
    ci95: tuple[float, float] | None

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval holds 0; None without one."""
        return None if self.ci95 is None else bool(self.ci95[0] <= 0 <= self.ci95[1])


def frechet_difference(
    own: np.ndarray, other: np.ndarray, reference: np.ndarray, *, groups: int = GROUPS, seed: int = 0
) -> Difference:
    """Fréchet distance of own [N, D] from reference [M, D], less that of other [N, D]: rows of both are pairs."""
    target = Target(Moments.of(reference))

    def statistic(rows):
        return [target.distance(Moments.of(own[rows])) - target.distance(Moments.of(other[rows]))]

    value = statistic(np.arange(len(own)))[0]
    if len(own) < 2 * groups:
        return Difference(value=float(value), ci95=None)
    error = float(jackknife_errors(statistic, len(own), groups=groups, seed=seed)[0])
    half = float(stats.t.ppf(0.975, groups - 1)) * error
    return Difference(value=float(value), ci95=(float(value - half), float(value + half)))


def mean_difference(own: np.ndarray, other: np.ndarray) -> Difference:
    """Mean of own [N] less that of other [N], whose entries are pairs, by Student's t."""
    apart = np.asarray(own, np.float64) - np.asarray(other, np.float64)
    return Difference(value=float(apart.mean()), ci95=mean_t_interval(apart))


def over_networks(values: Sequence[float]) -> Difference:
    """Mean of the differences of several networks, by Student's t over networks: what another training would give."""
    apart = np.asarray(values, np.float64)
    if len(apart) < 2:
        return Difference(value=float(apart.mean()), ci95=None)
    half = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart))
    return Difference(value=float(apart.mean()), ci95=(float(apart.mean() - half), float(apart.mean() + half)))
