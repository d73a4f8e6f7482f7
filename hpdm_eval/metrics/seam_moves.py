"""What tile borders are compared with, in clips that went through codecs and resizes: moves of their lattice.

`match_moves` picks comparisons: moves of the tile lattice by a multiple of every period of blocks that seam_blocks.py
found. Few multiples are whole numbers of samples; a move that misses by d compares a border on a block's edge with one
d beside it. With several such distances the value at d = 0 is extrapolated, linearly: contrasts are concave in d around
an edge, so that the estimate errs upwards, towards finding no seam. Where no comparison is left, the answer is a
reason.

In time, blocks are of frames, and files say more: where frames start over (`ClipSeams.keyed`), and which frames take as
many bytes as those that tiles begin with, and so are coded alike.

    n samples along the axis; position p is the border between samples p-1 and p
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpdm_eval.metrics.seam_blocks import BESIDE, CLIP_VALUE, Blocks, find_blocks
from hpdm_eval.metrics.seam_contrasts import MARGIN
from hpdm_eval.metrics.seams import ClipSeams, Lattice, all_moves, lattice_moves

GROWTH = 0.03  # log units from blocks of one size to those twice as large, from which larger ones still are suspected
UNLIKE = 0.6  # log units in size: frames further apart are coded as different kinds
NEAR, FAR = 0.3, 0.45  # samples by which a move may miss a multiple
NEAREST = 0.21  # what the best of the moves may miss
MISMATCH = 0.06  # log units by which a move that misses may be wrong, where nothing can be extrapolated


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What a tile lattice is compared with: its own value less the weighted sum of the profile at `moves`."""

    moves: np.ndarray  # int64
    weights: np.ndarray  # float64, their sum is 1
    blocks: tuple[float, ...]  # periods that the moves are multiples of
    reason: str | None = None  # why there can be no verdict


def match_moves(lattice: Lattice, found: Sequence[Blocks], moves: np.ndarray | None = None) -> Comparison:
    """The Comparison of a Lattice in clips with the Blocks `found` along its axis; moves: those that can be made."""
    moves = all_moves(lattice) if moves is None else moves
    periods = np.array([blocks.period for blocks in found])
    multiples = np.round(moves / periods[:, None])
    misses = np.abs(moves - periods[:, None] * multiples).max(axis=0, initial=0)
    misses[(multiples == 0).any(axis=0)] = np.inf
    met = f"these borders fall on blocks {'of several kinds' if len(found) > 1 else 'in the clips'}"
    fallback = lattice_moves(lattice)[0]
    if misses.min(initial=np.inf) > NEAREST:
        return _none(fallback, periods, f"{met}, and nothing comparable")
    reach = max(NEAR, min(2 * misses.min() + 0.05, FAR))
    moves, misses = moves[misses <= reach], misses[misses <= reach]
    order = misses.argsort(kind="stable")
    moves, misses = moves[order], misses[order]
    slope = 2 * max(blocks.amplitude for blocks in found)
    exact = misses * slope <= MISMATCH / 4
    if exact.sum() >= 2:
        moves = moves[exact]
        return Comparison(moves=moves, weights=np.full(len(moves), 1 / len(moves)), blocks=tuple(map(float, periods)))
    if len(moves) >= 4 and np.ptp(misses) >= 0.05:
        centred = misses - misses.mean()
        weights = 1 / len(moves) - misses.mean() * centred / (centred**2).sum()
        return Comparison(moves=moves, weights=weights, blocks=tuple(map(float, periods)))
    if len(moves) >= 2 and misses.mean() * slope <= MISMATCH:
        return Comparison(moves=moves, weights=np.full(len(moves), 1 / len(moves)), blocks=tuple(map(float, periods)))
    return _none(fallback, periods, f"{met}, and too little that is comparable")


def _none(moves, periods, reason):
    weights = np.full(len(moves), 1 / max(len(moves), 1))
    return Comparison(moves=moves, weights=weights, blocks=tuple(map(float, periods)), reason=reason)


def settle_lattices(clips: Sequence[ClipSeams], lattices: Sequence[Lattice], resized: bool = False) -> list[Lattice]:
    """The lattices with the moves that fit what the clips have been through: list of Lattice.

    clips: list of ClipSeams measured on `lattices`. resized: rows and columns were resampled while reading, so that the
    blocks of a codec need not lie on multiples of 16. Lattices that were settled before stay as they are.
    """
    settled, found = [], {}
    for lattice in lattices:
        if lattice.moves is not None or lattice.reason is not None:
            settled.append(lattice)
            continue
        moved = resized and lattice.axis != "f"
        if lattice.axis not in found:
            codec = None if moved or lattice.block == 1 else lattice.block
            found[lattice.axis] = find_blocks(clips, lattice.axis, lattice.finest, codec)
        settled.append(_settle(clips, lattice, found[lattice.axis], moved))
    return settled


def _settle(clips, lattice, found, resized):
    clips = [clip for clip in clips if any(key[:2] == (lattice.axis, lattice.period) for key in clip.profiles)]
    if not clips:
        return lattice
    given = lattice
    if resized and lattice.finest >= 4 * BESIDE:
        lattice = replace(lattice, block=1)
    usable = _usable_moves(clips, lattice)
    if lattice.axis == "f":
        if reason := _temporal_reason(clips, lattice):
            return replace(lattice, reason=reason)
        alike = _coded_alike(clips, lattice)
        if alike is not None:
            moves = usable[np.isin(usable, alike)]
            if len(moves) < 2:
                return replace(
                    lattice, reason="no other frames of the files are coded as the first ones of the tiles are"
                )
            if not found:
                return replace(lattice, moves=tuple(map(int, moves)), weights=(1 / len(moves),) * len(moves))
            usable = moves
    elif not resized and lattice.block > 1 and (grown := _growth(clips, lattice)):
        return replace(lattice, reason=grown)
    if not found:
        _, kept, _ = lattice_moves(lattice)
        return lattice if kept else replace(lattice, reason=_too_short(lattice, resized))
    comparison = match_moves(lattice, found, usable)
    if comparison.reason is not None:  # a reference may still answer, with the moves that hold for any clips
        return replace(given, blocks=comparison.blocks, reason=comparison.reason)
    return replace(
        lattice,
        moves=tuple(map(int, comparison.moves)),
        weights=tuple(comparison.weights),
        blocks=comparison.blocks,
        reason=comparison.reason,
    )


def _usable_moves(clips, lattice):
    """Moves that keep off the tiles' borders and that at least half of the clips have."""
    moves = all_moves(lattice)
    profiles = [
        profile for clip in clips for key, profile in clip.profiles.items() if key[:2] == (lattice.axis, lattice.period)
    ]
    return moves[np.mean([np.isfinite(profile) for profile in profiles], axis=0)[lattice.period - 1 + moves] >= 0.5]


def _temporal_reason(clips, lattice):
    """Why nothing can be said about a lattice between frames: most clips have none but key frames on it. Else None."""
    keyed = np.mean([(lattice.axis, lattice.period) in clip.keyed for clip in clips])
    if keyed > 0.5:
        return "key frames of the files meet every border"
    return None


def _coded_alike(clips, lattice):
    """Moves to frames that take about as many bytes in the files as those at the borders, and follow such frames.

    Frames that others are predicted from take more, and the picture changes where they come. None without files.
    """
    sizes = [clip.sizes for clip in clips if clip.sizes]
    if not sizes:
        return None
    length = max(map(len, sizes))
    table = np.full((len(sizes), length), np.nan)
    for row, own in zip(table, sizes):
        row[: len(own)] = own
    count = np.isfinite(table).sum(axis=0)
    mean = np.where(count >= (len(sizes) + 1) // 2, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)
    keyed = _often_keyed(clips, length)
    mean[keyed] = np.nan
    lines = np.arange(lattice.period, length, lattice.period)
    alike = []
    for move in all_moves(lattice):
        moved = lines + move
        inside = (moved >= 1) & (moved < length)
        apart = [mean[moved[inside] - back] - mean[lines[inside] - back] for back in (0, 1)]
        apart = [values[np.isfinite(values)] for values in apart]
        if all(len(values) and abs(values.mean()) <= UNLIKE for values in apart):
            alike.append(move)
    return np.array(alike, dtype=np.int64)


def _often_keyed(clips, length):
    """bool [length]: frames at which most clips have no contrast, being key frames or beside one."""
    none = np.zeros(length)
    files = [clip for clip in clips if clip.sizes]
    for clip in files:
        values = next((values for key, values in clip.values.items() if key[0] == "f"), None)
        if values is not None:
            missing = np.flatnonzero(np.isnan(values[MARGIN:-MARGIN])) + MARGIN
            none[missing[missing < length]] += 1
    return none > len(files) / 2


def _growth(clips, lattice):
    """Why blocks of the tiles' own size are suspected: those of 16 and 32 leave more the larger they are."""
    if any(clip.block and clip.block > lattice.block for clip in clips) and lattice.period % (2 * lattice.block) == 0:
        return "the files' codec has blocks that end where the tiles do, and leaves more at the end of larger ones"
    if lattice.finest % (4 * lattice.block) and lattice.finest != 4 * lattice.block:
        return None
    keys = [(lattice.axis, "step")]
    rows = [np.clip(clip.values[key], -CLIP_VALUE, CLIP_VALUE) for key in keys for clip in clips if key in clip.values]
    growth = []
    for row in rows:
        positions = np.arange(MARGIN, len(row) - MARGIN)
        size = 2 * lattice.block
        larger = positions[(positions % size == 0) & (positions % lattice.finest != 0)]
        smaller = positions[(positions % size == lattice.block)]
        if len(larger) and len(smaller):
            growth.append(np.nanmean(row[larger]) - np.nanmean(row[smaller]))
    if len(growth) < 2:
        return None
    growth = np.array(growth)
    error = growth.std(ddof=1) / np.sqrt(len(growth))
    if growth.mean() > GROWTH and growth.mean() > 2 * error:
        return (
            f"blocks of {2 * lattice.block} leave more than those of {lattice.block} in these clips, so that "
            "larger ones of a codec are to be expected where the tiles end"
        )
    return None


def _too_short(lattice, resized):
    if resized:
        return "the clips were resized while reading, and tiles this small cannot be told from a codec's blocks"
    return f"borders every {lattice.period} samples cannot be told from a codec's blocks of {lattice.block}"
