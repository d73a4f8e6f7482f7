"""The two ranges of pixel values: bytes as stored and moved, floats as the model sees them."""

import torch


def to_model_range(video: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 → float32 in [-1, 1], any shape, on the tensor's device."""
    if video.dtype != torch.uint8:
        raise TypeError(f"expected uint8 in 0..255, got {video.dtype}")
    return video.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(video: torch.Tensor) -> torch.Tensor:
    """Float in [-1, 1] → uint8 in 0..255, rounded to the nearest; values outside are clipped.

    `to_uint8(to_model_range(x))` is exactly `x`.
    """
    return video.to(torch.float32).add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
