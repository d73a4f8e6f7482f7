"""Tables as data: what is written, before it is decided in which language."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpdm_eval.records.labels import format_value
from hpdm_eval.report.aggregate import Figure
from hpdm_eval.report.collect import NamedRecord

if TYPE_CHECKING:
    import matplotlib.figure

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
COUNTS = ("parameters", "flops")  # written with a prefix: 178M


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure, or a word where `figure` is None; marks are numbers of the table's notes, from 1."""

    text: str
    interval: str | None = None
    marks: tuple[int, ...] = ()
    figure: Figure | None = None


EMPTY = Cell(text="–")


@dataclass(frozen=True, kw_only=True)
class Row:
    heads: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. `heads` are the headings of the leading columns of words, `columns` those of the cells."""

    name: str  # of its files
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()  # numbered; cells refer to them
    remarks: tuple[str, ...] = ()  # sentences that hold for the whole table
    origin: str = ""  # hardware, dates and commits of its records
    sources: tuple[NamedRecord, ...] = ()  # the `NamedRecord` behind it
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A matplotlib figure to be drawn: `draw()` makes it. `caption` also says in words what it shows."""

    name: str
    caption: str
    draw: Callable[[], "matplotlib.figure.Figure"]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading of the report with its tables and pictures."""

    name: str
    title: str
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...] = ()
    text: str = ""


class Notes:
    """Numbered notes of a table; equal ones share a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._numbers)


def figure_cell(figure: Figure, marks: Iterable[int] = ()) -> Cell:
    """The Cell of a Figure: mean ± spread over trainings, and the interval, all with the mean's decimals."""
    metric, decimals = figure.record.metric, _decimals(figure.value)

    def write(value: float) -> str:
        return format_number(value, metric) if metric in COUNTS else f"{value:.{decimals}f}"

    text = write(figure.value)
    if figure.spread is not None and not figure.exact:
        text += f" ± {write(figure.spread)}"
    interval = None
    if figure.interval is not None and not figure.exact:
        interval = "[{}, {}]".format(*map(write, figure.interval))
    return Cell(text=text, interval=interval, marks=tuple(sorted(set(marks))), figure=figure)


def format_number(value: float, metric: str) -> str:
    """As tables write a figure: counts of a network with a prefix, all else with two decimals from 1 up."""
    if metric not in COUNTS:
        return format_value(value)
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g}{prefix}" if value / size < 999.5 else f"{value / size:.0f}{prefix}"
    return f"{value:.0f}"


def origin(records: Sequence[NamedRecord]) -> str:
    """One line on where records come from: hardware, dates, commits."""
    own = [item.record for item in records]
    hardware = sorted({record.hardware for record in own})
    days = sorted({record.created[:10] for record in own})
    commits = sorted({_short(record.git) for record in own})
    trained = sorted({_short(commit) for record in own for commit in record.extra.get("trained_by") or ()})
    others = f", networks trained at {', '.join(trained)}" if trained and trained != commits else ""
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    count = f"{len(own)} record{'s' * (len(own) > 1)}"
    return f"{'; '.join(hardware)}. {dates}. Commit {', '.join(commits)}{others}. {count}."


def slug(*parts: object) -> str:
    """A file name of letters, digits, dots, dashes and underscores."""
    words = (re.sub(r"[^\w.]+", "-", str(part)).strip("-.") for part in parts if part)
    return "-".join(filter(None, words)).lower()


def _decimals(value: float) -> int:
    """Two from 1 up, below it as many as three significant digits need, six at most."""
    return 2 if value == 0 or abs(value) >= 1 else min(6, 2 - math.floor(math.log10(abs(value))))


def _short(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    return commit[:10] + (" with local changes" if commit.endswith("-dirty") else "")
