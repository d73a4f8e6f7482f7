"""Tables as markdown, LaTeX and CSV."""

import csv
import io
import re
from typing import Any

from hpdm_eval.report.model import Cell, Table
from hpdm_eval.support.text_tables import inert, piped

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "…": r"\ldots{}",
    "²": r"$^2$",
    "[": "{[}",
    "]": "{]}",
    "`": r"\textasciigrave{}",
}
_LONG = 20  # characters of a word that LaTeX may not find a place to break
_MOST_CHARACTERS = 72  # across; a wider LaTeX table is scaled to the line
_MOST_OF_WORDS = 36  # characters of a column of words; longer ones are broken
CSV_COLUMNS = (
    "table",
    "row",
    "column",
    "text",
    "value",
    "spread",
    "low",
    "high",
    "trainings",
    "metric",
    "unit",
    "samples",
    "reference",
    "notes",
)


def markdown(table: Table, heading: bool = True) -> str:
    """A table as markdown: heading, table, notes, remarks and origin, with a final newline."""
    header = [*table.heads, *table.columns]
    rows = [[*row.heads, *(_markdown_cell(cell) for cell in row.cells)] for row in table.rows]
    text = f"### {_plain(table.title)}\n\n" if heading else ""
    if rows:
        text += (
            piped(
                [_plain(name) for name in header],
                [[_plain(cell) for cell in row] for row in rows],
                right=tuple(map(_plain, table.columns)),
            )
            + "\n"
        )
    lines = [f"[{number}] {_plain(note)}" for number, note in enumerate(table.notes, 1)]
    return text + "  \n".join([*lines, *map(_plain, table.remarks), f"*{_plain(table.origin)}*"]) + "\n"


def latex(table: Table) -> str:
    """A table as LaTeX with booktabs; the first line names the packages it needs."""
    wide = sum(2 + min(length, _MOST_OF_WORDS) for length in _lengths(table)) > _MOST_CHARACTERS
    columns = "".join("l" if length <= _MOST_OF_WORDS else "p{15em}" for length in _lengths(table)[: len(table.heads)])
    columns += "r" * len(table.columns)
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", table.name)
    lines = [
        f"% needs \\usepackage{{booktabs}}{' and graphicx' if wide else ''}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}}}",
        rf"\label{{tab:{label}}}",
        r"\small",
    ]
    if table.rows:
        if wide:
            lines.append(r"\resizebox{\linewidth}{!}{%")
        lines += [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(_latex_heading(name) for name in (*table.heads, *table.columns)) + r" \\",
            r"\midrule",
        ]
        lines += [
            " & ".join([*map(escape_latex, row.heads), *map(_latex_cell, row.cells)]) + r" \\" for row in table.rows
        ]
        lines += [r"\bottomrule", r"\end{tabular}" + "}" * wide]
    below = [rf"$^{{{number}}}$ {escape_latex(note)}" for number, note in enumerate(table.notes, 1)]
    below += [escape_latex(text) for text in (*table.remarks, table.origin)]
    lines += [
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        "\n\\par ".join(below),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def csv_text(table: Table) -> str:
    """A table as CSV with a line per cell; the figures unrounded, the notes in words."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            figure = cell.figure
            low, high = figure.interval or (None, None) if figure else (None, None)
            record = figure.record if figure else None
            values: list[Any] = [table.name, inert(" / ".join(row.heads)), inert(column), cell.text]
            values += [figure.value, figure.spread, low, high, figure.trainings] if figure else [None] * 5
            values += (
                [inert(record.metric), record.unit and inert(record.unit), record.num_samples, record.num_reference]
                if record
                else [None] * 4
            )
            writer.writerow(
                [
                    *("" if value is None else value for value in values),
                    inert(" ".join(table.notes[mark - 1] for mark in cell.marks)),
                ]
            )
    return buffer.getvalue()


def escape_latex(text: str) -> str:
    """Text for LaTeX: special characters escaped, and places to break in long words."""
    return " ".join(_breakable(word) for word in re.split(r"\s+", text))


def _letter(character: str) -> str:
    """A character for LaTeX: escaped where it has a meaning, by its number where no usual font has it."""
    if character in _LATEX:
        return _LATEX[character]
    if character.isprintable() and (ord(character) < 0x180 or character in "–—‘’“”•…€™"):
        return character
    return f"{{[}}U+{ord(character):04X}{{]}}"


def _breakable(word: str) -> str:
    escaped = [_letter(character) for character in word]
    if len(word) > _LONG:
        escaped = [
            out + r"\allowbreak{}" if character in "/-_.@,=:" else out
            for character, out in zip(word, escaped, strict=True)
        ]
        run = 0
        for index, character in enumerate(word):  # a hash has none of those
            run = 0 if character in "/-_.@,=:" else run + 1
            if run == _LONG:
                escaped[index] += r"\allowbreak{}"
                run = 0
    return "".join(escaped)


def _lengths(table: Table) -> list[int]:
    """About how many characters wide each column is."""
    columns = [[*name.split(", "), *(row.heads[index] for row in table.rows)] for index, name in enumerate(table.heads)]
    columns += [
        [*name.split(", "), *(row.cells[index].text + "," * len(row.cells[index].marks) for row in table.rows)]
        for index, name in enumerate(table.columns)
    ]
    return [max(map(len, column)) for column in columns]


def _latex_heading(name: str) -> str:
    words = name.split(", ")
    if len(words) == 1:
        return escape_latex(name)
    return r"\shortstack[r]{" + r" \\ ".join(map(escape_latex, words)) + "}"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    if cell.marks:
        text += "$^{" + ",".join(map(str, cell.marks)) + "}$"
    if cell.interval:
        text = rf"\shortstack[r]{{{text} \\ {{\scriptsize {escape_latex(cell.interval)}}}}}"
    return text


def _markdown_cell(cell: Cell) -> str:
    parts = [cell.text, cell.interval, "".join(f"[{mark}]" for mark in cell.marks)]
    return " ".join(part for part in parts if part)


def _plain(text: str) -> str:
    """Text that markdown takes as it is."""
    escaped = re.sub(r"([*_<>`\\])", r"\\\1", " ".join(text.split()))
    escaped = re.sub(r"\](?=[(\[:])", r"\\]", escaped)  # no links but ours
    return re.sub(r"&(?=#?\w+;)", r"\\&", escaped)
