"""The verdict on seams: from the scores of many clips to an excess, an interval and a p-value per lattice.

The excess is the mean score over clips, in log units: 0.1 is a contrast 10 % above that of comparable positions.
Scores are means over clips, so resampling clips is valid for the interval. What is tested is whether the excess is
above `TOLERANCE`, not above 0: on real clips lattices differ from each other by up to 0.03, whatever is done about
codecs, because clips of a data set share scenes, resizing and encoders. With enough clips that too would be
"significant". Positions differ more where little of a lattice fits into the clips, so that a lattice must stand out
among its own moves as well. A brightness step of one grey level gives 0.4, a shift by one pixel as much. All lattices,
axes and statistics of a run that can be judged are judged together at 5 % after Benjamini and Hochberg; of the others
the reason is given.

    n clips, B draws
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from hpdm_eval.metrics.score_tests import (
    DRAWS,
    FEWEST_CLIPS,
    LEVEL,
    PERMUTATIONS,
    TOLERANCE,
    benjamini_hochberg,
    by_source,
    difference_interval,
    difference_t_interval,
    mean_above,
    mean_interval,
    mean_t_interval,
    permuted_above,
)
from hpdm_eval.metrics.seam_contrasts import STATISTICS
from hpdm_eval.metrics.seam_moves import settle_lattices
from hpdm_eval.metrics.seams import ClipSeams, Lattice, all_moves, lattice_moves, rescore, with_step

TAIL = 4  # degrees of freedom of differences between positions
POWER = 0.95  # with which a step of one grey level must be found for "no seam" to be said
WEAK = "a step of one grey level would not be found in {} such clips"
FEW = f"fewer than {FEWEST_CLIPS} clips that share no source"


@dataclass(frozen=True, kw_only=True)
class SeamFigure:
    """One lattice under one statistic. `to_dict()` is an entry of the record's details."""

    axis: str  # f, h or w
    period: int
    statistic: str  # step or coherent-step
    excess: float  # log units; relative to the reference where there is one
    ci95: tuple[float, float] | None
    p_value: float  # one-sided: the larger of that of an excess of at most TOLERANCE and that of `z`
    significant: bool | None  # None: no verdict
    clips: int
    codec_matched: bool  # whether compared positions sit on the codec's lattice as the lines do
    z: float | None  # of the lattice among the moves of it, each against moves of its own codec phase
    rank: int | None  # 1: no move has a larger value
    phases: int  # lattices that were ranked
    reason: str | None = None  # why there is no verdict
    blocks: tuple[float, ...] = ()  # periods of blocks, found in the clips, that compared positions keep to
    excess_samples: float | None = None  # where there is a reference: the two sides alone
    excess_reference: float | None = None

    @property
    def verdict(self) -> str:
        """In words, for tables."""
        return "no verdict" if self.significant is None else "SEAM" if self.significant else "no"

    def to_dict(self) -> dict[str, Any]:
        """Flat JSON-able dict."""
        values = {
            key: value
            for key, value in vars(self).items()
            if not (key.startswith("excess_") and value is None) and not (key == "blocks" and not value)
        }
        values |= {"blocks": ", ".join(f"{period:.4g}" for period in self.blocks)} if self.blocks else {}
        return {**values, "ci95": self.ci95 and list(self.ci95)}


def judge_seams(
    samples: Iterable[ClipSeams],
    lattices: Sequence[Lattice],
    *,
    reference: Iterable[ClipSeams] | None = None,
    seed: int = 0,
    level: float = LEVEL,
    tolerance: float = TOLERANCE,
    draws: int = DRAWS,
    resized: bool = False,
) -> list[SeamFigure]:
    """Figures of all lattices for which there are clips: list of SeamFigure, in the order of `lattices`.

    samples, reference: iterables of ClipSeams measured on `lattices`, which are first settled: moved for comparison as
    fits what the samples have been through (`settle_lattices`). Clips of one `source` count together in intervals and
    tests (`by_source`).

    Without a reference two things must hold for a seam: the excess is above `tolerance`, by a one-sided t-test over
    clips; and the lattice stands out among its own moves, each less the mean of its codec phase, by a t-test over moves
    (what clips have in common, such as a scene, makes moves differ whatever the number of clips). There is no verdict
    where the lattice has a `reason`. With a reference, which must be encoded and resized as the samples are, the test
    is a permutation of the labels of both sides on the studentised difference of the mean scores, whatever `reason` a
    lattice has.

    A seam is one wherever the test finds it. "No seam" needs power: with steps of one grey level put in between the
    tiles of these very clips (`ClipSeams.stepped`), the same tests must find them in `POWER` of such sets of clips;
    otherwise there is no verdict. A lattice with a seam under one statistic has shown that; the other may say no.

    draws: of the bootstrap; 0 leaves out the intervals. resized: rows and columns were resampled after a codec, whose
    blocks then lie anywhere.
    """
    samples, reference = list(samples), None if reference is None else list(reference)
    lattices = settle_lattices(samples, lattices, resized)
    samples = [rescore(clip, lattices) for clip in samples]
    reference = reference and [rescore(clip, lattices) for clip in reference]
    rng = np.random.default_rng(seed)
    drafts = [
        draft
        for lattice in lattices
        for statistic in STATISTICS[::-1]
        if (draft := _draft(samples, reference, lattice, statistic, tolerance, draws, rng))
    ]
    testable = np.array([draft["reason"] is None for draft in drafts], dtype=bool)
    rejected = np.zeros(len(drafts), dtype=bool)
    if testable.any():
        p_values = np.array([draft["p_value"] for draft in drafts])
        rejected[testable] = benjamini_hochberg(p_values[testable], level)
    seamed = {_key(draft)[:2] for draft, hit in zip(drafts, rejected) if hit}
    open_ones = [draft for draft in drafts if draft["reason"] is None and _key(draft)[:2] not in seamed]
    if open_ones:
        found = _found_if_stepped(samples, reference, lattices, drafts, level, tolerance)
        for draft in open_ones:
            if not found[draft["axis"], draft["period"]]:
                draws = len(_scores(_unkeyed(samples, key := _key(draft)), key))
                draft["reason"] = WEAK.format(draft["clips"]) if draws >= FEWEST_CLIPS else FEW
    return [
        SeamFigure(**draft, significant=bool(hit) if draft["reason"] is None else None)
        for draft, hit in zip(drafts, rejected)
    ]


def _key(draft):
    return draft["axis"], draft["period"], draft["statistic"]


def _draft(samples, reference, lattice, statistic, tolerance, draws, rng):
    """The values of a SeamFigure but its verdict; None where a side has no scores."""
    key = (lattice.axis, lattice.period, statistic)
    scored = _unkeyed(samples, key)
    scores = _scores(scored, key)
    if not len(scores):
        return None
    z, rank, phases, z_value = standing(mean_profile(scored, key), lattice)
    reason = lattice.reason
    if reference is None:
        figures = {
            "excess": scores.mean(),
            "ci95": mean_interval(scores, rng, draws),
            "p_value": max(mean_above(scores, tolerance), z_value),
        }
    else:
        reason, real = None, _scores(_unkeyed(reference, key), key)
        if not len(real):
            return None
        figures = {
            "excess": scores.mean() - real.mean(),
            "ci95": difference_interval(scores, real, rng, draws),
            "p_value": permuted_above(scores, real, tolerance, rng),
            "excess_samples": float(scores.mean()),
            "excess_reference": float(real.mean()),
        }
    return {
        "axis": lattice.axis,
        "period": lattice.period,
        "statistic": statistic,
        **figures,
        "excess": float(figures["excess"]),
        "clips": sum(key in clip.scores for clip in scored),
        "codec_matched": lattice.reason is None,
        "z": z,
        "rank": rank,
        "phases": phases,
        "reason": reason,
        "blocks": lattice.blocks,
    }


def _unkeyed(clips, key):
    """Clips scored beside key frames are left out, if that leaves enough."""
    free = [clip for clip in clips if key in clip.scores and key[:2] not in clip.keyed]
    return free if len(free) >= FEWEST_CLIPS else clips


def _found_if_stepped(samples, reference, lattices, drafts, level, tolerance):
    """{(axis, period): whether a step of `STEP` at the lattice's lines would be found} of all lattices to be judged.

    The clips are judged again with the step put in. Their p-values are those that `POWER` of such sets of clips stay
    below; those of other axes, and of shorter periods, are as they were without it.
    """
    stepped = [rescore(with_step(clip), lattices) for clip in samples]
    testable = [draft for draft in drafts if draft["reason"] is None]
    raised = []
    for draft in testable:
        lattice = next(own for own in lattices if (own.axis, own.period) == (draft["axis"], draft["period"]))
        raised.append(_likely_p_value(samples, stepped, reference, lattice, _key(draft), tolerance))
    found = {}
    for axis, period in {(draft["axis"], draft["period"]): None for draft in testable}:
        there = [draft["axis"] == axis and draft["period"] % period == 0 for draft in testable]
        own = [(draft["axis"], draft["period"]) == (axis, period) for draft in testable]
        p_values = np.where(there, raised, [draft["p_value"] for draft in testable])
        found[axis, period] = bool(benjamini_hochberg(p_values, level)[own].any())
    return found


def _likely_p_value(samples, stepped, reference, lattice, key, tolerance):
    """The p-value that `POWER` of sets such as `stepped` stay below; an excess of the samples does not help."""
    before, scored = _scores(_unkeyed(samples, key), key), _unkeyed(stepped, key)
    scores = _scores(scored, key)
    if len(scores) < FEWEST_CLIPS:
        return 1.0
    variance, freedom, base = scores.var(ddof=1) / len(scores), len(scores) - 1, max(before.mean(), 0)
    if reference is not None:
        real = _scores(_unkeyed(reference, key), key)
        if len(real) < FEWEST_CLIPS:
            return 1.0
        variance, freedom = variance + real.var(ddof=1) / len(real), min(freedom, len(real) - 1)
        base = max(before.mean(), real.mean())
    error = max(np.sqrt(variance), 1e-9)
    least = scores.mean() - base - stats.t.ppf(POWER, freedom) * error
    p_value = stats.t.sf((least - tolerance) / error, freedom)
    if reference is not None:
        return float(max(p_value, 1 / (1 + PERMUTATIONS)))
    lowered = mean_profile(scored, key)
    lowered[lattice.period - 1] -= scores.mean() - least
    return float(max(p_value, standing(lowered, lattice)[3]))


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledSeams:
    """The headline: the excess of all borders together, comparable between tilings."""

    value: float  # log units
    ci95: tuple[float, float] | None
    over: tuple[tuple[str, int], ...]  # (axis, period) of the lattices it is the mean over
    scores: np.ndarray  # float64 [n]: each clip's part; their mean is `value`, of the samples alone


def pool_seams(
    samples: Iterable[ClipSeams], lattices: Sequence[Lattice], reference: Iterable[ClipSeams] | None = None
) -> PooledSeams:
    """PooledSeams of clips scored on settled `lattices`.

    The value is the mean of the excesses of the finest lattice of each axis, on whose lines all tiles of that axis end,
    under both statistics. How many lattices and axes a tiling has changes what is averaged and not what is expected of
    clips without seams, which is 0; a maximum grows with their number. Lattices without a verdict are left out, unless
    all of them are, or there is a reference, which answers for them.
    """
    finest = {}
    for lattice in lattices:
        if any(key[:2] == (lattice.axis, lattice.period) for clip in samples for key in clip.scores):
            finest.setdefault(lattice.axis, lattice)
    chosen = [lattice for lattice in finest.values() if lattice.reason is None or reference is not None]
    chosen = chosen or list(finest.values())
    over = tuple((lattice.axis, lattice.period) for lattice in chosen)
    scores = _parts(samples, over)
    own = by_source(scores, _sources(samples))
    value, ci95 = float(scores.mean()), mean_t_interval(own)
    if reference is not None:
        real = _parts(reference, over)
        value -= float(real.mean())
        ci95 = difference_t_interval(own, by_source(real, _sources(reference)))
    return PooledSeams(value=value, ci95=ci95, over=over, scores=scores)


def _parts(clips, over):
    """Each clip's part in the mean over lattices and statistics of the mean scores: float64 [n].

    A clip that is too small for a lattice has no part in it; those that have count for it too.
    """
    parts = []
    for axis, period in over:
        for statistic in STATISTICS:
            key = (axis, period, statistic)
            scored = {id(clip) for clip in _unkeyed(clips, key) if key in clip.scores}
            if scored:
                parts.append(
                    [clip.scores[key] * len(clips) / len(scored) if id(clip) in scored else 0.0 for clip in clips]
                )
    return np.mean(parts, axis=0) if parts else np.zeros(len(clips))


def _scores(clips, key):
    clips = [clip for clip in clips if key in clip.scores]
    return by_source(np.array([clip.scores[key] for clip in clips]), _sources(clips))


def _sources(clips):
    return [number if clip.source is None else clip.source for number, clip in enumerate(clips)]


def mean_profile(clips: Sequence[ClipSeams], key: tuple[str, int, str]) -> np.ndarray:
    """Mean over clips of the value at each move of the lattice, 1-period..period-1; NaN where no clip has it."""
    profiles = np.array([clip.profiles[key] for clip in clips if key in clip.profiles], dtype=np.float64)
    found = np.isfinite(profiles)
    return np.divide(
        np.where(found, profiles, 0).sum(0), found.sum(0), out=np.full(profiles.shape[1], np.nan), where=found.any(0)
    )


def standing(profile: np.ndarray, lattice: Lattice) -> tuple[float | None, int | None, int, float]:
    """(z, rank, number ranked, p) of the lattice's own value among its moves, each less the mean of its codec phase.

    Phases are of the codec's block or, where blocks were found in the clips, of those. p is one-sided, by Student's t
    with at most `TAIL` degrees of freedom: single positions of real clips stand out further than a Gaussian has it.
    None for z and rank, and p 0, where fewer than four moves can be compared.
    """
    moves = all_moves(lattice)
    moves = moves[np.isfinite(profile[lattice.period - 1 + moves])]
    values = profile[lattice.period - 1 + moves]
    own = profile[lattice.period - 1]
    compared, _, step = lattice_moves(lattice)
    weights = np.full(len(compared), 1 / len(compared)) if lattice.weights is None else np.array(lattice.weights)
    against = profile[lattice.period - 1 + compared]
    against = (
        float(
            np.average(
                against[np.isfinite(against)], weights=weights[np.isfinite(against)] if np.ptp(weights) == 0 else None
            )
        )
        if np.isfinite(against).any()
        else np.nan
    )
    if np.ptp(weights) > 0:
        against = float(profile[lattice.period - 1 + compared] @ weights)
    rest, used = _within_phases(moves, values, lattice.blocks[0] if lattice.blocks else step)
    if len(rest) - used < 4 or not np.isfinite(own - against):
        return None, None, 0, 0.0
    spread = np.sqrt((rest**2).sum() / (len(rest) - used) * (1 + (weights**2).sum()))
    z = float((own - against) / spread) if spread > 0 else None
    p_value = float(stats.t.sf(z, min(len(rest) - used, TAIL))) if z is not None else float(own <= against)
    return z, int(1 + (rest >= own - against).sum()), len(rest) + 1, p_value


def _within_phases(moves, values, period):
    """(residuals, parameters): values at moves less a straight line through those of one phase, to a whole sample."""
    phases = np.round(moves % period).astype(int) % max(round(period), 1)
    offset = moves - period * np.round((moves - phases) / period) - phases
    rest, used = [], 0
    for phase in np.unique(phases):
        chosen = phases == phase
        own, beside = values[chosen], offset[chosen]
        if len(own) < 2:
            continue
        own = own - own.mean()
        used += 1
        beside = beside - beside.mean()
        if len(own) > 3 and np.abs(beside).max() > 0.02:
            own = own - beside * (beside @ own) / (beside @ beside)
            used += 1
        rest.append(own)
    return (np.concatenate(rest) if rest else np.empty(0)), used
