"""`hpdm-info verify`: whether checkpoints are as they were written."""

import json
from pathlib import Path

import click

from hpdm.support.console import Command
from hpdm.support.errors import InputError


@click.command(cls=Command, name="verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True, metavar="RUN|STEP|FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout and nothing else.")
def verify(paths: tuple[str, ...], as_json: bool) -> None:
    """Compare checkpoints with their checksums: all of a run, one step's folder, or a .safetensors file.

    Every byte is read and nothing is written. Exit code 2 where something is damaged.

        hpdm-info verify runs/L
    """
    from hpdm.training.verify import UNCHECKED, check

    rows = [row for path in paths for row in check(Path(path))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            click.echo(f"{row['path']}: {row['state']}")
    if bad := [row for row in rows if row["state"] not in ("whole", UNCHECKED)]:
        raise InputError(f"{len(bad)} of {len(rows)} are damaged: {', '.join(row['path'] for row in bad)}")
