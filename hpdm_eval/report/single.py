"""Records outside of studies: a table for every metric, network, protocol and reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import PurePath
from typing import Any

from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.report.aggregate import aggregate
from hpdm_eval.report.collect import NamedRecord
from hpdm_eval.report.conditions import question
from hpdm_eval.report.model import EMPTY, Cell, Notes, Row, Table, figure_cell, origin, slug
from hpdm_eval.report.tables import remarks

MOST_FURTHER = 6  # columns of further figures
SETTINGS_SHOWN = ("patch", "overlap", "levels", "token")  # of metrics on pixels
BIASED = ("fvd", "is", "kvd", "fid", "fvd-curve")


def single_tables(records: Iterable[NamedRecord]) -> list[tuple[list[NamedRecord], Table]]:
    """[(a group, its Table)] of the records that belong to no study, by metric, network and protocol."""
    loose = sorted(
        (item for item in records if not item.get("study")), key=lambda item: (question(item.record), item.name)
    )
    groups = [list(own) for _, own in groupby(loose, key=lambda item: question(item.record))]
    tables = [_table(own) for own in groups]
    names = [table.name for table in tables]
    for position, table in enumerate(tables):
        if names.count(table.name) > 1:
            number = names[: position + 1].count(table.name)
            tables[position] = replace(table, name=f"{table.name}-{number}", title=f"{table.title} ({number})")
    return list(zip(groups, tables, strict=True))


def label_samples(records: Iterable[NamedRecord]) -> dict[str, str]:
    """{a record's name: what its row is called}: the samples' folder, with as many parents as tell the rows apart."""
    paths = {item.name: _parts(item.record.samples["path"]) for item in records}
    labels = {}
    for name, parts in paths.items():
        others = [other for other in paths.values() if other != parts]
        length = 1
        while length < len(parts) and any(other[-length:] == parts[-length:] for other in others):
            length += 1
        labels[name] = "/".join(parts[-length:])
    return labels


def _table(records: Sequence[NamedRecord]) -> Table:
    record = records[0].record
    notes = Notes()
    labels = label_samples(records)
    settings = [key for key in SETTINGS_SHOWN if any(key in (item.get("settings") or {}) for item in records)]
    further = _further(records)
    counts = {item.record.num_samples for item in records}
    rows = []
    for item in records:
        own = item.record
        marks = [notes.mark(f"{text}.") for _, text in remarks(own)]
        if len(counts) > 1 and own.metric in BIASED:
            marks.append(
                notes.mark(
                    "The rows differ in their number of samples, with which this metric changes: "
                    "compare those of equal numbers only."
                )
            )
        values = {entry["figure"]: entry for entry in own.details if _is_figure(entry)}
        cells = [figure_cell(aggregate([item]), marks)]
        cells += [_further_cell(values[key]) if key in values else EMPTY for key in further]
        heads = [
            labels[item.name],
            *(_setting(item, key) for key in settings),
            f"{own.num_samples:,}",
            "–" if own.num_reference is None else f"{own.num_reference:,}",
            str(own.seed),
        ]
        rows.append(Row(heads=tuple(heads), cells=tuple(cells)))
    unit = f", {record.unit}" if record.unit else ""
    about = [
        f"{'Higher' if record.higher_is_better else 'Lower'} is better. In brackets the 95 % interval for a fresh "
        "set of as many samples."
        if any(item.record.ci95 for item in records)
        else f"{'Higher' if record.higher_is_better else 'Lower'} is better.",
        f"Protocol {', '.join(sorted({protocol_label(item.record) for item in records}))}.",
    ]
    if record.reference:
        references = sorted({item.record.reference["path"] for item in records if item.record.reference})
        about.append(f"Reference: {', '.join(references)}, SHA-256 {record.reference['sha256'][:12]}.")
    return Table(
        name=slug(record.metric, record.backbone and record.backbone["name"], record.protocol["name"]),
        title=f"{metric_label(record)} under {record.protocol['name']}"
        + (f", against {PurePath(record.reference['path']).name}" if record.reference else ""),
        heads=("samples", *settings, "clips", "reference", "seed"),
        columns=(f"{metric_label(record)}{unit}", *further),
        rows=tuple(rows),
        notes=notes.texts,
        remarks=tuple(about),
        origin=origin(records),
        sources=tuple(records),
    )


def _parts(path: str) -> tuple[str, ...]:
    return PurePath(path).parts or (".",)


def _is_figure(entry: Mapping[str, Any]) -> bool:
    return "figure" in entry and isinstance(entry.get("value"), (int, float))


def _further(records: Iterable[NamedRecord]) -> tuple[str, ...]:
    """Names of the further figures of records, in the order in which they come; none where they are many."""
    names = list(
        dict.fromkeys(
            entry["figure"]
            for item in records
            for entry in item.record.details
            if _is_figure(entry) and entry["value"] != item.record.value
        )
    )
    return tuple(names) if len(names) <= MOST_FURTHER else ()


def _further_cell(entry: Mapping[str, Any]) -> Cell:
    interval = entry.get("ci95")
    return Cell(
        text=format_value(entry["value"]),
        interval="[{}, {}]".format(*map(format_value, interval)) if interval else None,
    )


def _setting(item: NamedRecord, key: str) -> str:
    value = (item.get("settings") or {}).get(key)
    if value is None:
        return "–"
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
