"""Figures of the report: bars, curves and seam profiles, for print and for readers who do not see all colours.

Colours are those of Okabe and Ito, in an order that also differs in lightness; every line has a marker and a dash
pattern of its own. Equal input gives equal bytes.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpdm_eval.metrics.score_tests import TOLERANCE
from hpdm_eval.report.model import PREFIXES
from hpdm_eval.report.plots import COLOURS, DASHES, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Interval = tuple[float, float]
Seams = tuple[str, int, str]  # axis, period, statistic

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "0.85",
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "hpdm",
    "pdf.fonttype": 42,
}
WIDTH = 7.0  # inches: the text of a page
MOST_BARS_ACROSS = 3
PANEL = 2.4  # inches, height of a panel of curves
NAMES = {"f": "between frames", "h": "between rows", "w": "between columns"}


def render(draw: Callable[[], Figure]) -> dict[str, bytes]:
    """{"svg": bytes, "pdf": bytes} of the figure that `draw()` makes."""
    import matplotlib
    from matplotlib.text import Text

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc would change the bytes
        matplotlib.rcParams.update(STYLE)
        figure = draw()
        for text in figure.findobj(Text):
            if "$" in text.get_text() and r"\mathdefault" not in text.get_text():
                text.set_parse_math(False)  # names of others are no formulas
        files = {}
        for kind, metadata in (
            ("svg", {"Date": None, "Creator": None}),
            ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            files[kind] = buffer.getvalue()
    return files


def bars(labels: Sequence[str], panels: Sequence[tuple[str, Sequence[tuple[str, float, Interval | None]]]]) -> Figure:
    """Horizontal bars with intervals, a panel per column of a table.

    labels: those of the rows, from the top. panels: [(heading, [(row label, value, (low, high) or None), ...]), ...].
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    across = min(MOST_BARS_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    lines = max(len(_wrapped(heading).split("\n")) for heading, _ in panels)
    figure = _figure(WIDTH, down * (0.45 + 0.14 * lines + 0.24 * len(labels)))
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for number, panel in enumerate(axes.flat):
        if number >= len(panels):
            panel.set_axis_off()
            continue
        heading, rows = panels[number]
        for label, value, interval in rows:
            place = labels.index(label)
            panel.barh(
                place,
                value,
                height=0.62,
                color=COLOURS[0] if place == 0 else "#9CC3DE",
                edgecolor="black",
                linewidth=0.5,
            )
            if interval:
                low, high = interval
                panel.plot([low, high], [place, place], color="black", linewidth=1.2)
                panel.plot([low, high], [place, place], "|", color="black", markersize=6)
        panel.set(title=_wrapped(heading), ylim=(len(labels) - 0.5, -0.5))
        panel.set_yticks(range(len(labels)), labels)
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        panel.grid(axis="y", visible=False)
        panel.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def curves(
    panels: Sequence[tuple[str, Mapping[str, Sequence[tuple[float, float, Interval | None]]]]],
    *,
    across: str,
    ylabel: str,
    log: bool = False,
) -> Figure:
    """Lines with intervals, a panel per group.

    panels: [(title, {line's label: [(x, value, (low, high) or None), ...]}), ...], x ascending. across: what x is.
    log: x on a logarithmic scale, with ticks where there are points.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    columns = min(2, len(panels))
    down = math.ceil(len(panels) / columns)
    figure = _figure(WIDTH * (1 if columns > 1 else 0.72), PANEL * down + 0.3)
    axes = figure.subplots(down, columns, squeeze=False)
    for number, panel in enumerate(axes.flat):
        if number >= len(panels):
            panel.set_axis_off()
            continue
        title, lines = panels[number]
        for index, (label, points) in enumerate(lines.items()):
            look = {
                "color": COLOURS[index % len(COLOURS)],
                "marker": MARKERS[index % len(MARKERS)],
                "linestyle": DASHES[index % len(DASHES)],
            }
            panel.plot([x for x, *_ in points], [value for _, value, _ in points], label=label, **look)
            for x, _, interval in points:
                if interval:
                    panel.plot([x, x], interval, "_-", color=look["color"], linewidth=0.9, markersize=6)
        ticks = sorted({x for points in lines.values() for x, *_ in points})
        if log:
            panel.set_xscale("log")
            panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30 if len(ticks) > 5 else 0)
        panel.set(title=title, xlabel=across, ylabel=ylabel)
        panel.set_ylim(bottom=0, top=1.08 * panel.get_ylim()[1])
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        panel.legend()
    return figure


def excesses(
    labels: Sequence[str], panels: Sequence[tuple[Seams, Sequence[tuple[str, float, Interval | None, bool]]]]
) -> Figure:
    """Seam excesses with intervals, a panel per axis, lattice and statistic.

    labels: those of the rows, from the top. panels: [((axis, period, statistic), [(label, excess, (low, high) or None,
    whether it was called a seam), ...]), ...].
    """
    across = min(2, len(panels))
    down = math.ceil(len(panels) / across)
    figure = _figure(WIDTH, 0.25 + down * (0.4 + 0.2 * len(labels)))
    axes = figure.subplots(down, across, squeeze=False, sharey=True, sharex=True)
    for number, panel in enumerate(axes.flat):
        if number >= len(panels):
            panel.set_axis_off()
            continue
        (axis, period, statistic), rows = panels[number]
        panel.axvline(0, color="black", linewidth=0.7)
        panel.axvline(TOLERANCE, color="black", linewidth=0.7, linestyle=":")
        for label, excess, interval, seam in rows:
            place = labels.index(label)
            colour = COLOURS[1] if seam else COLOURS[0]
            if interval:
                panel.plot(interval, [place, place], color=colour)
            panel.plot([excess], [place], "D" if seam else "o", color=colour)
        panel.set(title=f"{NAMES[axis]}, period {period}, {statistic}", ylim=(len(labels) - 0.5, -0.5))
        panel.set_yticks(range(len(labels)), labels)
    for panel in axes[-1]:
        panel.set_xlabel("excess, log contrast")
    return figure


def profiles(panels: Sequence[tuple[Seams, Mapping[str, tuple[Sequence[int], Sequence[float]]]]]) -> Figure:
    """Seam profiles over the phase of the lattice, a panel per axis, lattice and statistic.

    panels: [((axis, period, statistic), {label: (moves, values)}), ...].
    """
    from matplotlib.ticker import MaxNLocator

    columns = min(2, len(panels))
    down = math.ceil(len(panels) / columns)
    figure = _figure(WIDTH, 1.75 * down + 0.4)
    axes = figure.subplots(down, columns, squeeze=False)
    for number, panel in enumerate(axes.flat):
        if number >= len(panels):
            panel.set_axis_off()
            continue
        (axis, period, statistic), lines = panels[number]
        panel.axvline(0, color="0.6", linewidth=0.8, linestyle=":")
        for index, (label, (moves, values)) in enumerate(lines.items()):
            look = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
            panel.plot(moves, values, linewidth=1.1, label=label, **look)
            at = list(moves).index(0)
            panel.plot([0], [values[at]], MARKERS[index % len(MARKERS)], color=look["color"], markersize=5)
        panel.set_title(f"{NAMES[axis]}, period {period}, {statistic}")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for panel in axes[-1]:
        panel.set_xlabel("lattice moved by (pixels or frames)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06))


def _wrapped(heading: str) -> str:
    return "\n".join(textwrap.wrap(heading, 22))


def _short(value: float) -> str:
    """A tick's label: 1.2T rather than 1200000000000."""
    for size, prefix in PREFIXES:
        if abs(value) >= size and size > 1e3:
            return f"{value / size:g}{prefix}"
    return f"{value:,g}" if abs(value) < 1e6 else f"{value:g}"
