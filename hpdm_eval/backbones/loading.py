"""From a backbone's name to a `Backbone`: which weights file, in which form, with which settings."""

import json
import pickle
import zipfile
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hpdm.errors import InputError
from hpdm_eval.backbones import i3d
from hpdm_eval.backbones.backbone import I3D, SHAPES3D, I3DBackbone, ScriptedI3DBackbone, Shapes3DBackbone
from hpdm_eval.backbones.preprocess import RULES
from hpdm_eval.backbones.shapes3d import Shapes3D
from hpdm_eval.backbones.weights import WeightsInfo, find, fingerprint

SHORT_NAMES = {"i3d": I3D}
BACKBONES = (I3D, SHAPES3D)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def backbone_name(name):
    """Full name of a backbone given by its full or short name; raises InputError for an unknown one."""
    full = SHORT_NAMES.get(name, name)
    if full not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}; choose i3d or shapes3d")
    return full


def load_backbone(name, *, weights=None, unverified=False, device="cpu", precision="fp32", bn_epsilon=None,
                  resize_rule="bilinear", optimize=True):
    """Load a network for evaluation; returns a Backbone. Raises InputError for files and settings that do not fit.

    name: "i3d" or "shapes3d". weights: a file in place of the cached or shipped one; one whose hash is not known needs
    `unverified`. precision: "bf16" runs all but the head in bfloat16. bn_epsilon: of the BatchNorms; None is the
    network's own (I3D: 1e-3, its TensorFlow original's). resize_rule: how clips get to the network's size, see
    `preprocess.resize`. optimize=False runs the network as written instead of folded and rearranged.
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
    return _load_shapes3d(weights, unverified, bn_epsilon, dtype, optimize, settings)


def _load_i3d(weights, unverified, bn_epsilon, dtype, optimize, settings):
    epsilon = i3d.TENSORFLOW_EPSILON if bn_epsilon is None else bn_epsilon
    scripted, state_dict = "i3d_torchscript.pt", "i3d_pretrained_400.pt"
    own_epsilon = epsilon == i3d.TENSORFLOW_EPSILON
    accept = (scripted, state_dict) if own_epsilon and dtype == torch.float32 and optimize else (state_dict,)
    info = find(I3D, weights=weights, unverified=unverified, accept=accept)
    if is_torchscript(info.path):
        if not own_epsilon:
            raise InputError(f"{info.path}: a TorchScript file brings its own BatchNorm epsilon (1e-3); "
                             f"for {epsilon:g} use {state_dict}")
        if dtype != torch.float32 or not optimize:
            raise InputError(f"{info.path}: a TorchScript file runs as it is, in fp32; use {state_dict}")
        # Loading a TorchScript file and calling it executes the program inside. We come here only with a file whose
        # hash is the published one or that the user accepted with --unverified: `find` raises for all others.
        try:
            network = torch.jit.load(str(info.path), map_location="cpu")
        except RuntimeError as error:
            raise InputError(f"{info.path}: not a readable TorchScript file ({_first_line(error)})") from error
        return ScriptedI3DBackbone(network, info, epsilon=epsilon, **settings)
    network = i3d.load_state(i3d.InceptionI3D(epsilon), _read_tensors(info.path), info.path)
    if optimize:
        network = i3d.FoldedI3D(network, dtype)
    return I3DBackbone(network, info, epsilon=epsilon, **settings)


def _load_shapes3d(weights, unverified, bn_epsilon, dtype, optimize, settings):
    if bn_epsilon is not None:
        raise InputError("shapes3d has one BatchNorm epsilon, its own; leave bn_epsilon null")
    if weights is None:
        path = Path(str(resources.files("hpdm_eval.backbones") / "weights" / "shapes3d.safetensors"))
        if not path.is_file():
            raise InputError(f"{path} is missing; make it with "
                             f"`python -m hpdm_eval.backbones.train_shapes3d --out {path}`")
        info = WeightsInfo(name=path.name, path=path, sha256=fingerprint(path).sha256, trust="package",
                           source="package")
    else:
        info = find(SHAPES3D, weights=weights, unverified=unverified)
    state, metadata = _read_safetensors(info.path)
    if metadata.get("format") != SHAPES3D:
        raise InputError(f"{info.path}: not weights of shapes3d")
    network = Shapes3D(len(json.loads(metadata["classes"])))
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


def is_torchscript(path):
    """Whether a file is a TorchScript archive, as opposed to saved tensors; looks at names only, executes nothing."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_tensors(path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable state dict of tensors ({_first_line(error)})") from error


def _read_safetensors(path):
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]
