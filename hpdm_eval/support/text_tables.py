"""Rows of text as tables: aligned for a terminal, piped for markdown."""

from collections.abc import Collection, Iterable, Sequence


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """Rows of text under a header, columns aligned for a terminal; those named in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in zip(header, row, widths)
        ).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    )


def piped(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """Rows of text under a header as a markdown table, with a final newline."""
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join("---:" if name in right else "---" for name in header) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
