"""VideoMAE and V-JEPA through the transformers library, an optional extra: `videomae:WHERE` and `vjepa:WHERE`.

WHERE is a folder as transformers saves it (config.json and .safetensors files) or an id on the hub.

The feature is what a classifier on top would see: the input of the last layer where the folder has a classifier (for
V-JEPA the output of its attentive pooler), else the mean of the encoder's tokens. Fréchet distances on VideoMAE
features are "content-debiased" FVD (Ge et al., CVPR 2024), published with a ViT-g of VideoMAE-v2 fine-tuned on
Something-Something-v2, which transformers does not carry; JEDi (Luo et al., ICLR 2025) was published with V-JEPA 1
ViT-H/16, and transformers carries V-JEPA 2. So figures made here are of the same kind as the published ones, and not
comparable to them.

B batch, T frames, H rows, W columns, N tokens, D feature dimensions, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpdm.support.errors import InputError
from hpdm.support.files import read_json
from hpdm.support.pretrained import folder_digest, load_pretrained, need_transformers, pretrained_folder
from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.backbones.preprocess import resize, to_unit_range
from hpdm_eval.backbones.weights import WeightsInfo

PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")  # the first one that is there
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TransformersBackbone(Backbone):
    """Base of both networks. `network` is the model with or without its classifier."""

    family: str  # the attribute of a model with classifier that holds the encoder

    def __init__(
        self,
        name: str,
        network: nn.Module,
        weights: WeightsInfo,
        normalisation: tuple[Sequence[float], Sequence[float]],
        *,
        dtype: torch.dtype,
        **settings: Any,
    ) -> None:
        self.name, self.feature_dim, self.dtype = name, network.config.hidden_size, dtype
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1, 1) for values in normalisation)
        super().__init__(network.to(dtype), weights, epsilon=None, **settings)
        self._mean, self._std = mean.to(self.device), std.to(self.device)
        self.normalisation = normalisation
        self.classifier = getattr(network, "classifier", None)
        self.encoder = getattr(network, self.family) if self.classifier is not None else network

    def describe(self) -> dict[str, Any]:
        """As of any backbone, with the mean and the standard deviation that RGB in 0..1 is normalised by."""
        mean, std = self.normalisation
        return {**super().describe(), "image_mean": list(mean), "image_std": list(std)}

    @torch.inference_mode()
    def prepare(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 [B, T, H, W, 3] → float [B, T, 3, h, w], normalised as the network was trained."""
        video = resize(to_unit_range(clips.to(self.device)), self.resolution, self.resize_rule)
        video = ((video + 1) / 2 - self._mean) / self._std
        return video.transpose(1, 2).to(self.dtype)

    def run(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float [B, T, 3, h, w] → (features [B, D], logits [B, K]); K is 0 without a classifier."""
        features = self.pool(self.tokens(video))
        logits = features[:, :0] if self.classifier is None else self.classifier(features)
        return features, logits

    def tokens(self, video: torch.Tensor) -> torch.Tensor:
        """The encoder's last states [B, N, D]."""
        raise NotImplementedError

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, N, D] → [B, D]"""
        raise NotImplementedError


class VideoMAEBackbone(TransformersBackbone):
    """VideoMAE; it takes exactly as many frames as it was trained on, 16 for all published ones."""

    family = "videomae"

    def __init__(self, name: str, network: nn.Module, *arguments: Any, **settings: Any) -> None:
        self.resolution = _pair(network.config.image_size)
        self.min_frames = self.max_frames = network.config.num_frames
        super().__init__(name, network, *arguments, **settings)

    def tokens(self, video: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixel_values=video).last_hidden_state

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.classifier is None:
            return tokens.mean(dim=1)
        norm = self.network.fc_norm
        return tokens[:, 0] if norm is None else norm(tokens.mean(dim=1))


class VJEPABackbone(TransformersBackbone):
    """V-JEPA 2; any number of frames, an odd last one is not seen."""

    family = "vjepa2"

    def __init__(self, name: str, network: nn.Module, *arguments: Any, **settings: Any) -> None:
        self.resolution = _pair(network.config.crop_size)
        self.min_frames = network.config.tubelet_size
        super().__init__(name, network, *arguments, **settings)

    def tokens(self, video: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixel_values_videos=video, skip_predictor=True).last_hidden_state

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(dim=1) if self.classifier is None else self.network.pooler(tokens)


FAMILIES = {"videomae": ("VideoMAE", VideoMAEBackbone), "vjepa": ("VJEPA2", VJEPABackbone)}


def is_transformers_name(name: str) -> bool:
    """Whether a backbone's name is one of `videomae:WHERE` and `vjepa:WHERE`."""
    return name.partition(":")[0] in FAMILIES


def load_transformers(name: str, *, dtype: torch.dtype, **settings: Any) -> TransformersBackbone:
    """Load `videomae:WHERE` or `vjepa:WHERE`; raises InputError that says what is missing.

    No hash of these networks is published, so records mark them as not verified. Only safetensors files are read:
    nothing in them is executed.
    """
    family, _, where = name.partition(":")
    if not where:
        raise InputError(
            f"backbone {family} needs a folder or an id on the hub, as {family}:FOLDER or {family}:OWNER/NAME"
        )
    library = need_transformers(f"backbone {name}", "video")
    folder = pretrained_folder(where)
    config = read_json(folder / "config.json")
    prefix, kind = FAMILIES[family]
    if config.get("model_type") != prefix.lower():
        raise InputError(
            f"{where}: config.json is of {config.get('model_type')!r}, a {family} backbone needs {prefix.lower()!r}"
        )
    network = _load_model(library, prefix, folder, config)
    preprocessor = next((name for name in PREPROCESSORS if (folder / name).is_file()), None)
    normalisation = _normalisation(folder / preprocessor) if preprocessor else (IMAGENET_MEAN, IMAGENET_STD)
    digest = folder_digest(folder, also=[preprocessor] if preprocessor else [])
    info = WeightsInfo(name=Path(where).name, path=folder, sha256=digest, trust="unverified", source=where)
    return kind(f"{family}-{Path(where).name}", network, info, normalisation, dtype=dtype, **settings)


def _load_model(library, prefix, folder, config):
    classifies = any(name.endswith("ForVideoClassification") for name in config.get("architectures") or ())
    model = getattr(library, prefix + ("ForVideoClassification" if classifies else "Model"))
    network, missing = load_pretrained(model, folder)
    # transformers fills what a file lacks with random numbers; only the predictor of V-JEPA is not used here
    missing = [key for key in missing if "predictor" not in key]
    if missing:
        raise InputError(f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more of {model.__name__}")
    return network


def _normalisation(path):
    """(mean, std) of RGB in 0..1 from a preprocessor's file, ImageNet's where it says nothing."""
    values = read_json(path)
    try:
        mean = [float(number) for number in values.get("image_mean", IMAGENET_MEAN)]
        std = [float(number) for number in values.get("image_std", IMAGENET_STD)]
        if len(mean) != 3 or len(std) != 3 or not all(std):
            raise ValueError("not of three channels")
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: image_mean and image_std have to be three numbers each, and no std 0") from error
    return mean, std


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)
