"""The tables of `hpdm-eval compare`: every figure of every set, and the tests of all pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from hpdm_eval.metrics.pairs import Estimate, Pair, compare_pairs
from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.records.record import Record
from hpdm_eval.report.aggregate import Figure
from hpdm_eval.report.collect import NamedRecord
from hpdm_eval.report.model import Cell, Row, Section, Table, origin
from hpdm_eval.report.tables import remarks
from hpdm_eval.support.text_tables import aligned

TITLE = "Comparison"


class Method(Protocol):
    """One set of samples: its records by metric, and its estimates by figure."""

    name: str
    records: Mapping[str, Record]
    estimates: Mapping[str, Estimate | float]  # a bare value where there is no standard error

    def value(self, figure: str) -> float:
        """The figure itself."""

    def interval(self, figure: str) -> tuple[float, float] | None:
        """95 %, cut to the range that the figure can have."""

    def metric_of(self, figure: str) -> str:
        """The metric whose record holds the figure."""

    def higher_is_better(self, figure: str) -> bool:
        """The figure's direction."""


def sort_methods(methods: Sequence[Method], figure: str) -> list[Method]:
    """The best first."""
    return sorted(methods, key=lambda method: method.value(figure), reverse=methods[0].higher_is_better(figure))


def pair_tests(methods: Sequence[Method], figure: str) -> list[Pair]:
    """Tests of all pairs, or none where a set has no standard error."""
    estimates = [method.estimates[figure] for method in methods]
    known = [estimate for estimate in estimates if isinstance(estimate, Estimate)]
    return compare_pairs(known) if len(known) == len(estimates) else []


def comparison_section(methods: Sequence[Method], pairs: Mapping[str, Sequence[Pair]]) -> Section:
    """The Section of a page. methods: sorted `Method`s; pairs: {figure: its tests}, of all figures that all have."""
    records = found_records(methods)
    tables = [
        Table(
            name="comparison",
            title=TITLE,
            heads=("",),
            columns=tuple(_heading(methods[0], figure) for figure in pairs),
            rows=tuple(
                Row(
                    heads=(method.name,), cells=tuple(_cell(method, methods, figure, pairs[figure]) for figure in pairs)
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
                    Row(
                        heads=(figure, f"{pair.first} - {pair.second}"),
                        cells=_test(pair, methods[0].higher_is_better(figure)),
                    )
                    for figure in pairs
                    for pair in pairs[figure]
                ),
                origin=origin(records),
            )
        )
    return Section(name="comparison", title=TITLE, tables=tuple(tables))


def terminal_text(section: Section) -> str:
    """The tables, then their remarks."""
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


def found_records(methods: Sequence[Method]) -> list[NamedRecord]:
    """All records of the methods as the report takes them."""
    return [
        NamedRecord(name=f"{method.name}/{metric}", record=record)
        for method in methods
        for metric, record in method.records.items()
    ]


def _heading(method: Method, figure: str) -> str:
    record = method.records[method.metric_of(figure)]
    return metric_label(replace(record, metric=figure)) + (
        " (higher)" if method.higher_is_better(figure) else " (lower)"
    )


def _cell(method: Method, methods: Sequence[Method], figure: str, pairs: Sequence[Pair]) -> Cell:
    best = sort_methods(methods, figure)[0].name
    different = {frozenset((pair.first, pair.second)) for pair in pairs if pair.significant}
    mark = " *" if pairs and frozenset((method.name, best)) not in different else ""
    metric, interval = method.metric_of(figure), method.interval(figure)
    own = Figure(
        value=method.value(figure),
        spread=None,
        interval=interval,
        exact=False,
        records=(NamedRecord(name=f"{method.name}/{metric}", record=method.records[metric]),),
    )
    return Cell(
        text=format_value(own.value) + mark,
        figure=own,
        interval=interval and "[{}, {}]".format(*map(format_value, interval)),
    )


def _test(pair: Pair, higher_is_better: bool) -> tuple[Cell, ...]:
    if pair.significant:
        verdict = pair.first if (pair.difference > 0) == higher_is_better else pair.second
    else:
        verdict = "open"
    return (
        Cell(text=format_value(pair.difference), interval="[{}, {}]".format(*map(format_value, pair.ci95))),
        Cell(text=f"{pair.p_value:.2g}"),
        Cell(text=f"{pair.adjusted:.2g}"),
        Cell(text=verdict),
    )


def _remarks(methods: Sequence[Method], pairs: Mapping[str, Sequence[Pair]]) -> Iterator[str]:
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


def _tiling(method: Method) -> str:
    settings = method.records["seams"].extra["settings"]
    return (
        f"{method.name}: patches of {'x'.join(map(str, settings['patch']))}, overlap {settings['overlap']} "
        f"({settings['plan']})"
    )
