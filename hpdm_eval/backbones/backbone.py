"""A loaded network behind one interface: uint8 clips in, features and class probabilities out.

B batch, T frames, H rows, W columns, D feature dimensions, K classes.
"""

import torch

from hpdm.errors import InputError
from hpdm_eval.backbones import i3d, shapes3d
from hpdm_eval.backbones.preprocess import resize, to_unit_range

I3D, SHAPES3D = "i3d-kinetics400", "shapes3d"


class Backbone:
    """Base of all backbones; a subclass names its sizes and says how its network is called.

    weights: WeightsInfo. epsilon: of the BatchNorms. resize_rule: see `preprocess.resize`.
    """

    name: str
    feature_dim: int
    min_frames: int
    resolution: tuple[int, int]

    def __init__(self, network, weights, *, epsilon, precision, device, resize_rule):
        self.network, self.weights, self.device = network.to(device).eval(), weights, device
        self.epsilon, self.precision, self.resize_rule = epsilon, precision, resize_rule

    def describe(self):
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

    def extract(self, clips):
        """uint8 [B, T, H, W, 3] → (features float32 [B, D], probabilities float32 [B, K]), both on the CPU.

        Raises InputError for clips with fewer than `min_frames` frames.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
            raise ValueError(f"expected uint8 [B, T, H, W, 3], got {clips.dtype} {list(clips.shape)}")
        if clips.shape[1] < self.min_frames:
            raise InputError(f"{self.name} needs clips of at least {self.min_frames} frames, got {clips.shape[1]}")
        return self.forward(self.prepare(clips))

    @torch.inference_mode()
    def prepare(self, clips):
        """First half of `extract`: uint8 [B, T, H, W, 3] → the network's input, float32 [B, 3, T, h, w]."""
        return resize(to_unit_range(clips.to(self.device)), self.resolution, self.resize_rule)

    @torch.inference_mode()
    def forward(self, video):
        """Second half of `extract`: what `prepare` returned → (features [B, D], probabilities [B, K])."""
        # TF32, cuDNN's default for convolutions, keeps three digits: too few for a distance between near-equal sets.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features, logits = self.run(video)
        return features.float().cpu(), logits.float().softmax(dim=1).cpu()

    def run(self, video):
        """Network input → (features [B, D], logits [B, K])."""
        raise NotImplementedError


class I3DBackbone(Backbone):
    """Our own Inception-I3D; its logits, averaged over time, are the feature."""

    name, feature_dim = I3D, i3d.CLASSES
    min_frames, resolution = i3d.MIN_FRAMES, i3d.RESOLUTION

    def run(self, video):
        logits = self.network(video)
        return logits, logits


class ScriptedI3DBackbone(I3DBackbone):
    """The TorchScript file that StyleGAN-V made popular, run as it is.

    It rescales and resizes bilinearly by itself, so that frames go in as 0..255 at their own size; under another resize
    rule it gets prepared input.
    """

    @torch.inference_mode()
    def prepare(self, clips):
        if self.resize_rule == "bilinear":
            return clips.to(self.device).permute(0, 4, 1, 2, 3).float()
        return super().prepare(clips)

    def run(self, video):
        raw = self.resize_rule == "bilinear"
        logits = self.network(x=video, rescale=raw, resize=raw, return_features=True)
        return logits, logits


class Shapes3DBackbone(Backbone):
    """The shipped classifier; its penultimate layer is the feature."""

    name, feature_dim = SHAPES3D, shapes3d.FEATURE_DIM
    min_frames, resolution = shapes3d.MIN_FRAMES, shapes3d.RESOLUTION

    def run(self, video):
        dtype = next(self.network.trunk.parameters()).dtype
        features = self.network.trunk(video.to(dtype)).float().mean(dim=(2, 3, 4))
        return features, self.network.head(features)
