"""From which checkpoint a run goes on, and which settings it may change there.

With several processes the first one decides, and the others check that they see the same files: a node whose folder is
another, or older, would train on with other weights. They share the reading: each compares some of the files with their
checksums.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hpdm.checkpoint.folder import (
    CONFIG_FILE,
    check_digests,
    check_files,
    expected_files,
    latest_checkpoint,
    read_config,
)
from hpdm.checkpoint.recover import newest_whole
from hpdm.checkpoint.shard_files import PART_FILE
from hpdm.config import Config, config_to_dict
from hpdm.support.errors import Damaged, InputError
from hpdm.support.files import holds_something
from hpdm.support.progress import note

if TYPE_CHECKING:
    from hpdm.training.distributed import Processes


# Settings that a run may change when it is resumed: they say where and how it runs, not what is learnt.
FREE_TO_CHANGE = {
    "training": {
        "micro_batch",
        "tf32",
        "activation_checkpointing",
        "compile",
        "parallel",
        "shard_size",
        "reshard",
        "max_nonfinite",
        "log_every",
        "checkpoint_every",
        "checkpoint_minutes",
        "keep",
        "keep_weights_every",
        "power_ema",
        "sheet_every",
        "eval_every",
        "start_gain",
        "first_pass",
    },
    "data": {"num_workers", "steps_ahead", "embeddings", "index", "recheck", "index_limit"},
    "text": {"encoder_precision"},
    "method": {"autoencoder"},
}
# Settings that change what is learnt from here on, not what was learnt so far: changes are printed and kept in the
# provenance of the run. The data are to be the same in another place.
CHANGE_IS_NOTED = {
    "training": {
        "steps",
        "batch",
        "lr",
        "warmup",
        "schedule",
        "clip_norm",
        "precision",
        "attention_precision",
        "branching",
    },
    "data": {"path", "split_lists", "captions"},  # the files themselves are compared, see hpdm/training/data.py
}
PATIENCE = 30.0  # seconds until what one node wrote must be seen by all: network file systems keep old listings
END = 1 << 16  # bytes at either end of a file that its digest covers


def find_checkpoint(
    run: str | Path, config: Config, resume: bool, quiet: bool = False, check: Callable[..., bool] = check_files
) -> Path | None:
    """The checkpoint to continue from, the newest that is whole; None for a new run.

    Raises InputError for a folder of something else, for one that was trained with other settings or for longer than
    `training.steps`, and, with `resume`, for one without a checkpoint.
    """
    run = Path(run)
    if run.exists() and not run.is_dir():
        raise InputError(f"--out {run} is a file; name a folder")
    checkpoint = newest_whole(run, say=lambda text: note(text, quiet), check=check)
    if checkpoint is None:
        if resume:
            raise InputError(f"--resume: {run} has no checkpoint to continue from")
        if holds_something(run) and not (run / CONFIG_FILE).exists():
            raise InputError(f"--out {run} is not empty and holds no training run; name a new folder")
        return None
    changes = differences(read_config(checkpoint / CONFIG_FILE), config)
    noted = {name: change for name, change in changes.items() if is_noted(name)}
    if refused := {name: change for name, change in changes.items() if name not in noted}:
        also = f" ({describe_changes(noted)}: this could change)" if noted else ""
        raise InputError(
            f"{run} was trained with other settings: {describe_changes(refused)}; use the same, or a new "
            f"--out folder{also}"
        )
    number = checkpoint.name.removeprefix("step-")
    made = int(number) if number.isdecimal() else 0  # a copy of a run may have a folder where there was a link
    if config.training.steps < made:
        raise InputError(
            f"training.steps={config.training.steps}, but {run} has made {made} steps already; name as many or more"
        )
    return checkpoint


def agree_on_checkpoint(
    run: str | Path, config: Config, resume: bool, process: "Processes", quiet: bool = False
) -> Path | None:
    """`find_checkpoint` of the first process, for all of them; `process` are the `Processes`.

    Raises InputError on every process where one does not see the same checkpoint.
    """
    if process.world_size == 1:
        return find_checkpoint(run, config, resume, quiet)
    if process.first:
        try:
            checkpoint = find_checkpoint(
                run, config, resume, quiet, check=lambda *which: _check_together(process, *which)
            )
            decision = {"name": checkpoint and checkpoint.name}
        except InputError as error:
            decision = {"error": str(error)}
        process.from_first(decision)
    else:
        while "check" in (decision := process.from_first(None)):
            _check_share(process, run, **decision["check"])
    if "error" in decision:
        raise InputError(decision["error"])
    if decision["name"] is not None:
        return (Path(run) / decision["name"]).resolve()  # all have seen the same when it was checked
    troubles = process.of_all(None if process.first else _trouble(run, process.rank, None, None))
    if trouble := next(filter(None, troubles), None):
        raise InputError(trouble)
    return None


def _check_together(process, folder, names=None) -> bool:
    """`check_files` of the first process, of which all the others do their share in `_check_share`.

    Raises InputError where one of them sees another folder.
    """
    expected = expected_files(folder, names)
    share = {"name": folder.name, "digest": digest(folder), "expected": expected or {}}
    process.from_first({"check": share})
    _check_share(process, folder.parent, **share)
    return expected is not None


def _check_share(process, run, name, digest, expected):
    """Compare this process' share of the files with their digests; raises what one of them found on the first."""
    found = (None, None)
    try:
        if not process.first and (trouble := _trouble(run, process.rank, name, digest)):
            raise InputError(trouble)
        check_digests(Path(run) / name, dict(list(expected.items())[process.rank :: process.world_size]))
    except InputError as error:
        found = (isinstance(error, Damaged), str(error))
    found = process.of_all(found)
    if process.first:
        for damaged, text in sorted((one for one in found if one[1]), key=lambda one: one[0]):
            raise (Damaged if damaged else InputError)(text)


def _trouble(run, rank, name, digest):
    """What keeps this process from going on as the first one decided; None if nothing does."""
    where = f"process {rank} sees another folder {run} than process 0: there is"
    if name is None:
        found = latest_checkpoint(run)
        return f"{where} no checkpoint on process 0, {found.name} on process {rank}" if found else None
    deadline = time.monotonic() + PATIENCE
    while True:
        found = _digest_or_none(Path(run) / name)
        if found == digest:
            return None
        if time.monotonic() > deadline:
            return f"{where} {f'no {name}' if found is None else f'another {name}'} on process {rank}"
        time.sleep(0.5)


def _digest_or_none(folder):
    try:
        return digest(folder)
    except OSError:
        return None


def digest(folder: str | Path) -> str:
    """SHA-256 over names, sizes and both ends of a checkpoint's files: quick, and another for other weights.

    Of a sharded one's parts, which may be hundreds, over names and sizes; its manifest holds their digests.
    """
    whole = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        size = path.stat().st_size
        whole.update(f"{path.name} {size}\n".encode())
        if PART_FILE.fullmatch(path.name):
            continue
        with open(path, "rb") as file:
            whole.update(file.read(END))
            file.seek(max(0, size - END))
            whole.update(file.read(END))
    return whole.hexdigest()


def is_noted(name: str) -> bool:
    """Whether a change of "section.key" is allowed and noted."""
    section, _, key = name.partition(".")
    return key in CHANGE_IS_NOTED.get(section, ())


def describe_changes(changes: Mapping[str, tuple]) -> str:
    """What `differences` found, in one line."""
    return "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changes.items())


def differences(old: Config, new: Config) -> dict[str, tuple]:
    """ "section.key" → (old, new) of all settings that are not free to change: see `is_noted` for those that may."""
    before, after = config_to_dict(old), config_to_dict(new)
    changed = {}
    for section in after:
        if section in ("sampling", "eval", "trained_on"):
            continue
        if not isinstance(after[section], dict):
            before[section], after[section] = {"": before[section]}, {"": after[section]}
        for key, value in after[section].items():
            if value != before[section].get(key) and key not in FREE_TO_CHANGE.get(section, ()):
                changed[f"{section}.{key}".rstrip(".")] = (before[section].get(key), value)
    return changed
