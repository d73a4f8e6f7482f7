"""Videos kept as arrays: axis order and value range, told apart and checked.

N clips, T frames, H and W rows and columns, C = 1 or 3 channels
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from hpdm_eval.clips.frames import NoVideo, Rejected

SPANS = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
SCAN_BYTES = 1 << 24

# Values this far outside a range are rounding of its ends.
TOLERANCE = 1e-3
# A float array that reaches below 0 but not below this may as well be 0..1 with the overshoot of a resize,
NEGATIVE_ENOUGH = -0.1
# and one that reaches above 1 but not above this either that or a black video in 0..255.
LARGE_ENOUGH = 2.0
# A range for which a smaller part of the values speaks is one that damaged values may pretend.
FEW = 1e-3

LEAST_SIDE = 16  # pixels of a grey frame; smaller ones are rather features
MANY_FRAMES = 1000  # of one clip; more than that, and more than clips, are rather clips themselves


@dataclass(frozen=True, kw_only=True)
class ArrayLayout:
    """How an array of videos is to be read: `axes` puts its axes into [N,T,H,W,C] or, for one clip, [T,H,W,C].

    clips: how many, None for one without an axis of its own. grey: whether there is no axis of channels: [N,T,H,W].
    """

    axes: tuple[int, ...]
    clips: int | None
    grey: bool = False

    def clip(self, array: np.ndarray, index: int | None) -> np.ndarray:
        """View [T,H,W,C] of clip number `index` (None where the array is one clip)."""
        view = array.transpose(self.axes) if index is None else array.transpose(self.axes)[index]
        return view[..., None] if self.grey else view


def array_layout(shape: Sequence[int], dtype: DTypeLike, grey: bool = True) -> ArrayLayout:
    """Layout of an array by its shape: channels (1 or 3) last, else first, as [N,C,T,H,W] and [N,T,C,H,W].

    grey: whether four axes without one of channels are taken for [N,T,H,W]. Raises NoVideo for other shapes, and
    Rejected for those that fit two of the orders.
    """
    kind, text = np.dtype(dtype).kind, f"array of shape {list(shape)}"
    if kind not in "uif":
        raise NoVideo(f"array of {dtype}: pixels are uint8 or float")
    if len(shape) not in (4, 5):
        way = "; a single grey clip [T,H,W] needs an axis of channels: array[..., None]" if len(shape) == 3 else ""
        raise NoVideo(f"{text}: expected [N,T,H,W,C], [N,C,T,H,W], [T,H,W,C] or grey [N,T,H,W]{way}")
    if 0 in shape:
        raise Rejected(f"{text} is empty")
    many = len(shape) - 4
    channels_first = [axis for axis in (many, many + 1) if shape[axis] in (1, 3)]
    if shape[-1] in (1, 3):
        axes = tuple(range(len(shape)))
    elif len(channels_first) == 1:
        rest = [axis for axis in range(len(shape)) if axis != channels_first[0]]
        axes = (*rest, channels_first[0])
    elif channels_first:
        raise Rejected(
            f"{text}: the second and third axis could both be channels; save it with channels last"
            if many
            else f"{text}: the first and second axis could both be channels; save it with channels last"
        )
    elif grey and not many and min(shape[2:]) >= LEAST_SIDE:
        return _grey_layout(shape, text)
    else:
        raise NoVideo(f"{text}: no axis of 1 or 3 channels where one belongs")
    return ArrayLayout(axes=axes, clips=shape[0] if many else None)


def _grey_layout(shape, text):
    clips, frames = shape[:2]
    if frames > clips and frames >= MANY_FRAMES:
        raise Rejected(
            f"{text}: {clips} grey clips of {frames} frames, or {frames} of {clips}? save it as "
            "[N,T,H,W,1]: array.swapaxes(0, 1)[..., None] where frames come first, as in Moving MNIST"
        )
    return ArrayLayout(axes=(0, 1, 2, 3), clips=clips, grey=True)


def open_npy(path: str | os.PathLike) -> np.memmap:
    """A .npy file, mapped for reading; raises Rejected where it is damaged: unreadable, too short or too long."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy reports damaged headers by many types of exception
        raise Rejected(f"not a readable .npy array ({type(error).__name__}: {error})"[:200]) from error
    more = os.path.getsize(path) - array.offset - array.nbytes
    if more:
        raise Rejected(
            f"damaged: it holds {more} bytes more than its {array.dtype} array of shape {list(array.shape)} takes"
        )
    return array


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What all values of an array are like: extremes (nan where any is not finite), and how many are of which kind."""

    dtype: np.dtype
    low: float
    high: float
    values: int
    nonzero: int
    negative: int
    above_one: int

    def value_range(self, declared: str = "auto") -> str:
        """As `value_range`; raises Rejected also where a few values alone speak for a range, as damage does."""
        name = value_range(self.low, self.high, self.dtype, declared)
        if declared != "auto" or self.dtype.kind in "ui":
            return name
        few = (
            self.above_one
            if name == "0..255" and self.above_one < self.nonzero / 2
            else self.negative
            if name == "-1..1" and self.negative < FEW * self.values
            else None
        )
        if few is not None:
            raise Rejected(
                f"range is ambiguous: only {few} of {self.values} values speak for {name} (from "
                f"{self.low:.4g} to {self.high:.4g}); if the file is not damaged, say with --range"
            )
        return name


def scan_npy(path: str | os.PathLike) -> Scan:
    """Scan of a .npy file, read in blocks."""
    array = open_npy(path)
    count, dtype, offset = array.size, array.dtype, array.offset
    del array  # its pages would count as ours while they are mapped
    found: dict[str, Any] = {
        "low": np.inf,
        "high": -np.inf,
        "values": count,
        "nonzero": 0,
        "negative": 0,
        "above_one": 0,
    }
    with open(path, "rb") as file:
        file.seek(offset)
        while count > 0:
            block = np.fromfile(file, dtype, min(count, SCAN_BYTES // dtype.itemsize))
            if not len(block) or not np.isfinite(block).all():
                found |= {"low": np.nan, "high": np.nan}
                break
            found["low"] = min(found["low"], float(block.min()))
            found["high"] = max(found["high"], float(block.max()))
            found["nonzero"] += int(np.count_nonzero(block))
            found["negative"] += int(np.count_nonzero(block < NEGATIVE_ENOUGH))
            found["above_one"] += int(np.count_nonzero(block > 1 + TOLERANCE))
            count -= block.size
    return Scan(dtype=dtype, **found)


def value_range(low: float, high: float, dtype: DTypeLike, declared: str = "auto") -> str:
    """Name of the range ("0..1", "-1..1", "0..255") that an array with these extremes is in.

    Integers are 0..255. Floats are told apart by their extremes; raises Rejected where these fit no range, or fit two.
    With a declared range floats may overshoot it by a tenth of its width, as an unclipped resize does.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Rejected("array holds values that are not finite")
    span = f"values from {low:.4g} to {high:.4g}"
    if np.dtype(dtype).kind in "ui":
        if low < 0 or high > 255:
            raise Rejected(f"integer {span} are outside 0..255; save pixels as uint8")
        return "0..255"
    if declared != "auto":
        bottom, top = SPANS[declared]
        slack = 0.1 * (top - bottom)
        if low < bottom - slack or high > top + slack:
            raise Rejected(f"{span} are outside the declared range {declared}; --range says which they are in")
        return declared
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return "0..1"
    if -1 - TOLERANCE <= low < NEGATIVE_ENOUGH and high <= 1 + TOLERANCE:
        return "-1..1"
    if low >= -TOLERANCE and LARGE_ENOUGH < high <= 255 + TOLERANCE:
        return "0..255"
    raise Rejected(
        f"range is ambiguous: {span} are neither 0..1 nor -1..1 nor 0..255 for certain; say which with --range"
    )


def to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Convert `values` [T,H,W,C] in range `name` to uint8 [T,H,W,3]: scale, round half to even, clip; grey repeats."""
    if values.dtype != np.uint8:
        values = values.astype(np.result_type(values.dtype, np.float32))
        if name == "0..1":
            values = values * 255
        elif name == "-1..1":
            values = (values + 1) * 127.5
        values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values


def check_pictures(path: str | os.PathLike, layout: ArrayLayout, declared: str = "auto") -> None:
    """Raise NoVideo for a .npy file that has the shape of videos and yet holds no pictures: features, flow, masks.

    For arrays beside a video of the same name, which is then the one that is read. declared: range, as in a protocol.
    """
    array = open_npy(path)
    view = layout.clip(array, None if layout.clips is None else 0)
    height, width, channels = view.shape[1:]
    if min(height, width) < LEAST_SIDE:
        raise NoVideo(f"frames of {height}x{width} px")
    if array.dtype == np.uint8 and channels == 3:
        return
    scan = scan_npy(path)
    try:
        if declared in ("0..1", "-1..1"):  # overshoots alone; nearly anything overshoots 0..255
            scan.value_range(declared)
        else:
            scan.value_range()
    except Rejected as rejection:
        raise NoVideo(str(rejection)) from rejection
    if array.dtype.kind in "ui" and scan.high <= 1:
        raise NoVideo("whole numbers from 0 to 1: a mask")
