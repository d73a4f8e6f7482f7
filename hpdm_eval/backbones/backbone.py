"""A loaded network behind one interface: uint8 clips in, features and class probabilities out.

B batch, T frames, H rows, W columns, D feature dimensions, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from hpdm.support.errors import InputError
from hpdm_eval.backbones import c3d, i3d, shapes3d
from hpdm_eval.backbones.names import C3D, I3D, INCEPTION, SHAPES3D
from hpdm_eval.backbones.preprocess import resize, to_unit_range
from hpdm_eval.backbones.weights import WeightsInfo

BLOCK_PIXELS = 1 << 24  # turned into floats at a time while clips are made ready: 192 MiB


class Extractor(Protocol):
    """What features are extracted with: a `Backbone`, `PerFrame`, or anything else that looks like one."""

    name: str
    feature_dim: int
    min_frames: int
    max_frames: int | None
    device: torch.device

    def describe(self) -> dict[str, Any]:
        """Everything that decides the features, as JSON types."""

    def extract(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, T, H, W, 3] → (features, probabilities), both float32 on the CPU."""


@contextmanager
def full_precision(device: str | torch.device) -> Iterator[None]:
    """Neither convolutions nor matrix products in TF32 within the block, whatever training has allowed before.

    A CPU has no TF32, and runs several networks at once, which may not change what holds for all of a process.
    """
    if torch.device(device).type == "cpu":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class Backbone:
    """Base of all backbones; a subclass names its sizes and says how its network is called.

    weights: WeightsInfo. epsilon: of the BatchNorms. resize_rule: see `preprocess.resize`.
    """

    name: str
    feature_dim: int
    min_frames: int
    max_frames: int | None = None  # of a network that is not convolutional over time
    resolution: tuple[int, int]

    def __init__(
        self,
        network: nn.Module,
        weights: WeightsInfo,
        *,
        epsilon: float | None,
        precision: str,
        device: torch.device,
        resize_rule: str,
    ) -> None:
        self.network, self.weights, self.device = network.to(device).eval(), weights, device
        self.epsilon, self.precision, self.resize_rule = epsilon, precision, resize_rule

    def describe(self) -> dict[str, Any]:
        """The record's entry: name, which weights, and every setting of the network that moves its features."""
        return {
            "name": self.name,
            "sha256": self.weights.sha256,
            "file": self.weights.name,
            "verified": self.weights.verified,
            "trust": self.weights.trust,
            "epsilon": self.epsilon,
            "precision": self.precision,
            "resize": self.resize_rule,
        }

    def extract(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, T, H, W, 3] → (features float32 [B, D], probabilities float32 [B, K]), both on the CPU.

        Raises InputError for clips with fewer frames than `min_frames` or more than `max_frames`.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
            raise ValueError(f"expected uint8 [B, T, H, W, 3], got {clips.dtype} {list(clips.shape)}")
        check_frames(self, clips.shape[1], "clips")
        return self.forward(self.prepare(clips))

    @torch.inference_mode()
    def prepare(self, clips: torch.Tensor) -> torch.Tensor:
        """First half of `extract`: uint8 [B, T, H, W, 3] → the network's input, float32 [B, 3, T, h, w]."""
        batch, _, height, width, _ = clips.shape
        # In blocks of frames, which are resized one by one anyway: as floats, large ones take four times their size.
        frames = max(BLOCK_PIXELS // (batch * height * width), 1)
        parts = [
            resize(to_unit_range(part.to(self.device)), self.resolution, self.resize_rule)
            for part in clips.split(frames, dim=1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    @torch.inference_mode()
    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Second half of `extract`: what `prepare` returned → (features [B, D], probabilities [B, K])."""
        # TF32, cuDNN's default for convolutions, keeps three digits: too few for a distance between near-equal sets.
        with full_precision(self.device):
            features, logits = self.run(video)
        return features.float().cpu(), logits.float().softmax(dim=1).cpu()

    def run(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input → (features [B, D], logits [B, K])."""
        raise NotImplementedError


def check_frames(backbone: Extractor, frames: int, where: object) -> None:
    """Raise InputError, with the reason, unless `backbone` takes clips of `frames` frames; `where` names them."""
    if frames < backbone.min_frames:
        raise InputError(
            f"{where}: {frames} frames; {backbone.name} needs at least {backbone.min_frames} frames "
            "a clip; give --frames"
        )
    if backbone.max_frames is not None and frames > backbone.max_frames:
        raise InputError(
            f"{where}: {frames} frames; {backbone.name} takes {backbone.max_frames}: its layers fit no "
            "other number, and no published figure says how to judge longer clips with it; "
            f"give --frames {backbone.max_frames}"
        )


class I3DBackbone(Backbone):
    """Our own Inception-I3D; its logits, averaged over time, are the feature."""

    name, feature_dim = I3D, i3d.CLASSES
    min_frames, resolution = i3d.MIN_FRAMES, i3d.RESOLUTION

    def run(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(video)
        return logits, logits


class ScriptedI3DBackbone(I3DBackbone):
    """The TorchScript file that StyleGAN-V made popular, run as it is.

    It rescales and resizes bilinearly by itself, so that frames go in as 0..255 at their own size; under another resize
    rule it gets prepared input.
    """

    @torch.inference_mode()
    def prepare(self, clips: torch.Tensor) -> torch.Tensor:
        if self.resize_rule == "bilinear":
            return clips.to(self.device).permute(0, 4, 1, 2, 3).float()
        return super().prepare(clips)

    def run(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raw = self.resize_rule == "bilinear"
        logits = self.network(x=video, rescale=raw, resize=raw, return_features=True)
        return logits, logits


class Shapes3DBackbone(Backbone):
    """The shipped classifier; its penultimate layer is the feature."""

    name, feature_dim = SHAPES3D, shapes3d.FEATURE_DIM
    min_frames, resolution = shapes3d.MIN_FRAMES, shapes3d.RESOLUTION

    def run(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = next(self.network.trunk.parameters()).dtype
        features = self.network.trunk(video.to(dtype)).float().mean(dim=(2, 3, 4))
        return features, self.network.head(features)


class C3DBackbone(Backbone):
    """Our own C3D for UCF-101; its logits are the feature. It resizes and subtracts the mean by itself."""

    name, feature_dim = C3D, c3d.CLASSES
    min_frames = max_frames = c3d.FRAMES
    resolution = c3d.RESOLUTION

    def __init__(
        self, network: nn.Module, weights: WeightsInfo, *, mean_sha256: str | None = None, **settings: Any
    ) -> None:
        super().__init__(network, weights, **settings)
        self.mean_sha256 = mean_sha256

    def describe(self) -> dict[str, Any]:
        """As of any backbone, with the SHA-256 of the mean video's file."""
        return {**super().describe(), "mean_sha256": self.mean_sha256}

    @torch.inference_mode()
    def prepare(self, clips: torch.Tensor) -> torch.Tensor:
        return to_unit_range(clips.to(self.device))

    def run(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(video)
        return logits, logits


class ScriptedC3DBackbone(C3DBackbone):
    """The TorchScript file of StyleGAN-V, run as it is: frames as 0..255 go in and probabilities come out.

    Their logarithms, which are the logits up to a constant of each clip, are the feature.
    """

    @torch.inference_mode()
    def prepare(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.to(self.device).permute(0, 4, 1, 2, 3).contiguous()

    @torch.inference_mode()
    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with full_precision(self.device):
            probabilities = self.network(video).float().cpu()
        return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log(), probabilities


class InceptionBackbone(Backbone):
    """TensorFlow's Inception-v3 as torch-fidelity runs it, for single frames; the feature is its 2048-channel pool."""

    name, feature_dim = INCEPTION, 2048
    min_frames = max_frames = 1
    resolution = (299, 299)

    @torch.inference_mode()
    def prepare(self, clips: torch.Tensor) -> torch.Tensor:
        return clips[:, 0].to(self.device).permute(0, 3, 1, 2)

    def run(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network(images)


class PerFrame:
    """A backbone that sees the frames of a clip one by one: its features are [B, T, D].

    A network of clips gets each frame as a still clip of `min_frames` frames.
    """

    min_frames = 1
    max_frames: int | None = None

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.name, self.weights = backbone, backbone.name, backbone.weights
        self.feature_dim, self.device = backbone.feature_dim, backbone.device

    def describe(self) -> dict[str, Any]:
        """The backbone's own entry, marked as per frame."""
        return {**self.backbone.describe(), "per_frame": True}

    def extract(self, clips: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """uint8 [B, T, H, W, 3] → (features float32 [B, T, D], probabilities float32 [B, T, K])."""
        stills = clips.flatten(0, 1)[:, None].expand(-1, self.backbone.min_frames, -1, -1, -1)
        return tuple(values.unflatten(0, clips.shape[:2]) for values in self.backbone.extract(stills))
