"""From a backbone's name to a `Backbone`: which weights file, in which form, with which settings."""

import os
import pickle
from dataclasses import replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.backbones import c3d, i3d
from hpdm_eval.backbones.backbone import (
    Backbone,
    C3DBackbone,
    I3DBackbone,
    InceptionBackbone,
    ScriptedC3DBackbone,
    ScriptedI3DBackbone,
    Shapes3DBackbone,
)
from hpdm_eval.backbones.forms import is_torchscript
from hpdm_eval.backbones.names import BACKBONES, C3D, I3D, INCEPTION, KNOWN, SHAPES3D, SHORT_NAMES
from hpdm_eval.backbones.preprocess import RULES
from hpdm_eval.backbones.registered import load_registered
from hpdm_eval.backbones.registry import find_backbone, registered_names
from hpdm_eval.backbones.scripted import read_scripted, without_prefix
from hpdm_eval.backbones.shapes3d import Shapes3D
from hpdm_eval.backbones.video_transformers import is_transformers_name, load_transformers
from hpdm_eval.backbones.weights import TRUSTS, WeightsInfo, find, fingerprint
from hpdm_eval.support.npz import read_npz

KINDS = {I3D: I3DBackbone, SHAPES3D: Shapes3DBackbone, C3D: C3DBackbone, INCEPTION: InceptionBackbone}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def backbone_name(name: str) -> str:
    """Full name of a backbone given by its full or short name; raises InputError for an unknown one."""
    full = SHORT_NAMES.get(name, name)
    if full not in BACKBONES and not is_transformers_name(full) and find_backbone(full) is None:
        raise InputError(f"unknown backbone {name!r}; choose one of {', '.join([*KNOWN, *registered_names()])}")
    return full


def load_backbone(
    name: str,
    *,
    weights: str | os.PathLike | None = None,
    unverified: bool = False,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    bn_epsilon: float | None = None,
    resize_rule: str = "bilinear",
    c3d_mean: str | os.PathLike | None = None,
    optimize: bool = True,
) -> Backbone:
    """Load a network for evaluation; returns a Backbone. Raises InputError for files and settings that do not fit.

    name: "i3d", "shapes3d", "c3d", "inception", or "videomae:WHERE" and "vjepa:WHERE" with a folder or an id on the
    hub, or a registered one, see `registry`; the last three take no `weights`. weights: a file in place of the cached
    or shipped one; one whose hash
    is not known needs `unverified`. precision: "bf16" runs all but the head in bfloat16. bn_epsilon: of the BatchNorms;
    None is the network's own (I3D: 1e-3, its TensorFlow original's). resize_rule: how clips get to the network's size,
    see `preprocess.resize`; c3d and inception have their own way. c3d_mean: the mean video of c3d, an .npz with the key
    `mean`, in place of the cached one; without `unverified`, the first one given is kept there and pinned; TorchScript
    files bring their own. optimize=False runs the network as written instead of folded and rearranged.
    """
    name = backbone_name(name)
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; choose fp32 or bf16")
    if resize_rule not in RULES:
        raise InputError(f"unknown resize rule {resize_rule!r} of a backbone; choose {', '.join(RULES)}")
    dtype = PRECISIONS[precision]
    if dtype != torch.float32 and not optimize:
        raise InputError("the plain network runs in fp32 only")
    settings = {"precision": precision, "device": torch.device(device), "resize_rule": resize_rule}
    if name == I3D:
        return _load_i3d(weights, unverified, bn_epsilon, dtype, optimize, settings)
    if name == SHAPES3D:
        return _load_shapes3d(weights, unverified, bn_epsilon, dtype, optimize, settings)
    if is_transformers_name(name):
        if weights is not None:
            raise InputError(f"{name}: --weights is not for this backbone; name its folder after the colon")
        return load_transformers(name, dtype=dtype, **settings)
    if (registered := find_backbone(name)) is not None:
        _check_registered(name, weights, bn_epsilon, dtype)
        return load_registered(registered, **settings)
    if dtype != torch.float32:
        raise InputError(f"{name} runs in fp32 only")
    if bn_epsilon is not None:
        raise InputError(f"bn_epsilon is a setting of i3d; leave it null for {name}")
    if name == C3D:
        return _load_c3d(weights, unverified, c3d_mean, settings)
    return _load_inception(weights, unverified, settings)


def _check_registered(name, weights, bn_epsilon, dtype):
    if weights is not None:
        raise InputError(f"{name}: --weights is not for a registered backbone; its function loads them")
    if dtype != torch.float32:
        raise InputError(f"{name} is a registered backbone, which runs in fp32 only")
    if bn_epsilon is not None:
        raise InputError(f"bn_epsilon is a setting of i3d; leave it null for {name}")


def _load_i3d(weights, unverified, bn_epsilon, dtype, optimize, settings):
    epsilon = i3d.TENSORFLOW_EPSILON if bn_epsilon is None else bn_epsilon
    scripted, state_dict = "i3d_torchscript.pt", "i3d_pretrained_400.pt"
    own_epsilon = epsilon == i3d.TENSORFLOW_EPSILON
    accept = (scripted, state_dict) if own_epsilon and dtype == torch.float32 and optimize else (state_dict,)
    info = find(I3D, weights=weights, unverified=unverified, accept=accept)
    if is_torchscript(info.path):
        if not own_epsilon:
            raise InputError(
                f"{info.path}: a TorchScript file brings its own BatchNorm epsilon (1e-3); "
                f"for {epsilon:g} use {state_dict}"
            )
        if dtype != torch.float32 or not optimize:
            raise InputError(f"{info.path}: a TorchScript file runs as it is, in fp32; use {state_dict}")
        network = None if info.verified else _i3d_of_script(info.path, epsilon)
        if network is None:
            return ScriptedI3DBackbone(load_torchscript(info.path), info, epsilon=epsilon, **settings)
        return I3DBackbone(i3d.FoldedI3D(network, dtype), info, epsilon=epsilon, **settings)
    network = i3d.load_state(i3d.InceptionI3D(epsilon), read_tensors(info.path), info.path)
    if optimize:
        network = i3d.FoldedI3D(network, dtype)
    return I3DBackbone(network, info, epsilon=epsilon, **settings)


def _i3d_of_script(path, epsilon):
    """Our own I3D with the tensors of an unverified TorchScript file, whose program is not run; None if they differ."""
    network = i3d.InceptionI3D(epsilon)
    wanted = [name for name in network.state_dict() if "num_batches" not in name]
    try:
        return i3d.load_state(network, without_prefix(read_scripted(path), wanted), path)
    except InputError:
        return None


def _load_shapes3d(weights, unverified, bn_epsilon, dtype, optimize, settings):
    if bn_epsilon is not None:
        raise InputError("shapes3d has one BatchNorm epsilon, its own; leave bn_epsilon null")
    if weights is None:
        path = Path(str(resources.files("hpdm_eval.backbones") / "weights" / "shapes3d.safetensors"))
        if not path.is_file():
            raise InputError(
                f"{path} is missing; make it with `python -m hpdm_eval.studies.shipped.train_shapes3d --out {path}`"
            )
        info = WeightsInfo(
            name=path.name, path=path, sha256=fingerprint(path).sha256, trust="package", source="package"
        )
    else:
        info = find(SHAPES3D, weights=weights, unverified=unverified)
    state, metadata = _read_safetensors(info.path)
    if metadata.get("format") != SHAPES3D:
        raise InputError(f"{info.path}: not weights of shapes3d")
    network = Shapes3D(_class_count(info.path, metadata))
    epsilon = network.trunk[0].bn.eps
    # `num_batches_tracked` is not stored: nothing reads it in evaluation.
    missing, foreign = network.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or foreign:
        raise InputError(f"{info.path}: weights of another version of shapes3d ({(missing + foreign)[0]} does not fit)")
    network.requires_grad_(False).eval()
    if optimize:
        network.fold()
        network.trunk.to(dtype)
    if settings["resize_rule"] == "bilinear":  # made for I3D's 256 to 224; to 64 pixels it would skip most of a frame
        settings = {**settings, "resize_rule": "bilinear-antialias"}
    return Shapes3DBackbone(network, info, epsilon=epsilon, **settings)


def _load_c3d(weights, unverified, mean, settings):
    accept = ("c3d_ucf101.pt", "conv3d_deepnetA_ucf.npz")  # a mean video speaks for the one that needs it
    info = find(C3D, weights=weights, unverified=unverified, accept=accept if mean is None else accept[::-1])
    if is_torchscript(info.path):
        if mean is not None:
            raise InputError(f"{info.path}: a TorchScript file brings its own mean video; leave out --c3d-mean")
        return ScriptedC3DBackbone(
            load_torchscript(info.path), info, epsilon=None, **{**settings, "resize_rule": "own"}
        )
    if mean is not None:
        c3d.read_mean(mean)  # before anything is pinned
    try:
        mean_info = find(C3D, weights=mean, unverified=unverified, accept=("mean2.npz",), first_use="mean2.npz")
    except InputError as error:
        way_out = ". Or give --c3d-mean FILE.npz" if mean is None else ""
        raise InputError(f"the mean video that c3d subtracts: {error}{way_out}") from error
    state = read_npz(info.path) if info.path.suffix == ".npz" else read_tensors(info.path)
    network = c3d.build(state, c3d.read_mean(mean_info.path), info.path)
    info = replace(info, trust=max(info.trust, mean_info.trust, key=TRUSTS.index))
    return C3DBackbone(
        network,
        info,
        mean_sha256=mean_info.sha256,
        epsilon=None,
        **{**settings, "resize_rule": "bilinear-align-corners"},
    )


def _load_inception(weights, unverified, settings):
    if find_spec("torch_fidelity") is None:
        raise InputError("the network inception needs the extra `fid`: pip install 'hpdm[fid]'")
    info = find(INCEPTION, weights=weights, unverified=unverified)
    # torch-fidelity reads the file by pickle without restrictions; what gets through here holds nothing but tensors
    read_tensors(info.path)
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        network = FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits"], str(info.path))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{info.path}: not torch-fidelity's Inception-v3 ({_first_line(error)})") from error
    return InceptionBackbone(
        network, info, epsilon=network.Conv2d_1a_3x3.bn.eps, **{**settings, "resize_rule": "tf1-bilinear"}
    )


def load_torchscript(path: str | os.PathLike) -> torch.jit.ScriptModule:
    """Load the program of a TorchScript file, on the CPU; raises InputError for a damaged one.

    Loading and calling it executes what is inside. Where its tensors are those of our I3D, `scripted.read_scripted`
    makes that unnecessary. We come here only with a file whose hash is the published or pinned
    one, or that the user accepted with --unverified: `find` raises for all others.
    """
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # damaged programs raise nearly anything
        raise InputError(f"{path}: not a readable TorchScript file ({_first_line(error)})") from error


def read_tensors(path: str | os.PathLike) -> Any:
    """What `torch.save` wrote, nothing but tensors in plain containers; raises InputError for any other file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its message tells people to load without restrictions
        raise InputError(f"{path}: not a readable state dict of tensors (damaged, or more than tensors)") from error
    except Exception as error:  # as above
        raise InputError(f"{path}: not a readable state dict of tensors ({_first_line(error)})") from error


def _read_safetensors(path):
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118, no dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def _class_count(path, metadata):
    try:
        classes = parse_json(metadata["classes"])
        if not isinstance(classes, list) or not classes:
            raise ValueError("no list of classes")
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged, it does not say its classes ({error})") from error
    return len(classes)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]
