"""`hpdm-eval records`: many record files as one archive, and back; pages whose figures are looked up in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hpdm.support.console import Group, OutputFile, OutputFolder
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_folder, holds_something
from hpdm.support.progress import note
from hpdm_eval.records.archive import SUFFIXES, has_archive_suffix, read_archive, record_files, write_archive
from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.support.text_tables import aligned

quiet_option = click.option("--quiet", is_flag=True, help="No notes on stderr.")


@click.group(cls=Group)
def records() -> None:
    """Pack record files into one archive, list and unpack it; write pages from it.

    An archive is a text file with a line for each record and a checksum, which version control compares well. `report`
    and `reproduce` read it as it is; unpacked files are those that were packed, to the last byte.
    """


@records.command("pack")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option(
    "--out",
    type=OutputFile(path_type=Path),
    required=True,
    metavar="FILE.jsonl[.gz]",
    help="Archive to make; an earlier one is replaced.",
)
@quiet_option
def pack(folder: Path, out: Path, quiet: bool) -> None:
    """Pack all records below DIR, such as `hpdm-eval records pack records --out records.jsonl`.

    DIR is left as it is. Other JSON files in it are passed over.
    """
    if not has_archive_suffix(out):
        raise InputError(f"--out {out}: the name of an archive ends in {' or '.join(SUFFIXES)}")
    files = dict(record_files(folder))
    if not files:
        raise InputError(f"no record in {folder}")
    write_archive(out, files)
    note(f"{len(files)} records packed; {len(list(folder.rglob('*.json'))) - len(files)} other JSON files left", quiet)
    click.echo(out)


@records.command("unpack")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.jsonl[.gz]")
@click.option("--out", type=OutputFolder(path_type=Path), required=True, metavar="DIR", help="New folder to make.")
@quiet_option
def unpack(archive: Path, out: Path, quiet: bool) -> None:
    """Restore the record files of an archive into the new folder DIR."""
    if holds_something(out):
        raise InputError(f"--out {out} holds files; name a new folder")
    entries = read_archive(archive)
    with atomic_folder(out) as folder:
        for entry in entries:
            path = folder / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.content)
    note(f"{len(entries)} records unpacked", quiet)
    click.echo(out)


@records.command("list")
@click.argument("places", nargs=-1, required=True, type=click.Path(exists=True), metavar="DIR|FILE...")
def list_(places: Sequence[str]) -> None:
    """List records by name, such as `reproduce ARCHIVE#NAME` takes, with their figures."""
    from hpdm_eval.report.collect import collect_records

    rows = [
        (item.name, metric_label(item.record), format_value(item.record.value), protocol_label(item.record))
        for item in collect_records(places)
    ]
    click.echo(aligned(("name", "metric", "value", "protocol"), rows, right=("value",)))


@records.command("render")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where a page is not what its template makes.")
@click.pass_context
def render(context: Any, folder: Any, check: bool) -> None:
    """Write the pages of all templates below DIR: every PAGE.md.jinja becomes PAGE.md.

    A template names its figures, such as {{ figure("nano/records.jsonl", metric="fvd", samples="nano") | ci(1) }}.
    They are looked up in archives of records and in other results below DIR; hpdm_eval/report/numbers.py lists how.
    """
    from hpdm_eval.report.numbers import render_pages

    changed = render_pages(folder, check)
    for page in changed:
        click.echo(f"{page}: {'differs from its template' if check else 'written'}")
    if check and changed:
        context.exit(1)
