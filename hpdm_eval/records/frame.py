"""Records as a tidy table: one row per figure, for pandas, spreadsheets and whatever reads parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import inert

if TYPE_CHECKING:
    import pandas

# Of a record, in every row of its figures.
OF_STUDY = ("study", "variant", "tier", "repeat", "level", "step", "target")
DTYPES = {
    "metric": "string",
    "figure": "string",
    "value": "float64",
    "ci95_low": "float64",
    "ci95_high": "float64",
    "p_value": "float64",
    "unit": "string",
    "higher_is_better": "boolean",
    "protocol": "string",
    "protocol_hash": "string",
    "backbone": "string",
    "backbone_sha256": "string",
    "num_samples": "UInt64",
    "num_reference": "UInt64",
    "seed": "UInt64",
    "samples": "string",
    "samples_sha256": "string",
    "reference": "string",
    "reference_sha256": "string",
    **dict.fromkeys(OF_STUDY, "object"),
    "warnings": "string",
    "hpdm": "string",
    "torch": "string",
    "hardware": "string",
    "git": "string",
    "seconds": "float64",
    "created": "string",
    "command": "string",
}
COLUMNS = tuple(DTYPES)
DETAIL = "detail."  # before the name of a further key of a metric's details
FIGURE_KEYS = ("figure", "value", "excess", "ci95", "p_value")
SUFFIXES = (".csv", ".parquet", ".json", ".jsonl")


def to_frame(records: Iterable[Record], names: Sequence[str] | None = None) -> pandas.DataFrame:
    """The records as a `pandas.DataFrame` with one row per figure, in the order of the records.

    The first row of a record is its headline: `figure` is the metric's name, `unit` and `higher_is_better` are filled.
    The rows below are the figures in its details: `figure` is the entry's name, "excess" for seams; an entry without
    one has a row for each number with a decimal point, or null, under that key. What else an entry says (axis, period,
    class, ...) is in columns `detail.*`. Missing values are NA. A detail that repeats the headline has no row
    of its own.

    names: file names of the records, which become a first column `record`.

    >>> frame = to_frame([load_record("reports/nano/records.jsonl#fvd-shapes3d-native-nano-vs-reference-205a5a81")])
    >>> frame[["metric", "figure", "samples"]].iloc[0].tolist()
    ['fvd', 'fvd', 'scratch/nano/240-clips/nano']
    """
    import pandas

    records = list(records)
    labels = [{"record": name} for name in names] if names is not None else [{}] * len(records)
    rows = [label | row for label, record in zip(labels, records, strict=True) for row in _rows(record)]
    leading = ("record", *COLUMNS) if names is not None else COLUMNS
    further = sorted({key for row in rows for key in row} - set(leading))
    data = {}
    for column in (*leading, *further):
        values = [row.get(column) for row in rows]
        data[column] = _series(values, DTYPES.get(column, "string" if column == "record" else "object"))
    return pandas.DataFrame(data, columns=[*leading, *further])


def save_table(records: Iterable[Record], path: str | os.PathLike, names: Sequence[str] | None = None) -> None:
    """Write the table of `to_frame` as the suffix of `path` says: .csv, .parquet, .json or .jsonl, atomically.

    In CSV a text that a spreadsheet would take for a formula gets an apostrophe before it. Raises InputError for
    another suffix, and for parquet where pyarrow is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a table's name ends in one of {', '.join(SUFFIXES)}")
    content = table_bytes(to_frame(records, names), suffix)
    with atomic_file(path) as file:
        file.write(content)


def table_bytes(frame: pandas.DataFrame, suffix: str) -> bytes:
    """A table of `to_frame` in a format of SUFFIXES."""
    if suffix == ".parquet":
        try:
            return frame.to_parquet(index=False)
        except ImportError as error:
            raise InputError("parquet needs pyarrow: pip install pyarrow") from error
    if suffix == ".csv":
        texts = frame.apply(lambda column: column.map(lambda value: inert(value) if isinstance(value, str) else value))
        return texts.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace")
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines) if suffix == ".jsonl" else "[" + ",\n".join(lines) + "]"
    return (text + "\n").encode("utf-8")


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    """A dict per figure: the headline, then those of the details."""
    shared = _shared(record)
    low, high = record.ci95 or (None, None)
    headline = {"figure": record.metric, "value": record.value, "ci95_low": low, "ci95_high": high}
    repeated = [entry for entry in record.details if _repeats(entry, record)][:1]
    further = _further(repeated[0], ()) if repeated else {}
    yield shared | headline | {"unit": record.unit, "higher_is_better": record.higher_is_better} | further
    for entry in record.details:
        if entry in repeated:
            continue
        figures = _figures(record.metric, entry)
        further = _further(entry, [name for name, _ in figures])
        for position, (name, value) in enumerate(figures):
            low, high = (entry.get("ci95") or (None, None)) if position == 0 else (None, None)
            p_value = entry.get("p_value") if isinstance(entry.get("p_value"), int | float) else None
            own = {"figure": name, "value": value, "ci95_low": low, "ci95_high": high, "p_value": p_value}
            yield shared | own | further


def _repeats(entry: dict[str, Any], record: Record) -> bool:
    """Whether an entry of the details is the headline once more."""
    return entry.get("figure") == record.metric and entry.get("value") == record.value


def _further(entry: dict[str, Any], figures: Collection[str]) -> dict[str, Any]:
    return {DETAIL + key: value for key, value in entry.items() if key not in FIGURE_KEYS and key not in figures}


def _figures(metric: str, entry: dict[str, Any]) -> list[tuple[str, float | None]]:
    """[(name, value)] of the figures in one entry of a record's details; an interval is of the first."""
    if "value" in entry:
        return [(entry.get("figure", metric), entry["value"])]
    if "excess" in entry:
        return [("excess", entry["excess"])]
    return [
        (key, value)
        for key, value in entry.items()
        if key not in FIGURE_KEYS and (value is None or isinstance(value, float) or key == metric)
    ]


def _shared(record: Record) -> dict[str, Any]:
    reference, backbone = record.reference or {}, record.backbone or {}
    return {
        "metric": record.metric,
        "protocol": record.protocol["name"],
        "protocol_hash": record.protocol.get("hash"),
        "backbone": backbone.get("name"),
        "backbone_sha256": backbone.get("sha256"),
        "num_samples": record.num_samples,
        "num_reference": record.num_reference,
        "seed": record.seed,
        "samples": record.samples["path"],
        "samples_sha256": record.samples["sha256"],
        "reference": reference.get("path"),
        "reference_sha256": reference.get("sha256"),
        **{key: record.extra.get(key) for key in OF_STUDY},
        "warnings": "; ".join(record.warnings) or None,
        "hpdm": record.versions.get("hpdm"),
        "torch": record.versions.get("torch"),
        "hardware": record.hardware,
        "git": record.git,
        "seconds": record.seconds,
        "created": record.created,
        "command": record.command,
    }


def _series(values: list[Any], dtype: str) -> pandas.Series:
    """A column of one type: what is of several, or no plain value, becomes JSON."""
    import pandas

    if dtype == "string":
        return pandas.Series([_as_text(value) for value in values], dtype="string")
    if dtype != "object":
        return pandas.Series(values, dtype=dtype)
    kinds = {_kind(value) for value in values if value is not None}
    if len(kinds) == 1 and (kind := kinds.pop()):
        return pandas.Series([_as_text(value) if kind == "string" else value for value in values], dtype=kind)
    return pandas.Series(
        [None if value is None else json.dumps(value, ensure_ascii=False) for value in values], dtype="string"
    )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return "Int64"
    if isinstance(value, float):
        return "Float64"
    return "string" if isinstance(value, str) else ""


def _as_text(value: Any) -> str | None:
    """Text that UTF-8 can hold: half-decoded file names are escaped."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
