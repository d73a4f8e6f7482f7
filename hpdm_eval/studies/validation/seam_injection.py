"""Known seams put into real clips: what a seam metric must find, at a known size.

T frames, H rows, W columns; clips are uint8 [T,H,W,3]
"""

from collections.abc import Sequence

import numpy as np

from hpdm.support.errors import InputError

KINDS = ("brightness", "shift", "blur", "none")
DIRECTIONS = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])


def inject_seams(video: np.ndarray, patch: Sequence[int], kind: str, amount: int, seed: int = 0) -> np.ndarray:
    """A copy of `video` whose tiles of `patch` (frames, height, width) do not fit together.

    brightness: each tile is raised by 0 or `amount` grey levels, at random (half of all borders carry no step at all).
    shift: each tile shows the picture `amount` pixels up, down, left or right of where it stands, at random.
    blur: every second tile, at random, is averaged with its copies `amount` pixels away on both sides.
    none: unchanged. Values are clipped to 0..255; pixels beyond the video repeat its border.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of seam {kind!r}; choose one of {', '.join(KINDS)}")
    if kind == "none" or amount == 0:
        return video.copy()
    rng = np.random.default_rng(seed)
    padded = None
    if kind != "brightness":
        padded = np.pad(video, ((0, 0), (amount, amount), (amount, amount), (0, 0)), mode="edge")
    result = video.copy()
    for tile in _tiles(video.shape[:3], patch):
        (frames, rows, columns) = tile
        if kind == "brightness":
            raised = video[tile].astype(np.int16) + amount * rng.integers(2)
            result[tile] = np.clip(raised, 0, 255).astype(np.uint8)
        elif kind == "shift":
            result[tile] = _moved(padded, tile, amount * DIRECTIONS[rng.integers(4)], amount)
        elif rng.integers(2):
            copies = [_moved(padded, tile, amount * direction, amount) for direction in DIRECTIONS]
            result[tile] = np.mean([*copies, video[tile]], axis=0).round().astype(np.uint8)
    return result


def _tiles(shape, patch):
    starts = [range(0, size, step) for size, step in zip(shape, patch)]
    for corner in np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3):
        yield tuple(slice(start, min(start + step, size)) for start, step, size in zip(corner, patch, shape))


def _moved(padded, tile, offset, pad):
    frames, rows, columns = tile
    down, right = offset + pad
    return padded[frames, rows.start + down : rows.stop + down, columns.start + right : columns.stop + right]
