"""Whether checkpoints are as they were written."""

from pathlib import Path

from hpdm.checkpoint.folder import (
    MANIFEST_FILE,
    MODEL_FILE,
    SNAPSHOTS,
    STATE_FILE,
    check_files,
    read_weights,
    steps_saved,
)
from hpdm.checkpoint.shard_files import index_file
from hpdm.support.errors import InputError
from hpdm.support.files import read_json
from hpdm.training.snapshots import check_snapshot

UNCHECKED = "not checked: saved without checksums"


def check(path: Path) -> list[dict[str, str]]:
    """[{"path", "state"}] of what a path stands for; the state is `whole`, UNCHECKED or what is wrong.

    Raises InputError where there is no checkpoint.
    """
    if path.is_file():
        return [{"path": str(path), "state": _state(path, lambda: read_weights(path))}]
    snapshots = list(steps_saved(path / SNAPSHOTS).values())
    folders = list(steps_saved(path).values()) or ([] if snapshots else [path])
    kinds = ("*.safetensors", "*.shards.json")
    if not path.is_dir() or (folders == [path] and not any(found for kind in kinds for found in path.glob(kind))):
        raise InputError(f"{path}: no checkpoint there; name a run's folder, one of its steps or a .safetensors file")
    if folders == [path] and not (path / MODEL_FILE).exists() and not (path / index_file("model")).exists():
        folders, snapshots = [], [path]  # averages alone
    looks = [(lambda folder: check_files(folder, _of_export(folder)), folder) for folder in folders]
    looks += [(check_snapshot, folder) for folder in snapshots]
    return [
        {"path": str(folder), "state": _state(folder, lambda look=look, folder=folder: look(folder))}
        for look, folder in looks
    ]


def _of_export(folder):
    """The files of a folder that `hpdm-info export` has written, which has no training state; None for others."""
    try:
        files = read_json(folder / MANIFEST_FILE)["files"]
        return None if STATE_FILE in files else list(files)
    except (InputError, KeyError, TypeError):
        return None


def _state(path, look):
    try:
        return "whole" if look() else UNCHECKED
    except InputError as error:
        return str(error).removeprefix(f"{path} is ")
