"""Which rows and columns the table of a study has: one YAML file per study in `layouts/`.

title: Training ablations
published: table3                  # optional: the published table that is shown apart
rows: {deep: deep fusion, ...}     # variant → label, in this order
columns:                           # metric, heading, and further keys that a record must have
  - {metric: fvd, level: 0, heading: FVD level 0}
  - {metric: fvd, level: 2, each: [step], heading: "step {step}"}     # a column for every value
notes: [...]
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from hpdm.support.errors import InputError
from hpdm.support.fields import check_keys
from hpdm_eval.report.collect import NamedRecord

# what sets records of one variant, metric and seed apart
PLACES = ("level", "step", "basis", "target", "attribute", "num_samples")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: the records of a metric whose keys have the values of `where`."""

    metric: str
    heading: str
    where: tuple[tuple[str, object], ...] = ()
    each: tuple[str, ...] = ()  # keys each of whose values makes a column of its own

    def takes(self, item: NamedRecord) -> bool:
        """Whether a record belongs into the column."""
        return item.record.metric == self.metric and all(item.get(key) == value for key, value in self.where)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The table of one study."""

    title: str
    rows: tuple[tuple[str, str], ...]  # (variant, label)
    columns: tuple[Column, ...]
    published: str | None = None
    notes: tuple[str, ...] = ()


def load_layout(study: str, records: Sequence[NamedRecord]) -> Layout:
    """The Layout of a study; for one without a file, all variants and metrics of its records, by name."""
    path = resources.files(__package__).joinpath("layouts", f"{study}.yaml")
    if re.fullmatch(r"[\w-]+", study) and path.is_file():
        return parse_layout(study, path.read_text(encoding="utf-8"))
    rows = {str(item.get("variant")): str(item.get("variant")) for item in records}
    metrics = sorted({item.record.metric for item in records})
    return Layout(
        title=study,
        rows=tuple(sorted(rows.items())),
        columns=tuple(Column(metric=metric, heading=_literal(metric)) for metric in metrics),
    )


def _literal(text: str) -> str:
    """A heading that `expand` takes as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def parse_layout(study: str, text: str) -> Layout:
    """The Layout of a file's text; raises InputError for keys that are unknown or missing."""
    values = yaml.safe_load(text)
    needed = ("title", "rows", "columns")
    check_keys(values, (*needed, "published", "notes"), f"layout {study}", needed=needed)
    columns = []
    for entry in values["columns"]:
        needed = ("metric", "heading")
        check_keys(entry, (*needed, "each", *PLACES), f"layout {study}, column {entry.get('heading')}", needed=needed)
        where = tuple((key, entry[key]) for key in PLACES if key in entry)
        each = tuple(entry.get("each", ()))
        if bad := [key for key in each if key not in PLACES]:
            raise InputError(f"layout {study}: each: {bad[0]!r} is none of {', '.join(PLACES)}")
        columns.append(Column(metric=entry["metric"], heading=entry["heading"], where=where, each=each))
    return Layout(
        title=values["title"],
        published=values.get("published"),
        columns=tuple(columns),
        rows=tuple((str(key), str(label)) for key, label in values["rows"].items()),
        notes=tuple(values.get("notes", ())),
    )


def expand(columns: Iterable[Column], records: Sequence[NamedRecord]) -> list[Column]:
    """The columns with `each` resolved to the values that the records (`NamedRecord`) have, in ascending order.

    What differs between records of one variant and seed is resolved too, in `each` or not: figures of different sizes
    do not share a column. Headings may name the keys in braces.
    """
    expanded = []
    for column in columns:
        for own in _resolve(column, records):
            taken = [item for item in records if own.takes(item)]
            fixed = {key for key, _ in own.where}
            varying = tuple(key for key in PLACES if key not in fixed and _varies(taken, key))
            heading = own.heading + "".join(f", {key.replace('_', ' ')} {{{key}}}" for key in varying)
            expanded += _resolve(Column(metric=own.metric, where=own.where, each=varying, heading=heading), taken)
    return expanded


def _resolve(column: Column, records: Sequence[NamedRecord]) -> list[Column]:
    if not column.each:
        return [column]
    taken = [item for item in records if column.takes(item)]
    places = sorted(
        {tuple(item.get(key) for key in column.each) for item in taken},
        key=lambda place: [(value is not None, str(type(value)), _in_order(value)) for value in place],
    )
    resolved = []
    for place in places:
        values = dict(zip(column.each, place, strict=True))
        resolved.append(
            Column(
                metric=column.metric, heading=column.heading.format_map(values), where=(*column.where, *values.items())
            )
        )
    return resolved


def _in_order(value: Any) -> Any:
    """A key that sorts texts by the numbers in them: 16x32x32 before 128x64x64."""
    if not isinstance(value, str):
        return value
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", value)]


def _varies(taken: Sequence[NamedRecord], key: str) -> bool:
    values: dict[tuple[Any, Any], set[Any]] = {}
    for item in taken:
        values.setdefault((item.get("variant"), item.get("repeat")), set()).add(item.get(key))
    return any(len(own) > 1 for own in values.values())
