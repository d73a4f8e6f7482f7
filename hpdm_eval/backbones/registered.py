"""Networks of other packages and scripts behind the interface of `Backbone`, see `registry`.

B batch, T frames, H rows, W columns, D feature dimensions, K classes.
"""

import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpdm.support.errors import InputError
from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.backbones.registry import Registered
from hpdm_eval.backbones.weights import WeightsInfo


class RegisteredBackbone(Backbone):
    """A registered network. `cacheable`: whether all of its code is in files, so that a change of it is seen."""

    def __init__(self, registered: Registered, network: nn.Module, **settings: Any) -> None:
        info = registered.info
        assert info.dimension and info.size and info.frames  # a registration says them all
        self.name, self.feature_dim, self.resolution = info.name, info.dimension, info.size
        self.min_frames, self.max_frames = info.frames
        files = code_files(registered, network)
        self.cacheable = files is not None
        self._code = files and files_digest(files)
        weights = WeightsInfo(
            name=info.name, path=Path(info.name), sha256=state_digest(network), trust="registered", source=info.source
        )
        super().__init__(network.requires_grad_(False), weights, epsilon=None, **settings)

    def describe(self) -> dict[str, Any]:
        """As of any backbone, with the SHA-256 of the files that define the network, None where it is in no file."""
        return {**super().describe(), "code": self._code}

    def run(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [B, 3, T, h, w] → (features [B, D], logits [B, K]); K is 0 for a network without classes."""
        returned = self.network(video)
        features, logits = returned if isinstance(returned, tuple | list) and len(returned) == 2 else (returned, None)
        wanted = f"expected float [{len(video)}, {self.feature_dim}], as it is registered"
        _check(self.name, features, (len(video), self.feature_dim), wanted)
        if logits is None:
            return features, features[:, :0]
        _check(self.name, logits, (len(video), None), f"expected logits [{len(video)}, K]")
        return features, logits


def load_registered(registered: Registered, **settings: Any) -> RegisteredBackbone:
    """Make a registered network; raises InputError for a function that fails or returns no network."""
    info = registered.info
    try:
        network = registered.make(settings["device"])
    except InputError:
        raise
    except Exception as error:  # whatever somebody else's function does
        line = (str(error).splitlines() or [""])[0]
        raise InputError(f"backbone {info.name} cannot be made: {type(error).__name__}: {line}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"backbone {info.name} returned {type(network).__name__}, expected a torch.nn.Module")
    if info.resize and settings["resize_rule"] == "bilinear":
        settings = {**settings, "resize_rule": info.resize}
    return RegisteredBackbone(registered, network, **settings)


def state_digest(network: nn.Module) -> str:
    """Hex SHA-256 over names, types, shapes and bytes of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:  # extra state
            digest.update(f"{name}\0{value!r}\0".encode())
    return digest.hexdigest()


def code_files(registered: Registered, network: nn.Module) -> list[Path] | None:
    """Files that define the function and the network's modules, PyTorch's own left out; None where any is in no file,
    or where the function uses variables of another function, whose values no file tells."""
    if getattr(registered.make, "__closure__", None):
        return None
    files: set[Path] = set()
    things: list[Any] = [registered.make, *{type(module) for module in network.modules()}]
    for thing in things:
        if (getattr(thing, "__module__", None) or "").partition(".")[0] == "torch":
            continue
        try:
            path = Path(inspect.getsourcefile(thing) or "")
        except TypeError:
            return None
        if not path.is_file():
            return None
        files.add(path)
    return sorted(files)


def files_digest(files: list[Path]) -> str:
    """Hex SHA-256 over the contents of files, whatever they are called."""
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _check(name, values, shape, wanted):
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        kind = str(values.dtype) if isinstance(values, torch.Tensor) else type(values).__name__
        raise InputError(f"backbone {name} returned {kind}, {wanted}")
    if values.ndim != 2 or any(b is not None and a != b for a, b in zip(values.shape, shape, strict=True)):
        raise InputError(f"backbone {name} returned {list(values.shape)}, {wanted}")
