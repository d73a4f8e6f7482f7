"""Videos kept as arrays: axis order and value range, told apart and checked.

    N clips, T frames, H and W rows and columns, C = 1 or 3 channels
"""

from dataclasses import dataclass

import numpy as np

from hpdm_eval.frames import Rejected

RANGES = ("auto", "0..1", "-1..1", "0..255")
SPANS = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
SCAN_BYTES = 1 << 24

# Values this far outside a range are rounding of its ends.
TOLERANCE = 1e-3
# A float array that reaches below 0 but not below this may as well be 0..1 with the overshoot of a resize,
NEGATIVE_ENOUGH = -0.1
# and one that reaches above 1 but not above this either that or a black video in 0..255.
LARGE_ENOUGH = 2.0


@dataclass(frozen=True, kw_only=True)
class ArrayLayout:
    """How an array of videos is to be read: `axes` puts its axes into [N,T,H,W,C] or, for one clip, [T,H,W,C]."""

    axes: tuple[int, ...]
    clips: int | None

    def clip(self, array, index):
        """View [T,H,W,C] of clip number `index` (None where the array is one clip)."""
        return array.transpose(self.axes) if index is None else array.transpose(self.axes)[index]


def array_layout(shape, dtype):
    """Layout of an array by its shape: channels (1 or 3) last, else first, as [N,C,T,H,W] and [N,T,C,H,W].

    Raises Rejected for other shapes, and for those that fit two of the channel-first orders.
    """
    kinds = np.dtype(dtype).kind
    if kinds not in "uif":
        raise Rejected(f"array of {dtype}: pixels are uint8 or float")
    if len(shape) not in (4, 5):
        raise Rejected(f"array of shape {list(shape)}: expected [N,T,H,W,C], [N,C,T,H,W] or [T,H,W,C]")
    if 0 in shape:
        raise Rejected(f"array of shape {list(shape)} is empty")
    many = len(shape) - 4
    channels_first = [axis for axis in (many, many + 1) if shape[axis] in (1, 3)]
    if shape[-1] in (1, 3):
        axes = tuple(range(len(shape)))
    elif len(channels_first) == 1:
        rest = [axis for axis in range(len(shape)) if axis != channels_first[0]]
        axes = (*rest, channels_first[0])
    elif channels_first:
        raise Rejected(f"array of shape {list(shape)}: the second and third axis could both be channels; "
                       "save it with channels last")
    else:
        raise Rejected(f"array of shape {list(shape)}: no axis of 1 or 3 channels where one belongs")
    return ArrayLayout(axes=axes, clips=shape[0] if many else None)


def scan_npy(path):
    """(lowest, highest) value of a .npy file, read in blocks; (nan, nan) where any value is not finite."""
    array = np.lib.format.open_memmap(path, mode="r")
    count, dtype, offset = array.size, array.dtype, array.offset
    del array  # its pages would count as ours while they are mapped
    low, high = np.inf, -np.inf
    with open(path, "rb") as file:
        file.seek(offset)
        while count > 0:
            block = np.fromfile(file, dtype, min(count, SCAN_BYTES // dtype.itemsize))
            if not np.isfinite(block).all():
                return np.nan, np.nan
            low, high, count = min(low, float(block.min())), max(high, float(block.max())), count - block.size
    return low, high


def value_range(low, high, dtype, declared="auto"):
    """Name of the range ("0..1", "-1..1", "0..255") that an array with these extremes is in.

    Integers are 0..255. Floats are told apart by their extremes; raises Rejected where these fit no range, or fit two.
    With a declared range floats may overshoot it by a tenth of its width, as an unclipped resize does.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Rejected("array holds values that are not finite")
    span = f"values from {low:.4g} to {high:.4g}"
    if np.dtype(dtype).kind in "ui":
        if low < 0 or high > 255:
            raise Rejected(f"integer {span} are outside 0..255")
        return "0..255"
    if declared != "auto":
        bottom, top = SPANS[declared]
        slack = 0.1 * (top - bottom)
        if low < bottom - slack or high > top + slack:
            raise Rejected(f"{span} are outside the declared range {declared}")
        return declared
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return "0..1"
    if -1 - TOLERANCE <= low < NEGATIVE_ENOUGH and high <= 1 + TOLERANCE:
        return "-1..1"
    if low >= -TOLERANCE and LARGE_ENOUGH < high <= 255 + TOLERANCE:
        return "0..255"
    raise Rejected(f"range is ambiguous: {span} are neither 0..1 nor -1..1 nor 0..255 for certain; "
                   "say which with --range")


def to_uint8(values, name):
    """Convert `values` [T,H,W,C] in range `name` to uint8 [T,H,W,3]: scale, round half to even, clip; grey repeats."""
    if values.dtype != np.uint8:
        values = values.astype(np.result_type(values.dtype, np.float32))
        if name == "0..1":
            values = values * 255
        elif name == "-1..1":
            values = (values + 1) * 127.5
        values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values
