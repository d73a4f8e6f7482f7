"""Seams: is there a step where the patches of a tiled sampler meet? Per-clip measurement; seam_tests.py judges it.

What is scored is the log contrast of each border position to its neighbours, by two statistics, `step` and
`coherent-step`, of seam_contrasts.py.

A clip's score for a lattice is the median over the lattice's lines (a letterbox edge, or whatever sits at one or two
heights, does not move it) minus the same median for the whole lattice moved aside. Moves are multiples of the codec's
macroblock where the period leaves room for one, so compression blocks are on both sides of the difference and cancel.
Blocks that lie elsewhere, because a clip was resized after its codec, are looked for in the clips, and the moves chosen
to fit (seam_blocks.py, seam_moves.py). Moving the lattice, in place of pooling other positions, keeps the
number and the spacing of lines: the median of few skewed values is biased, and only the same median has the same
bias.

    T frames, H rows, W columns, x luma in grey levels; axes "f", "h", "w"
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.clips.coding import Coding
from hpdm_eval.metrics.seam_contrasts import AXES, MARGIN, STATISTICS, contrasts_with_step, cuts, random_levels
from hpdm_eval.metrics.tilings import OVERLAPS

CODEC = {"f": 4, "h": 16, "w": 16}  # cadence of frame types, macroblock
FEWEST_MOVES = 2
SHORTEST_PERIOD = 4


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Equally spaced border positions along one axis, and how it may be moved aside for comparison."""

    axis: str  # f, h or w
    period: int  # frames or pixels between lines
    finest: int  # period of all tile borders of this axis together; moves avoid it
    block: int  # frames or pixels of the codec's blocks; moves keep to it. 1 for clips that no codec has touched
    moves: tuple[int, ...] | None = None  # chosen for the clips; None: by `block`
    weights: tuple[float, ...] | None = None  # of the moves; None: all alike
    blocks: tuple[float, ...] = ()  # periods of blocks found in the clips, which the moves keep to
    reason: str | None = None  # why nothing can be said about this lattice without a reference


def parse_patch(size: str | Iterable[int]) -> tuple[int, int, int]:
    """(frames, height, width) of "16x64x64", or of three numbers; raises InputError."""
    text = size if isinstance(size, str) else "x".join(map(str, size or ()))
    try:
        patch = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        patch = ()
    if len(patch) != 3 or min(patch) < 1:
        raise InputError(f"{text!r} is not a size: write frames x height x width, such as 16x64x64")
    return patch


def seam_lattices(
    patch: tuple[int, int, int],
    overlap: str = "none",
    levels: int = 1,
    lossless: bool = False,
    split: str = AXES,
    canvas: tuple[int, int, int] = (1, 1, 1),
) -> tuple[Lattice, ...]:
    """Where tiles of `patch` (frames, height, width), in samples of the finest level, may leave seams.

    `overlap` names the axes on which tiles overlap by half: there both borders of an overlap are positions, so the half
    period is a lattice as well. A level k steps coarser has tiles twice^k as large in the finest video; `levels` counts
    those that are tiled (the coarsest level of a pyramid is one tile and has no seam). lossless: the clips have never
    been through a codec or JPEG, so there are no blocks to keep to. split: axes that levels double; along the others a
    tile of any level has the patch's size. canvas: how many times as large as in training the video is along each axis;
    where that is more than once, the coarsest level has several tiles too. Returns a tuple of Lattice, each (axis,
    period) once, without periods below `SHORTEST_PERIOD`, where a step and its neighbours cannot be told apart. Raises
    InputError.
    """
    if overlap not in OVERLAPS:
        raise InputError(f"unknown overlap {overlap!r}; choose one of {', '.join(OVERLAPS)}")
    lattices = []
    for axis, size, times in zip(AXES, patch, canvas, strict=True):
        several = times > 1
        periods = {size} if several else set()
        if axis in split:
            periods = {size << level for level in range(levels + several)}
        if overlap != "none" and axis in overlap:
            if size % 2:
                raise InputError(f"patches of {size} samples cannot overlap by half along axis {axis}")
            periods |= {period // 2 for period in periods}
        block = 1 if lossless else CODEC[axis]
        lattices += [
            Lattice(axis=axis, period=period, finest=min(periods), block=block)
            for period in sorted(periods)
            if period >= SHORTEST_PERIOD
        ]
    return tuple(lattices)


def lattice_moves(lattice: Lattice) -> tuple[np.ndarray, bool, int]:
    """(moves int64, whether they keep to the codec's blocks, the step they keep to).

    How far a lattice may be moved aside for comparison: by multiples of the codec's block or, where the period is too
    small for that, of the largest half of a block that leaves one; no move puts a line on, or beside, a tile's border.
    Where moves were chosen for the clips, these.
    """
    if lattice.moves is not None:
        return np.array(lattice.moves, dtype=np.int64), lattice.reason is None, 1
    step = lattice.block
    while True:
        moves = np.arange(step, lattice.period, step)
        moves = moves[_clear(moves, lattice.finest)]
        if len(moves) or step == 1:
            break
        step //= 2
    return np.concatenate([-moves[::-1], moves]), step == lattice.block, step


def all_moves(lattice: Lattice) -> np.ndarray:
    """Every move, in one-sample steps, that puts no line on or beside a border: int64, sorted, without 0."""
    moves = np.arange(1, lattice.period)
    moves = moves[_clear(moves, lattice.finest)]
    return np.concatenate([-moves[::-1], moves])


def _clear(moves, finest):
    offset = moves % finest
    return np.minimum(offset, finest - offset) >= min(2, finest // 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipSeams:
    """What is kept of a clip: a few kilobytes."""

    name: str
    shape: tuple[int, int, int]  # frames, rows, columns
    scores: dict  # (axis, period, statistic) → score, log units; missing where the clip has no line
    profiles: dict  # (axis, period, statistic) → float32 [2 period - 1]: median over lines at moves 1-period..period-1
    edges: dict  # (axis, statistic) → `border_excess` of the shortest lattice: where the seams are
    values: dict = field(default_factory=dict)  # (axis, statistic) → float32 [n + 1]: contrast at each position
    contrasts: dict = field(default_factory=dict)  # (axis, statistic) → float16 [n + 1, across]: by tile across
    keyed: frozenset = frozenset()  # (axis, period) of lattices all of whose lines are key frames
    sizes: tuple[float, ...] = ()  # log of the bytes of each frame in its file, for files that frames of differ in
    block: int | None = None  # pixels of the squares of its file's codec; None where there is no file to say it
    source: str | None = None  # what other clips may be cut from as well; None: a draw of its own
    stepped: dict = field(default_factory=dict)  # as `values`, with `STEP` put in between tiles; key frames have one


def measure_clip(
    video: np.ndarray, lattices: Sequence[Lattice], name: str = "", coding: Coding | None = None
) -> ClipSeams:
    """Measure one clip, uint8 [T,H,W,3], on `lattices` of `seam_lattices`: ClipSeams.

    coding: the `hpdm_eval.clips.coding.Coding` of its file, whose frames the clip shows from the first on.
    """
    finest = {lattice.axis: lattice.finest for lattice in lattices}
    values, contrasts, stepped = {}, {}, {}
    levels = random_levels(video, finest)
    for number, axis in enumerate(AXES):
        if axis not in finest or video.shape[number] < finest[axis] + MARGIN:
            continue
        across = len(cuts(video.shape, 3 - number, finest)) if axis != "f" else None
        found = contrasts_with_step(video, axis, finest, levels)
        for statistic, (contrast, raised) in found.items():
            values[axis, statistic] = contrast.mean(axis=1).astype(np.float32)
            assert raised is not None  # there are levels
            stepped[axis, statistic] = raised.mean(axis=1).astype(np.float32)
            across = across or contrast.shape[1]
            contrasts[axis, statistic] = contrast.reshape(len(contrast), -1, across).mean(axis=1).astype(np.float16)
    keys = coding.inner_keys if coding else ()
    near = [key + offset for key in keys for offset in (-1, 0, 1) if key + offset <= len(video)]
    if near:
        for statistic in STATISTICS:
            if ("f", statistic) in values:
                values["f", statistic][near] = np.nan
    clip = ClipSeams(
        name=name,
        shape=video.shape[:3],
        scores={},
        profiles={},
        edges={},
        values=values,
        contrasts=contrasts,
        stepped=stepped,
        block=coding.block if coding else None,
        sizes=tuple(np.log(np.maximum(coding.sizes[: len(video)], 1))) if coding and not coding.intra else (),
    )
    return rescore(clip, lattices)


def rescore(clip: ClipSeams, lattices: Sequence[Lattice]) -> ClipSeams:
    """The ClipSeams of a clip measured before, with scores, profiles and edges on `lattices`."""
    scores, profiles, edges, keyed = {}, {}, {}, set()
    for (axis, statistic), values in clip.values.items():
        own = [lattice for lattice in lattices if lattice.axis == axis]
        shortest = min((lattice.period for lattice in own), default=None)
        for lattice in own:
            profile = move_profile(values, lattice)
            if axis == "f" and np.isnan(profile[lattice.period - 1]) and np.isnan(values[MARGIN:-MARGIN]).any():
                raw = clip.contrasts[axis, statistic].astype(np.float64).mean(axis=1)
                profile = move_profile(raw, lattice)
                keyed.add((axis, lattice.period))
            score = lattice_score(profile, lattice)
            if score is None:
                continue
            key = (axis, lattice.period, statistic)
            profiles[key], scores[key] = profile.astype(np.float32), score
            if lattice.period == shortest:
                edges[axis, statistic] = border_excess(clip.contrasts[axis, statistic], lattice)
    return replace(clip, scores=scores, profiles=profiles, edges=edges, keyed=frozenset(keyed))


def with_step(clip: ClipSeams) -> ClipSeams:
    """The ClipSeams of the clip with `STEP` put in between its tiles; to be scored by `rescore`."""
    values = {key: np.where(np.isnan(clip.values[key]), np.nan, stepped) for key, stepped in clip.stepped.items()}
    contrasts = {key: stepped[:, None] for key, stepped in clip.stepped.items()}
    return replace(clip, values=values, contrasts=contrasts, stepped={}, scores={}, profiles={}, edges={})


def move_profile(values: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Median of `values` [n + 1], one a border, over the lattice's lines, at moves 1-period..period-1: [2 period - 1].

    Moves that take a line out of the video are NaN. The first and last lines are left out where they could not be moved
    outward at all: every move must have as many lines as the lattice itself. Lines without a value, at key frames, do
    not count; a move must keep half as many as the lattice has.
    """
    last = len(values) - 1 - MARGIN
    lines = np.arange(lattice.period, last + 1, lattice.period)
    profile = np.full(2 * lattice.period - 1, np.nan)
    nearest = np.abs(lattice_moves(replace(lattice, moves=None))[0]).min(initial=lattice.period)
    if len(lines) > 1 and lines[-1] + nearest > last:
        lines = lines[:-1]
    if len(lines) > 1 and lines[0] - nearest < MARGIN:
        lines = lines[1:]
    own = np.isfinite(values[lines]).sum()
    moves = np.arange(1 - lattice.period, lattice.period)
    if not own:
        return profile
    inside = (lines[0] + moves >= MARGIN) & (lines[-1] + moves <= last)
    moved = np.sort(values[lines[:, None] + moves[inside]], axis=0)  # NaN last
    counts = np.isfinite(moved).sum(axis=0)
    each = np.arange(len(counts))
    middle = (moved[np.maximum(counts - 1, 0) // 2, each] + moved[np.minimum(counts // 2, len(lines) - 1), each]) / 2
    profile[inside] = np.where(2 * counts >= own, middle, np.nan)
    return profile


def lattice_score(profile: np.ndarray, lattice: Lattice) -> float | None:
    """The lattice's own value less the mean over its moves; None where there is no line, or too few moves fit.

    Moves that have weights are all needed.
    """
    own = profile[lattice.period - 1]
    moved = profile[lattice.period - 1 + lattice_moves(lattice)[0]]
    if lattice.weights is not None and np.ptp(lattice.weights) > 0:
        moved = moved @ np.array(lattice.weights)
        return float(own - moved) if np.isfinite(own - moved) else None
    moved = moved[np.isfinite(moved)]
    if not np.isfinite(own) or len(moved) < FEWEST_MOVES:
        return None
    return float(own - moved.mean())


def border_excess(contrast: np.ndarray, lattice: Lattice, across: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Where on a lattice: (lines int64, float32 [lines, across]), each border's contrast less that of its own moves.

    contrast: [n + 1, k * across] as `axis_contrasts` makes it; the k tiles in time are averaged. across: by default
    all columns.
    """
    last = len(contrast) - 1 - MARGIN
    lines = np.arange(lattice.period, last + 1, lattice.period)
    across = across or contrast.shape[1]
    values = contrast.reshape(len(contrast), -1, across).astype(np.float64).mean(axis=1)
    excess = np.empty((len(lines), across), dtype=np.float32)
    for row, line in enumerate(lines):
        moved = line + lattice_moves(lattice)[0]
        moved = moved[(moved >= MARGIN) & (moved <= last)]
        excess[row] = values[line] - (values[moved].mean(axis=0) if len(moved) else 0)
    return lines, excess
