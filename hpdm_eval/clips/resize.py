"""Centre crop and resizing of uint8 frames, the same to the bit on every machine.

    T frames, H and W rows and columns, C = 3 channels: videos are uint8 [T,H,W,C]

Every method is a short weighted sum per output row and column. The sums are plain float32 multiplications and
additions in a fixed order (no matrix product, whose order depends on the library), rounded half to even and clipped
to 0..255. Pixels are half-pixel centred (`align_corners=False`).

    bilinear   `F.interpolate(mode="bilinear")` of PyTorch, with `antialias` as its argument of that name
    bicubic    `F.interpolate(mode="bicubic")`; a = -0.75 without and -0.5 with antialiasing, as there
    area       `F.interpolate(mode="area")`: the mean over the source pixels that an output pixel touches
    lanczos    three lobes with antialiasing, as Pillow's

Against PyTorch in float64 results differ in rare pixels and by one grey level: where a sum lies on a rounding border.
"""

from functools import lru_cache

import numpy as np


def center_window(height: int, width: int, resolution: tuple[int, int] | None) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest centred window with the aspect of `resolution` (None: a square)."""
    target_height, target_width = resolution or (1, 1)
    if height * target_width > width * target_height:
        rows, columns = max(width * target_height // target_width, 1), width
    else:
        rows, columns = height, max(height * target_width // target_height, 1)
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def resize(
    video: np.ndarray, resolution: tuple[int, int], method: str = "bilinear", antialias: bool = False
) -> np.ndarray:
    """Resize `video` uint8 [T,H,W,C] to (height, width); returns uint8 [T,height,width,C], contiguous."""
    height, width = resolution
    frames, source_height, source_width, channels = video.shape
    if (source_height, source_width) == (height, width):
        return np.ascontiguousarray(video)
    rows, row_weights = axis_taps(source_height, height, method, antialias)
    columns, column_weights = axis_taps(source_width, width, method, antialias)
    out = np.empty((frames, height, width, channels), np.uint8)
    for t in range(frames):  # frame by frame: the float copies stay in the processor's cache
        wide = _weighted_sum(video[t].astype(np.float32), rows, row_weights[..., None, None])
        full = _weighted_sum(wide.swapaxes(0, 1), columns, column_weights[..., None, None])
        out[t] = np.clip(np.rint(full, out=full), 0, 255, out=full).swapaxes(0, 1)
    return out


@lru_cache(maxsize=64)
def axis_taps(source: int, target: int, method: str, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Source positions int64 [K,target] and weights float32 [K,target] of an output position along one axis."""
    if source == target:
        return np.arange(target)[None], np.ones((1, target), np.float32)
    if method == "area":
        return _area_taps(source, target)
    scale = source / target
    centre = (np.arange(target) + 0.5) * scale
    kernel, radius = _kernel(method, antialias)
    stretch = max(scale, 1.0) if antialias else 1.0
    first = np.floor(centre - radius * stretch - 0.5).astype(np.int64)
    taps = first + np.arange(int(np.ceil(2 * radius * stretch)) + 2)[:, None]
    weights = kernel((taps + 0.5 - centre) / stretch)
    inside = (taps >= 0) & (taps < source)
    if antialias:  # the window ends at the border and the rest is weighted up; without it, border pixels repeat
        weights = np.where(inside, weights, 0.0)
    weights = weights / weights.sum(0)
    used = np.abs(weights).max(1) > 0
    return np.clip(taps, 0, source - 1)[used], weights[used].astype(np.float32)


def _area_taps(source, target):
    low = np.arange(target) * source // target
    high = -(-(np.arange(target) + 1) * source // target)
    taps = low + np.arange((high - low).max())[:, None]
    weights = np.where(taps < high, 1.0 / (high - low), 0.0)
    return np.clip(taps, 0, source - 1), weights.astype(np.float32)


def _kernel(method, antialias):
    if method == "bilinear":
        return (lambda x: np.maximum(1 - np.abs(x), 0)), 1
    if method == "bicubic":
        return (lambda x: _cubic(np.abs(x), -0.5 if antialias else -0.75)), 2
    return (lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)), 3


def _cubic(x, a):
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _weighted_sum(lines, taps, weights):
    """Sum over k of lines[taps[k]] * weights[k] along the first axis."""
    total = np.take(lines, taps[0], axis=0)
    total *= weights[0]
    for positions, weight in zip(taps[1:], weights[1:]):
        term = np.take(lines, positions, axis=0)
        term *= weight
        total += term
    return total
