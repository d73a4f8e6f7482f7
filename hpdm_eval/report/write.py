"""The folder of a report: the page, the tables in three languages, the figures in two, and one markdown page."""

import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from baselines.published import load_peers, load_published
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_folder, holds_something
from hpdm.support.progress import note
from hpdm_eval.records.frame import table_bytes, to_frame
from hpdm_eval.report.collect import NamedRecord
from hpdm_eval.report.figures import render
from hpdm_eval.report.markup import csv_text, latex, markdown
from hpdm_eval.report.model import Section
from hpdm_eval.report.page import page
from hpdm_eval.report.pictures import single_pictures, study_pictures
from hpdm_eval.report.published import published_table
from hpdm_eval.report.single import single_tables
from hpdm_eval.report.studies import NOT_COMPARABLE, Study, study_groups
from hpdm_eval.report.videos import Grid

MARKER = ".made-by-hpdm-eval-report"
PAGE = "index.html"
LITERATURE = ("i3d-kinetics400", "c3d-ucf101")  # networks whose figures readers will hold against published ones
USUAL_PUBLISHED = "table6"


def check_folder(out: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> None:
    """Raises InputError where `out` cannot be replaced by a report: it holds something else, or what is to be read."""
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    if holds_something(out) and not (out / MARKER).exists():
        raise InputError(f"--out {out} holds files that no report made; name another folder")
    for path in inputs:
        if Path(path).resolve().is_relative_to(out):
            raise InputError(f"--out {out} would replace {path}, which is to be read; name another folder")


def unshown(records: Sequence[NamedRecord]) -> list[str]:
    """Names of the records of studies that no column of their study's layout takes, sorted."""
    return sorted(
        item.name
        for (study, tier, machine), own in study_groups(records)
        for item in Study(study, tier, machine, own).left_out
    )


def make_sections(records: Sequence[NamedRecord], published: Iterable[str] = ()) -> list[Section]:
    """The Sections of all records: studies first, then single figures, then published tables.

    published: names of published tables to add; where a record has the networks of the literature, table 6 is added,
    and with it the peers.
    """
    sections = []
    for (study, tier, machine), own in study_groups(records):
        made = Study(study, tier, machine, own)
        if made.columns:
            sections.append(
                Section(
                    name=made.name, title=made.title, tables=tuple(made.tables()), pictures=tuple(study_pictures(made))
                )
            )
    for own, table in single_tables(records):
        sections.append(
            Section(name=table.name, title=table.title, tables=(table,), pictures=tuple(single_pictures(own, table)))
        )
    names = list(published)
    shown = {table.name for section in sections for table in section.tables}
    if any(
        item.record.backbone and item.record.backbone["name"] in LITERATURE and not item.get("study")
        for item in records
    ):
        names.append(USUAL_PUBLISHED)
    tables = [published_table(load_published(name)) for name in dict.fromkeys(names)]
    if USUAL_PUBLISHED in names:
        tables.append(published_table(load_peers()))
    tables = [table for table in tables if table.name not in shown]
    if tables:
        sections.append(Section(name="published", title="Published figures", tables=tuple(tables), text=NOT_COMPARABLE))
    return sections


def write_report(
    out: str | os.PathLike,
    sections: Sequence[Section],
    *,
    title: str,
    lead: str,
    videos: Grid | None = None,
    left_out: int = 0,
    records: Sequence[NamedRecord] = (),
) -> Path:
    """Write a report of `Section`s to the folder `out`, as a whole; returns the path of its page.

    lead: a line below the title. records: for a tidy table of all their figures. The same sections, records
    and videos give the same bytes.
    """
    pictures = {picture.name: render(picture.draw) for section in sections for picture in section.pictures}
    with atomic_folder(out) as folder:
        (folder / MARKER).touch()
        for kind in ("tables", "figures"):
            (folder / kind).mkdir()
        for name, files in pictures.items():
            for kind, data in files.items():
                (folder / "figures" / f"{name}.{kind}").write_bytes(data)
        for section in sections:
            for table in section.tables:
                for kind, text in (("md", markdown(table)), ("tex", latex(table)), ("csv", csv_text(table))):
                    _write(folder / "tables" / f"{table.name}.{kind}", text)
        if records:
            names, own = [item.name for item in records], [item.record for item in records]
            frame = to_frame(own, names)
            for suffix in (".csv", ".parquet"):
                if suffix == ".parquet" and find_spec("pyarrow") is None:
                    note("no records.parquet: pyarrow is not installed")
                    continue
                (folder / f"records{suffix}").write_bytes(table_bytes(frame, suffix))
        _write(folder / "report.md", _markdown_page(title, lead, sections))
        _write(
            folder / PAGE,
            page(title, lead, sections, {name: files["svg"] for name, files in pictures.items()}, videos, left_out),
        )
    return Path(out) / PAGE


def _markdown_page(title: str, lead: str, sections: Iterable[Section]) -> str:
    return f"# {title}\n\n{lead}\n" + markdown_sections(sections).rstrip("\n") + "\n"


def markdown_sections(sections: Iterable[Section]) -> str:
    """The tables and pictures of a report as markdown, a heading of second order for each section."""
    parts = []
    for section in sections:
        parts.append(f"\n## {section.title}\n\n" + (f"{section.text}\n\n" if section.text else ""))
        for position, table in enumerate(section.tables):
            parts.append(markdown(table, heading=table.title != section.title) + "\n")
            if position == 0:
                parts += [f"![{picture.caption}](figures/{picture.name}.svg)\n\n" for picture in section.pictures]
    return "".join(parts)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
