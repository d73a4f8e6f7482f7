"""Records of a study as its table, with the orders that may be claimed and the published table beside it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from baselines.published import PublishedTable, load_published
from hpdm_eval.records.labels import format_value
from hpdm_eval.report.aggregate import Figure, aggregate, difference_within_seeds, order
from hpdm_eval.report.collect import NamedRecord
from hpdm_eval.report.conditions import conditions, describe, differences, usual
from hpdm_eval.report.layouts import PLACES, Column, expand, load_layout
from hpdm_eval.report.model import EMPTY, Cell, Notes, Row, Table, figure_cell, origin, slug
from hpdm_eval.report.published import published_table

SMOKE = "Tier smoke trains for seconds: it shows that everything runs, and nothing about the variants."
SPEEDS = ("throughput", "sampling")
NOT_COMPARABLE = (
    "Published figures are of other data, model sizes, backbones, training and hardware: they are shown "
    "apart, and only their order can be compared with ours."
)


def study_groups(records: Iterable[NamedRecord]) -> list[tuple[tuple[str, str, str | None], list[NamedRecord]]]:
    """[((study, tier, machine or None), its `NamedRecord`)] of the records that belong to studies, sorted.

    Where machines have given different answers to one question, each machine has a group of its own, which also holds
    what only one of them measured.
    """

    def group(item: NamedRecord) -> tuple[str, str]:
        return str(item.get("study")), str(item.get("tier") or "")

    groups: list[tuple[tuple[str, str, str | None], list[NamedRecord]]] = []
    in_order = sorted((item for item in records if item.get("study")), key=group)
    for (study, tier), members in groupby(in_order, key=group):
        own = sorted(members, key=lambda item: item.name)
        machines = sorted(
            {_machine(item) for items in _by_question(own).values() if _disagree(items) for item in items}
        )
        if len(machines) < 2:
            groups.append(((study, tier, None), own))
            continue
        for machine in machines:
            groups.append(
                (
                    (study, tier, machine),
                    [
                        item
                        for items in _by_question(own).values()
                        for item in items
                        if not _disagree(items) or _machine(item) == machine
                    ],
                )
            )
    return groups


class Study:
    """One group of `study_groups`: its layout, columns and figures."""

    def __init__(self, study: str, tier: str, machine: str | None, records: Sequence[NamedRecord]) -> None:
        self.study, self.tier, self.machine = study, tier, machine
        self.records, self.replaced = _newest(records)
        self.layout = load_layout(study, self.records)
        self.columns = expand(self.layout.columns, self.records)
        present = {str(item.get("variant")) for item in self.records}
        labelled = [(variant, label) for variant, label in self.layout.rows if variant in present]
        self.rows = labelled + sorted((variant, variant) for variant in present - dict(self.layout.rows).keys())
        self.columns = [column for column in self.columns if any(self.figure(row, column) for row, _ in self.rows)]

    @property
    def name(self) -> str:
        return slug(self.study, self.tier, self.machine)

    @property
    def left_out(self) -> list[NamedRecord]:
        """Records that no column takes."""
        return [item for item in self.records if not any(column.takes(item) for column in self.columns)]

    @property
    def title(self) -> str:
        tier = f", tier {self.tier}" if self.tier else ""
        return f"{self.layout.title}{tier}" + (f", on {self.machine}" if self.machine else "")

    @property
    def lines(self) -> list[tuple[str, str]]:
        """[(variant, label)] of the rows, for figures: labels that rows share are told apart by the variant."""
        labels = [label for _, label in self.rows]
        return [(variant, f"{label} ({variant})" if labels.count(label) > 1 else label) for variant, label in self.rows]

    def figure(self, variant: str, column: Column) -> Figure | None:
        """The Figure of a row and a column; None where there is no record."""
        taken = [item for item in self.records if str(item.get("variant")) == variant and column.takes(item)]
        taken = sorted(taken, key=lambda item: (item.get("repeat") or 0, item.name))
        return aggregate(distinct(taken)) if taken else None

    def tables(self) -> list[Table]:
        """Our table, the orders of its rows and, where the layout names one, the published table."""
        tables = [self._main(), *self._orders(), *self._differences()]
        if self.layout.published:
            tables.append(published_table(load_published(self.layout.published), remarks=(NOT_COMPARABLE,)))
        return tables

    def _main(self) -> Table:
        notes, body = Notes(), {}
        judgements: list[str | None] = []
        for column in self.columns:
            figures = {row: self.figure(row, column) for row, _ in self.rows}
            made = [figure for figure in figures.values() if figure]
            judgements.append(describe(made))
            common = usual(made)
            for row, figure in figures.items():
                body[row, column] = figure_cell(figure, _marks(figure, common, notes)) if figure else EMPTY
        judged = "; ".join(dict.fromkeys(filter(None, judgements)))
        remarks = [f"Judged by {judged}."] if judged else []
        if any(item.record.num_samples for item in self.records):
            remarks.append(_about_intervals(self.records))
        if any(item.record.metric in SPEEDS and item.record.ci95 for item in self.records):
            remarks.append(
                "Speeds are medians over the rounds of one run; in brackets where the median lies, at 95 %, "
                "on this machine in that hour."
            )
        remarks += [*self.layout.notes, *self.replaced]
        if self.tier == "smoke":
            remarks.insert(0, SMOKE)
        rows = tuple(
            Row(heads=(label,), cells=tuple(body[row, column] for column in self.columns)) for row, label in self.rows
        )
        return Table(
            name=self.name,
            title=self.title,
            heads=("",),
            columns=tuple(c.heading for c in self.columns),
            rows=rows,
            notes=notes.texts,
            remarks=tuple(remarks),
            origin=origin(self.records),
            sources=tuple(self.records),
        )

    def _orders(self) -> list[Table]:
        """How rows compare with the first one, and whether a published order is confirmed; [] for a single row."""
        if len(self.rows) < 2:
            return []
        (first, first_label), *others = self.rows
        published = load_published(self.layout.published) if self.layout.published else None
        levels = {item.get("level") for item in self.records} - {None}
        # Equal budgets differ by what whole steps leave over, which is no finding.
        columns = [column for column in self.columns if column.metric != "compute" and self.figure(first, column)]
        rows = []
        for row, label in others:
            cells = []
            for column in columns:
                own, base = self.figure(row, column), self.figure(first, column)
                known = _published_order(published, column, row, first, levels)
                cells.append(_standing(own, base, known) if own and base else EMPTY)
            rows.append(Row(heads=(label,), cells=tuple(cells)))
        remarks = [
            "An order is claimed only where the 95 % intervals do not overlap; open: they do, or one of the two "
            "has none."
        ]
        made = [self.figure(row, column) for row, _ in self.rows for column in columns]
        if any(figure.trainings == 1 and figure.interval and not figure.exact for figure in made if figure):
            remarks.append(
                "Where a figure is of a single training, the order is that of these trainings, not of the variants."
            )
        if published and any(cell.interval for row in rows for cell in row.cells):
            remarks.append(f"The second line compares with {published.table} of the paper.")
        return [
            Table(
                name=f"{self.name}-orders",
                title=f"Against {first_label}",
                heads=("",),
                columns=tuple(column.heading for column in columns),
                rows=tuple(rows),
                remarks=tuple(remarks),
                origin=origin(self.records),
            )
        ]

    def _differences(self) -> list[Table]:
        """What rows are above the first one within seeds; [] where no figure has three trainings."""
        (first, first_label), *others = self.rows
        body = {}
        for row, _ in others:
            for column in self.columns:
                own, base = self.figure(row, column), self.figure(first, column)
                body[row, column] = difference_within_seeds(own, base) if own and base else None
        columns = [column for column in self.columns if any(body[row, column] for row, _ in others)]
        rows = tuple(
            Row(heads=(label,), cells=tuple(_difference(body[row, column]) for column in columns))
            for row, label in others
            if any(body[row, column] for column in columns)
        )
        if not rows:
            return []
        remarks = (
            "Mean over seeds of the row's figure less that of the first row with the same seed; in brackets its "
            "95 % interval, by Student's t, not corrected for the number of cells: of twenty one excludes 0 by "
            "chance.",
            "Rows of one seed are trained on the same clips in the same order, as far as they take as many "
            "steps, with the same noise where their patches are alike, and sampled from the same seeds; where "
            "only sampling differs, they share the network. The orders above make no use of this.",
        )
        return [
            Table(
                name=f"{self.name}-differences",
                title=f"Less {first_label}, within seeds",
                heads=("",),
                columns=tuple(column.heading for column in columns),
                rows=rows,
                remarks=remarks,
                origin=origin(self.records),
            )
        ]


def distinct(records: Iterable[NamedRecord]) -> list[NamedRecord]:
    """Without what was measured again on the same clips with the same result, such as real clips for every seed."""
    kept: dict[tuple[str, float], NamedRecord] = {}
    for item in records:
        kept.setdefault((item.record.samples["sha256"], item.record.value), item)
    return list(kept.values())


def _difference(difference: tuple[float, tuple[float, float]] | None) -> Cell:
    if difference is None:
        return EMPTY
    value, interval = difference
    return Cell(text=_signed(value), interval="[{}, {}]".format(*map(_signed, interval)))


def _signed(value: float) -> str:
    text = format_value(value)
    return text if text.startswith("-") or value == 0 else f"+{text}"


def _standing(own: Figure, first: Figure, published: int | None) -> Cell:
    """A Cell: how a figure compares with that of the first row, and what is published on that."""
    ours = (own.value > first.value) - (own.value < first.value) if own.exact and first.exact else order(own, first)
    word = {None: "open", -1: "lower", 1: "higher", 0: "equal"}[ours]
    if published is None:
        return Cell(text=word)
    if ours is None:
        return Cell(text=word, interval=f"published: {'higher' if published > 0 else 'lower'}")
    return Cell(text=word, interval="as published" if ours == published else "published: the other way")


def _published_order(
    published: PublishedTable | None, column: Column, row: str, first: str, levels: Collection[Any]
) -> int | None:
    """1 where a published table has `row` above `first`, -1 where below; None where it does not say.

    levels: all that the study judges. Of a pyramid with fewer or more than the published one, a level of the same
    number shows another share of the video.
    """
    where = dict(column.where)
    known: set[Any] = {figure.level for figure in (published.figures if published else ())} - {None}
    if "level" in where and known and max(levels, default=None) != max(known):
        return None
    figures = [
        figure
        for figure in (published.figures if published else ())
        if figure.metric == column.metric
        and figure.value is not None
        and ("level" not in where or figure.level == where["level"])
        and ("target" not in where or figure.clip == where["target"])
    ]
    values: dict[Any, Any] = {}
    for figure in figures:  # the first clip size of several: the paper's main one
        values.setdefault(figure.variant, figure.value)
    if row not in values or first not in values or values[row] == values[first]:
        return None
    return 1 if values[row] > values[first] else -1


def _marks(figure: Figure, common: Mapping[str, Any], notes: Notes) -> list[int]:
    """Numbers of the notes that a figure needs."""
    kinds = {differences(conditions(item), common) for item in figure.records}
    texts = [f"Not comparable as it stands: {text}." for text in sorted(kinds) if text]
    for warning in sorted({text for item in figure.records for text in item.record.warnings}):
        texts.append(f"{warning}.")
    for item in figure.records:
        if item.record.backbone and not item.record.backbone.get("verified", True):
            texts.append("The weights of the network are not verified.")
    return [notes.mark(text) for text in texts]


def _about_intervals(records: Iterable[NamedRecord]) -> str:
    seeds = len({item.get("repeat") for item in records})
    if seeds >= 3:
        return (
            f"Mean ± standard deviation over {seeds} trainings with different seeds; in brackets the 95 % interval "
            "of the mean, by Student's t; of what was measured once, such as real clips, that for another set of as "
            "many clips."
        )
    if seeds == 2:
        return "Mean ± standard deviation over two trainings with different seeds: too few for an interval."
    return (
        "One training each. In brackets the 95 % interval of the figure of that training, for a fresh set of "
        "samples: it says nothing about another training."
    )


def _by_question(records: Iterable[NamedRecord]) -> dict[tuple[Any, ...], list[NamedRecord]]:
    questions: dict[tuple[Any, ...], list[NamedRecord]] = {}
    for item in records:
        key = (str(item.get("variant")), item.record.metric, item.get("repeat"), *(item.get(place) for place in PLACES))
        questions.setdefault(key, []).append(item)
    return questions


def _disagree(items: Iterable[NamedRecord]) -> bool:
    return len({item.record.value for item in items}) > 1


def _machine(item: NamedRecord) -> str:
    return item.record.hardware.split(",")[0]


def _newest(records: Iterable[NamedRecord]) -> tuple[list[NamedRecord], list[str]]:
    """([one record per question], remarks on older records that say something else)."""
    chosen, remarks = [], []
    for items in _by_question(records).values():
        *older, newest = sorted(items, key=lambda item: (item.record.created, item.name))
        chosen.append(newest)
        remarks += [
            f"{item.name} is passed over for the newer {newest.name}."
            for item in older
            if item.record.value != newest.record.value
        ]
    return sorted(chosen, key=lambda item: item.name), sorted(remarks)
