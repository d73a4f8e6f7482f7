"""C3D finetuned on UCF-101 (Tran et al., arXiv 1412.0767), the classifier behind the Inception Score of video.

It computes what TGANv2's network does, from which published scores come: the whole frame bilinearly, corners aligned,
to 112 x 112; BGR; 128 (x + 1) minus a mean video, cut from [8, 8] although that is off the centre of its 171 columns;
every pool rounds its output size up, so that the last one turns 7 x 7 into 4 x 4. Common PyTorch ports pad that pool
instead, which moves the logits by 39 %.

B batch, T = 16 frames, H rows, W columns; input is float32 [B, 3, 16, H, W] RGB in [-1, 1].
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hpdm.support.errors import InputError
from hpdm_eval.backbones.convolution import conv3d_relu
from hpdm_eval.support.npz import read_npz

FRAMES = 16
RESOLUTION = (112, 112)
CLASSES = 101
MEAN_SHAPE = (3, FRAMES, 128, 171)
MEAN_CORNER = 8

CHAINER_PARTS = {"W": "weight", "b": "bias"}

# name → (inputs, outputs, pool after it)
CONVOLUTIONS = {
    "conv1a": (3, 64, (1, 2, 2)),
    "conv2a": (64, 128, (2, 2, 2)),
    "conv3a": (128, 256, None),
    "conv3b": (256, 256, (2, 2, 2)),
    "conv4a": (256, 512, None),
    "conv4b": (512, 512, (2, 2, 2)),
    "conv5a": (512, 512, None),
    "conv5b": (512, 512, (2, 2, 2)),
}


class C3D(nn.Module):
    """The network with its own preprocessing; `mean` is the mean video, float32 [3, 16, 128, 171] in BGR."""

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        for name, (inputs, outputs, _) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(inputs, outputs, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, CLASSES)
        rows, columns = (slice(MEAN_CORNER, MEAN_CORNER + size) for size in RESOLUTION)
        self.register_buffer("mean", mean[:, :, rows, columns].clone(), persistent=False)

    def preprocess(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, 16, H, W] RGB in [-1, 1] → the first convolution's input, [B, 3, 16, 112, 112]."""
        batch, channels, frames = video.shape[:3]
        images = video.transpose(1, 2).flatten(0, 1)
        images = F.interpolate(images, RESOLUTION, mode="bilinear", align_corners=True)
        video = images.unflatten(0, (batch, frames)).transpose(1, 2)
        return video.flip(1) * 128 + (128 - self.mean)

    def pool5(self, video: torch.Tensor) -> torch.Tensor:
        """[B, 3, 16, 112, 112] as `preprocess` gives it → [B, 8192]."""
        for name, (_, _, pool) in CONVOLUTIONS.items():
            layer = self.get_submodule(name)
            video = conv3d_relu(video, layer.weight, layer.bias, layer.stride, layer.padding)
            if pool:
                video = F.max_pool3d(video, pool, ceil_mode=True)
        return video.flatten(1)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, 16, H, W] RGB in [-1, 1] → logits [B, 101]."""
        hidden = F.relu(self.fc6(self.pool5(self.preprocess(video))))
        return self.fc8(F.relu(self.fc7(hidden)))


def build(state: Mapping[str, Any], mean: torch.Tensor, file: object) -> C3D:
    """A `C3D` from its state dict, or from the arrays of a Chainer file; `file` names the source in errors.

    state: {"conv1a.weight": tensor, ...}, or Chainer's {"conv1a/W": array, ...}, whose layouts agree. mean: as
    `read_mean` returns it. Raises InputError that lists what is missing or of another shape.
    """
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise InputError(f"{file}: not a C3D for UCF-101: it holds no tensors by name")
    network = C3D(mean)
    wanted = network.state_dict()
    renamed = {_torch_name(key): torch.as_tensor(value) for key, value in state.items()}
    problems = [f"{key} is missing" for key in wanted if key not in renamed]
    problems += [f"{key} is not part of it" for key in renamed if key not in wanted]
    problems += [
        f"{key} has shape {list(renamed[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in renamed and renamed[key].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{file}: not a C3D for UCF-101: {'; '.join(problems[:3])}{more}")
    if not all(torch.isfinite(tensor).all() for tensor in renamed.values()):
        raise InputError(f"{file}: holds values that are not finite; the file is damaged")
    # no copy: the weights are 300 MB
    network.load_state_dict({key: tensor.float() for key, tensor in renamed.items()}, assign=True)
    return network.requires_grad_(False).eval()


def read_mean(path: str | os.PathLike) -> torch.Tensor:
    """The mean video of an .npz with the key `mean`, as float32 [3, 16, 128, 171]; raises InputError."""
    arrays = read_npz(path)
    if "mean" not in arrays:
        raise InputError(f"{path}: holds no `mean`; give TGANv2's mean2.npz or a file like it")
    mean = torch.as_tensor(arrays["mean"], dtype=torch.float32)
    if tuple(mean.shape) != MEAN_SHAPE:
        raise InputError(f"{path}: the mean video is {list(mean.shape)}, expected {list(MEAN_SHAPE)} in BGR")
    return mean


def _torch_name(key):
    layer, _, part = key.strip("/").partition("/")
    return f"{layer}.{CHAINER_PARTS.get(part, part)}" if part else key
