"""What the commands of metrics on pixels share: options, and how a record is shown."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from hpdm.support.console import OutputFolder, common_options
from hpdm.support.progress import note
from hpdm_eval.commands.options import protocol_options, reading_options
from hpdm_eval.records.record import Record, save_record
from hpdm_eval.report.tables import text_table
from hpdm_eval.support.text_tables import aligned

PATCH_HELP = "Size of the sampler's tiles. [from the samples' samples.json]"


def pixel_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the protocol's options (default: clips as they are), those of reading, --json and --record."""
    for option in (
        click.option(
            "--record", "folder", type=OutputFolder(), metavar="DIR", help="Also save the record in this folder."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the record as JSON in place of the table."),
    ):
        function = option(function)
    return protocol_options("native")(reading_options(common_options(function)))


def show_record(record: Record, lines: Iterable[str] = (), *, as_json: bool, folder: str | None, quiet: bool) -> Record:
    """Print the record as JSON, or as a table with `lines` below; save it in `folder` if that is given; return it."""
    for message in record.warnings:
        note(f"warning: {message}", quiet)
    if as_json:
        click.echo(json.dumps(record.to_dict(), ensure_ascii=False))
    else:
        click.echo("\n".join([text_table([record]), *lines]))
    if folder:
        note(f"record: {save_record(record, folder)}", quiet)
    return record


def figure_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a table: first column to the left, the others to the right."""
    return aligned(header, [list(map(str, row)) for row in rows], right=header[1:], rule=False).splitlines()
