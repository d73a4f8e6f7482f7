"""How the commands of metrics on pixels show a record."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from hpdm.support.progress import note
from hpdm_eval.records.record import Record, save_record
from hpdm_eval.support.text_tables import aligned


def show_record(
    record: Record, lines: Iterable[str] = (), *, as_json: bool, folder: str | None, quiet: bool = False
) -> Record:
    """Print the record as JSON, or as a table with `lines` below; save it in `folder` if that is given; return it."""
    from hpdm_eval.report.tables import text_table
    from hpdm_eval.support.distributed import rank_and_size  # torch takes seconds to import

    for message in record.warnings:
        note(f"warning: {message}", quiet)
    if as_json:
        click.echo(json.dumps(record.to_dict(), ensure_ascii=False))
    else:
        click.echo("\n".join([text_table([record]), *lines]))
    if folder and rank_and_size()[0] == 0:
        note(f"record: {save_record(record, folder)}", quiet)
    return record


def figure_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a table: first column to the left, the others to the right."""
    return aligned(header, [list(map(str, row)) for row in rows], right=header[1:], rule=False).splitlines()
