"""From what `--checkpoint` names to a network with its configuration.

A checkpoint is a run's folder (its `latest` is taken), one of its `step-...` folders, a folder of
`hpdm.HPDM.save_pretrained`, a weights file, the name of weights that ship with the package, or an id on the Hugging
Face hub, "user/name" or "user/name@revision". A weights file carries its configuration. Weights that a sharded run has
saved in many files are read as they are; their index stands for them. Only safetensors are read: loading a checkpoint
never runs code from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from hpdm.checkpoint.folder import (
    EMA_FILE,
    LATEST,
    MANIFEST_FILE,
    MODEL_FILE,
    PICKLED_INDEX,
    check_files,
    open_weights,
    read_weights,
)
from hpdm.checkpoint.hub import HubSource, fetch_checkpoint, is_hub_id
from hpdm.checkpoint.recover import newest_whole
from hpdm.checkpoint.shard_files import index_file, is_index, is_sharded
from hpdm.config import Config
from hpdm.methods import Method, make_method
from hpdm.support.errors import InputError
from hpdm.support.files import read_json, sha256_file
from hpdm.support.progress import note

SHIPPED = ("nano",)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network in eval mode, float32, with the configuration it was trained with and where it came from."""

    network: torch.nn.Module
    method: Method
    config: Config
    file: Path
    step: int
    sha256: str  # of `file`
    weights: str = "ema"  # "ema" for their average, "raw" for weights as trained
    source: HubSource | None = None  # where on the hub they are from

    def describe(self) -> dict:
        """What identifies the weights, whatever path they were loaded by."""
        hub = {"hub": f"{self.source.id}@{self.source.commit}"} if self.source else {}
        return {"file": self.file.name, "step": self.step, "sha256": self.sha256, **hub}


def find_weights(name: str | Path, raw: bool = False, say: Callable[[str], None] = note) -> Path:
    """The weights file that a run, a step folder, a file, a shipped name or a hub id stands for.

    `raw` takes a run's weights as trained instead of their average. Of a run, the newest whole checkpoint is taken;
    say(text) gets a line where that is not the last one. Raises InputError where there are none, or damaged ones.
    """
    path = Path(name)
    if str(name) in SHIPPED and not path.exists():
        path = Path(str(resources.files("hpdm") / "weights" / f"{name}.safetensors"))
        if not path.is_file():
            raise InputError(f"the weights of {name} are missing from this installation of hpdm")
        return path
    if path.is_file():
        if path.suffix != ".safetensors" and not is_index(path):
            raise InputError(f"{path}: only .safetensors files are read; name a run's folder or such a file")
        return path
    if not path.is_dir() and is_hub_id(name):
        path = fetch_checkpoint(str(name)).folder
    if not path.is_dir():
        shipped = ", ".join(SHIPPED)
        raise InputError(f"{name}: no such checkpoint; name a run's folder, a .safetensors file or {shipped}")
    file = MODEL_FILE if raw or _is_of_raw_weights(path) else EMA_FILE
    folder = newest_whole(path, names=[file], say=say) or path
    if (folder / PICKLED_INDEX).exists():
        check_files(folder, [file])
    if not (folder / file).is_file() and not is_sharded(folder):
        raise InputError(f"{name} holds no checkpoint: there is neither {LATEST} nor {file} in it")
    if folder == path:  # named by itself: there is no other to take
        check_files(folder, [file])
    return folder / (index_file(file.removesuffix(".safetensors")) if is_sharded(folder) else file)


def _is_of_raw_weights(folder: Path) -> bool:
    """Whether a folder of `save_pretrained` holds weights as trained, and says so."""
    if (folder / EMA_FILE).exists() or not (folder / MODEL_FILE).is_file() or not (folder / MANIFEST_FILE).is_file():
        return False
    manifest = read_json(folder / MANIFEST_FILE)
    return isinstance(manifest, dict) and manifest.get("weights") == "raw"


def _kind(file: Path, raw: bool) -> str:
    """Which weights a file holds, "raw" or "ema"; where it does not say, those that were requested."""
    with open_weights(file) as weights:
        kind = weights.kind
    return "raw" if kind == "model" or (kind is None and raw) else "ema"


def load_checkpoint(
    name: str | Path, raw: bool = False, device: torch.device | str = "cpu", revision: str | None = None
) -> Checkpoint:
    """Load what `name` stands for (see `find_weights`) to `device`; revision: of a hub id.

    Raises InputError where there is no such checkpoint, it is damaged, or it fits no network of this version.
    """
    if revision is not None and not is_hub_id(name):
        raise InputError(f"{name} is no id on the hub, so it has no revision {revision}")
    source = fetch_checkpoint(str(name), revision) if is_hub_id(name) else None
    file = find_weights(source.folder if source else name, raw)
    weights, config, step = read_weights(file)
    method = make_method(config)
    network = method.make_network()
    expected = {key: tuple(value.shape) for key, value in network.named_parameters()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if expected != found:
        key = min(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise InputError(
            f"{file}: {key} is {found.get(key, 'absent')} where the network of its configuration has "
            f"{expected.get(key, 'none')}; it was made by another version"
        )
    network.load_state_dict({key: value.to(torch.float32) for key, value in weights.items()})
    network = network.eval().requires_grad_(False).to(device)
    return Checkpoint(
        network=network,
        method=method,
        config=config,
        file=file,
        step=step,
        sha256=sha256_file(file),
        weights=_kind(file, raw),
        source=source,
    )
