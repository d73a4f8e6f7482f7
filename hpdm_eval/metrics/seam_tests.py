"""The verdict on seams: from the scores of many clips to an excess, an interval and a p-value per lattice.

The excess is the mean score over clips, in log units: 0.1 is a contrast 10 % above that of comparable positions.
Scores are means over clips, so resampling clips is valid for the interval. What is tested is whether the excess is
above `TOLERANCE`, not above 0: on real clips lattices differ from each other by up to 0.03, whatever is done about
codecs, because clips of a data set share scenes, resizing and encoders. With enough clips that too would be
"significant". A brightness step of one grey level gives 0.4, a shift by one pixel as much. All lattices, axes and
statistics of a run are judged together at 5 % after Benjamini and Hochberg.

    n clips, B draws
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpdm_eval.metrics.seams import all_moves, lattice_moves

LEVEL = 0.05
TOLERANCE = 0.05  # log units
FEWEST_CLIPS = 4
DRAWS = 2000
PERMUTATIONS = 5000


@dataclass(frozen=True, kw_only=True)
class SeamFigure:
    """One lattice under one statistic. `to_dict()` is an entry of the record's details."""

    axis: str  # f, h or w
    period: int
    statistic: str  # step or coherent-step
    excess: float  # log units; relative to the reference where there is one
    ci95: tuple[float, float] | None
    p_value: float  # one-sided, of an excess of at most TOLERANCE
    significant: bool
    clips: int
    codec_matched: bool  # whether compared positions sit on the codec's lattice as the lines do
    z: float | None  # of the lattice among the moves of it, each against moves of its own codec phase
    rank: int | None  # 1: no move has a larger value
    phases: int  # lattices that were ranked
    excess_samples: float | None = None  # where there is a reference: the two sides alone
    excess_reference: float | None = None

    def to_dict(self):
        """Flat JSON-able dict."""
        values = {key: value for key, value in vars(self).items()
                  if not (key.startswith("excess_") and value is None)}
        return {**values, "ci95": self.ci95 and list(self.ci95)}


def judge_seams(samples, lattices, *, reference=None, seed=0, level=LEVEL, tolerance=TOLERANCE, draws=DRAWS,
                resized=False):
    """Figures of all lattices for which there are clips: list of SeamFigure, in the order of `lattices`.

    samples, reference: iterables of ClipSeams measured on `lattices`. Without a reference the test is a one-sided
    t-test over clips; with one, a permutation of the labels of both sides on the studentised difference of the mean
    scores. A lattice whose period leaves no comparison on the codec's blocks gets a verdict only with a reference,
    which must be encoded as the samples are, or where `Lattice.block` says that there are no blocks. draws: of the
    bootstrap; 0 leaves out the intervals. resized: rows and columns were resampled after a codec, whose blocks then
    lie anywhere (macroblocks of 320 columns shrunken to 256 meet every multiple of 64): the same rule holds for them.
    """
    samples, reference = list(samples), None if reference is None else list(reference)
    rng = np.random.default_rng(seed)
    drafts = []
    for lattice in lattices:
        matched = lattice_moves(lattice)[1] and not (resized and lattice.axis != "f" and lattice.block > 1)
        for statistic in sorted({key[2] for clip in samples for key in clip.scores}, reverse=True):
            key = (lattice.axis, lattice.period, statistic)
            scores = _scores(samples, key)
            if not len(scores):
                continue
            if reference is None:
                figures = {"excess": scores.mean(), "ci95": mean_interval(scores, rng, draws),
                           "p_value": mean_above(scores, tolerance)}
            else:
                real = _scores(reference, key)
                if not len(real):
                    continue
                figures = {"excess": scores.mean() - real.mean(), "ci95": difference_interval(scores, real, rng, draws),
                           "p_value": permuted_above(scores, real, tolerance, rng),
                           "excess_samples": float(scores.mean()), "excess_reference": float(real.mean())}
            z, rank, phases = standing(mean_profile(samples, key), lattice)
            drafts.append({"axis": lattice.axis, "period": lattice.period, "statistic": statistic, **figures,
                           "clips": len(scores), "codec_matched": matched, "z": z, "rank": rank, "phases": phases})
    testable = np.array([draft["codec_matched"] or reference is not None for draft in drafts], dtype=bool)
    rejected = np.zeros(len(drafts), dtype=bool)
    if testable.any():
        p_values = np.array([draft["p_value"] for draft in drafts])
        rejected[testable] = benjamini_hochberg(p_values[testable], level)
    return [SeamFigure(**{**draft, "excess": float(draft["excess"])}, significant=bool(hit))
            for draft, hit in zip(drafts, rejected)]


def _scores(clips, key):
    return np.array([clip.scores[key] for clip in clips if key in clip.scores])


def mean_above(scores, tolerance=TOLERANCE):
    """One-sided p-value of a mean of at most `tolerance`, by Student's t; 1 for fewer than `FEWEST_CLIPS` scores."""
    if len(scores) < FEWEST_CLIPS:
        return 1.0
    spread = scores.std(ddof=1)
    if spread == 0:
        return float(scores[0] <= tolerance)
    return float(stats.t.sf((scores.mean() - tolerance) / (spread / np.sqrt(len(scores))), len(scores) - 1))


def permuted_above(scores, real, tolerance, rng, draws=PERMUTATIONS):
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


def mean_interval(scores, rng, draws=DRAWS):
    """95 % interval of the mean by the studentised bootstrap over clips; None for fewer than `FEWEST_CLIPS`."""
    if len(scores) < FEWEST_CLIPS or not draws:
        return None
    low, high = _bootstrap_t(scores, rng, draws)
    return float(scores.mean() + low), float(scores.mean() + high)


def difference_interval(scores, real, rng, draws=DRAWS):
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


def benjamini_hochberg(p_values, level=LEVEL):
    """Which hypotheses are rejected with a false discovery rate of at most `level`: bool [n]."""
    p_values = np.asarray(p_values)
    order = np.argsort(p_values)
    passed = np.flatnonzero(p_values[order] <= level * np.arange(1, len(p_values) + 1) / len(p_values))
    rejected = np.zeros(len(p_values), dtype=bool)
    if len(passed):
        rejected[order[:passed[-1] + 1]] = True
    return rejected


def mean_profile(clips, key):
    """Mean over clips of the value at each move of the lattice, 1-period..period-1; NaN where no clip has it."""
    profiles = np.array([clip.profiles[key] for clip in clips if key in clip.profiles], dtype=np.float64)
    found = np.isfinite(profiles)
    return np.divide(np.where(found, profiles, 0).sum(0), found.sum(0), out=np.full(profiles.shape[1], np.nan),
                     where=found.any(0))


def standing(profile, lattice):
    """(z, rank, number ranked) of the lattice's own value among its moves, each less the mean of its codec phase.

    None for both figures where fewer than four moves can be compared.
    """
    moves = all_moves(lattice)
    moves = moves[np.isfinite(profile[lattice.period - 1 + moves])]
    block = lattice_moves(lattice)[2]
    phases = moves % block
    own = profile[lattice.period - 1]
    rest, used = [], 0
    same = np.nan
    for phase in np.unique(phases):
        values = profile[lattice.period - 1 + moves[phases == phase]]
        if phase == 0:
            same = values.mean()
        if len(values) > 1:
            rest.append(values - values.mean())
            used += 1
    rest = np.concatenate(rest) if rest else np.empty(0)
    if len(rest) - used < 4 or not np.isfinite(own - same):
        return None, None, 0
    spread = np.sqrt((rest**2).sum() / (len(rest) - used))
    z = float((own - same) / spread) if spread > 0 else None
    return z, int(1 + (rest >= own - same).sum()), len(rest) + 1
