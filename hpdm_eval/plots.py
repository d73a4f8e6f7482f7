"""Figures of results as PNG files; equal input gives equal bytes."""

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hpdm.files import atomic_file

WIDTH, HEIGHT = 5.6, 4.0  # inches, of one panel
DPI = 150


def save_png(figure, path):
    """Write a matplotlib figure atomically, without the version and date that matplotlib adds."""
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def curve_figure(curves, title=""):
    """Distance over the number of samples, and, for more than one set, over the sets with a line per number.

    curves: {name of a set: [(size, mean, spread or None), ...]}, sizes ascending.
    """
    figure = Figure(figsize=(WIDTH * (2 if len(curves) > 1 else 1), HEIGHT), layout="constrained")
    panels = figure.subplots(1, 2 if len(curves) > 1 else 1, squeeze=False)[0]
    for name, points in curves.items():
        sizes, means, spreads = zip(*points)
        panels[0].errorbar(sizes, means, [spread or 0 for spread in spreads], marker="o", capsize=3, label=name)
    sizes = sorted({size for points in curves.values() for size, *_ in points})
    panels[0].set(xscale="log", xlabel="samples", ylabel="distance", xticks=sizes, xticklabels=sizes)
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[0].legend()
    if len(curves) > 1:
        for size in sizes:
            points = [(name, *rest) for name, points in curves.items() for number, *rest in points if number == size]
            names, means, spreads = zip(*points)
            panels[1].errorbar(names, means, [spread or 0 for spread in spreads], marker="o", capsize=3,
                               label=f"{size} samples")
        panels[1].set(xlabel="set", ylabel="distance")
        panels[1].tick_params(axis="x", rotation=30)
        panels[1].legend()
    figure.suptitle(title)
    return figure


def bar_figure(values, errors=None, label="", title=""):
    """Horizontal bars from the top down. values: {name: number}; errors: {name: (low, high)} as absolute values."""
    figure = Figure(figsize=(WIDTH * 1.3, 0.9 + 0.32 * len(values)), layout="constrained")
    axes = figure.subplots()
    names = list(values)
    axes.barh(names, list(values.values()), color="tab:blue", alpha=0.8)
    for name, (low, high) in (errors or {}).items():
        axes.plot([low, high], [name, name], color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel=label, title=title)
    return figure
