"""Clips that are tensors already: told apart, cut, turned into uint8 and resized on the device they are on.

The same to the bit as `arrays`, `jobs` and `resize` do it for clips in files: each value goes through the same float32
multiplications, additions and rounding, in the same order. B clips, T frames, H rows, W columns, C channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hpdm.support.errors import InputError
from hpdm.video.timeline import Timeline
from hpdm_eval.clips import arrays
from hpdm_eval.clips.frames import NoVideo, Rejected
from hpdm_eval.clips.jobs import DecodeSettings, too_large
from hpdm_eval.clips.resize import axis_taps, center_window
from hpdm_eval.clips.source import too_few
from hpdm_eval.support.limits import limit

BLOCK_ELEMENTS = 1 << 24  # of frames that are floats at once: 64 MiB
FLOAT_RANGE = "-1..1"  # of float clips where nothing else is said


def as_clips(videos: Any) -> torch.Tensor:
    """Videos, a tensor or an array, as a view [B, T, H, W, C]; one clip without an axis of its own is a batch of one.

    Channels, 1 or 3, are the last axis, else the second, [B, C, T, H, W], else the third, [B, T, C, H, W]. Raises
    InputError for anything else.
    """
    if isinstance(videos, np.ndarray):
        try:
            videos = torch.from_numpy(videos if videos.flags.writeable else videos.copy())
        except TypeError as error:
            raise InputError(f"videos are an array of {videos.dtype}; pixels are uint8 or float") from error
        except ValueError:  # negative strides
            videos = torch.from_numpy(np.ascontiguousarray(videos))
    if not isinstance(videos, torch.Tensor):
        raise InputError(
            f"videos are {type(videos).__name__}; expected a tensor or array, uint8 [B, T, H, W, 3] or float "
            "[B, 3, T, H, W] in [-1, 1]"
        )
    videos = videos.detach()
    if videos.dtype == torch.bool or videos.is_complex():
        raise InputError(f"videos are of {_kind(videos)}; pixels are uint8 or float")
    shape, many = tuple(videos.shape), videos.ndim - 4
    if many == 1:
        shape = (shape[0] or 1, *shape[1:])  # of no clips at all, as a process may have them
    try:
        if many == 1 and shape[-1] not in (1, 3) and shape[1] in (1, 3) and 0 not in shape:
            axes: tuple[int, ...] = (0, 2, 3, 4, 1)  # whatever the third axis is: the order of a model's clips
        else:
            axes = arrays.array_layout(shape, np.uint8, grey=False).axes
    except (NoVideo, Rejected) as error:
        raise InputError(
            f"videos of shape {list(videos.shape)}; give uint8 [B, T, H, W, 3] or float [B, 3, T, H, W]"
        ) from error
    videos = videos.permute(axes)
    return videos if many else videos[None]


def check_range(videos: torch.Tensor, declared: str) -> tuple[str, float]:
    """(range of the values, least of them) of a tensor; raises InputError where the range cannot be.

    declared: "-1..1", "0..1", "0..255", or "auto", which is -1..1. Floats may overshoot a range by a tenth of its
    width, as an unclipped resize does.
    """
    if videos.dtype == torch.uint8:
        return "0..255", 0.0
    low, high = (float(value) for value in torch.aminmax(videos))
    if not np.isfinite([low, high]).all():
        raise InputError("videos hold values that are not finite; look for NaN in what the model returns")
    if not videos.is_floating_point():
        if low < 0 or high > 255:
            raise InputError(f"videos hold whole numbers from {low:g} to {high:g}; pixels are 0..255, as uint8")
        return "0..255", low
    name = FLOAT_RANGE if declared == "auto" else declared
    bottom, top = arrays.SPANS[name]
    slack = 0.1 * (top - bottom)
    if low < bottom - slack or high > top + slack:
        others = [
            other
            for other, (b, t) in arrays.SPANS.items()
            if other != name and low >= b - 0.1 * (t - b) and high <= t + 0.1 * (t - b)
        ]
        way = f'; value_range="{others[0]}" says that they are in that range' if others else ""
        raise InputError(f"videos hold values from {low:.4g} to {high:.4g}, outside of {name}{way}")
    return name, low


def to_uint8(values: torch.Tensor, name: str) -> torch.Tensor:
    """Values [..., C] in a range of that name as uint8 [..., 3]: scale, round half to even, clip; grey repeats."""
    if values.dtype != torch.uint8:
        if values.dtype != torch.float64:  # whole numbers too large for float32 are out of every range
            values = values.to(torch.float32)
        if name == "0..1":
            values = values * 255
        elif name == "-1..1":
            values = (values + 1) * 127.5
        values = values.round().clamp(0, 255).to(torch.uint8)
    return values.expand(*values.shape[:-1], 3) if values.shape[-1] == 1 else values


def plan(
    shape: Sequence[int], settings: DecodeSettings, names: Sequence[str], *, repeat: int = 0, min_frames: int = 1
) -> list[np.ndarray]:
    """Numbers of the frames int64 [t] that clip `repeat` of each video is made of; all videos have one `shape`.

    shape: (T, H, W) of each. Raises Rejected where they are too short for that or, once cut, shorter than `min_frames`
    or too large: of videos of one shape that holds for all or for none.
    """
    timeline = Timeline.even(shape[0], None)
    indices = [settings.rule.indices(timeline, settings.seed, name, repeat) for name in names]
    frames = len(indices[0])
    height, width = settings.resolution or _window(shape, settings)[2:]
    size, most = frames * height * width * 3, limit("HPDM_EVAL_MAX_CLIP")
    if size > most:
        raise Rejected(too_large(frames, size, most))
    if frames < min_frames:
        raise Rejected(too_few(frames, min_frames))
    return indices


def cut(videos: torch.Tensor, indices: Sequence[np.ndarray], settings: DecodeSettings, name: str) -> torch.Tensor:
    """Clips uint8 [B, t, h, w, 3] of videos [B, T, H, W, C]: frames by their numbers, range, crop and size.

    indices: of each video, as `plan` returns them; name: range of the values.
    """
    top, left, height, width = _window(videos.shape[1:4], settings)
    videos = videos[:, :, top : top + height, left : left + width]
    size = settings.resolution or (height, width)
    out = torch.empty((len(videos), len(indices[0]), *size, 3), dtype=torch.uint8, device=videos.device)
    step = max(BLOCK_ELEMENTS // (videos[0, 0].numel() + size[0] * size[1] * 3), 1)
    for video, chosen, clip in zip(videos, indices, out, strict=True):
        numbers = torch.from_numpy(chosen).to(videos.device)
        for start in range(0, len(numbers), step):
            block = to_uint8(video.index_select(0, numbers[start : start + step]), name)
            if settings.resolution is not None:
                block = resize(block, settings.resolution, settings.resize, settings.antialias)
            clip[start : start + step] = block
    return out


def _window(shape: Sequence[int], settings: DecodeSettings) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what the crop leaves of frames of (T, H, W)."""
    if settings.crop == "center":
        return center_window(shape[1], shape[2], settings.resolution)
    return 0, 0, shape[1], shape[2]


def resize(
    video: torch.Tensor, resolution: tuple[int, int], method: str = "bilinear", antialias: bool = False
) -> torch.Tensor:
    """`clips.resize.resize` of a tensor uint8 [T, H, W, C], on its device: the same bits."""
    height, width = resolution
    source_height, source_width = video.shape[1:3]
    if (source_height, source_width) == (height, width):
        return video.contiguous()
    wide = _weighted_sum(video.to(torch.float32), 1, *axis_taps(source_height, height, method, antialias))
    full = _weighted_sum(wide, 2, *axis_taps(source_width, width, method, antialias))
    return full.round_().clamp_(0, 255).to(torch.uint8)


def _weighted_sum(frames: torch.Tensor, axis: int, taps: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    """Sum over k of frames[taps[k]] * weights[k] along an axis of [T, H, W, C]; products and sums are rounded apart."""
    shape = [1] * frames.ndim
    shape[axis] = -1
    total = None
    for positions, weight in zip(taps, weights, strict=True):
        term = frames.index_select(axis, torch.from_numpy(positions).to(frames.device))
        term *= torch.from_numpy(weight).to(frames.device).reshape(shape)
        total = term if total is None else total.add_(term)
    return total


def _kind(videos: torch.Tensor) -> str:
    return str(videos.dtype).removeprefix("torch.")
