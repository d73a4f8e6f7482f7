"""`hpdm-info verify`: whether checkpoints are as they were written."""

import json
from pathlib import Path

import click

from hpdm.support.console import Command
from hpdm.support.errors import InputError


@click.command(cls=Command, name="verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True, metavar="RUN|STEP|FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout and nothing else.")
def verify(paths, as_json):
    """Compare checkpoints with their checksums: all of a run, one step's folder, or a .safetensors file.

    Every byte is read and nothing is written. Exit code 2 where something is damaged.

        hpdm-info verify runs/L
    """
    rows = [row for path in paths for row in check(Path(path))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            click.echo(f"{row['path']}: {row['state']}")
    if bad := [row for row in rows if row["state"] not in ("whole", UNCHECKED)]:
        raise InputError(f"{len(bad)} of {len(rows)} are damaged: {', '.join(row['path'] for row in bad)}")


UNCHECKED = "not checked: saved without checksums"


def check(path: Path) -> list[dict]:
    """[{"path", "state"}] of what a path stands for; the state is `whole`, UNCHECKED or what is wrong.

    Raises InputError where there is no checkpoint.
    """
    from hpdm.checkpoint.folder import MODEL_FILE, SNAPSHOTS, check_files, read_weights, steps_saved
    from hpdm.checkpoint.shard_files import index_file
    from hpdm.training.snapshots import check_snapshot

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
    from hpdm.checkpoint.folder import MANIFEST_FILE, STATE_FILE
    from hpdm.support.files import read_json

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
