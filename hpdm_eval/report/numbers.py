"""Pages of words whose figures are looked up: `README.md.jinja` → `README.md`, rendered from the records beside it.

A template names every figure in place of typing it:

    FVD {{ figure("nano/records.jsonl", metric="fvd", samples="nano") | ci(1) }}
    {{ (figure(...).value / figure(...).value) | fixed(1) }} times as fast

Lookups (paths are below the folder of all pages):

    figure(archive, **where)     records of one question, averaged over trainings: .value .low .high .samples .details
    difference(own, first)       of two such figures, within training seeds
    result(file, **where)        a line of the GPU benchmark's JSON lines; `where` also names its settings
    json(file)                   any JSON file
    cells(page, column, **where) figures of a column of the only table with that column in a page of markdown
    published(table, **where)    a published figure
    report(archive)              tables and pictures of a report, as markdown

Of `figure`, `result` and `published` a list in `where` makes a list, such as variant=["deep", "shallow"].
Filters: fixed(digits), signed(digits), percent(digits), ci(digits), span(digits) of a list, over(others): ratios of
lists, or of a list and a value, above: what ratios are above 1 in percent, below.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import Any

from baselines.published import load_published
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json, read_json
from hpdm_eval.report.aggregate import Figure, aggregate, difference_within_seeds
from hpdm_eval.report.collect import NamedRecord, collect_records
from hpdm_eval.report.layouts import PLACES
from hpdm_eval.report.model import origin
from hpdm_eval.report.studies import distinct
from hpdm_eval.report.write import make_sections, markdown_sections

TEMPLATE = ".jinja"  # after the page's own suffix
QUESTION = ("study", "variant", "tier", *PLACES)  # records that differ in one of these are of several questions


def _each(lookup: Callable[..., Any]) -> Callable[..., Any]:
    """A lookup in which a list among its keys makes a list of answers."""

    @wraps(lookup)
    def every(self: "Pages", place: str, **where: Any) -> Any:
        listed = [key for key, value in where.items() if isinstance(value, list)]
        if not listed:
            return lookup(self, place, **where)
        return [every(self, place, **where | {listed[0]: value}) for value in where[listed[0]]]

    return every


@dataclass(frozen=True)
class Number:
    """A figure of a template: what records of one question say together."""

    figure: Figure

    @property
    def value(self) -> float:
        """The mean over trainings."""
        return self.figure.value

    @property
    def interval(self) -> tuple[float, float]:
        """95 %; raises InputError where there is none."""
        if self.figure.interval is None:
            raise InputError(f"{self.figure.records[0].name} has no interval")
        return self.figure.interval

    @property
    def samples(self) -> int:
        """Clips of each training's figure."""
        return self.figure.record.num_samples

    @property
    def details(self) -> tuple[dict, ...]:
        """Further figures, of the first training."""
        return self.figure.record.details

    def detail(self, figure: str) -> float:
        """The further figure of that name."""
        return _only([entry["value"] for entry in self.details if entry.get("figure") == figure], f"detail {figure}")


@dataclass(frozen=True)
class Difference:
    """A difference within training seeds."""

    value: float
    interval: tuple[float, float]


class Pages:
    """The lookups of all templates below a folder; files are read once."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._files: dict[Path, Any] = {}

    @cached_property
    def templates(self) -> list[Path]:
        """All templates below the folder, sorted."""
        return sorted(path for path in self.folder.rglob(f"*.md{TEMPLATE}") if path.is_file())

    def render(self, template: Path) -> str:
        """The text of a page; raises InputError that names the template for a lookup without one answer."""
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= FILTERS
        lookups = (self.figure, self.result, self.json, self.cells, self.published, self.report, self.lead)
        environment.globals |= {lookup.__name__: lookup for lookup in lookups} | {"difference": difference}
        try:
            return environment.from_string(template.read_text(encoding="utf-8")).render()
        except (InputError, jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            line = getattr(error, "lineno", None)
            raise InputError(f"{template}{f', line {line}' if line else ''}: {error}") from error

    @_each
    def figure(self, archive: str, **where: Any) -> Number:
        """The records whose fields, further keys or name of the samples are those of `where`, as one figure."""
        chosen = [item for item in self._records(archive) if all(_has(item, *entry) for entry in where.items())]
        if not chosen:
            raise InputError(f"{archive} holds no record with {_words(where)}")
        if len(chosen) > 1 and not all(item.get("study") for item in chosen):
            names = ", ".join(item.name for item in chosen)
            raise InputError(f"{archive}: several records with {_words(where)}: {names}")
        for key in ("metric", *QUESTION):
            values = sorted({str(item.get(key)) for item in chosen})
            if len(values) > 1:
                raise InputError(f"{archive}: records with {_words(where)} differ in {key}: {', '.join(values)}")
        return Number(aggregate(distinct(sorted(chosen, key=lambda item: (item.get("repeat") or 0, item.name)))))

    @_each
    def result(self, file: str, **where: Any) -> dict[str, Any]:
        """The only line of a file of JSON lines that has the keys and settings of `where`."""
        lines = self._read(file, lambda path: [parse_json(line) for line in path.read_bytes().splitlines()])
        chosen = [own for own in lines if all((own | own["settings"]).get(key) == where[key] for key in where)]
        return _only(chosen, f"{file}: lines with {_words(where)}")

    def json(self, file: str) -> Any:
        """The content of a JSON file."""
        return self._read(file, read_json)

    def cells(self, page: str, column: str, **where: str) -> list[float]:
        """Figures in a column of a page's table, of the rows whose other cells match `where`, regular expressions.

        Cells without a figure are passed over. Names in `where` are those of columns, with _ for a space.
        """
        tables = [rows for rows in self._read(page, _markdown_tables) if column in rows[0]]
        rows = _only(tables, f"{page}: tables with a column {column}")
        chosen = [row for row in rows if all(re.fullmatch(where[key], row[key.replace("_", " ")]) for key in where)]
        figures = [match for row in chosen if (match := re.match(r"[+-]?[\d,]*\.?\d+", row[column]))]
        if not figures:
            raise InputError(f"{page}: column {column} has no figure in rows with {_words(where)}")
        return [float(match[0].replace(",", "")) for match in figures]

    @_each
    def published(self, table: str, **where: Any) -> float:
        """The published figure of a table with these keys."""
        figures = load_published(table).figures
        chosen = [own.value for own in figures if all(getattr(own, key) == where[key] for key in where)]
        return _only(chosen, f"{table}: figures with {_words(where)}")

    def report(self, archive: str) -> str:
        """The tables and pictures of an archive's report, without its title; pictures are in figures/."""
        return markdown_sections(make_sections(self._records(archive))).strip("\n")

    def lead(self, archive: str) -> str:
        """Hardware, dates and commits of an archive's records."""
        return origin(self._records(archive))

    def _records(self, archive: str) -> list[NamedRecord]:
        return self._read(archive, lambda path: collect_records([path]))

    def _read(self, file: str, reader: Callable[[Path], Any]) -> Any:
        path = (self.folder / file).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise InputError(f"{file} is outside of {self.folder}")
        if path not in self._files:
            if not path.is_file():
                raise InputError(f"{file}: there is no such file in {self.folder}")
            self._files[path] = reader(path)
        return self._files[path]


def render_pages(folder: str | os.PathLike, check: bool = False) -> list[Path]:
    """Render every template below a folder; returns the pages whose text changed.

    check: only compare, and write nothing. Raises InputError where there is no template, or a lookup fails.
    """
    pages = Pages(folder)
    if not pages.templates:
        raise InputError(f"{folder} holds no template *.md{TEMPLATE}")
    changed = []
    for template in pages.templates:
        page, text = template.with_suffix(""), pages.render(template)
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            changed.append(page)
            if not check:
                with atomic_file(page, "w") as file:
                    file.write(text)
    return changed


def difference(own: Number, first: Number) -> Difference:
    """What `own` is above `first`, within training seeds."""
    within = difference_within_seeds(own.figure, first.figure)
    if within is None:
        raise InputError(f"{own.figure.records[0].name}: fewer than three seeds to compare within")
    return Difference(*within)


def _plain(value: "float | Number | Difference") -> float:
    return value.value if isinstance(value, Number | Difference) else value


def fixed(value: float | Number | Difference, digits: int = 0) -> str:
    """3,000.5: so many decimals, thousands apart."""
    return f"{_plain(value):,.{digits}f}"


def signed(value: float | Difference, digits: int = 0) -> str:
    """As `fixed`, always with a sign."""
    return f"{_plain(value):+,.{digits}f}"


def percent(value: float | Number, digits: int = 0) -> str:
    """0.73 as 73."""
    return fixed(100 * _plain(value), digits)


def ci(number: Number | Difference, digits: int = 0, sign: bool = False) -> str:
    """22.9 [20.7, 25.2]: the value and its 95 % interval."""
    write = partial(signed if sign else fixed, digits=digits)
    low, high = number.interval
    return f"{write(number.value)} [{fixed(low, digits)}, {fixed(high, digits)}]"


def span(values: Iterable[float | Number], digits: int = 0) -> str:
    """2.9 to 8.3: the least and the largest."""
    plain = [_plain(value) for value in values]
    low, high = fixed(min(plain), digits), fixed(max(plain), digits)
    return low if low == high else f"{low} to {high}"


def over(values: Sequence[float | Number], others: Sequence[float | Number] | float | Number) -> list[float]:
    """Each of a list over its counterpart in another, or all over one value."""
    first = [_plain(value) for value in values]
    second = list(others) if isinstance(others, Sequence) else [others] * len(first)
    quotients = [one / _plain(other) for one, other in zip(first, second, strict=True)]
    if not all(map(math.isfinite, quotients)):
        raise InputError("a ratio that is not a number")
    return quotients


def above(quotients: Iterable[float]) -> list[float]:
    """1.31 as 31: what ratios are above 1, in percent."""
    return [100 * (quotient - 1) for quotient in quotients]


def below(quotients: Iterable[float]) -> list[float]:
    """0.69 as 31: what ratios are below 1, in percent."""
    return [100 * (1 - quotient) for quotient in quotients]


FILTERS = {function.__name__: function for function in (fixed, signed, percent, ci, span, over, above, below)}


def _has(item: NamedRecord, key: str, value: Any) -> bool:
    if key in ("samples", "reference"):
        source = getattr(item.record, key)
        return bool(source) and Path(source["path"]).name == value
    return item.get(key) == value


def _only(values: Sequence[Any], what: str) -> Any:
    if len(values) != 1:
        raise InputError(f"{what}: there are {len(values)}, a template needs one")
    return values[0]


def _words(where: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in where.items()) or "any keys"


def _markdown_tables(path: Path) -> list[list[dict[str, str]]]:
    """[rows of a table, {column: cell}] of a page of markdown."""
    tables, lines = [], path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if number and re.fullmatch(r"\|[-:| ]+\|", line) and lines[number - 1].startswith("|"):
            header, rows = _row(lines[number - 1]), []
            for below in lines[number + 1 :]:
                if not below.startswith("|"):
                    break
                rows.append(dict(zip(header, _row(below), strict=True)))
            tables.append(rows)
    return [rows for rows in tables if rows]


def _row(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
