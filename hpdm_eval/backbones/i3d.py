"""Inception-I3D for Kinetics-400 (Carreira & Zisserman, arXiv 1705.07750), the network behind FVD.

`InceptionI3D` is written the way the public PyTorch ports are (explicit TensorFlow padding, convolution, BatchNorm,
ReLU) and takes their state dict as it is; it is the reference. `FoldedI3D` computes the same function faster.

B batch, T frames, H rows, W columns, C channels; input is float32 [B, 3, T, 224, 224] in [-1, 1], T >= 9. The feature
of FVD is the 400 logits averaged over time, before softmax. Sizes in comments are for T = 16.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from hpdm.support.errors import InputError
from hpdm_eval.backbones.convolution import conv3d_relu

RESOLUTION = (224, 224)
MIN_FRAMES = 9  # eight frames shrink to one before the last pool, which takes two
CLASSES = 400
TENSORFLOW_EPSILON = 1e-3  # of the graph that the weights come from; the VideoGPT lineage runs them with 1e-5

# Output channels of the branches: 1x1 | 1x1 then 3x3 | 1x1 then 3x3 | pool then 1x1
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(front, back) padding of one axis as TensorFlow's SAME; with stride 2 it depends on the size and is lopsided."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def pad_same(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Zero-pad x [B, C, T, H, W] for a window of `kernel` and `stride` (three numbers each) as TensorFlow's SAME."""
    pairs = [same_padding(size, k, s) for size, k, s in zip(x.shape[2:], kernel, stride)]
    return F.pad(x, [amount for pair in reversed(pairs) for amount in pair])


class MaxPoolSame(nn.Module):
    """Max pool over a zero-padded volume; its input comes from a ReLU, so the zeros never win over a real value."""

    def __init__(self, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Unit3D(nn.Module):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int] = (1, 1, 1),
        stride: Sequence[int] = (1, 1, 1),
        epsilon: float = TENSORFLOW_EPSILON,
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return F.relu(self.bn(x))


class Mixed(nn.Module):
    """Inception block: four branches side by side, concatenated over channels."""

    def __init__(self, inputs: int, widths: Sequence[int], epsilon: float) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        cube = (3, 3, 3)
        self.b0 = Unit3D(inputs, b0, epsilon=epsilon)
        self.b1a = Unit3D(inputs, b1a, epsilon=epsilon)
        self.b1b = Unit3D(b1a, b1b, cube, epsilon=epsilon)
        self.b2a = Unit3D(inputs, b2a, epsilon=epsilon)
        self.b2b = Unit3D(b2a, b2b, cube, epsilon=epsilon)
        self.b3a = MaxPoolSame(cube, (1, 1, 1))
        self.b3b = Unit3D(inputs, b3b, epsilon=epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class Logits(nn.Module):
    """The last convolution, 1x1x1 with a bias; a module of its own because the state dict names it so."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3d(x)


class InceptionI3D(nn.Module):
    """The plain network. `epsilon` is that of every BatchNorm: 1e-3 in TensorFlow, 1e-5 in the VideoGPT lineage."""

    def __init__(self, epsilon: float = TENSORFLOW_EPSILON) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, (7, 7, 7), (2, 2, 2), epsilon)
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64, epsilon=epsilon)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, (3, 3, 3), epsilon=epsilon)
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        channels = 192
        for name, widths in MIXED.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = MaxPoolSame((2, 2, 2), (2, 2, 2))
            self.add_module(name, Mixed(channels, widths, epsilon))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Logits(channels, CLASSES)

    def trunk(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, T, 224, 224] in [-1, 1] → [B, 1024, ceil(T / 8), 7, 7]: all children but the logits."""
        for name, module in self.named_children():
            if name != "logits":
                video = module(video)
        return video

    def pool(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, T, 224, 224] in [-1, 1] → the 1024 channels before the logits, [B, 1024, ceil(T / 8) - 1]."""
        return F.avg_pool3d(self.trunk(video), (2, 7, 7), stride=1)[..., 0, 0]

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, T, 224, 224] in [-1, 1] → logits averaged over time, [B, 400]."""
        return self.logits(self.pool(video)[..., None, None])[..., 0, 0].mean(dim=2)


class FoldedI3D(nn.Module):
    """`InceptionI3D` for inference: the same numbers to rounding (about 1e-6 relative in float32), much faster.

    BatchNorm is folded into the convolutions (in float64) and memory is channels-last. The first convolutions of a
    block's branches are one. Padding is left to the kernels wherever it is the same on both sides. With `dtype`
    bfloat16 the trunk runs in it and the head stays float32: pooling has no bfloat16 kernel on the CPU, and logits
    would lose digits.
    """

    def __init__(self, network: InceptionI3D, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.stages = nn.ModuleList()
        for module in network.children():
            if isinstance(module, Unit3D):
                self.stages.append(FoldedUnit([module]))
            elif isinstance(module, Mixed):
                self.stages.append(FoldedMixed(module))
            elif isinstance(module, MaxPoolSame):
                self.stages.append(FoldedMaxPool(module))
        head = network.logits.conv3d
        self.stages.to(dtype=dtype, memory_format=torch.channels_last_3d)
        self.register_buffer("head_weight", head.weight.detach().flatten(1).clone())
        self.register_buffer("head_bias", head.bias.detach().clone())
        self.requires_grad_(False).eval()

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, T, 224, 224] in [-1, 1] → logits averaged over time, float32 [B, 400]."""
        x = video.to(self.dtype, memory_format=torch.channels_last_3d)
        for stage in self.stages:
            x = stage(x)
        return F.linear(_pool_and_average(x.float()), self.head_weight, self.head_bias)


class FoldedUnit(nn.Module):
    """One or several `Unit3D` of the same input and kernel as a single convolution with bias, then ReLU."""

    def __init__(self, units: Sequence[Unit3D]) -> None:
        super().__init__()
        weights, biases = zip(*(fold_batchnorm(unit.conv3d.weight, unit.bn) for unit in units))
        self.weight, self.bias = nn.Parameter(torch.cat(weights)), nn.Parameter(torch.cat(biases))
        self.kernel, self.stride = units[0].conv3d.kernel_size, units[0].conv3d.stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel == (1, 1, 1):
            y = F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)  # a plain matrix product
            return y.relu_().permute(0, 4, 1, 2, 3)
        pairs = [same_padding(size, k, s) for size, k, s in zip(x.shape[2:], self.kernel, self.stride)]
        if all(front == back for front, back in pairs):
            padding = tuple(front for front, _ in pairs)
        else:
            x, padding = pad_same(x, self.kernel, self.stride), (0,) * 3
        return conv3d_relu(x, self.weight, self.bias, self.stride, padding)


class FoldedMixed(nn.Module):
    """A `Mixed` whose three 1x1x1 convolutions on the input are one."""

    def __init__(self, block: Mixed) -> None:
        super().__init__()
        self.entry = FoldedUnit([block.b0, block.b1a, block.b2a])
        self.widths = [unit.conv3d.out_channels for unit in (block.b0, block.b1a, block.b2a)]
        self.b1b, self.b2b, self.b3b = FoldedUnit([block.b1b]), FoldedUnit([block.b2b]), FoldedUnit([block.b3b])
        self.b3a = FoldedMaxPool(block.b3a)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b0, b1, b2 = self.entry(x).split(self.widths, dim=1)
        return torch.cat([b0, self.b1b(b1), self.b2b(b2), self.b3b(self.b3a(x))], dim=1)


class FoldedMaxPool(nn.Module):
    """A `MaxPoolSame` in the form that is fastest on channels-last memory."""

    def __init__(self, pool: MaxPoolSame) -> None:
        super().__init__()
        self.kernel, self.stride = pool.kernel, pool.stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel == (3, 3, 3) and self.stride == (1, 1, 1):
            return _maximum_of_neighbours(x)
        # The window overhangs behind by rounding the size up, in front by an explicit padding.
        padding = [same_padding(size, k, s)[0] for size, k, s in zip(x.shape[2:], self.kernel, self.stride)]
        if self.kernel[0] > 1:
            return F.max_pool3d(x, self.kernel, self.stride, padding, ceil_mode=True)
        frames = x.transpose(1, 2).flatten(0, 1)
        frames = F.max_pool2d(frames, self.kernel[1:], self.stride[1:], padding[1:], ceil_mode=True)
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _maximum_of_neighbours(x):
    """Max over 3x3x3 neighbourhoods with stride 1, one axis after the other: six passes instead of 27 reads."""
    for axis in (4, 3, 2):
        inner = x.shape[axis] - 1
        y = x.clone()
        for target, source in ((1, 0), (0, 1)):
            view = y.narrow(axis, target, inner)
            torch.maximum(view, x.narrow(axis, source, inner), out=view)
        x = y
    return x


def fold_batchnorm(weight: torch.Tensor, bn: nn.BatchNorm3d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the one convolution that equals a bias-free convolution followed by BatchNorm `bn`."""
    scale = bn.weight.detach().double() / (bn.running_var.double() + bn.eps).sqrt()
    bias = bn.bias.detach().double() - bn.running_mean.double() * scale
    folded = weight.detach().double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return folded.to(weight.dtype), bias.to(weight.dtype)


def _pool_and_average(x):
    """[B, C, T, 7, 7] → [B, C]: the mean over time of a (2, 7, 7) average pool with stride 1.

    Every inner time step lies in two windows, the first and the last in one.
    """
    frames = x.shape[2]
    weights = torch.full((frames,), 1 / (frames - 1), device=x.device)
    weights[0] = weights[-1] = 0.5 / (frames - 1)
    return x.mean(dim=(3, 4)) @ weights


def load_state(network: InceptionI3D, state: Mapping[str, torch.Tensor], file: object) -> InceptionI3D:
    """Put the public state dict `state` into an `InceptionI3D`; `file` names it in errors. Returns the network.

    Raises InputError that lists missing, foreign or differently shaped tensors.
    """
    if not isinstance(state, dict):
        raise InputError(f"{file}: holds a {type(state).__name__}, not the state dict of an Inception-I3D")
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    problems = [f"{name} is missing" for name in wanted if name not in found and "num_batches" not in name]
    problems += [f"{name} is not part of it" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{file}: not an Inception-I3D for Kinetics-400: {'; '.join(problems[:3])}{more}")
    if not all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point()):
        raise InputError(f"{file}: holds values that are not finite; the file is damaged")
    network.load_state_dict(state, strict=False)
    return network.requires_grad_(False).eval()


def random_network(seed: int, epsilon: float = TENSORFLOW_EPSILON) -> InceptionI3D:
    """An `InceptionI3D` with random weights that keep the signal's size from layer to layer (He), for measuring."""
    network = InceptionI3D(epsilon)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_in), generator=generator)
    nn.init.zeros_(network.logits.conv3d.bias)
    return network.requires_grad_(False).eval()


def multiply_adds(frames: int = 16) -> int:
    """Multiply-adds of one clip of `frames` x 224 x 224 through the convolutions (27.8e9 for 16 frames)."""
    total = 0
    shape: tuple[int, ...] = (frames, *RESOLUTION)

    def count(unit, size):
        out = tuple(math.ceil(n / s) for n, s in zip(size, unit.conv3d.stride))
        return math.prod(out) * unit.conv3d.weight.numel(), out

    with torch.device("meta"):
        network = InceptionI3D()
    for module in network.children():
        if isinstance(module, MaxPoolSame):
            shape = tuple(math.ceil(n / s) for n, s in zip(shape, module.stride))
        elif isinstance(module, Unit3D):
            cost, shape = count(module, shape)
            total += cost
        elif isinstance(module, Mixed):
            total += sum(count(unit, shape)[0] for unit in module.children() if isinstance(unit, Unit3D))
    return total
