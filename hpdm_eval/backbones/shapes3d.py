"""The small classifier that ships with the package: which shape, which motion, in a 3-D CNN of 0.6M parameters.

It was trained on the procedural videos, so its features mean something on those and on samples of models trained on
them, and nothing on real video. Figures made with it carry its name.

B batch, T frames, H rows, W columns, C channels; input is float32 [B, 3, T, 64, 64] in [-1, 1].
"""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

RESOLUTION = (64, 64)
MIN_FRAMES = 4
FEATURE_DIM = 128
WIDTHS = (24, 48, 96, FEATURE_DIM)


class ConvBN(nn.Module):
    """Convolution with "same" padding and BatchNorm; `relu` is applied after it."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        relu: bool = True,
    ) -> None:
        super().__init__()
        padding = tuple(k // 2 for k in kernel)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))

    def fold(self) -> None:
        """Merge the BatchNorm's running statistics into the convolution; only for evaluation."""
        self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class Factorised(nn.Module):
    """A convolution over rows and columns, then one over frames: a 3x3x3 one for less than half its cost."""

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, int, int] = (1, 1, 1), residual: bool = False
    ) -> None:
        super().__init__()
        self.space = ConvBN(inputs, outputs, (1, 3, 3), (1, stride[1], stride[2]))
        self.time = ConvBN(outputs, outputs, (3, 1, 1), (stride[0], 1, 1), relu=False)
        self.relu = nn.ReLU(inplace=True)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.time(self.space(x))
        return self.relu(x + y if self.residual else y)


class Shapes3D(nn.Module):
    """Classifier of the procedural videos. Any T >= 4 will do: the head averages over time."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.trunk = nn.Sequential(
            ConvBN(3, a, (1, 5, 5), (1, 2, 2)),  # [B, a, T, 32, 32]
            Factorised(a, b, (1, 2, 2)),  # [B, b, T, 16, 16]
            Factorised(b, c, (2, 2, 2)),  # [B, c, T/2, 8, 8]
            Factorised(c, c, residual=True),
            Factorised(c, d, (2, 2, 2)),  # [B, d, T/4, 4, 4]
            Factorised(d, d, residual=True),
        )
        self.head = nn.Linear(d, classes)

    def features(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, T, 64, 64] in [-1, 1] → the penultimate layer, float32 [B, 128], non-negative."""
        return self.trunk(video).mean(dim=(2, 3, 4))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, T, 64, 64] in [-1, 1] → logits float32 [B, classes]."""
        return self.head(self.features(video))

    def fold(self) -> "Shapes3D":
        """Merge all BatchNorms into their convolutions and return the network; only for evaluation."""
        for module in self.modules():
            if isinstance(module, ConvBN):
                module.fold()
        return self
