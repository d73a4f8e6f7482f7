"""`hpdm-eval weights`: pretrained networks, where they come from and whether a file is the right one."""

import json
from pathlib import Path
from typing import Any

import click

from hpdm.support.console import Group, common_options
from hpdm.support.errors import InputError
from hpdm_eval.backbones.download import fetch as fetch_source
from hpdm_eval.backbones.weights import add as add_file
from hpdm_eval.backbones.weights import cache_dir, check_cached, sources

DEFAULT_FETCH = "i3d_torchscript.pt"


@click.group(cls=Group)
def weights() -> None:
    """List, fetch, add and verify pretrained networks.

    Files live in the user's cache folder, or in $HPDM_EVAL_WEIGHTS. shapes3d comes with the package and is not among
    them.

    A TorchScript file (i3d_torchscript.pt, c3d_ucf101.pt) is a program: whoever made it decides what runs here. One
    with the published checksum is what everybody runs; --unverified executes any other. State dicts and arrays hold
    numbers only, and are read as such.
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@common_options
def list_(as_json: bool, device: Any, seed: int, quiet: bool) -> None:
    """List the known files: what they are, their size and hash, and whether the cache has them."""
    rows = []
    for source in sources().values():
        state, _ = _state(source)
        rows.append(
            {
                "file": source.file,
                "backbone": source.backbone,
                "title": source.title,
                "bytes": source.bytes,
                "sha256": source.sha256,
                "git_blob": source.git_blob,
                "urls": list(source.urls),
                "page": source.page,
                "state": state,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(f"cache: {cache_dir()}")
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "size not published"
        click.echo(f"\n{row['file']}  ({row['state']})\n  {row['title']}")
        click.echo(f"  for {row['backbone'] or 'no backbone'}, {size}")
        if row["sha256"]:
            click.echo(f"  SHA-256   {row['sha256']}")
        elif row["git_blob"]:
            click.echo(f"  git blob  {row['git_blob']}")
        else:
            click.echo("  no hash is published: pinned at first use")
        for address in [*row["urls"], *filter(None, [row["page"]])]:
            click.echo(f"  {address}")


@weights.command()
@click.argument("names", nargs=-1, metavar="[FILE]...")
@common_options
def fetch(names: tuple[str, ...], device: Any, seed: int, quiet: bool) -> None:
    """Download known files into the cache: i3d_torchscript.pt, or those named. Resumes what was interrupted."""
    for source in [_source(name) for name in names or [DEFAULT_FETCH]]:
        _report(fetch_source(source, quiet=quiet))


@weights.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as", "name", metavar="FILE", help="The known file that it stands for, if its name does not say so.")
@click.option("--unverified", is_flag=True, help="Accept it though its hash is not the known one; records will say so.")
@common_options
def add(file: Path, name: str | None, unverified: bool, device: Any, seed: int, quiet: bool) -> None:
    """Copy FILE into the cache after checking its hash; the way to bring weights to a machine without network."""
    _report(add_file(file, name=name and _source(name).file, unverified=unverified))


@weights.command()
@click.argument("names", nargs=-1, metavar="[FILE]...")
@common_options
def verify(names: tuple[str, ...], device: Any, seed: int, quiet: bool) -> None:
    """Check the files in the cache, all or those named, by their hashes. Exit code 2 if one is wrong or missing."""
    chosen = [_source(name) for name in names] or [
        source for source in sources().values() if (cache_dir() / source.file).exists()
    ]
    bad = []
    for source in chosen:
        state, error = _state(source)
        click.echo(f"{source.file}: {state}")
        if state in ("absent", "wrong"):
            bad.append(error or f"{source.file} is not in {cache_dir()}")
    if bad:
        raise InputError("; ".join(bad))
    if not chosen:
        click.echo(f"nothing in {cache_dir()}")


def _source(name):
    if name not in sources():
        raise InputError(f"unknown weights file {name!r}; known are {', '.join(sources())}")
    return sources()[name]


def _state(source):
    """(absent, wrong or the trust of the cached file; the error message of a wrong one)."""
    try:
        info = check_cached(source)
    except InputError as error:
        return "wrong", str(error)
    return (info.trust if info else "absent"), None


def _report(info):
    meaning = {
        "hash": "hash verified",
        "first-use": "no hash is published; pinned to these bytes from now on, records say so",
        "unverified": "not verified, records say so",
    }
    click.echo(f"{info.path}: {meaning[info.trust]} (SHA-256 {info.sha256})")
