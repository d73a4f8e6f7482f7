"""Rows of text as tables: aligned for a terminal, piped for markdown; and text that a spreadsheet takes as text."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

_FORMULA = tuple("=+-@|%") + ("\uff1d", "\uff0b", "\uff0d", "\uff20")  # those of full width count too


def aligned(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Collection[str] = ()) -> str:
    """Rows under a header and a rule, columns aligned for a terminal; those named in `right` to the right."""
    table = [list(map(str, row)) for row in (header, *rows)]
    table.insert(1, ["-" * max(map(len, column)) for column in zip(*table, strict=True)])
    return "\n".join(_lines(table, [name in right for name in header]))


def aligned_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a table without a rule: the first column to the left, the others, figures, to the right."""
    return _lines([list(map(str, row)) for row in (header, *rows)], [index > 0 for index in range(len(header))])


def _lines(table: list[list[str]], right: list[bool]) -> list[str]:
    """Lines of rows of equal length, each column as wide as its longest cell; right: which are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in table
    ]


def piped(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """Rows of text under a header as a markdown table, with a final newline."""
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join("---:" if name in right else "---" for name in header) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def inert(text: str) -> str:
    """Text that a spreadsheet takes as text: what would begin a formula gets an apostrophe before it.

    Words come from file names, class names and records of others; figures are written by us.
    """
    return "'" + text if text.lstrip().startswith(_FORMULA) or text[:1] in ("\t", "\r", "\n") else text
