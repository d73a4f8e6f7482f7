"""Published tables as tables of the report. They never hold a figure of ours."""

from collections.abc import Iterable

from baselines.published import PublishedFigure, PublishedTable
from hpdm_eval.report.model import EMPTY, Cell, Notes, Row, Table

HEADINGS = {
    "fvd": "FVD",
    "is": "IS",
    "memory": "memory, GB",
    "throughput": "videos/s",
    "trained_with": "trained with features of",
}


def published_table(published: PublishedTable, remarks: Iterable[str] = ()) -> Table:
    """The `Table` of a PublishedTable, in the order in which it is printed."""
    notes = Notes()
    rows = list(dict.fromkeys(_place(figure, published.rows) for figure in published.figures))
    columns = list(dict.fromkeys(_place(figure, published.columns) for figure in published.figures))
    cells = {
        (_place(figure, published.rows), _place(figure, published.columns)): _cell(figure, notes)
        for figure in published.figures
    }
    return Table(
        name=f"published-{published.name}",
        title=f"Published: {published.title}",
        heads=tuple(HEADINGS.get(key, key) for key in published.rows),
        columns=tuple(", ".join(HEADINGS.get(part, part) for part in column if part != "–") for column in columns),
        rows=tuple(Row(heads=row, cells=tuple(cells.get((row, column), EMPTY) for column in columns)) for row in rows),
        notes=notes.texts,
        remarks=(*remarks, published.setting, *published.findings),
        origin=f"As printed in {published.citation}.",
        published=True,
    )


def _cell(figure: PublishedFigure, notes: Notes) -> Cell:
    marks = (notes.mark(figure.note[0].upper() + figure.note[1:] + "."),) if figure.note else ()
    # the shortest form of the number: the paper's own digits but for trailing zeros
    spread = "" if figure.spread is None else f" ± {figure.spread:.10g}"
    return Cell(text="–" if figure.value is None else f"{figure.value:.10g}{spread}", marks=marks)


def _place(figure: PublishedFigure, keys: Iterable[str]) -> tuple[str, ...]:
    words = {None: "–", True: "yes", False: "no"}
    values = [getattr(figure, key) for key in keys]
    return tuple(
        words[value]
        if value is None or isinstance(value, bool)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
        for value in values
    )
