"""Geometry of the patch pyramid: windows, extraction, cross-level coordinates and tilings.

Level `l` of a pyramid is the video on a grid of `patch * 2^l` samples (frames, rows, columns); axes that are not split
keep `patch` samples on every level. A window of a level is `patch` samples large and starts at a whole number on its
grid, so taking it out of the shrunken video is a slice.
Positions are half-pixel centred: sample `i` of an axis of `n` covers `[i, i+1] / n` of it.

Shapes: B batch, C channels, L levels, N tiles; starts are int64 in the order (frame, row, column).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F

from hpdm.config.pyramid import (
    AXES,
    BORDERS,
    OVERLAPS,
    SHRINKS,
    SPLITS,
    WINDOW_ORDERS,
    Pyramid,
    check_branching,
    window_levels,
)
from hpdm.support.errors import InputError

__all__ = [
    "AXES",
    "BORDERS",
    "OVERLAPS",
    "SHRINKS",
    "SPLITS",
    "WINDOW_ORDERS",
    "Pyramid",
    "check_branching",
    "enlarge_video",
    "extract_patches",
    "parent_coordinates",
    "parent_tiles",
    "rotating_starts",
    "sample_windows",
    "shrink_video",
    "tile_starts",
    "token_centres",
    "window_levels",
]


def sample_windows(
    pyramid: Pyramid,
    batch: int,
    generator: torch.Generator,
    order: str = "coarse-first",
    branching: Sequence[int] | None = None,
) -> torch.Tensor:
    """Random nested windows, one pyramid per sample: int64 [B, L, 3] starts, each on the grid of its level.

    `coarse-first` draws each level uniformly inside the window of the level below: a chain, which favours the middle
    of the video on the finest level. `finest-first` draws the finest window uniformly over the video and then, level
    by level, one of the windows that contain it, all with equal probability; every part of the video is then seen
    equally often on the finest level, up to its borders.

    `branching`, windows per level such as (1, 2, 4), makes the chain a tree: int64 [B, sum, 3], level by level, the
    children of a window next to each other. Siblings are independent given their parent, and every path from the
    coarsest window to a finest one has the distribution of the chain. None: one window per level.
    """
    if order not in WINDOW_ORDERS:
        raise InputError(f"Unknown order of windows {order!r}; choose one of {', '.join(WINDOW_ORDERS)}.")
    if branching is not None and max(branching) > 1:
        return _sample_tree(pyramid, batch, generator, order, branching)
    patch = torch.tensor(pyramid.patch, device=generator.device)
    zero = torch.zeros(batch, 3, dtype=torch.int64, device=generator.device)
    step = torch.tensor(pyramid.factors(1), device=generator.device)
    if order == "coarse-first":
        starts = [zero]
        for _ in range(1, pyramid.levels):
            low = step * starts[-1]
            starts.append(_uniform(low, low + patch * (step - 1), generator))
        return torch.stack(starts, dim=1)

    starts = [_uniform(zero, zero + _last_start(pyramid, pyramid.levels - 1, patch), generator)]
    for level in range(pyramid.levels - 2, -1, -1):
        child = starts[-1]
        # step * start <= child <= step * start + patch * (step - 1), and the window stays in the video.
        low = ((child - patch * (step - 1) + step - 1) // step).clamp(min=0)
        high = torch.minimum(child // step, _last_start(pyramid, level, patch))
        starts.append(_uniform(low, high, generator))
    return torch.stack(starts[::-1], dim=1)


def _sample_tree(pyramid, batch, generator, order, branching):
    check_branching(branching, pyramid.levels)
    patch = torch.tensor(pyramid.patch, device=generator.device)
    step = torch.tensor(pyramid.factors(1), device=generator.device)
    starts = [torch.zeros(batch, branching[0], 3, dtype=torch.int64, device=generator.device)]
    for level, (coarse, fine) in enumerate(pairwise(branching), 1):
        low = step * starts[-1].repeat_interleave(fine // coarse, dim=1)  # [B, n, 3]
        if order == "coarse-first":
            starts.append(_uniform(low, low + patch * (step - 1), generator))
        else:
            starts.append(low + _offsets(pyramid, level, low // step, generator))
    return torch.cat(starts, dim=1)


def _offsets(pyramid, level, parents, generator):
    """Where in their parents [B, n, 3] windows of `level` start, given the parents, under `finest-first`.

    That order is a Markov chain from fine to coarse with independent axes; this is the same chain from coarse to fine.
    """
    u = torch.rand(parents.shape, dtype=torch.float64, device=parents.device, generator=generator)
    offsets = torch.zeros_like(parents)
    for axis, name in enumerate(AXES):
        if name in pyramid.split:
            r = pyramid.patch[axis]
            cumulated = _cumulated(r, pyramid.levels, level).to(parents.device)[parents[..., axis]]  # [B, n, r + 1]
            found = torch.searchsorted(cumulated, u[..., axis, None].contiguous(), right=True)[..., 0]
            offsets[..., axis] = found.clamp(max=r)
    return offsets


@lru_cache(maxsize=64)
def _cumulated(r: int, levels: int, level: int) -> torch.Tensor:
    """P(offset <= j | parent p) of a window of `level` along an axis under `finest-first`: float64 [parents, r + 1].

    By Bayes: a child x is as likely as its own probability over the number of its parents, which all are alike.
    """
    likely = torch.ones(r * (2 ** (levels - 1) - 1) + 1, dtype=torch.float64)  # of the finest windows, uniform
    for finer in range(levels - 1, level - 1, -1):
        child = torch.arange(len(likely))
        parents = r * (2 ** (finer - 1) - 1) + 1
        count = (child // 2).clamp(max=parents - 1) - ((child - r + 1) // 2).clamp(min=0) + 1
        weights = (likely / count)[2 * torch.arange(parents)[:, None] + torch.arange(r + 1)]  # [parents, r + 1]
        likely = weights.sum(1)
    return weights.cumsum(1) / weights.sum(1, keepdim=True)


def _last_start(pyramid, level, patch):
    return patch * (torch.tensor(pyramid.factors(level), device=patch.device) - 1)


def _uniform(low, high, generator):
    """Whole numbers uniform in [low, high], both ends included."""
    u = torch.rand(low.shape, dtype=torch.float64, device=low.device, generator=generator)
    return low + (u * (high - low + 1)).long()


def shrink_video(video: torch.Tensor, levels: int, shrink: str = "area", split: str = "fhw") -> list[torch.Tensor]:
    """The video [B, C, T, H, W] (floating point) on the grids of all levels, coarse to fine; the last is `video`.

    `area` averages 2x2x2 samples per level; `stride` keeps every second frame and averages 2x2 pixels; axes that
    `split` does not name stay as they are.
    """
    if shrink not in SHRINKS:
        raise InputError(f"Unknown way to shrink a video {shrink!r}; choose one of {', '.join(SHRINKS)}.")
    size = tuple(video.shape[2:])
    f, *pixels = kernel = tuple(2 if axis in split else 1 for axis in AXES)
    if any(n % k ** (levels - 1) for n, k in zip(size, kernel, strict=True)):
        raise InputError(
            f"A video of {'x'.join(map(str, size))} does not halve {levels - 1} times; "
            f"its frames, height and width must be multiples of {2 ** (levels - 1)} for {levels} levels."
        )
    videos = [video]
    for _ in range(levels - 1):
        fine = videos[-1]
        videos.append(F.avg_pool3d(fine, kernel) if shrink == "area" else F.avg_pool3d(fine[:, :, ::f], (1, *pixels)))
    return videos[::-1]


def enlarge_video(video: torch.Tensor, shrink: str = "area", split: str = "fhw") -> torch.Tensor:
    """The video [B, C, T, H, W] (floating point) of one level on the grid of the next: smooth, and `shrink_video` of it
    is `video` up to rounding.

    Linear between samples, with half-pixel centres; what averaging would then miss is added to all that it averages.
    Under `stride` a frame is every second one of the next level, and those between are means of their neighbours.
    """
    if shrink not in SHRINKS:
        raise InputError(f"Unknown way to shrink a video {shrink!r}; choose one of {', '.join(SHRINKS)}.")
    factors = tuple(2 if axis in split else 1 for axis in AXES)
    strided = shrink == "stride" and factors[0] == 2
    averaged = (1, *factors[1:]) if strided else factors
    smooth = F.interpolate(video, scale_factor=tuple(map(float, averaged)), mode="trilinear", align_corners=False)
    missing = video - F.avg_pool3d(smooth, averaged)
    fine = smooth + F.interpolate(missing, scale_factor=tuple(map(float, averaged)), mode="nearest")
    if not strided:
        return fine
    following = torch.cat([fine[:, :, 1:], fine[:, :, -1:]], dim=2)
    return torch.stack([fine, (fine + following) / 2], dim=3).flatten(2, 3)


def extract_patches(
    video: torch.Tensor,
    windows: torch.Tensor,
    shrink: str = "area",
    split: str = "fhw",
    branching: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """Patches of a full-resolution video [B, C, T, H, W] at `windows` [B, L, 3] of `sample_windows`.

    The video has the resolution of the last level. Returns L tensors [B, C, rf, rh, rw], coarse to fine, each a copy
    of a slice of the shrunken video: no resampling beyond `shrink`. With `branching`, windows [B, sum, 3] and as many
    tensors.
    """
    of_window = window_levels(branching or (1,) * windows.shape[1])
    videos = shrink_video(video, of_window[-1] + 1, shrink, split)
    rf, rh, rw = videos[0].shape[2:]
    patches = []
    for level, starts in zip(of_window, windows.unbind(1), strict=True):
        slices = [
            sample[:, f : f + rf, h : h + rh, w : w + rw]
            for sample, (f, h, w) in zip(videos[level], starts.tolist(), strict=True)
        ]
        patches.append(torch.stack(slices))
    return patches


def token_centres(
    start: torch.Tensor, level: int, pyramid: Pyramid, tokens: tuple[int, int, int], dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, ...]:
    """Where a window's tokens lie in the video: three tensors [B, nf], [B, nh], [B, nw], fractions in (0, 1).

    `start` is int64 [B, 3] on the grid of `level`, `tokens` the number of tokens along each axis of a patch.
    """
    centres = []
    for axis, (n, r, size) in enumerate(zip(tokens, pyramid.patch, pyramid.resolution(level), strict=True)):
        offset = (torch.arange(n, dtype=torch.float64, device=start.device) + 0.5) * (r / n)
        centres.append(((start[:, axis, None] + offset) / size).to(dtype))
    return tuple(centres)


def parent_coordinates(
    start: torch.Tensor,
    level: int,
    parent_start: torch.Tensor,
    parent: int,
    pyramid: Pyramid,
    tokens: tuple[int, int, int],
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, ...]:
    """Where a window's tokens lie in a window of a coarser level: three tensors [B, n], fractions in [0, 1] of it.

    `start` int64 [B, 3] is on the grid of `level`, `parent_start` on that of level `parent`. With c the token's centre
    in the video and d, s the parent's offset and extent there, u = (c - d) / s; `2 * u - 1` is the coordinate that
    `F.grid_sample(align_corners=False)` expects.
    """
    coordinates = []
    sizes, factors = pyramid.resolution(parent), pyramid.factors(parent)
    for axis, centre in enumerate(token_centres(start, level, pyramid, tokens)):
        offset = parent_start[:, axis, None].double() / sizes[axis]
        coordinates.append(((centre - offset) * factors[axis]).to(dtype))
    return tuple(coordinates)


def tile_starts(pyramid: Pyramid, level: int, overlap: str, canvas: tuple[int, int, int] = (1, 1, 1)) -> torch.Tensor:
    """Windows that cover the whole video on `level`: int64 [N, 3], frames slowest, columns fastest.

    Neighbours overlap by half a patch along the axes that `overlap` names (`hw`: rows and columns), else they touch:
    2 * 2^l - 1 or 2^l tiles per split axis. On a larger `canvas` (see `Pyramid.resolution`) there are more, on level 0
    too.
    """
    return torch.cartesian_prod(*_axis_starts(pyramid, level, overlap, canvas))


def _axis_starts(pyramid, level, overlap, canvas):
    if overlap not in OVERLAPS:
        raise InputError(f"Unknown overlap {overlap!r}; choose one of {', '.join(OVERLAPS)}.")
    starts = []
    for name, r, n, times in zip(AXES, pyramid.patch, pyramid.factors(level), canvas, strict=True):
        overlapped = overlap != "none" and name in overlap
        if overlapped and r % 2:
            raise InputError(f"Tiles of {r} samples cannot overlap by half along axis {name}; use an even patch size.")
        step = r // 2 if overlapped else r
        starts.append(torch.arange(0, r * (n * times - 1) + 1, step))
    return starts


def rotating_starts(
    pyramid: Pyramid,
    level: int,
    overlap: str,
    count: int,
    borders: str = "covered",
    canvas: tuple[int, int, int] = (1, 1, 1),
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Up to `count` tilings of a level, to be taken in turn: of each the starts along frames, rows and columns.

    Tiles are the product of the starts. Those of the first tiling touch and cover the video. In the others they are
    shifted by half a patch along some of the axes that `overlap` names: along all, then along one part of them and
    along the other. Every tile is one of `tile_starts(pyramid, level, overlap, canvas)`; borders of one tiling are the
    middle of another's tiles. A shifted axis of n patches has n - 1 tiles between the borders, and half a patch at
    either end that no tile covers: with borders "kept". "covered" adds a tile at either end, which overlaps its
    neighbour by half: n + 1 tiles. Axes of one patch cannot be shifted, so there may be fewer than `count` tilings, and
    without overlap there is one.
    """
    if borders not in BORDERS:
        raise InputError(f"Unknown borders {borders!r}; choose one of {', '.join(BORDERS)}.")
    plain = _axis_starts(pyramid, level, "none", canvas)
    dense = _axis_starts(pyramid, level, overlap, canvas)
    shifted = [every[1::2] if len(every) > len(whole) else whole for whole, every in zip(plain, dense, strict=True)]
    if borders == "covered":
        shifted = [
            torch.cat([every[:1], inner, every[-1:]]) if len(every) > len(whole) else whole
            for whole, every, inner in zip(plain, dense, shifted, strict=True)
        ]
    movable = [axis for axis in range(3) if len(dense[axis]) > len(plain[axis])]
    tilings = []
    for moved in _shifts(movable)[:count]:
        tilings.append(tuple(shifted[axis] if axis in moved else plain[axis] for axis in range(3)))
    return tilings


def _shifts(axes):
    """All subsets of `axes`, each followed by its complement, from the empty one on."""
    whole = (1 << len(axes)) - 1
    masks = dict.fromkeys(each for mask in range(1 << len(axes)) for each in (mask, whole ^ mask))
    return [{axis for bit, axis in enumerate(axes) if mask >> bit & 1} for mask in masks]


def parent_tiles(
    pyramid: Pyramid,
    level: int,
    starts: torch.Tensor,
    parent: int,
    overlap: str,
    canvas: tuple[int, int, int] = (1, 1, 1),
) -> torch.Tensor:
    """For each tile [N, 3] of `level`, the tile of the coarser level `parent` that contains it: int64 [N, 3] starts.

    Parents come from `tile_starts(pyramid, parent, overlap, canvas)`, so that a few windows serve all tiles; of those that
    contain a tile the one is taken whose centre is nearest to the tile's, the earlier of two equally near.
    """
    chosen = []
    for axis, candidates in enumerate(_axis_starts(pyramid, parent, overlap, canvas)):
        r, factor = pyramid.patch[axis], pyramid.factors(level - parent)[axis]
        before = starts[:, axis, None] - factor * candidates  # [N, candidates], on the grid of `level`
        room = (factor - 1) * r
        contained = (before >= 0) & (before <= room)
        if not contained.any(1).all():
            raise ValueError(f"tiles of level {level} without a parent on level {parent} along axis {AXES[axis]}")
        distance = (2 * before - room).abs().masked_fill(~contained, torch.iinfo(torch.int64).max)
        chosen.append(candidates[distance.argmin(1)])
    return torch.stack(chosen, dim=1)
