"""Records as tables: aligned text for the terminal, markdown for files.

A row names its metric together with the backbone, and its protocol together with the hash of the settings. Marks
point to notes below the table: settings changed from the named protocol, weights of unknown origin, warnings.
"""

from collections.abc import Iterator, Sequence

from hpdm_eval.clips.rejections import reason_counts
from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned, piped

COLUMNS = ("metric", "value", "protocol", "samples", "reference", "seed")
FEW_NAMES = 5
RIGHT_ALIGNED = ("value", "samples", "reference", "seed")


def text_table(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """Table of the records for a terminal, with its notes, without a final newline.

    `names` adds a first column, one entry per record.
    """
    header, rows, notes = _cells(records, names)
    return "\n".join([aligned(header, rows, RIGHT_ALIGNED), *(f"{mark} {text}" for mark, text in notes)])


def markdown_table(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """The same as markdown, with a final newline; the notes are a paragraph below the table."""
    header, rows, notes = _cells(records, names)
    table = piped(header, rows, RIGHT_ALIGNED)
    if notes:
        table += "\n" + "  \n".join(f"{mark} {text}" for mark, text in notes) + "\n"
    return table


def _cells(
    records: Sequence[Record], names: Sequence[str] | None
) -> tuple[list[str], list[list[str]], list[tuple[str, str]]]:
    """Header, rows of text, and notes [(mark, text)]; equal notes share a mark."""
    notes: dict[str, str] = {}
    rows = []
    for index, record in enumerate(records):
        row = {
            "metric": metric_label(record),
            "value": format_value(record.value) + _interval(record),
            "protocol": protocol_label(record),
            "samples": str(record.num_samples),
            "reference": "-" if record.num_reference is None else str(record.num_reference),
            "seed": str(record.seed),
        }
        marks: dict[str, str] = {}
        for column, text in remarks(record):
            mark = notes.setdefault(text, f"[{len(notes) + 1}]")
            marks[column] = marks.get(column, " ") + mark
        row = {column: text + marks.get(column, "") for column, text in row.items()}
        rows.append(([names[index]] if names else []) + [row[column] for column in COLUMNS])
    header = ([""] if names else []) + list(COLUMNS)
    return header, rows, [(mark, text) for text, mark in notes.items()]


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(name or "clips without a class" for name in names[:FEW_NAMES])
    return shown + (f" and {len(names) - FEW_NAMES} more" if len(names) > FEW_NAMES else "")


def _interval(record: Record) -> str:
    if record.ci95 is None:
        return ""
    low, high = map(format_value, record.ci95)
    return f" [{low}, {high}]"


def remarks(record: Record) -> Iterator[tuple[str, str]]:
    """(column, note) of everything a reader must know besides the figure."""
    if record.backbone and record.backbone.get("precision", "fp32") != "fp32":
        yield "metric", f"the network computed in {record.backbone['precision']}; compare only with figures that did"
    if record.backbone and not record.backbone.get("verified", True):
        trust = record.backbone.get("trust", "unverified")
        yield "metric", f"weights not verified ({trust}), SHA-256 {record.backbone['sha256'][:12]}..."
    if record.protocol.get("overrides"):
        yield "protocol", f"{record.protocol['name']} with {', '.join(record.protocol['overrides'])}"
    for warning in record.warnings:
        yield "value", warning
    for column, source in (("samples", record.samples), ("reference", record.reference)):
        wanted = record.protocol.get(f"num_{column}")
        if source and wanted and source["clips"] < wanted:
            yield column, f"the protocol wants {wanted}"
        if source and (classes := source.get("classes")) and classes["lost"]:
            yield (
                column,
                (
                    f"{classes['taken']} of {classes['of']} classes are in these {column}, drawn from "
                    f"{classes['available']} clips; not {_few(classes['lost'])}"
                ),
            )
        if source and source["rejected"]:
            yield column, f"{len(source['rejected'])} of the {column} rejected: {reason_counts(source['rejected'])}"
