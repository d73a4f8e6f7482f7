"""Figures of results as PNG files; equal input gives equal bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpdm.support.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.6, 4.0  # inches, of one panel
DPI = 150

# Colours of Okabe and Ito, in an order that also differs in lightness; a line has a marker and a dash pattern of its
# own, for print and for readers who do not see all colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C8C8C")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the line of that number, as keywords of matplotlib."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """Write a matplotlib figure atomically, without the version and date that matplotlib adds."""
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def curve_figure(curves: Mapping[str, Sequence[tuple[int, float, float | None]]], title: str = "") -> Figure:
    """Distance over the number of samples, and, for more than one set, over the sets with a line per number.

    curves: {name of a set: [(size, mean, spread or None), ...]}, sizes ascending.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(WIDTH * (2 if len(curves) > 1 else 1), HEIGHT), layout="constrained")
    panels = figure.subplots(1, 2 if len(curves) > 1 else 1, squeeze=False)[0]
    for number, (name, points) in enumerate(curves.items()):
        sizes, means, spreads = zip(*points, strict=True)
        panels[0].errorbar(
            sizes, means, [spread or 0 for spread in spreads], capsize=3, label=name, **line_style(number)
        )
    ticks = sorted({size for points in curves.values() for size, *_ in points})
    panels[0].set(xscale="log", xlabel="samples", ylabel="distance", xticks=ticks, xticklabels=ticks)
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[0].legend()
    if len(curves) > 1:
        for number, size in enumerate(ticks):
            own = [(name, *rest) for name, points in curves.items() for count, *rest in points if count == size]
            names, means, spreads = zip(*own, strict=True)
            panels[1].errorbar(
                names,
                means,
                [spread or 0 for spread in spreads],
                capsize=3,
                label=f"{size} samples",
                **line_style(number),
            )
        panels[1].set(xlabel="set", ylabel="distance")
        panels[1].tick_params(axis="x", rotation=30)
        panels[1].legend()
    figure.suptitle(title)
    return figure


def bar_figure(
    values: Mapping[str, float],
    errors: Mapping[str, tuple[float, float]] | None = None,
    label: str = "",
    title: str = "",
) -> Figure:
    """Horizontal bars from the top down. values: {name: number}; errors: {name: (low, high)} as absolute values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * 1.3, 0.9 + 0.32 * len(values)), layout="constrained")
    axes = figure.subplots()
    names = list(values)
    axes.barh(names, list(values.values()), color=COLOURS[0])
    for name, (low, high) in (errors or {}).items():
        axes.plot([low, high], [name, name], color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel=label, title=title)
    return figure
