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

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError

from hpdm.errors import InputError
from hpdm.files import sha256_file
from hpdm.torchvision_compat import import_torchvision
from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.backbones.preprocess import resize, to_unit_range
from hpdm_eval.backbones.weights import WeightsInfo

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES = ("*.json", "*.safetensors")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class TransformersBackbone(Backbone):
    """Base of both networks. `network` is the model with or without its classifier."""

    family: str  # the attribute of a model with classifier that holds the encoder

    def __init__(self, name, network, weights, normalisation, *, dtype, **settings):
        self.name, self.feature_dim, self.dtype = name, network.config.hidden_size, dtype
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1, 1) for values in normalisation)
        super().__init__(network.to(dtype), weights, epsilon=None, **settings)
        self._mean, self._std = mean.to(self.device), std.to(self.device)
        self.classifier = getattr(network, "classifier", None)
        self.encoder = getattr(network, self.family) if self.classifier is not None else network

    @torch.inference_mode()
    def prepare(self, clips):
        """uint8 [B, T, H, W, 3] → float [B, T, 3, h, w], normalised as the network was trained."""
        video = resize(to_unit_range(clips.to(self.device)), self.resolution, self.resize_rule)
        video = ((video + 1) / 2 - self._mean) / self._std
        return video.transpose(1, 2).to(self.dtype)

    def run(self, video):
        """float [B, T, 3, h, w] → (features [B, D], logits [B, K]); K is 0 without a classifier."""
        features = self.pool(self.tokens(video))
        logits = features[:, :0] if self.classifier is None else self.classifier(features)
        return features, logits

    def tokens(self, video):
        """The encoder's last states [B, N, D]."""
        raise NotImplementedError

    def pool(self, tokens):
        """[B, N, D] → [B, D]"""
        raise NotImplementedError


class VideoMAEBackbone(TransformersBackbone):
    """VideoMAE; it takes exactly as many frames as it was trained on, 16 for all published ones."""

    family = "videomae"

    def __init__(self, name, network, *arguments, **settings):
        self.resolution = _pair(network.config.image_size)
        self.min_frames = self.max_frames = network.config.num_frames
        super().__init__(name, network, *arguments, **settings)

    def tokens(self, video):
        return self.encoder(pixel_values=video).last_hidden_state

    def pool(self, tokens):
        if self.classifier is None:
            return tokens.mean(dim=1)
        norm = self.network.fc_norm
        return tokens[:, 0] if norm is None else norm(tokens.mean(dim=1))


class VJEPABackbone(TransformersBackbone):
    """V-JEPA 2; any number of frames, an odd last one is not seen."""

    family = "vjepa2"

    def __init__(self, name, network, *arguments, **settings):
        self.resolution = _pair(network.config.crop_size)
        self.min_frames = network.config.tubelet_size
        super().__init__(name, network, *arguments, **settings)

    def tokens(self, video):
        return self.encoder(pixel_values_videos=video, skip_predictor=True).last_hidden_state

    def pool(self, tokens):
        return tokens.mean(dim=1) if self.classifier is None else self.network.pooler(tokens)


FAMILIES = {"videomae": ("VideoMAE", VideoMAEBackbone), "vjepa": ("VJEPA2", VJEPABackbone)}


def is_transformers_name(name):
    """Whether a backbone's name is one of `videomae:WHERE` and `vjepa:WHERE`."""
    return name.partition(":")[0] in FAMILIES


def load_transformers(name, *, dtype, **settings):
    """Load `videomae:WHERE` or `vjepa:WHERE`; raises InputError that says what is missing.

    No hash of these networks is published, so records mark them as not verified. Only safetensors files are read:
    nothing in them is executed.
    """
    family, _, where = name.partition(":")
    if not where:
        raise InputError(f"backbone {family} needs a folder or an id on the hub, as {family}:FOLDER or "
                         f"{family}:OWNER/NAME")
    if find_spec("transformers") is None:
        raise InputError(f"backbone {name} needs the extra `video`: pip install 'hpdm[video]'")
    folder = _folder(where)
    config = _read_json(folder / "config.json")
    prefix, kind = FAMILIES[family]
    if config.get("model_type") != prefix.lower():
        raise InputError(f"{where}: config.json is of {config.get('model_type')!r}, a {family} backbone needs "
                         f"{prefix.lower()!r}")
    network = _load_model(prefix, folder, config)
    files = sorted(folder.glob("*.safetensors"))
    info = WeightsInfo(name=Path(where).name, path=folder, sha256=_digest([folder / "config.json", *files]),
                       trust="unverified", source=where)
    return kind(f"{family}-{Path(where).name}", network, info, _normalisation(folder), dtype=dtype, **settings)


def _folder(where):
    if Path(where).is_dir():
        return Path(where)
    if not HUB_ID.fullmatch(where):
        raise InputError(f"{where}: neither a folder nor an id on the hub (OWNER/NAME)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        raise InputError(f"{where}: not a folder here, and the hub did not give it "
                         f"({(str(error).splitlines() or [type(error).__name__])[0]}). Download it elsewhere and give "
                         "the folder") from error


def _load_model(prefix, folder, config):
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: no .safetensors files; other formats are not read")
    import_torchvision()  # transformers imports it
    import transformers

    classifies = any(name.endswith("ForVideoClassification") for name in config.get("architectures") or ())
    model = getattr(transformers, prefix + ("ForVideoClassification" if classifies else "Model"))
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        network, report = model.from_pretrained(folder, use_safetensors=True, local_files_only=True,
                                                output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: not readable as {model.__name__} ({str(error).splitlines()[0]})") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
    # transformers fills what a file lacks with random numbers; only the predictor of V-JEPA is not used here
    missing = sorted(key for key in report["missing_keys"] if "predictor" not in key)
    if missing:
        raise InputError(f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more of {model.__name__}")
    return network.requires_grad_(False)


def _normalisation(folder):
    """(mean, std) of RGB in 0..1 from the folder's preprocessor, ImageNet's where it says nothing."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            values = _read_json(folder / name)
            return values.get("image_mean", IMAGENET_MEAN), values.get("image_std", IMAGENET_STD)
    return IMAGENET_MEAN, IMAGENET_STD


def _digest(paths):
    """SHA-256 over lines of name and SHA-256 of the files."""
    lines = "".join(f"{path.name} {sha256_file(path)}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)
