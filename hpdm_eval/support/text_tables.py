"""Rows of text as tables: aligned for a terminal, piped for markdown."""


def aligned(header, rows, right=(), rule=True):
    """Rows of text under a header, columns aligned for a terminal; those named in `right` to the right.

    rule: whether a line of dashes stands below the header.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in zip(header, row, widths)
        ).rstrip()
        for row in [header, *[["-" * width for width in widths]] * rule, *rows]
    )


def figure_lines(header, rows):
    """Lines of a table of figures: first column to the left, the others to the right, no line below the header."""
    return aligned(header, [list(map(str, row)) for row in rows], right=header[1:], rule=False).splitlines()


def piped(header, rows, right=()):
    """Rows of text under a header as a markdown table, with a final newline."""
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join("---:" if name in right else "---" for name in header) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
