"""Checkpoints: a folder per saved step, whole whoever wrote it, and `latest`, a link to the newest.

    step-00001000/model.safetensors    weights
                  ema.safetensors      their average: what one samples from
                  training.pt          optimizer, position in the run, figures of the log line in progress
                  config.yaml          the configuration of the run
                  manifest.json        size and SHA-256 of each of these

Tensors are stored unsharded under the network's parameter names, so one process, DDP and FSDP read each other's. A
weights file carries configuration, step and a digest of its tensors in its header and is enough to sample from.

Which checkpoint a run goes on from is decided in `hpdm.training.recover`.
"""

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from hpdm.config import Config, config_from_dict, config_to_dict, save_config
from hpdm.errors import InputError, WriteError
from hpdm.files import (
    atomic_folder,
    checked_file,
    parse_json,
    read_json,
    rename,
    sha256_file,
    sweep,
    sync_folder,
    write_json,
)
from hpdm.sharding import like
from hpdm.yaml_text import parse_yaml

LATEST = "latest"
HEADER = "hpdm"  # one key: the order of several in a safetensors header changes from run to run
MODEL_FILE, EMA_FILE, STATE_FILE, CONFIG_FILE = "model.safetensors", "ema.safetensors", "training.pt", "config.yaml"
FILES = (MODEL_FILE, EMA_FILE, STATE_FILE, CONFIG_FILE)
MANIFEST_FILE = "manifest.json"
STEP_FOLDER = re.compile(r"step-(\d{8,})")


def step_folder(run, step: int) -> Path:
    return Path(run) / f"step-{step:08d}"


def steps_saved(run) -> dict[int, Path]:
    """{step: folder} of a run's checkpoints, the oldest first, whole or not."""
    run = Path(run)
    found = {int(match[1]): path for path in (run.iterdir() if run.is_dir() else ())
             if (match := STEP_FOLDER.fullmatch(path.name)) and path.is_dir()}
    return dict(sorted(found.items()))


def latest_checkpoint(run) -> Path | None:
    """The folder that `latest` points to; None where there is no such link. `recover.newest_whole` looks further."""
    link = Path(run) / LATEST
    return link.resolve() if link.is_dir() else None


class Damaged(InputError):
    """A checkpoint that is not as it was written."""


def check_files(folder, names=None) -> bool:
    """Compare the files of a checkpoint, or those named, with its manifest; raises Damaged with what is wrong.

    Returns False for a checkpoint without manifest, as earlier versions wrote them: then only that all files are there
    is known. Reads every byte, all files at once.
    """
    folder = Path(folder)
    if missing := [name for name in names or FILES if not (folder / name).is_file()]:
        raise Damaged(f"{folder} is damaged: {missing[0]} is missing")
    if not (folder / MANIFEST_FILE).exists():
        return False
    try:
        files = read_json(folder / MANIFEST_FILE)["files"]
        expected = {name: (int(files[name]["bytes"]), str(files[name]["sha256"])) for name in names or FILES}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise Damaged(f"{folder} is damaged: {MANIFEST_FILE} cannot be read") from error
    for name, (size, _) in expected.items():
        if (found := (folder / name).stat().st_size) != size:
            raise Damaged(f"{folder} is damaged: {name} has {found} bytes of {size}")
    try:
        with ThreadPoolExecutor() as pool:
            digests = dict(zip(expected, pool.map(lambda name: sha256_file(folder / name), expected), strict=True))
    except OSError as error:
        raise Damaged(f"{error.filename} cannot be read: {error.strerror}") from error
    for name, (_, sha256) in expected.items():
        if digests[name] != sha256:
            raise Damaged(f"{folder} is damaged: {name} differs from its checksum")
    return True


def save_checkpoint(run, *, step, network, ema, optimizer, config, progress, first=True, keep=None) -> Path:
    """Write the state after `step` steps, point `latest` to it and delete all but the newest `keep` checkpoints.

    Every process must call this; the one with `first` writes. `progress` is a dictionary of tensors, numbers and
    texts that `load_training_state` gives back. A reader never sees an incomplete folder, whenever the run is killed
    or the power fails. Older ones are deleted only when the new one has been read back and is whole. Raises WriteError
    where the disk is full.
    """
    model = _whole(network.named_parameters(), first)
    average = _whole(ema.named_averages(), first)
    state = _optimizer_state(network, optimizer, first) | {"step": step, "progress": progress}
    folder = step_folder(run, step)
    if not first:
        return folder
    try:
        with atomic_folder(folder) as temporary:
            for file, weights, kind in ((MODEL_FILE, model, "model"), (EMA_FILE, average, "ema")):
                write_weights(temporary / file, weights, config=config, step=step, kind=kind)
            with checked_file(temporary / STATE_FILE) as file:
                torch.save(state, file)
            save_config(config, temporary / CONFIG_FILE)
            mode = (temporary / CONFIG_FILE).stat().st_mode
            for file in (MODEL_FILE, EMA_FILE, STATE_FILE):
                os.chmod(temporary / file, mode)  # safetensors writes for the owner alone
            write_manifest(temporary, step)
        _point(Path(run) / LATEST, folder.name)
    except WriteError as error:
        before = list(steps_saved(run))
        kept = f"step {before[-1]} is kept" if before else "nothing was saved before"
        raise WriteError(folder, error.errno, os.strerror(error.errno),
                         f"{kept}; make room, and the same command continues") from error
    if keep:
        _delete_all_but(run, folder, step, keep)
    return folder


def write_manifest(folder, step):
    """Write the manifest of a checkpoint's files."""
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda name: sha256_file(folder / name), FILES))
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
             for name, digest in zip(FILES, digests, strict=True)}
    write_json(folder / MANIFEST_FILE, {"schema": 1, "step": step, "files": files})


def _delete_all_but(run, folder, step, keep):
    """Delete a run's checkpoints of earlier steps but the newest; none if the one just written is not whole."""
    earlier = [path for number, path in steps_saved(run).items() if number < step and not path.is_symlink()]
    superfluous = earlier[: max(0, len(earlier) - (keep - 1))]
    if superfluous:
        _forget_pages(folder)
        check_files(folder)
    for old in superfluous:
        shutil.rmtree(old)


def _forget_pages(folder):
    """Have the files of a folder read from the disk next time, not from memory, where the system can."""
    if not hasattr(os, "posix_fadvise"):
        return
    for name in FILES:
        with open(folder / name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_config(file) -> Config:
    """The configuration saved in a run or a checkpoint; raises InputError for one that cannot be used."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    return config_from_dict(parse_yaml(text, str(file)), where=str(file))


def remove_leftovers(run):
    """Delete what a killed process had not finished writing."""
    for folder in Path(run).glob(".step-*.part"):  # also those of earlier versions
        shutil.rmtree(folder, ignore_errors=True)
    for link in Path(run).glob(f".{LATEST}.*"):
        link.unlink(missing_ok=True)
    for folder in (run, Path(run) / "sheets"):
        sweep(folder)


def write_weights(file, weights: dict[str, torch.Tensor], *, config: Config, step: int, kind: str):
    """Write name → tensor as a weights file that `read_weights` reads; `kind` is "model" or "ema". Not atomic."""
    header = {"config": config_to_dict(config), "step": step, "weights": kind, "sha256": tensor_digest(weights)}
    save_file(weights, file, metadata={HEADER: json.dumps(header)})


def tensor_digest(weights) -> str:
    """Hex SHA-256 of name → tensor: names, kinds, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def read_weights(file):
    """(name → tensor on the CPU, Config, step) of a weights file.

    Raises InputError where it is not one of ours, and Damaged where its tensors differ from the digest in its header;
    files of earlier versions have none.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            header = _header(opened)
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dictionary
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{file} is not a weights file of this program: {_line(error)}") from error
    if header.get("sha256") not in (None, tensor_digest(weights)):
        raise Damaged(f"{file} is damaged: its tensors differ from the checksum in its header")
    return weights, config_from_dict(header["config"], where=str(file)), header["step"]


def _header(opened) -> dict:
    header = parse_json((opened.metadata() or {})[HEADER])
    parts = {"config": dict, "step": int}
    if not isinstance(header, dict) or not all(isinstance(header.get(key), kind) for key, kind in parts.items()):
        raise ValueError("its header names no configuration or no step")
    return header


def _line(error):
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


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
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise InputError(f"{file} is not a weights file of this program: {_line(error)}") from error
    with opened:
        yield OpenWeights(opened)


def load_training_state(folder, *, network, ema, optimizer) -> dict:
    """Put a checkpoint into network, average and optimizer, sharded or not, in place.

    Every process must call this. Returns {"step": ..., "progress": ...} as saved. Raises InputError for damaged files
    and for weights of another shape.
    """
    folder = Path(folder)
    state = _read_state(folder / STATE_FILE)
    for file, named in ((MODEL_FILE, network.named_parameters()), (EMA_FILE, ema.named_averages())):
        with open_weights(folder / file) as weights:
            _copy_into(named, weights, folder / file)
    try:
        for name, parameter in network.named_parameters():
            optimizer.state[parameter] = {
                key: like(value, parameter) if value.shape == parameter.shape else value
                for key, value in state["optimizer"].get(name, {}).items()
            }
        for group, count in zip(optimizer.param_groups, state["group_steps"], strict=True):
            if count is not None:
                group["step"] = count
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder / STATE_FILE} does not fit this optimizer: {_line(error)}") from error
    return {"step": state["step"], "progress": state["progress"]}


def _read_state(file) -> dict:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged archives raise nearly anything
        raise InputError(f"{file} cannot be read: {_line(error)}") from error
    keys = {"optimizer": dict, "group_steps": list, "step": int, "progress": dict}
    if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in keys.items()):
        raise InputError(f"{file} holds no training state")
    return state


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
    if link.is_dir() and not link.is_symlink():  # made by a copy that knows no links
        os.replace(link, link.with_name(f"set-aside-{link.name}-{os.getpid()}"))
    rename(temporary, link)
    sync_folder(link.parent)

