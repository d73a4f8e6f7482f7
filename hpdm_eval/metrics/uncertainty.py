"""How far a Fréchet distance would move on other samples, and where it would come out with endlessly many.

The distance of N samples is a biased estimate: its mean over fresh sets of N is theta + b / N + c / N² + ..., above
theta, the distance at N = infinity, by more the more feature dimensions there are. Three ways to say how much:

  subset_distances     the distance at a smaller N, over random subsets without replacement;
  grouped_jackknife    the samples are dealt into g random groups, the distance is taken without each group in turn.
                       Its replicates give a standard error, and the bias by g·T - (g - 1)·mean(T without a group),
                       exact for a bias of b / N (Quenouille 1956, Tukey 1958; unequal groups: Busing, Meijer and
                       van der Leeden 1999);
  extrapolate          a line in 1/N through subset distances, its value at 1/N = 0 (Chong and Forsyth 2020).

Both sides bring a bias: that of M reference clips is of the same kind, b' / M, and does not go away with more samples.
`corrected` subtracts both where the reference's features are known, and only then estimates the distance of the two
populations; against a reference of which mean and covariance alone are known, it is a distance from this reference.

The interval is T ± t·error, Student's t with g - 1 degrees of freedom: where the mean figure of other samples, N of
them, lies. What it and that of `corrected` cover, and where they do not (heavy tails, few clips a dimension, clips cut
from the same videos), `hpdm_eval/studies/validation/intervals.py` measures; its table is reports/intervals.md. The
jackknife takes clips for independent draws. Where several are cut from one video, `sources` names it for each, and
clips of one source are dealt to the same group; `extrapolate` draws whole sources.

A percentile bootstrap is not offered. Resampling with replacement repeats clips, which lowers the effective N, so
every replicate carries more bias than the figure itself and the interval lies above it.

All distances here are in float64, whatever arithmetic a protocol repeats for its headline: rounding is no sampling
error.

Shapes: N samples, M reference clips, D feature dimensions, g groups. sources: int or str [N], the source of each clip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
from scipy import special

from hpdm.support.errors import InputError
from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.frechet import ROOT, SVD_ROOTS, Side, as_features, frechet_distance
from hpdm_eval.support.threads import by_threads, one_thread

GROUPS = 20
FEWEST_GROUPS = 8  # where clips come from few sources
DRAWS = 10
POINTS = 15
FEWEST_SOURCES = 2 * POINTS  # that subsets of half of them up may differ
DRAWS_PER_POINT = 4

# Below 2.5 clips a dimension the c / N² term bends the curve: a line through such points ends far below theta.
FROM = 2.5
# With fewer clips a dimension the corrected value is off by more than its error.
CORRECTED_FROM = 5
# The line needs points over at least a factor of two in N.
REACH = 2.0


class Target:
    """One side of the distance, factored once for many distances to it.

    side: features [M, D] or `Moments`; ddof as in `frechet_distance`.
    """

    def __init__(self, side: Side, ddof: int = 1) -> None:
        moments = side if isinstance(side, Moments) else Moments.of(side)
        values, vectors = np.linalg.eigh(moments.cov(ddof))
        self.ddof, self.mean, self.trace = ddof, moments.mean, max(values.sum(), 0.0)
        self.factor = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T

    def distance(self, moments: Moments) -> float:
        """Squared Fréchet distance of `moments`; good to 1e-7 of the covariances' traces."""
        cov = moments.cov(self.ddof)
        overlap = np.linalg.eigvalsh(self.factor @ cov @ self.factor.T)
        shift = moments.mean - self.mean
        return float(shift @ shift + self.trace + np.trace(cov) - 2 * np.sqrt(np.clip(overlap, 0, None)).sum())


def subset_distances(
    samples: np.ndarray,
    reference: Side | Target,
    size: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    ddof: int = 1,
    root: str = ROOT,
) -> np.ndarray:
    """Distances float64 [draws] of random subsets of `size` of the samples [N, D] from the whole reference.

    reference: features, `Moments` or a `Target`. The subsets are drawn without replacement, so with `size` near N they
    share clips and spread less than fresh sets would, see `fresh_spread`. root: as of `frechet_distance`; the roots by
    SVD take no Target. Raises InputError unless 2 <= size <= N.
    """
    samples = np.asarray(samples)
    if not 2 <= size <= len(samples):
        raise InputError(f"subsets of {size} cannot be drawn from {len(samples)} samples")
    rng = np.random.default_rng([seed, size])
    # in their own order, so that all samples give the same rounding as the figure itself
    chosen = (np.sort(rng.permutation(len(samples))[:size]) for _ in range(draws))
    if root in SVD_ROOTS:
        return np.array([frechet_distance(samples[rows], reference, ddof=ddof, root=root) for rows in chosen])
    target = _target(reference, ddof)
    return np.array([target.distance(Moments.of(samples[rows])) for rows in chosen])


def fresh_spread(distances: np.ndarray, size: int, total: int) -> float | None:
    """Standard deviation that fresh sets of `size` would have, from those of subsets of `total` samples.

    Subsets without replacement spread less by sqrt(1 - size / total). None where that says nothing: at size = total,
    or for a single draw.
    """
    if size >= total or len(distances) < 2:
        return None
    return float(np.std(distances, ddof=1) / np.sqrt(1 - size / total))


@dataclass(frozen=True, kw_only=True)
class Jackknife:
    """What leaving out groups says about a distance."""

    value: float  # the distance of all samples
    standard_error: float  # of `value`
    bias: float  # of `value`, its part in 1/N; subtract it
    groups: int  # of each side that was varied

    @property
    def corrected(self) -> float:
        return self.value - self.bias

    def half_width(self, level: float = 0.95) -> float:
        """Half the width of a two-sided interval: Student's t with g - 1 degrees of freedom times the error."""
        return float(special.stdtrit(self.groups - 1, (1 + level) / 2) * self.standard_error)


@one_thread()
def grouped_jackknife(
    samples: np.ndarray,
    reference: Side,
    *,
    over: str = "samples",
    groups: int = GROUPS,
    seed: int = 0,
    ddof: int = 1,
    sources: Sequence[str] | None = None,
    reference_sources: Sequence[str] | None = None,
) -> Jackknife:
    """Jackknife over random groups of the samples [N, D], or of samples and reference.

    over: "samples" takes the reference (features [M, D] or `Moments`) as given: the error is that of drawing other
    samples from the same generator. "both" adds the error and bias of drawing other reference clips, which needs the
    reference's features. sources, reference_sources: see the module; None takes all clips for independent. Raises
    InputError for fewer than two clips a group, or too few sources.
    """
    samples = np.asarray(samples)
    first = _leave_out(samples, Target(reference, ddof), groups, seed, sources)
    if over == "samples":
        return first
    if over != "both":
        raise InputError(f"an interval is over 'samples' or 'both', not {over!r}")
    if isinstance(reference, Moments):
        raise InputError(
            "an interval over samples and reference needs the reference's features; make its "
            "statistics with `hpdm-eval stats --keep-features`"
        )
    return both_sides(
        first, _leave_out(np.asarray(reference), Target(samples, ddof), groups, seed + 1, reference_sources)
    )


def both_sides(samples: Jackknife, reference: Jackknife) -> Jackknife:
    """One `Jackknife` of two that each varied a side: independent sides, so variances and biases add up."""
    return Jackknife(
        value=samples.value,
        bias=samples.bias + reference.bias,
        standard_error=float(np.hypot(samples.standard_error, reference.standard_error)),
        groups=min(samples.groups, reference.groups),
    )


def jackknife_errors(
    statistic: Callable[[np.ndarray], np.ndarray],
    count: int,
    *,
    groups: int = GROUPS,
    seed: int = 0,
    sources: Sequence[str] | None = None,
) -> np.ndarray:
    """Standard errors float64 [F] of `statistic(rows)`, F figures of some of `count` samples, by leaving out groups.

    rows: int64 indices of the samples that are left. Raises InputError for fewer than two samples a group.
    """
    dealt = deal(count, groups, seed, sources)
    without = np.array(
        [statistic(np.sort(np.concatenate(dealt[:out] + dealt[out + 1 :]))) for out in range(len(dealt))]
    )
    return np.sqrt((len(dealt) - 1) * np.square(without - without.mean(0)).mean(0))


def deal(count: int, groups: int = GROUPS, seed: int = 0, sources: Sequence[str] | None = None) -> list[np.ndarray]:
    """Random groups of `count` clips as a list of index arrays, equally large but for one clip.

    Clips of one source stay together: sources are taken in random order, the largest first, each to the group that is
    smallest so far; where there are fewer sources than groups, so are the groups. Raises InputError for fewer than two
    clips a group and for fewer than `FEWEST_GROUPS` sources.
    """
    if count < 2 * groups:
        raise InputError(
            f"a jackknife over {groups} groups needs at least {2 * groups} clips on each side it varies, got {count}"
        )
    order = np.random.default_rng(seed).permutation(count)
    if sources is None:
        return np.array_split(order, groups)
    _, numbers = np.unique(np.asarray(sources), return_inverse=True)
    members = [[] for _ in range(numbers.max() + 1)]
    for clip in order:
        members[numbers[clip]].append(clip)
    if len(members) < FEWEST_GROUPS:
        raise InputError(
            f"a jackknife over source videos needs at least {FEWEST_GROUPS}, the clips come from "
            f"{len(members)}; --group-by none takes every clip for a draw of its own"
        )
    first = {number: place for place, number in reversed(list(enumerate(numbers[order])))}
    dealt = [[] for _ in range(min(groups, len(members)))]
    for number in sorted(first, key=lambda number: (-len(members[number]), first[number])):
        min(dealt, key=len).extend(members[number])
    return [np.array(part) for part in dealt]


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A line T = value + slope / N through subset distances, and how good a line it is."""

    value: float  # at 1/N = 0
    slope: float
    r2: float  # share of the points' variance that the line explains
    residual: float  # root mean square distance of the points from the line
    curvature: float  # value of a parabola in 1/N at 0, minus `value`: far from 0, the line does not hold
    sizes: tuple[int, ...]
    means: tuple[float, ...]  # mean distance at each size


def fewest_for_extrapolation(dimension: int) -> int:
    """Samples that `extrapolate` needs for so many feature dimensions."""
    return int(np.ceil(FROM * REACH * dimension))


def fewest_for_correction(dimension: int) -> int:
    """Samples from which the jackknife's bias is to be trusted, for so many feature dimensions."""
    return CORRECTED_FROM * dimension


def extrapolate(
    samples: np.ndarray,
    reference: Side,
    *,
    over: str = "samples",
    points: int = POINTS,
    draws: int = DRAWS_PER_POINT,
    seed: int = 0,
    ddof: int = 1,
    sources: Sequence[str] | None = None,
    reference_sources: Sequence[str] | None = None,
) -> Extrapolation:
    """FVD-infinity of samples [N, D]: least squares over `points` sizes from 2.5 D up, evenly spaced in 1/size.

    over: "samples" leaves the reference as it is; the line ends at the distance from this reference. "both" takes the
    same share of the reference's features [M, D]: both biases fall with it, and the line ends at the distance of the
    two populations. Each point is the mean of `draws` random subsets; the last is all there is. sources,
    reference_sources: see the module; subsets are then of whole sources, as many as come nearest to the size, and from
    half of the clips up, since clips of one source count for less than one each. Raises InputError where the side that
    is varied, or the smaller one of both, is below 5 D, and for fewer than `FEWEST_SOURCES`. The points share samples,
    so their scatter about the line is no measure of the error of `value`.
    """
    samples = np.asarray(samples)
    total, dimension = samples.shape
    needed = fewest_for_extrapolation(dimension)
    varied = np.asarray(reference) if over == "both" else samples
    if len(varied) < needed and over == "both":
        raise InputError(f"{needed} reference clips are needed for {dimension} features, there are {len(varied)}")
    if total < needed:
        raise InputError(
            f"{needed} samples are needed for {dimension} features, there are {total}; with fewer "
            "the distance is not yet on a line in 1/N"
        )
    smaller = min(total, len(varied))
    least = FROM * dimension
    for known in (sources, reference_sources if over == "both" else None):
        if known is not None:
            least = max(least, smaller / REACH)
            if len(set(known)) < FEWEST_SOURCES:
                raise InputError(
                    f"{FEWEST_SOURCES} source videos are needed on a side, the clips come from "
                    f"{len(set(known))}; --group-by none takes every clip for a draw of its own"
                )
    inverse = np.linspace(1 / least, 1 / smaller, points)
    shares = [min(round(1 / value), smaller) / smaller for value in inverse]
    sizes = [round(share * total) for share in shares]
    if over == "samples" and sources is None:
        target = _target(reference, ddof)
        means = np.array(
            [
                subset_distances(samples, target, size, draws=draws if size < total else 1, seed=seed).mean()
                for size in sizes
            ]
        )
    else:
        sides, target = [(samples, sources)], None
        if over == "both":
            sides.append((np.asarray(reference), reference_sources))
        else:
            target = _target(reference, ddof)
        means = np.array(
            [_mean_of_shares(sides, target, share, draws if share < 1 else 1, seed, ddof) for share in shares]
        )
    inverse = 1 / np.array(sizes)
    slope, value = np.polyfit(inverse, means, 1)
    residuals = means - (value + slope * inverse)
    scatter = np.square(means - means.mean()).sum()
    return Extrapolation(
        value=float(value),
        slope=float(slope),
        r2=float(1 - np.square(residuals).sum() / scatter) if scatter > 0 else 1.0,
        residual=float(np.sqrt(np.square(residuals).mean())),
        curvature=float(np.polyfit(inverse, means, 2)[-1] - value),
        sizes=tuple(sizes),
        means=tuple(means.tolist()),
    )


def _mean_of_shares(sides, target, share, draws, seed, ddof):
    """Mean distance of random subsets of `sides`, (features, sources) of one or both, each of that share of its side.

    target: what the subsets of one side are compared with.
    """
    counts = [round(share * len(features)) for features, _ in sides]
    rng = np.random.default_rng([seed, *counts])
    distances = []
    for _ in range(draws):
        own = [
            Moments.of(features[_subset(rng, len(features), count, sources)])
            for (features, sources), count in zip(sides, counts)
        ]
        distances.append((target or Target(own[1], ddof)).distance(own[0]))
    return np.mean(distances)


def _subset(rng, total, size, sources=None):
    """Rows of a random subset, sorted; of whole sources, in random order, that come nearest to `size` clips."""
    if sources is None:
        return np.sort(rng.permutation(total)[:size])
    _, numbers, counts = np.unique(np.asarray(sources), return_inverse=True, return_counts=True)
    order = rng.permutation(len(counts))
    taken = int(np.abs(np.cumsum(counts[order]) - size).argmin()) + 1
    return np.flatnonzero(np.isin(numbers, order[:taken]))


def _leave_out(varied, target, groups, seed, sources=None):
    """`Jackknife` over groups of `varied` [N, D]."""
    # Clips come sorted by class more often than not; groups must each be a sample of all.
    groups = deal(len(varied), groups, seed, sources)
    value, *without = _LeftOut(varied, target, groups).distances()
    share = len(varied) / np.array([len(rows) for rows in groups])  # N / m_j, g for equal groups
    without = np.array(without)
    pseudo = share * value - (share - 1) * without
    corrected = len(groups) * value - ((1 - 1 / share) * without).sum()
    error = np.sqrt(np.mean(np.square(pseudo - corrected) / (share - 1)))
    return Jackknife(value=value, standard_error=float(error), bias=float(value - corrected), groups=len(groups))


class _LeftOut:
    """Distances of clips [N, D] without each of some groups, from sums over groups.

    With F the target's factor, the distance needs of a set's covariance S its trace and the eigenvalues of F S Fᵀ, the
    covariance of the clips times Fᵀ. So clips are multiplied once, and each group's products are summed once; a
    distance is then a sum of matrices and the eigenvalues of that. All is about the mean of all clips, and the shift
    of a set's own mean enters by a term of rank one. Sums of all groups but one are added up from both ends: a
    difference would round where one group outweighs the others.
    """

    def __init__(self, varied, target, groups):
        self._target = target
        varied = as_features(varied)
        centre = varied.mean(axis=0)
        self._offset = centre - target.mean

        self._products = np.empty((len(groups), len(target.factor), len(target.factor)))

        def part(group):
            """Of a group: its clips, their sum [D], their sum of squares; the products [D, D] of what is seen."""
            number, rows = group
            own = varied[rows] - centre
            seen = own @ target.factor.T
            np.matmul(seen.T, seen, out=self._products[number])
            return len(rows), own.sum(axis=0), np.square(own).sum()

        self._parts = by_threads(part, enumerate(groups))

    def distances(self):
        """[distance of all clips, without the first group, without the second, ...]."""
        none = 0, np.zeros_like(self._offset), 0.0
        ahead = list(accumulate(reversed(self._parts), _plus, initial=none))  # sums of the last 0, 1, 2, ... groups
        before = accumulate(self._parts, _plus, initial=none)
        sums = [ahead[-1], *(_plus(first, rest) for first, rest in zip(before, reversed(ahead[:-1])))]
        products = _sums_without_each(self._products)

        def pair(first):
            """Of two sets, by one call of NumPy: on a single matrix it would keep all other threads waiting."""
            seen = products[first : first + 2]
            for own, (count, total, _) in zip(seen, sums[first:]):
                mean = self._target.factor @ (total / count)
                own -= count * np.outer(mean, mean)
                own /= count - self._target.ddof
            roots = np.sqrt(np.clip(np.linalg.eigvalsh(seen), 0, None)).sum(axis=-1)
            return [self._distance(*part, root) for part, root in zip(sums[first:], roots)]

        return list(chain.from_iterable(by_threads(pair, range(0, len(sums), 2))))

    def _distance(self, count, total, squares, root):
        mean = total / count
        shift = self._offset + mean
        trace = (squares - count * (mean @ mean)) / (count - self._target.ddof)
        return float(shift @ shift + self._target.trace + trace - 2 * root)


def _sums_without_each(matrices):
    """[sum of all, without the first, without the second, ...] of matrices [g, D, D]."""
    sums = np.empty((len(matrices) + 1, *matrices.shape[1:]))
    sums[-1] = 0
    for number in reversed(range(len(matrices))):
        np.add(sums[number + 1], matrices[number], out=sums[number])  # of this one and all behind it
    before = np.zeros_like(sums[0])
    for number, matrix in enumerate(matrices):
        sums[number + 1] += before
        before += matrix
    return sums


def _plus(one, other):
    return tuple(first + second for first, second in zip(one, other))


def _target(reference, ddof):
    return reference if isinstance(reference, Target) else Target(reference, ddof)
