"""From clips as decoded to the input of a backbone: range, layout and size.

B batch, T frames, H rows, W columns; clips are uint8 [B, T, H, W, 3], network input is float32 [B, 3, T, H, W].
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from hpdm.support.errors import InputError


def to_unit_range(clips: torch.Tensor) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] → float32 [B, 3, T, H, W] in [-1, 1], as x / 255 * 2 - 1."""
    video = clips.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    return video.div_(255).mul_(2).sub_(1)


def resize(video: torch.Tensor, size: tuple[int, int], rule: str = "bilinear") -> torch.Tensor:
    """Resize every frame of float32 [B, 3, T, H, W] to `size` (h, w) by one of RULES; returns float32 [B, 3, T, h, w].

    "bilinear" and "bilinear-antialias" (shrinking widens the filter) take the whole frame and change its aspect ratio
    if they must; "short-side" scales bilinearly until the frame covers `size`, the long side rounded up, and cuts the
    centre; "tf1-bilinear" is TensorFlow 1's. Frames that already have the size pass through unchanged.
    """
    if rule not in RULES:
        raise InputError(f"unknown resize rule {rule!r} of a backbone; choose {', '.join(RULES)}")
    if video.shape[-2:] == tuple(size):
        return video
    batch, channels, frames, height, width = video.shape
    images = video.transpose(1, 2).reshape(batch * frames, channels, height, width)
    images = RULES[rule](images, tuple(size))
    return images.reshape(batch, frames, channels, *size).transpose(1, 2)


def _bilinear(images, size, antialias=False):
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=antialias)


def _short_side(images, size):
    height, width = images.shape[-2:]
    # In whole numbers: a product of floats may land just above one and be rounded up to the next.
    if size[0] * width >= size[1] * height:
        inner = size[0], -(-width * size[0] // height)
    else:
        inner = -(-height * size[1] // width), size[1]
    top, left = (inner[0] - size[0]) // 2, (inner[1] - size[1]) // 2
    return _bilinear(images, inner)[..., top : top + size[0], left : left + size[1]]


def _tf1_bilinear(images, size):
    """Output pixel i reads input position i * in / out, in float32 as there: no half-pixel centres, no antialiasing."""
    for axis, out in ((-2, size[0]), (-1, size[1])):
        length = images.shape[axis]
        position = torch.arange(out, dtype=torch.float32, device=images.device) * (length / out)
        low = position.floor().long()
        high = (low + 1).clamp(max=length - 1)
        weight = (position - low).reshape([out if axis == -2 else 1, out if axis == -1 else 1])
        images = torch.lerp(images.index_select(axis, low), images.index_select(axis, high), weight)
    return images


RULES: dict[str, Callable[..., torch.Tensor]] = {
    "bilinear": _bilinear,
    "bilinear-antialias": partial(_bilinear, antialias=True),
    "short-side": _short_side,
    "tf1-bilinear": _tf1_bilinear,
}
