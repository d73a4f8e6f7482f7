"""`hpdm-eval protocols`: the named protocols and their settings."""

import json
import textwrap
from dataclasses import fields
from typing import Any

import click

from hpdm.support.console import Command, common_options
from hpdm_eval.protocols import DESCRIPTION, Protocol, list_protocols, load_protocol
from hpdm_eval.support.text_tables import aligned

# heading → cell; what tells protocols apart at a glance, the rest is one `protocols NAME` away
_COLUMNS = {
    "protocol": lambda p: p.name,
    "frames": lambda p: _show(p.frames, "all"),
    "size": lambda p: "x".join(map(str, p.resolution)) if p.resolution else "native",
    "resize": lambda p: p.resize if p.resolution else "-",
    "crop": lambda p: p.crop,
    "start": lambda p: p.start,
    "stride": lambda p: str(p.stride),
    "fps": lambda p: "native" if p.fps is None else f"{p.fps:g}",
    "samples": lambda p: _show(p.num_samples, "all"),
    "their frames": lambda p: p.samples_frames,
    "reference": lambda p: _show(p.num_reference, "all"),
    "selection": lambda p: p.selection,
    "split": lambda p: _show(p.split, "-"),
    "hash": lambda p: p.hash(),
}


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object with NAME, else a list of them.")
@common_options
def protocols(name: str | None, as_json: bool, **options: Any) -> None:
    """List the named protocols, or all settings of the one called NAME (a name, or a YAML file).

    The hash stands beside every figure that is made with these settings; overriding any of them on a metric's command
    line changes it.
    """
    chosen = [load_protocol(name)] if name else list_protocols()
    if as_json:
        values = [{**protocol.to_dict(), "hash": protocol.hash()} for protocol in chosen]
        click.echo(json.dumps(values[0] if name else values, indent=2, ensure_ascii=False))
    elif name:
        click.echo(_details(chosen[0]))
    else:
        click.echo(_table([{heading: cell(protocol) for heading, cell in _COLUMNS.items()} for protocol in chosen]))


def _table(rows):
    return aligned(list(rows[0]), [list(row.values()) for row in rows])


def _details(protocol):
    lines = [f"{protocol.name} [{protocol.hash()}]: {protocol.title}"]
    if protocol.citation:
        lines.append(protocol.citation)
    lines += ["", *textwrap.wrap(protocol.notes, 100), ""]
    settings = protocol.settings()
    width = max(map(len, settings))
    for item in fields(Protocol):
        if item.name not in DESCRIPTION:
            value = json.dumps(settings[item.name]).strip('"')
            lines.append(f"{item.name.ljust(width)}  {value.ljust(16)}  {item.metadata['help']}")
    return "\n".join(lines)


def _show(value, absent):
    return absent if value is None else str(value)
