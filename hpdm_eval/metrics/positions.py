"""Figures by the position of a tile in the video: is a corner as good as the inside?

A video is cut into tiles that touch. A tile's position is how many of the axes that are divided it touches the video's
border on: of three divided axes 0 is inside, 1 a face, 2 an edge, 3 a corner. Windows that are drawn level by level, as
HPDM's are (section 4.1), come to the corners of the finest level once in 10^5 draws, and every video has eight.

FVD by position is the distance of tiles of samples from tiles of real clips at the same position. Seams by position
are the steps of `hpdm_eval.metrics.seams` at single borders between two tiles: a border touches what one of its tiles
touches.

    T frames, H rows, W columns; axes "f", "h", "w"
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.clips.selection import seeded_key
from hpdm_eval.metrics.seam_contrasts import AXES, MARGIN, STATISTICS, axis_contrasts
from hpdm_eval.metrics.seams import Lattice, lattice_moves

NAMES = {1: ("inside", "face"), 2: ("inside", "edge", "corner"), 3: ("inside", "face", "edge", "corner")}
POSITIONS = NAMES[3]


def tiles_by_position(shape: Sequence[int], patch: Sequence[int]) -> dict[str, list[tuple[int, ...]]]:
    """Where the touching tiles of a video are: {position: list of (frame, row, column) starts}, inside first.

    shape, patch: (frames, rows, columns). Where the video is no multiple of the patch, the last tile of an axis ends
    with the video and overlaps the one before. Raises InputError for a patch that is larger than the video, or as large
    on every axis, so that there is one tile alone.
    """
    if any(size < length for size, length in zip(shape, patch, strict=True)):
        raise InputError(f"tiles of {_size(patch)} do not fit into clips of {_size(shape)}")
    starts = []
    for size, length in zip(shape, patch):
        own = list(range(0, size - length + 1, length))
        starts.append(own if own[-1] + length == size else [*own, size - length])
    divided = sum(len(own) > 1 for own in starts)
    if not divided:
        raise InputError(f"clips of {_size(shape)} are one tile of {_size(patch)}: no position differs from another")
    found = {name: [] for name in NAMES[divided]}
    for start in product(*starts):
        touching = sum(len(own) > 1 and place in (own[0], own[-1]) for place, own in zip(start, starts))
        found[NAMES[divided][touching]].append(start)
    return {name: tiles for name, tiles in found.items() if tiles}


def draw_tiles(
    shape: Sequence[int], patch: Sequence[int], count: int, name: str, seed: int = 0
) -> dict[str, list[tuple[int, ...]]]:
    """`count` random tiles of each position, fewer where there are fewer: {position: list of starts}.

    They depend on `seed` and the clip's `name` alone, so that no clip depends on which others are there.
    """
    return {
        position: sorted(sorted(tiles, key=lambda start: seeded_key(seed, f"{name}\0{start}"))[:count])
        for position, tiles in tiles_by_position(shape, patch).items()
    }


def cut_tile(video: np.ndarray, start: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    """The tile of a uint8 [T,H,W,3] video at `start`: uint8 [*patch, 3], a copy."""
    return np.ascontiguousarray(video[tuple(slice(at, at + length) for at, length in zip(start, patch))])


def seams_by_position(video: np.ndarray, lattices: Sequence[Lattice]) -> dict[tuple[str, str], dict[str, float]]:
    """Excess of steps at the borders of touching tiles: {(axis, statistic): {position: float}}, log units.

    video: uint8 [T,H,W,3]; lattices: of `seams.seam_lattices`, of which the finest of each axis is looked at and cuts
    the other axes into tiles. Each border's contrast less the mean contrast of the same stretch at the lattice's moves,
    averaged over the borders of a position. An axis too short for a border and its moves has no entry. This compares
    positions and sets of clips and is no verdict: blocks of a codec from before a resize are not looked for.
    """
    own = {}
    for lattice in lattices:
        if lattice.period == lattice.finest:
            own.setdefault(lattice.axis, lattice)
    finest = {axis: lattice.period for axis, lattice in own.items()}
    found = {}
    for axis, lattice in own.items():
        if video.shape[AXES.index(axis)] < lattice.period + MARGIN:
            continue
        contrasts, cells = _contrasts_by_cell(video, axis, finest)
        last = video.shape[AXES.index(axis)] - MARGIN
        lines = np.arange(lattice.period, last + 1, lattice.period)
        moves = lattice_moves(lattice)[0]
        ends = {0, -(-video.shape[AXES.index(axis)] // lattice.period) - 1}
        names = NAMES[1 + sum(count > 1 for count in cells)]
        for statistic, values in contrasts.items():
            excess = {name: [] for name in names}
            for line in lines:
                beside = line + moves
                beside = beside[(beside >= MARGIN) & (beside <= last)]
                if not len(beside):
                    continue
                above = values[line] - values[beside].mean(axis=0)
                number = line // lattice.period
                along = bool({number - 1, number} & ends)
                for cell in np.ndindex(*cells):
                    touching = along + sum(count > 1 and place in (0, count - 1) for place, count in zip(cell, cells))
                    excess[names[touching]].append(above[cell])
            found[axis, statistic] = {name: float(np.mean(each)) for name, each in excess.items() if each}
    return found


def _contrasts_by_cell(video, axis, finest):
    """({statistic: float64 [n + 1, *cells]}, cells): contrasts of each border position and tile across the axis."""
    rest = [other for other in AXES if other != axis]
    counts = tuple(
        -(-video.shape[AXES.index(other)] // finest.get(other, video.shape[AXES.index(other)])) for other in rest
    )
    if axis == "f":
        parts = [axis_contrasts(video, axis, finest)]
    else:  # frames are the first of the other axes; a tile in time is measured by itself
        length = finest.get("f", len(video))
        spatial = {key: period for key, period in finest.items() if key != "f"}
        parts = [axis_contrasts(video[start : start + length], axis, spatial) for start in range(0, len(video), length)]
    joined = {statistic: np.concatenate([part[statistic] for part in parts], axis=1) for statistic in STATISTICS}
    return {name: values.reshape(len(values), *counts) for name, values in joined.items()}, counts


def _size(numbers):
    return "x".join(map(str, numbers))
