"""Checkpoints: a folder per saved step, whole whoever wrote it, and `latest`, a link to the newest.

    step-00001000/model.safetensors    weights
                  ema.safetensors      their average: what one samples from
                  training.pt          optimizer, position in the run, figures of the log line in progress
                  config.yaml          the configuration of the run

Tensors are stored unsharded under the network's parameter names, so one process, DDP and FSDP read each other's. A
weights file carries configuration and step in its header and is enough to sample from.
"""

import json
import os
import pickle
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from hpdm.config import Config, config_from_dict, config_to_dict, save_config
from hpdm.errors import InputError
from hpdm.files import atomic_folder
from hpdm.sharding import like

LATEST = "latest"
HEADER = "hpdm"  # one key: the order of several in a safetensors header changes from run to run
MODEL_FILE, EMA_FILE, STATE_FILE, CONFIG_FILE = "model.safetensors", "ema.safetensors", "training.pt", "config.yaml"


def step_folder(run, step: int) -> Path:
    return Path(run) / f"step-{step:08d}"


def latest_checkpoint(run) -> Path | None:
    """The folder that `latest` points to; None where the run has no checkpoint."""
    link = Path(run) / LATEST
    return link.resolve() if link.is_dir() else None


def save_checkpoint(run, *, step, network, ema, optimizer, config, progress, first=True, keep=None) -> Path:
    """Write the state after `step` steps, point `latest` to it and delete all but the newest `keep` checkpoints.

    Every process must call this; the one with `first` writes. `progress` is a dictionary of tensors, numbers and
    texts that `load_training_state` gives back. A reader never sees an incomplete folder, whenever the run is killed.
    """
    model = _whole(network.named_parameters(), first)
    average = _whole(ema.named_averages(), first)
    state = _optimizer_state(network, optimizer, first) | {"step": step, "progress": progress}
    folder = step_folder(run, step)
    if not first:
        return folder
    with atomic_folder(folder) as temporary:
        for file, weights, kind in ((MODEL_FILE, model, "model"), (EMA_FILE, average, "ema")):
            write_weights(temporary / file, weights, config=config, step=step, kind=kind)
        torch.save(state, temporary / STATE_FILE)
        save_config(config, temporary / CONFIG_FILE)
        mode = (temporary / CONFIG_FILE).stat().st_mode
        for file in (MODEL_FILE, EMA_FILE, STATE_FILE):
            os.chmod(temporary / file, mode)  # safetensors writes for the owner alone
            _flush(temporary / file)
    _point(Path(run) / LATEST, folder.name)
    if keep:
        for old in sorted(Path(run).glob("step-*"))[:-keep]:
            if old != folder:
                shutil.rmtree(old)
    return folder


def read_config(file) -> Config:
    """The configuration saved in a run or a checkpoint; raises InputError for one that cannot be used."""
    try:
        return config_from_dict(yaml.safe_load(Path(file).read_text(encoding="utf-8")), where=str(file))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def remove_leftovers(run):
    """Delete what a killed process had not finished writing."""
    for folder in Path(run).glob(".step-*.part"):
        shutil.rmtree(folder)


def write_weights(file, weights: dict[str, torch.Tensor], *, config: Config, step: int, kind: str):
    """Write name → tensor as a weights file that `read_weights` reads; `kind` is "model" or "ema". Not atomic."""
    header = {"config": config_to_dict(config), "step": step, "weights": kind}
    save_file(weights, file, metadata={HEADER: json.dumps(header)})


def read_weights(file):
    """(name → tensor on the CPU, Config, step) of a weights file; raises InputError where it is not one of ours."""
    try:
        with safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {})[HEADER])
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dictionary
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is not a weights file of this program: {error}") from error
    return weights, config_from_dict(header["config"], where=str(file)), header["step"]


class OpenWeights:
    """The tensors of a weights file by name, each read when it is asked for."""

    def __init__(self, opened):
        self._opened, self._names = opened, list(opened.keys())

    def __iter__(self):
        return iter(self._names)

    def __contains__(self, name):
        return name in self._names

    def __getitem__(self, name):
        return self._opened.get_tensor(name)

    def shape(self, name) -> tuple[int, ...]:
        return tuple(self._opened.get_slice(name).get_shape())


@contextmanager
def open_weights(file):
    """Context of the `OpenWeights` of a weights file; raises InputError where it is not one of ours."""
    try:
        opened = safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is not a weights file of this program: {error}") from error
    with opened:
        yield OpenWeights(opened)


def load_training_state(folder, *, network, ema, optimizer) -> dict:
    """Put a checkpoint into network, average and optimizer, sharded or not, in place.

    Every process must call this. Returns {"step": ..., "progress": ...} as saved. Raises InputError for damaged files
    and for weights of another shape.
    """
    folder = Path(folder)
    try:
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{folder / STATE_FILE} cannot be read: {str(error).splitlines()[0]}") from error
    for file, named in ((MODEL_FILE, network.named_parameters()), (EMA_FILE, ema.named_averages())):
        with open_weights(folder / file) as weights:
            _copy_into(named, weights, folder / file)
    for name, parameter in network.named_parameters():
        optimizer.state[parameter] = {
            key: like(value, parameter) if value.shape == parameter.shape else value
            for key, value in state["optimizer"].get(name, {}).items()
        }
    for group, count in zip(optimizer.param_groups, state["group_steps"], strict=True):
        if count is not None:
            group["step"] = count
    return {"step": state["step"], "progress": state["progress"]}


def _whole(named, keep):
    """name → unsharded CPU tensor, empty unless `keep`; sharded ones are gathered one at a time."""
    result = {}
    for name, tensor in named:
        tensor = _unsharded(tensor)
        if keep:
            result[name] = tensor.cpu().contiguous()
    return result


def _unsharded(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _optimizer_state(network, optimizer, keep):
    """State of every parameter by its name, and the step counters that some optimizers keep per group."""
    states = {}
    for name, parameter in network.named_parameters():
        state = {key: _unsharded(value) for key, value in optimizer.state.get(parameter, {}).items()}
        if keep and state:
            states[name] = {key: value.cpu() for key, value in state.items()}
    return {"optimizer": states, "group_steps": [group.get("step") for group in optimizer.param_groups]}


@torch.no_grad()
def _copy_into(named, values, file):
    named = dict(named)
    if unlike := sorted(named.keys() ^ set(values)):
        raise InputError(f"{file} does not belong to this network: {unlike[0]} is in one and not in the other")
    for name, tensor in named.items():
        if tuple(tensor.shape) != values.shape(name):
            raise InputError(f"{file}: {name} is {list(values.shape(name))}, the network has {list(tensor.shape)}")
        tensor.copy_(like(values[name], tensor))


def _point(link, target):
    """Make `link` a symbolic link to `target`, replacing an older one in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    os.replace(temporary, link)


def _flush(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
