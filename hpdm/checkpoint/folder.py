"""Checkpoints: a folder per saved step, whole whoever wrote it, and `latest`, a link to the newest.

    step-00001000/model.safetensors    weights
                  ema.safetensors      their average: what one samples from
                  training.pt          optimizer, position in the run, figures of the log line in progress
                  trace-0.050.safetensors ...   averages for post-hoc EMA, where the run keeps any
                  config.yaml          the configuration of the run
                  manifest.json        size and SHA-256 of each of these

Tensors are stored whole under the network's parameter names. Where training is sharded every process saves its own part
instead, see `hpdm.training.sharded`; either kind can be resumed by one process, DDP and FSDP, however many. A
weights file carries configuration, step and a digest of its tensors in its header and is enough to sample from.

Which checkpoint a run goes on from is decided in `hpdm.checkpoint.recover`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from hpdm.checkpoint.shard_files import (
    KINDS,
    check_parts,
    index_file,
    is_index,
    is_sharded,
    kind_of_file,
    open_parts,
    read_index,
)
from hpdm.config import Config, config_from_dict, config_to_dict, save_config
from hpdm.model.sharding import like
from hpdm.support.errors import Damaged, InputError, WriteError, going_on
from hpdm.support.files import (
    atomic_folder,
    checked_file,
    parse_json,
    read_json,
    rename,
    sha256_file,
    sweep,
    sync_folder,
    write_json,
    writing,
)
from hpdm.support.yaml_text import parse_yaml

if TYPE_CHECKING:
    from hpdm.checkpoint.shard_files import ShardedWeights


LATEST = "latest"
HEADER = "hpdm"  # one key: the order of several in a safetensors header changes from run to run
MODEL_FILE, EMA_FILE, STATE_FILE, CONFIG_FILE = "model.safetensors", "ema.safetensors", "training.pt", "config.yaml"
FILES = (MODEL_FILE, EMA_FILE, STATE_FILE, CONFIG_FILE)
MANIFEST_FILE = "manifest.json"
TRACE_FILE = re.compile(r"trace-(0\.\d+)\.(safetensors|shards\.json)")
SNAPSHOTS = "snapshots"  # folder of a run with a folder per step, see hpdm/training/snapshots.py
PICKLED_INDEX = ".metadata"  # of torch.distributed.checkpoint's own storage; never read
STEP_FOLDER = re.compile(r"step-(\d{8,})")


def step_folder(run: str | Path, step: int) -> Path:
    return Path(run) / f"step-{step:08d}"


def trace_kind(sigma_rel: float) -> str:
    """What the average of that relative length is called in files: "trace-0.050"."""
    return f"trace-{max(f'{sigma_rel:.3f}', str(sigma_rel), key=len)}"


def trace_file(sigma_rel: float) -> str:
    """File of the average of that relative length: "trace-0.050.safetensors"."""
    return f"{trace_kind(sigma_rel)}.safetensors"


def steps_saved(run: str | Path) -> dict[int, Path]:
    """{step: folder} of a run's checkpoints, the oldest first, whole or not."""
    run = Path(run)
    found = {
        int(match[1]): path
        for path in (run.iterdir() if run.is_dir() else ())
        if (match := STEP_FOLDER.fullmatch(path.name)) and path.is_dir()
    }
    return dict(sorted(found.items()))


def latest_checkpoint(run: str | Path) -> Path | None:
    """The folder that `latest` points to; None where there is no such link. `recover.newest_whole` looks further."""
    link = Path(run) / LATEST
    return link.resolve() if link.is_dir() else None


def check_files(folder: str | Path, names: Sequence[str] | None = None) -> bool:
    """Compare the files of a checkpoint, or those named, with its manifest; raises Damaged with what is wrong.

    Returns False for a checkpoint without manifest, as earlier versions wrote them: then only that all files are there
    is known. Reads every byte, all files at once.
    """
    expected = expected_files(folder, names)
    check_digests(folder, expected or {})
    return expected is not None


def expected_files(folder: str | Path, names: Sequence[str] | None = None) -> dict[str, tuple[int, str]] | None:
    """{name: (bytes, SHA-256)} of a checkpoint's files, or of those named, as its manifest has them.

    Of a sharded checkpoint, whose weights are in many files, EMA_FILE means all of the average, and MODEL_FILE all of
    the weights. None for a checkpoint without manifest. Raises Damaged where one is missing or has another size.
    """
    folder = Path(folder)
    split = is_sharded(folder)
    if split and not (folder / MANIFEST_FILE).exists():
        raise Damaged(f"{folder} is damaged: {MANIFEST_FILE} is missing")
    if not split and (folder / PICKLED_INDEX).exists() and not (folder / MODEL_FILE).exists():
        raise Damaged(
            f"{folder} is no checkpoint of this program: {PICKLED_INDEX} is a pickle, which runs code when it is read"
        )
    missing = [] if split else [name for name in names or FILES if not (folder / name).is_file()]
    if missing:
        raise Damaged(f"{folder} is damaged: {missing[0]} is missing")
    if not (folder / MANIFEST_FILE).exists():
        return None
    try:
        files = read_json(folder / MANIFEST_FILE)["files"]
        wanted = _names_of_shards(files, names) if split else names or {*FILES, *files}
        expected = {name: (int(files[name]["bytes"]), str(files[name]["sha256"])) for name in wanted}
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise Damaged(f"{folder} is damaged: {MANIFEST_FILE} cannot be read") from error
    for name, (size, _) in expected.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            raise Damaged(f"{folder} is damaged: {name} is missing") from error
        if found != size:
            raise Damaged(f"{folder} is damaged: {name} has {found} bytes of {size}")
    return expected


def _names_of_shards(files, names):
    """What a sharded checkpoint has instead of the files named."""
    wanted = {index_file(kind) for kind in KINDS} | {STATE_FILE, CONFIG_FILE} | set(files)
    if names is None:
        return sorted(wanted)
    kinds = {name.removesuffix(".safetensors") for name in names}
    return sorted(name for name in wanted if name in names or kind_of_file(name) in kinds)


def check_digests(folder: str | Path, expected: Mapping[str, tuple[int, str]]) -> None:
    """Read files of a checkpoint, all at once; raises Damaged where one has another SHA-256 than `expected_files`."""
    folder = Path(folder)
    try:
        with ThreadPoolExecutor() as pool:
            digests = dict(zip(expected, pool.map(lambda name: sha256_file(folder / name), expected), strict=True))
    except OSError as error:
        raise Damaged(f"{error.filename} cannot be read: {error.strerror}") from error
    for name, (_, sha256) in expected.items():
        if digests[name] != sha256:
            raise Damaged(f"{folder} is damaged: {name} differs from its checksum")


def save_checkpoint(
    run: str | Path,
    *,
    step: int,
    network: nn.Module,
    ema: Any,
    optimizer: torch.optim.Optimizer,
    config: Config,
    progress: dict,
    traces: Sequence[Any] = (),
    first: bool = True,
    keep: int | None = None,
) -> Path:
    """Write the state after `step` steps, point `latest` to it and delete all but the newest `keep` checkpoints.

    Every process must call this; the one with `first` writes. `traces` are `PowerEMA`s, `progress` is a dictionary of
    tensors, numbers and texts that `load_training_state` gives back. A reader never sees an incomplete folder, whenever
    the run is killed or the power fails. Older ones are deleted only when the new one has been read back and is whole.
    Raises WriteError where the disk is full.
    """
    sets = {MODEL_FILE: _whole(network.named_parameters(), first), EMA_FILE: _whole(ema.named_averages(), first)}
    sets |= {trace_file(trace.sigma_rel): _whole(trace.named_averages(), first) for trace in traces}
    state = _optimizer_state(network, optimizer, first) | {"step": step, "progress": progress}
    folder = step_folder(run, step)
    if not first:
        return folder
    try:
        with atomic_folder(folder) as temporary:
            for file, weights in sets.items():
                kind = file.removesuffix(".safetensors")
                write_weights(temporary / file, weights, config=config, step=step, kind=kind)
            with checked_file(temporary / STATE_FILE) as file:
                torch.save(state, file)
            save_config(config, temporary / CONFIG_FILE)
            mode = (temporary / CONFIG_FILE).stat().st_mode
            for file in (*sets, STATE_FILE):
                os.chmod(temporary / file, mode)  # safetensors writes for the owner alone
            write_manifest(temporary, step)
        point_latest(run, folder.name)
    except WriteError as error:
        raise no_room_for(run, folder, error.errno) from error
    if keep:
        delete_all_but(run, folder, step, keep)
    return folder


def no_room_for(run: str | Path, folder: Path, number: int) -> WriteError:
    """The error of a checkpoint that found no room, with what is kept; `number` is the errno."""
    before = list(steps_saved(run))
    kept = f"step {before[-1]} is kept" if before else "nothing was saved before"
    return WriteError(folder, number, os.strerror(number), f"{kept}; {going_on(number)}")


def write_manifest(
    folder: Path, step: int, names: Sequence[str] | None = None, known: dict[str, dict] | None = None
) -> dict[str, dict]:
    """Write the manifest of a checkpoint's files, {name: {"bytes", "sha256"}}, and return it.

    Those of `names`, by default all in the folder, are read; `known` are as they are.
    """
    names = sorted(path.name for path in Path(folder).iterdir()) if names is None else names
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda name: sha256_file(folder / name), names))
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests, strict=True)
    }
    files |= known or {}
    write_json(folder / MANIFEST_FILE, {"schema": 1, "step": step, "files": files})
    return files


def delete_all_but(run: str | Path, folder: Path, step: int, keep: int, whole: bool = False) -> None:
    """Delete a run's checkpoints of earlier steps but the newest; none if the one just written is not whole.

    `whole`: that it is has been seen already.
    """
    earlier = [path for number, path in steps_saved(run).items() if number < step and not path.is_symlink()]
    superfluous = earlier[: max(0, len(earlier) - (keep - 1))]
    if superfluous and not whole:
        for path in Path(folder).iterdir():
            forget_pages(path)
        check_files(folder)
    for old in superfluous:
        shutil.rmtree(old)


def forget_pages(path: str | Path) -> None:
    """Have a file read from the disk next time, not from memory, where the system can."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def point_latest(run: str | Path, name: str) -> None:
    """Have `latest` lead to the checkpoint of that name; raises WriteError where the disk fails."""
    with writing(Path(run) / LATEST):
        _point(Path(run) / LATEST, name)


def read_config(file: str | Path) -> Config:
    """The configuration saved in a run or a checkpoint; raises InputError for one that cannot be used."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    return config_from_dict(parse_yaml(text, str(file)), where=str(file))


def remove_leftovers(run: str | Path) -> None:
    """Delete what a killed process had not finished writing."""
    for folder in Path(run).glob(".step-*.part"):  # also those of earlier versions
        shutil.rmtree(folder, ignore_errors=True)
    for link in Path(run).glob(f".{LATEST}.*"):
        link.unlink(missing_ok=True)
    for place in (run, Path(run) / "sheets", Path(run) / SNAPSHOTS):
        sweep(place)


def write_weights(file: str | Path, weights: dict[str, torch.Tensor], *, config: Config, step: int, kind: str) -> None:
    """Write name → tensor as a weights file that `read_weights` reads; `kind` says which. Not atomic."""
    header = {"config": config_to_dict(config), "step": step, "weights": kind, "sha256": tensor_digest(weights)}
    save_file(weights, file, metadata={HEADER: json.dumps(header)})


def tensor_digest(weights: Any) -> str:
    """Hex SHA-256 of name → tensor: names, kinds, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):  # only one at a time is asked for: they may be in files
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def read_weights(file: str | Path) -> tuple[dict[str, torch.Tensor], Config, int]:
    """(name → tensor on the CPU, Config, step) of a weights file.

    The file may be the index of weights in many files, a `.shards.json`. Raises InputError where it is not one of ours,
    and Damaged where its tensors differ from the digest in its header; files of earlier versions have none.
    """
    if is_index(file):
        index = read_index(file)
        check_parts(index)
        with open_parts(index) as parts:
            return ({name: parts[name] for name in parts}, config_from_dict(index.config, where=str(file)), index.step)
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

    def __init__(self, opened: Any) -> None:
        self._opened, self._names = opened, list(opened.keys())

    @property
    def header(self) -> dict:
        """Configuration, step and kind of weights."""
        header = _header(self._opened)
        return {key: header[key] for key in ("config", "step", "weights")}

    @property
    def kind(self) -> str | None:
        """Which weights: "model", "ema" or an average's name; None where the file does not say."""
        return _header(self._opened).get("weights")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._opened.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        return self._opened.get_tensor(name).dtype


@contextmanager
def open_weights(file: str | Path) -> "Iterator[OpenWeights | ShardedWeights]":
    """Context of the `OpenWeights` of a weights file, or of an index; raises InputError where it is not one of ours."""
    if is_index(file):
        with open_parts(read_index(file)) as weights:
            yield weights
        return
    try:
        opened = safe_open(file, framework="pt")
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise InputError(f"{file} is not a weights file of this program: {_line(error)}") from error
    with opened:
        yield OpenWeights(opened)


def check_traces(folder: str | Path, missing: Sequence[str]) -> None:
    """Raise InputError where files of averages that a run wants are `missing` from its checkpoint."""
    if missing:
        raise InputError(
            f"{folder} has no {missing[0]}: an average for post-hoc EMA starts with the run and cannot be "
            "added later; --set training.power_ema=[] keeps snapshots without"
        )


def load_training_state(
    folder: str | Path, *, network: nn.Module, ema: Any, optimizer: torch.optim.Optimizer, traces: Sequence[Any] = ()
) -> dict:
    """Put a checkpoint into network, averages and optimizer, sharded or not, in place.

    Every process must call this. Returns {"step": ..., "progress": ...} as saved. Raises InputError for damaged files,
    for weights of another shape, and for traces that the checkpoint does not have: they begin with the run.
    """
    folder = Path(folder)
    state = read_state(folder / STATE_FILE)
    sets = {MODEL_FILE: network.named_parameters(), EMA_FILE: ema.named_averages()}
    sets |= {trace_file(trace.sigma_rel): trace.named_averages() for trace in traces}
    check_traces(folder, [file for file in sets if not (folder / file).is_file()])
    for file, named in sets.items():
        with open_weights(folder / file) as weights:
            _copy_into(named, weights, folder / file)
    try:
        for name, parameter in network.named_parameters():
            optimizer.state[parameter] = {
                key: like(value, parameter) if value.shape == parameter.shape else value
                for key, value in state["optimizer"].get(name, {}).items()
            }
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder / STATE_FILE} does not fit this optimizer: {_line(error)}") from error
    set_group_steps(optimizer, state, folder / STATE_FILE)
    return {"step": state["step"], "progress": state["progress"]}


def set_group_steps(optimizer: torch.optim.Optimizer, state: dict, file: str | Path) -> None:
    """Give an optimizer's groups the step counters of a training state."""
    if len(optimizer.param_groups) != len(state["group_steps"]):
        raise InputError(f"{file} does not fit this optimizer: it has {len(state['group_steps'])} groups of parameters")
    for group, count in zip(optimizer.param_groups, state["group_steps"], strict=True):
        if count is not None:
            group["step"] = count


def read_state(file: str | Path) -> dict:
    """The content of a checkpoint's STATE_FILE; raises InputError where it is none. Never runs code from it."""
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
