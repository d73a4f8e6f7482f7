"""The tables of `hpdm-eval compare`: every figure of every set, and the tests of all pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from hpdm_eval.metrics.pairs import Pair
from hpdm_eval.metrics.registry import FigureInfo
from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.records.record import Record
from hpdm_eval.report.aggregate import Figure
from hpdm_eval.report.collect import NamedRecord
from hpdm_eval.report.model import Cell, Row, Section, Table, origin
from hpdm_eval.report.tables import remarks
from hpdm_eval.support.text_tables import aligned

TITLE = "Comparison"


class Compared(Protocol):
    """One set of samples in a comparison."""

    @property
    def name(self) -> str: ...

    @property
    def records(self) -> Mapping[str, Record]: ...  # by metric

    def value(self, figure: str) -> float: ...

    def interval(self, figure: str) -> tuple[float, float] | None: ...

    def record_of(self, figure: str) -> Record: ...


def comparison_section(
    methods: Sequence[Compared], pairs: Mapping[str, Sequence[Pair]], figures: Mapping[str, FigureInfo]
) -> Section:
    """The Section of a page.

    methods: sorted; pairs: {figure: its tests}, of all figures that all have; figures: what is known of them.
    """
    records = named_records(methods)
    tables = [
        Table(
            name="comparison",
            title=TITLE,
            heads=("",),
            columns=tuple(_heading(methods[0], figure, figures[figure]) for figure in pairs),
            rows=tuple(
                Row(
                    heads=(method.name,),
                    cells=tuple(_cell(method, methods, figure, pairs[figure], figures[figure]) for figure in pairs),
                )
                for method in methods
            ),
            remarks=tuple(_remarks(methods, pairs)),
            origin=origin(records),
            sources=tuple(records),
        )
    ]
    if any(pairs.values()):
        tables.append(
            Table(
                name="comparison-pairs",
                title="Pairs",
                heads=("figure", "pair"),
                columns=("difference, 95 %", "p", "p (Holm)", "better"),
                rows=tuple(
                    Row(heads=(figure, f"{pair.first} - {pair.second}"), cells=_test(pair, figures[figure]))
                    for figure in pairs
                    for pair in pairs[figure]
                ),
                origin=origin(records),
            )
        )
    return Section(name="comparison", title=TITLE, tables=tuple(tables))


def terminal_text(section: Section) -> str:
    """The tables, then what is to be said of them."""
    parts = [
        aligned(
            [*table.heads, *table.columns],
            [
                [*row.heads, *(" ".join(filter(None, (cell.text, cell.interval))) for cell in row.cells)]
                for row in table.rows
            ],
            table.columns,
        )
        for table in section.tables
    ]
    return "\n\n".join([*parts, "\n".join(section.tables[0].remarks)])


def named_records(methods: Sequence[Compared]) -> list[NamedRecord]:
    """All records of the methods as the report takes them."""
    return [
        NamedRecord(name=f"{method.name}/{metric}", record=record)
        for method in methods
        for metric, record in method.records.items()
    ]


def _heading(method: Compared, figure: str, about: FigureInfo) -> str:
    label = metric_label(replace(method.record_of(figure), metric=figure))
    return label + (" (higher)" if about.higher_is_better else " (lower)")


def _cell(method: Compared, methods: Sequence[Compared], figure: str, pairs: Sequence[Pair], about: FigureInfo) -> Cell:
    best = (max if about.higher_is_better else min)(methods, key=lambda method: method.value(figure)).name
    different = {frozenset((pair.first, pair.second)) for pair in pairs if pair.significant}
    mark = " *" if pairs and frozenset((method.name, best)) not in different else ""
    record, interval = method.record_of(figure), method.interval(figure)
    own = Figure(
        value=method.value(figure),
        spread=None,
        interval=interval,
        exact=False,
        records=(NamedRecord(name=f"{method.name}/{record.metric}", record=record),),
    )
    return Cell(
        text=format_value(own.value) + mark,
        figure=own,
        interval=interval and "[{}, {}]".format(*map(format_value, interval)),
    )


def _test(pair: Pair, about: FigureInfo) -> tuple[Cell, ...]:
    if pair.significant:
        verdict = pair.first if (pair.difference > 0) == about.higher_is_better else pair.second
    else:
        verdict = "open"
    return (
        Cell(text=format_value(pair.difference), interval="[{}, {}]".format(*map(format_value, pair.ci95))),
        Cell(text=f"{pair.p_value:.2g}"),
        Cell(text=f"{pair.adjusted:.2g}"),
        Cell(text=verdict),
    )


def _remarks(methods: Sequence[Compared], pairs: Mapping[str, Sequence[Pair]]) -> Iterator[str]:
    records = [record for method in methods for record in method.records.values()]
    counts = " and ".join(map(str, sorted({record.num_samples for record in records})))
    yield f"{counts} samples of each set; protocol {', '.join(sorted({protocol_label(record) for record in records}))}."
    if any(pairs.values()):
        yield "* the best, or not told from it by the tests; open: the difference may be chance (5 %, Holm)."
    if bare := [figure for figure in pairs if not pairs[figure]]:
        yield f"No tests of {', '.join(bare)}: there is no standard error, for lack of clips or of clips' own features."
    if "seams" in pairs:
        yield (
            "Seams are the mean excess over axes, on the borders of the finest tiles: "
            + "; ".join(map(_tiling, methods))
            + "."
        )
    yield from dict.fromkeys(text for record in records for _, text in remarks(record))


def _tiling(method: Compared) -> str:
    settings = method.records["seams"].extra["settings"]
    return (
        f"{method.name}: patches of {'x'.join(map(str, settings['patch']))}, overlap {settings['overlap']} "
        f"({settings['plan']})"
    )
