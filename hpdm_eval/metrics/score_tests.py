"""Means of scores of clips: intervals, tests against a tolerance and between two sets, and clips of one source.

n clips, B draws
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

LEVEL = 0.05
TOLERANCE = 0.05  # log units
FEWEST_CLIPS = 4
DRAWS = 2000
PERMUTATIONS = 5000


def by_source(scores: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """Independent values of clips that are not: float64 [n] → [number of sources], of the same mean.

    A value is the mean of all and what the clips of one source add to it, so that the scatter of the values is what the
    mean's error is made of, however many clips a source has (linearised, as for cluster samples).
    """
    _, numbers, counts = np.unique(np.asarray(sources, dtype=str), return_inverse=True, return_counts=True)
    if len(counts) == len(scores):
        return scores
    mean = scores.mean()
    return mean + np.bincount(numbers, scores - mean) * len(counts) / len(scores)


def mean_t_interval(scores: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of a mean by Student's t; None for fewer than `FEWEST_CLIPS`.

    Pooled scores are means of several medians and nearly symmetric: t covers in 94 to 96 % from four clips up, as
    simulated in reports/seams-power.md.
    """
    if len(scores) < FEWEST_CLIPS:
        return None
    reach = special.stdtrit(len(scores) - 1, 0.975) * scores.std(ddof=1) / np.sqrt(len(scores))
    return float(scores.mean() - reach), float(scores.mean() + reach)


def difference_t_interval(scores: np.ndarray, real: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the difference of two means by Welch's t; None for fewer than `FEWEST_CLIPS` of either."""
    if min(len(scores), len(real)) < FEWEST_CLIPS:
        return None
    errors = np.array([scores.var(ddof=1) / len(scores), real.var(ddof=1) / len(real)])
    if not errors.any():
        return (float(scores.mean() - real.mean()),) * 2
    freedom = errors.sum() ** 2 / (errors**2 / (np.array([len(scores), len(real)]) - 1)).sum()
    reach = special.stdtrit(freedom, 0.975) * np.sqrt(errors.sum())
    difference = scores.mean() - real.mean()
    return float(difference - reach), float(difference + reach)


def mean_above(scores: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """One-sided p-value of a mean of at most `tolerance`, by Student's t; 1 for fewer than `FEWEST_CLIPS` scores."""
    if len(scores) < FEWEST_CLIPS:
        return 1.0
    spread = scores.std(ddof=1)
    if spread == 0:
        return float(scores[0] <= tolerance)
    return float(special.stdtr(len(scores) - 1, (tolerance - scores.mean()) / (spread / np.sqrt(len(scores)))))


def permuted_above(
    scores: np.ndarray, real: np.ndarray, tolerance: float, rng: np.random.Generator, draws: int = PERMUTATIONS
) -> float:
    """One-sided p-value of `scores` exceeding `real` by at most `tolerance`, by permuting who is which."""
    if min(len(scores), len(real)) < FEWEST_CLIPS:
        return 1.0
    pooled = np.concatenate([scores - tolerance, real])
    count = len(scores)
    observed = _studentised(pooled[None], count)[0]
    shuffled = rng.permuted(np.broadcast_to(pooled, (draws, len(pooled))), axis=1)
    at_least = (_studentised(shuffled, count) >= observed - 1e-12).sum()
    return float((1 + at_least) / (1 + draws))


def _studentised(values, count):
    """Welch's t of the first `count` columns against the others: [B, n] → [B]."""
    first, second = values[:, :count], values[:, count:]
    error = np.sqrt(first.var(1, ddof=1) / count + second.var(1, ddof=1) / second.shape[1])
    difference = first.mean(1) - second.mean(1)
    return np.divide(difference, error, out=np.sign(difference) * np.inf, where=error > 0)


def mean_interval(scores: np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> tuple[float, float] | None:
    """95 % interval of the mean by the studentised bootstrap over clips; None for fewer than `FEWEST_CLIPS`."""
    if len(scores) < FEWEST_CLIPS or not draws:
        return None
    low, high = _bootstrap_t(scores, rng, draws)
    return float(scores.mean() + low), float(scores.mean() + high)


def difference_interval(
    scores: np.ndarray, real: np.ndarray, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, float] | None:
    """95 % interval of the difference of the means, both sides' studentised intervals combined in quadrature."""
    if min(len(scores), len(real)) < FEWEST_CLIPS or not draws:
        return None
    low, high = _bootstrap_t(scores, rng, draws)
    low_real, high_real = _bootstrap_t(real, rng, draws)
    difference = scores.mean() - real.mean()
    return float(difference - np.hypot(low, high_real)), float(difference + np.hypot(high, low_real))


def _bootstrap_t(scores, rng, draws):
    """Ends of the 95 % interval of the mean, relative to the mean."""
    error = scores.std(ddof=1) / np.sqrt(len(scores))
    if error == 0:
        return 0.0, 0.0
    drawn = scores[rng.integers(len(scores), size=(draws, len(scores)))]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(len(scores))
    usable = errors > 1e-3 * error
    pivots = (drawn.mean(axis=1) - scores.mean())[usable] / errors[usable]
    low, high = np.quantile(pivots, [0.025, 0.975])
    return -high * error, -low * error


def benjamini_hochberg(p_values: ArrayLike, level: float = LEVEL) -> np.ndarray:
    """Which hypotheses are rejected with a false discovery rate of at most `level`: bool [n]."""
    p_values = np.asarray(p_values)
    order = np.argsort(p_values)
    passed = np.flatnonzero(p_values[order] <= level * np.arange(1, len(p_values) + 1) / len(p_values))
    rejected = np.zeros(len(p_values), dtype=bool)
    if len(passed):
        rejected[order[: passed[-1] + 1]] = True
    return rejected
