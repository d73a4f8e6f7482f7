"""Steps at the borders between samples: log contrasts of every position of a clip; seams.py scores lattices of them.

A position p of an axis is the border between sample p-1 and sample p. The step there is a third difference,

    s(p) = (x[p] - x[p-1]) - ((x[p-1] - x[p-2]) + (x[p+1] - x[p])) / 2

which is the height of a step at p, is 0 for anything that is quadratic across it, and unlike a second difference is
centred on the border. Two statistics are made of it, both as log contrasts to the neighbouring positions:

- `step`: the size of s, |s| averaged over the pixels of a stretch. Sees any mismatch: shifted, blurred, unrelated
  tiles.
- `coherent-step`: s averaged with its sign over a stretch, then its size. Texture cancels, a tone step does not: sees
  offsets between tiles that are far below the texture, and is blind to a mismatch without one.

A stretch is what one pair of neighbouring tiles shares. |s| is clipped at `CLIP` grey levels before averaging, so
that a single strong edge does not decide for its stretch.

Both are also measured with a brightness step of `STEP` put in between the tiles, which shows whether one would be
found in these very clips.

    T frames, H rows, W columns, x luma in grey levels; axes "f", "h", "w"
"""

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np

AXES = "fhw"
STATISTICS = ("step", "coherent-step")
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
CLIP = {"step": 32.0, "coherent-step": 4.0}  # grey levels
FLOOR = {"step": 0.25, "coherent-step": 0.1}  # grey levels, added before the logarithm
NEIGHBOURS = np.array([-6, -5, -4, -3, -2, 2, 3, 4, 5, 6])  # s has side lobes at +-1
MARGIN = 3  # nearest position to the video's border at which s and enough of its neighbours exist
STEP = 1  # grey levels between tiles that must be found where "no seam" is said
MOST_FRAMES = 64  # of a clip that are read for spatial seams, evenly spread


def axis_contrasts(video: np.ndarray, axis: str, finest: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Log contrast of each position and stretch: {statistic: float64 [n + 1, stretches]}; row p is border p.

    video: uint8 [T,H,W,3]; finest: {axis: period of all tile borders}, which cuts the other axes into stretches.
    Along h and w, `coherent-step` has the stretches of one tile in time after those of the other. Rows where s or its
    neighbours do not exist are NaN.
    """
    return {statistic: plain for statistic, (plain, _) in contrasts_with_step(video, axis, finest).items()}


def contrasts_with_step(
    video: np.ndarray, axis: str, finest: Mapping[str, int], levels: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """{statistic: (`axis_contrasts`, the same with tiles raised by `levels`, int [tiles along f, h, w])}."""
    size = video.shape[AXES.index(axis)]
    if axis == "f":
        parts = [_sums_in_time(video, finest, levels)]
    else:
        parts = []
        for frames in _chosen_frames(len(video), finest.get("f")):
            own = None if levels is None else levels[frames[0] // finest.get("f", len(video))]
            parts.append(_sums_in_space(video[frames], axis, finest, own))
    area = sum(part["pixels"] for part in parts)
    result = {}
    for statistic in STATISTICS:
        # a mismatch has no sign to lose over time; a tone step may change with every tile
        both = [
            sum(part[kind][statistic] for part in parts) / area
            if statistic == "step"
            else np.abs(np.concatenate([part[kind][statistic] / part["pixels"] for part in parts], axis=1))
            for kind in ("plain", "stepped")
        ]
        result[statistic] = tuple(_against_neighbours(np.log(values + FLOOR[statistic]), size) for values in both)
    return result


def random_levels(video: np.ndarray, finest: Mapping[str, int]) -> np.ndarray:
    """0 or `STEP` for every tile: int [tiles along f, h, w]; depends on the first frame alone."""
    tiles = [len(cuts(video.shape, number, finest)) for number in range(3)]
    return STEP * np.random.default_rng(crc32(np.ascontiguousarray(video[0]).data)).integers(2, size=tiles)


def _spread_out(levels, shape, numbers, finest):
    """float32 image of `levels` [tiles, tiles], in tiles of the axes `numbers` of a video of `shape`."""
    for axis, number in enumerate(numbers):
        starts = cuts(shape, number, finest)
        levels = np.repeat(levels, np.diff(np.append(starts, shape[number])), axis=axis)
    return levels.astype(np.float32)


def _chosen_frames(count, period):
    """Frame numbers by tile in time: all, or `MOST_FRAMES` spread evenly where there are more."""
    chosen = np.arange(count)
    if count > MOST_FRAMES:
        chosen = np.linspace(0, count - 1, MOST_FRAMES).round().astype(int)
    return np.split(chosen, np.flatnonzero(np.diff(chosen // (period or count))) + 1)


def cuts(shape: Sequence[int], number: int, finest: Mapping[str, int]) -> np.ndarray:
    """First samples of the stretches along axis `number`."""
    return np.arange(0, shape[number], finest.get(AXES[number], shape[number]))


def _luma(video):
    """float32 of the shape of `video` without its last axis; a product of matrices is slow on bytes."""
    return video[..., 0] * LUMA[0] + video[..., 1] * LUMA[1] + video[..., 2] * LUMA[2]


def third_difference(x: np.ndarray, axis: int) -> np.ndarray:
    """s at borders 2..n-2 of `axis`: float array with n-3 entries there."""
    x = np.moveaxis(x, axis, 0)
    return np.moveaxis(1.5 * (x[2:-1] - x[1:-2]) - 0.5 * (x[3:] - x[:-3]), 0, axis)


def _sums_in_space(video, axis, finest, levels=None):
    """Sums of |s| and s over the stretches of the frames of one tile in time, plain and with tiles raised.

    levels: int [tiles along h, along w], of what tiles are raised by. Returns {"plain", "stepped": {statistic:
    [n - 3, stretches]}, "pixels": [stretches]}.
    """
    number = AXES.index(axis)
    s = np.moveaxis(third_difference(_luma(video), number), number, 0)  # [n - 3, frames, across]
    starts = cuts(video.shape, 3 - number, finest)

    def summed(s):
        return {
            statistic: np.add.reduceat(values.sum(axis=1, dtype=np.float64), starts, axis=1)
            for statistic, values in _clipped(s).items()
        }

    plain = summed(s)
    stepped = {statistic: sums.copy() for statistic, sums in plain.items()}
    if levels is not None:
        image = _spread_out(levels, video.shape, (1, 2), finest)
        steps = third_difference(image if axis == "h" else image.T, 0)
        at = np.flatnonzero(steps.any(axis=1))
        for statistic, sums in summed(s[at] + steps[at, None]).items():
            stepped[statistic][at] = sums
    pixels = np.diff(np.append(starts, video.shape[3 - number])) * len(video)
    return {"plain": plain, "stepped": stepped, "pixels": pixels}


def _sums_in_time(video, finest, levels=None):
    """The same along time, where a stretch is the area of a tile; four frames are held at a time.

    levels: int [tiles along f, h, w].
    """
    rows, columns = cuts(video.shape, 1, finest), cuts(video.shape, 2, finest)
    pixels = np.outer(np.diff(np.append(rows, video.shape[1])), np.diff(np.append(columns, video.shape[2])))
    window, sums = [], {kind: {statistic: [] for statistic in STATISTICS} for kind in ("plain", "stepped")}

    def add(kind, s):
        for statistic, plane in _clipped(s).items():
            tiles = np.add.reduceat(np.add.reduceat(plane, rows, axis=0, dtype=np.float64), columns, axis=1)
            sums[kind][statistic].append(tiles.ravel())

    for last, frame in enumerate(video):
        window = [*window[-3:], _luma(frame)]
        if len(window) < 4:
            continue
        s = third_difference(np.stack(window), 0)[0]
        add("plain", s)
        steps = None if levels is None else third_difference(levels[np.arange(last - 3, last + 1) // finest["f"]], 0)[0]
        if steps is not None and steps.any():
            add("stepped", s + _spread_out(steps, video.shape, (1, 2), finest))
        else:
            for statistic in STATISTICS:
                sums["stepped"][statistic].append(sums["plain"][statistic][-1])
    return {
        **{kind: {statistic: np.array(values) for statistic, values in own.items()} for kind, own in sums.items()},
        "pixels": pixels.ravel(),
    }


def _clipped(s):
    limit = CLIP["coherent-step"]
    return {"step": np.minimum(np.abs(s), CLIP["step"]), "coherent-step": np.clip(s, -limit, limit)}


def _against_neighbours(logs, size):
    """Each position's value less the median of its neighbours: [n-3, k] → [n, k] with NaN where there is none."""
    full = np.full((size + 1, logs.shape[1]), np.nan)
    full[2 : size - 1] = logs
    padded = np.pad(full, ((6, 6), (0, 0)), constant_values=np.nan)
    around = np.stack([padded[6 + offset : 6 + offset + size + 1] for offset in NEIGHBOURS])
    result = np.full_like(full, np.nan)
    inner = slice(MARGIN, size - MARGIN + 1)
    result[inner] = full[inner] - np.nanmedian(around[:, inner], axis=0)
    return result
