"""How commands show records: a table or JSON on stdout, notes on stderr, files where they are wanted."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from hpdm.support.progress import note
from hpdm_eval.records.labels import format_value
from hpdm_eval.records.record import Record, save_record
from hpdm_eval.support.text_tables import aligned


def show_record(record: Record, options: Mapping[str, Any], lines: Iterable[str] = ()) -> Record:
    """Print a record as `as_json` says, with `lines` below its table; say what it warns of; save it in `folder`."""
    from hpdm_eval.report.tables import text_table

    if options["as_json"]:
        click.echo(json.dumps(record.to_dict(), ensure_ascii=False))
    else:
        click.echo("\n".join([text_table([record]), *lines]))
    announce([record], options)
    return record


def announce(records: Sequence[Record], options: Mapping[str, Any]) -> None:
    """Say on stderr what records warn of, and save them where `options` say so."""
    from hpdm_eval.support.distributed import rank_and_size

    for message in dict.fromkeys(message for record in records for message in record.warnings):
        note(f"warning: {message}", options["quiet"])
    if options["folder"] and rank_and_size()[0] == 0:
        for record in records:
            note(f"record: {save_record(record, options['folder'])}", options["quiet"])


def details_table(details: Sequence[Mapping[str, Any]]) -> str:
    """The figures beside the headline as text; an entry has `figure`, `value` and what else its kind knows."""
    rows = []
    for entry in details:
        rest = {key: number for key, number in entry.items() if key not in ("figure", "value") and number is not None}
        rows.append(
            [
                entry["figure"],
                format_value(entry["value"]),
                ", ".join(f"{key.replace('_', ' ')} {_text(number)}" for key, number in rest.items()),
            ]
        )
    return aligned(["figure", "value", ""], rows, right=("value",))


def _text(number: Any) -> str:
    if isinstance(number, list):
        return "[" + ", ".join(map(format_value, number)) + "]"
    return format_value(number) if isinstance(number, float) else str(number)
