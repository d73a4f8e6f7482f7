"""Which lattices of blocks have clips been through? Estimated from the clips, to compare tile borders with their like.

A codec leaves steps between its blocks, and resizing afterwards moves them: macroblocks of 16 in a picture enlarged
from 240 to 256 rows lie every 17.07 rows, and one of two 8x8 blocks ends where tiles of 128 do. Whatever the codec and
the filter, what they leave is a function of the position on the source's lattice: of p modulo its period q, a real
number.

`find_blocks` looks for q: the mean contrast of each border position (`ClipSeams.values`, without the tiles' own
borders) is folded by every period from 4 samples up, block sizes 8 to 64 times any factor, and the variance between
phases tested against that within. Having found one it looks again at what is left, since clips may have been
compressed twice.

What tile borders are then compared with is in seam_moves.py.

    n samples along the axis; position p is the border between samples p-1 and p
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from hpdm_eval.metrics.seam_contrasts import MARGIN
from hpdm_eval.metrics.seams import SHORTEST_PERIOD, ClipSeams

EVIDENCE = 7.0  # -log10 p of a period; some thousand are tried, of which about n are independent
AMPLITUDE = 0.04  # log units; a lattice that is weaker everywhere else is weaker than TOLERANCE on the borders
CLIP_VALUE = 0.5  # log units, of one clip: letterbox edges reach 3
BESIDE = 7  # samples around a border of tiles that their step reaches by way of the neighbours' median
NARROW = 2  # the same where tiles are too small for that
GRID = 0.4  # samples by which neighbouring periods that are tried drift apart along the axis
RESOLUTION = 0.9  # cycles along the axis by which two periods must differ
LONGEST = 140.0  # samples: twice the largest blocks
AT_ONCE = 512  # periods folded at once
FINE = 0.006  # refinement reaches so far, in relative terms
SNAP = 0.97  # a plausible source size is taken to be the true one if it explains this much of what the best does
SOURCE_MULTIPLE = 8  # rows and columns of plausible sources
BLOCK_SIZES = (4, 8, 16, 32, 64)  # of codecs, in pixels of the source
FEWEST_CYCLES = 3
FEWEST_ALIKE = 4  # clips of a size, to look for what they have in common
MACROBLOCK_PARTS = 2  # what is found may be the transforms of 8; macroblocks of two of them leave more at their ends
MOST_PARTS = 8
PART_EVIDENCE, ODD_EVIDENCE = 0.4, 0.25  # of parts by powers of two, which blocks of codecs have, and of others


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A lattice of blocks found along one axis."""

    axis: str
    period: float  # samples of the clips as they are
    amplitude: float  # log units, of the strongest phase above the median of phases
    evidence: float  # -log10 of the p-value


def find_blocks(clips: Sequence[ClipSeams], axis: str, finest: int, codec: int | None = None) -> tuple[Blocks, ...]:
    """Lattices of blocks that clips have in common along an axis: tuple of Blocks, strongest first.

    clips: ClipSeams, of one size or several, which are searched apart; finest: the period of all tile borders there;
    codec: the period of the blocks of the files' own codec, which are looked for besides whatever is strongest.
    """
    groups = {}
    for clip in clips:
        groups.setdefault(None if axis == "f" else clip.shape["fhw".index(axis)], []).append(clip)
    fewest = min(FEWEST_ALIKE, max(map(len, groups.values()), default=0))  # texture of one clip may repeat as well
    found = {}
    for _, group in sorted(groups.items(), key=lambda item: item[0] or 0):
        for blocks in _search(group, axis, finest, codec) if len(group) >= fewest else ():
            found.setdefault(round(blocks.period, 2), blocks)
    return tuple(sorted(found.values(), key=lambda blocks: -blocks.evidence))


def _search(clips, axis, finest, codec):
    keys = sorted({key for clip in clips for key in clip.values if key[0] == axis})
    means = {key[1]: _mean_values(clips, key) for key in keys}
    first = _best(means, axis, finest, _periods)
    if first is None:
        return []
    size = max(map(len, means.values())) - 1
    left = {statistic: _without(values, first.period) for statistic, values in means.items()}
    second = _best(left, axis, finest, _periods)
    if codec is not None and _fraction(first.period, codec):
        found = [replace(first, period=float(codec))]
        if second is not None and not _beside(second.period, codec, size):  # from before a resize
            found.append(replace(second, period=MACROBLOCK_PARTS * second.period))
        return found
    if second is not None and _beat(first.period, second.period, size):
        first = second
    first = _smallest(means, axis, finest, first)
    found = [replace(first, period=MACROBLOCK_PARTS * first.period)]
    if codec is not None:  # what the files' codec left on top, on blocks of its own
        own = _best(left, axis, finest, lambda size: np.array([float(codec)]))
        found += [] if own is None else [own]
    return found


def _beside(period, codec, size):
    """Whether a period is too near a harmonic of the codec's to be told from what is left of it, or longer than two."""
    harmonics = np.arange(1, codec + 1) / codec
    return period > 2 * codec * (1 - FINE) or bool((np.abs(1 / period - harmonics) < RESOLUTION / size).any())


def _smallest(means, axis, finest, blocks):
    """The shortest whole part of a period that explains nearly as much: every multiple of a true period does."""
    for parts in range(MOST_PARTS, 1, -1):
        period = blocks.period / parts
        if period < SHORTEST_PERIOD:
            continue
        shorter = _best(means, axis, finest, lambda size, period=period: np.array([period]))
        needed = PART_EVIDENCE if parts in (2, 4, 8) else ODD_EVIDENCE
        if shorter is not None and shorter.evidence >= needed * blocks.evidence:
            return replace(shorter, amplitude=max(shorter.amplitude, blocks.amplitude))
    return blocks


def _beat(period, other, size):
    """Whether `period` is where the samples of a source, with blocks of `other`, meet whole samples again."""
    if period <= other:
        return False
    ratios = np.array(BLOCK_SIZES) / other
    return bool((np.abs(np.abs(ratios - np.round(ratios)) - 1 / period) < 0.75 / size).any())


def _best(means, axis, finest, periods):
    """The Blocks with the most evidence under any statistic; periods: function of the size to those to be tried."""
    best = None
    for values in means.values():
        size = len(values) - 1
        positions, values = _usable(values, finest)
        if len(positions) < 4 * SHORTEST_PERIOD or not values.any():
            continue
        blocks = _strongest(positions, values, axis, size, periods(size))
        if blocks and (best is None or blocks.evidence > best.evidence):
            best = blocks
    return best


def _periods(size):
    longest = min(size / FEWEST_CYCLES, LONGEST)
    return np.exp(np.arange(np.log(SHORTEST_PERIOD), np.log(max(longest, SHORTEST_PERIOD)), GRID / size))


def _mean_values(clips, key):
    """Mean over clips of the contrast at each position: float64 [n + 1], NaN where fewer than half have one."""
    rows = [clip.values[key] for clip in clips if key in clip.values]
    length = max(map(len, rows))
    values = np.full((len(rows), length), np.nan)
    for row, own in zip(values, rows):
        row[: len(own)] = np.clip(own, -CLIP_VALUE, CLIP_VALUE)
    count = np.isfinite(values).sum(0)
    mean = np.divide(np.nansum(values, 0), count, out=np.full(length, np.nan), where=count > 0)
    mean[count < (len(rows) + 1) // 2] = np.nan
    return mean


def _usable(values, finest):
    """(positions, their values less the mean) away from the tiles' borders, outliers drawn in.

    Tiles that are too small to keep away from their borders have what all of them share taken out instead.
    """
    positions = np.arange(len(values))
    offset = positions % finest
    near = np.minimum(offset, finest - offset)
    keep = np.isfinite(values) & (positions > MARGIN) & (positions < len(values) - 1 - MARGIN)
    if finest >= 4 * BESIDE:
        keep &= near >= BESIDE
        positions, values = positions[keep], values[keep]
    else:
        keep &= near >= min(NARROW, finest // 2)
        positions, values = positions[keep], values[keep]
        if len(values):
            sums = np.bincount(positions % finest, values, finest)
            counts = np.bincount(positions % finest, minlength=finest)
            if counts.max() < FEWEST_CYCLES + 1:  # nothing would be left
                return positions[:0], values[:0]
            values = values - (sums / np.maximum(counts, 1))[positions % finest]
    if not len(values):
        return positions, values
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    values = np.clip(values, middle - 5 * spread, middle + 5 * spread)
    return positions, values - values.mean()


def _strongest(positions, values, axis, size, periods):
    """The Blocks of that of `periods` with the most evidence; None where there is not enough."""
    if not len(periods):
        return None
    folded = [fold(positions, values, periods[k : k + AT_ONCE]) for k in range(0, len(periods), AT_ONCE)]
    evidence, amplitude = (np.concatenate(part) for part in zip(*folded))
    best = int(evidence.argmax())
    if evidence[best] < EVIDENCE or amplitude[best] < AMPLITUDE:
        return None
    period = _refined(positions, values, periods[best], size) if len(periods) > 1 else float(periods[0])
    return Blocks(axis=axis, period=period, amplitude=float(amplitude[best]), evidence=float(evidence[best]))


def _fraction(period, codec):
    """Whether `codec` is a multiple of `period`."""
    parts = codec / period
    return round(parts) >= 1 and abs(parts / round(parts) - 1) < FINE


def fold(positions: np.ndarray, values: np.ndarray, periods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(-log10 p float [m], amplitude float [m]) of folding `values` by each of `periods`, in phases of a sample.

    The p-value is of the F-test of the means of the phases.
    """
    count = len(values)
    bins = np.maximum(SHORTEST_PERIOD, np.round(periods)).astype(int)
    phases = np.floor(positions / periods[:, None] % 1 * bins[:, None] + 0.5).astype(int) % bins[:, None]
    width = int(bins.max())
    flat = (np.arange(len(periods))[:, None] * width + phases).ravel()
    shape = len(periods), width
    counts = np.bincount(flat, minlength=np.prod(shape)).reshape(shape)
    sums = np.bincount(flat, np.broadcast_to(values, phases.shape).ravel(), np.prod(shape)).reshape(shape)
    means = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
    between = np.nansum(sums * means, axis=1)
    groups = (counts > 0).sum(axis=1)
    within = np.maximum((values**2).sum() - between, 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = between / (groups - 1) / (within / (count - groups))
        evidence = -stats.f.logsf(ratio, groups - 1, count - groups) / np.log(10)
    evidence[(count - groups < count / 2) | (groups < 2)] = 0
    evidence = np.minimum(np.nan_to_num(evidence), 300)
    return evidence, np.nanmax(means, axis=1) - np.nanmedian(means, axis=1)


def _refined(positions, values, period, size):
    """The period to about one part in a thousand: where the power of all its harmonics is largest.

    A plausible source, one of a multiple of eight rows or columns or a block of whole samples, is preferred where it
    explains nearly as much.
    """
    tried = period * np.exp(np.linspace(-FINE, FINE, 241))
    power = _power(positions, values, tried)
    best = int(power.argmax())
    round_ones = [np.round(period)] if abs(np.round(period) / period - 1) < FINE else []
    for block in BLOCK_SIZES:
        source = np.round(block * size / period / SOURCE_MULTIPLE) * SOURCE_MULTIPLE
        if source and abs(block * size / source / period - 1) < FINE:
            round_ones.append(block * size / source)
    if round_ones:
        powers = _power(positions, values, np.array(round_ones))
        if powers.max() >= SNAP * power[best]:
            return float(round_ones[int(powers.argmax())])
    return float(tried[best])


def _power(positions, values, periods):
    total = np.zeros(len(periods))
    for harmonic in range(1, max(1, int(periods.mean() / 2)) + 1):
        total += np.abs(np.exp(2j * np.pi * harmonic * positions / periods[:, None]) @ values) ** 2
    return total


def _without(values, period):
    """`values` less their mean at each phase of `period`, in phases of a quarter of a sample, smoothed."""
    left = values.copy()
    positions = np.flatnonzero(np.isfinite(values))
    phase = positions % period
    for position in positions:
        apart = np.abs((phase - position % period + period / 2) % period - period / 2)
        weights = np.maximum(0.5 - apart, 0)
        left[position] = values[position] - weights @ values[positions] / weights.sum()
    return left
