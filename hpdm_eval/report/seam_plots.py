"""Pictures of seams: the profile over moves of each lattice, and a map of the borders with the excess at each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpdm.support.files import atomic_file
from hpdm_eval.metrics.seam_contrasts import STATISTICS
from hpdm_eval.metrics.seam_tests import mean_profile
from hpdm_eval.metrics.seams import lattice_moves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"f": "between frames", "h": "between rows", "w": "between columns"}
COLOURS = "magma"
_VERDICTS = {True: ("tab:red", ", seam"), False: ("tab:green", ""), None: ("0.5", ", no verdict")}


def write_seam_plots(
    folder: str | os.PathLike,
    clips: Sequence[Any],
    lattices: Sequence[Any],
    figures: Iterable[Any],
    *,
    reference: Sequence[Any] | None = None,
) -> list[Path]:
    """Write seams-profile.png and seams-map.png to `folder`; returns the paths of those that were written.

    clips, reference: lists of ClipSeams; figures: SeamFigures that name the lattices to show.
    """
    finest = {lattice.axis: lattice.finest for lattice in lattices}  # cuts the borders of other axes where not shown
    shown = {(figure.axis, figure.period) for figure in figures}
    lattices = [lattice for lattice in lattices if (lattice.axis, lattice.period) in shown]
    verdicts = {(figure.axis, figure.period, figure.statistic): figure for figure in figures}
    paths = []
    for name, figure in (
        ("seams-profile.png", _profiles(clips, reference, lattices, verdicts)),
        ("seams-map.png", _map(clips, finest)),
    ):
        if figure is None:  # clips so small that only lattices of longer periods could be compared
            continue
        paths.append(Path(folder) / name)
        with atomic_file(paths[-1]) as file:
            figure.savefig(file, dpi=120, format="png")
    return paths


def _profiles(
    clips: Sequence[Any], reference: Sequence[Any] | None, lattices: Sequence[Any], verdicts: Mapping[tuple, Any]
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.2 * len(lattices) + 0.6), layout="constrained")
    panels = figure.subplots(len(lattices), len(STATISTICS), squeeze=False)
    for row, lattice in zip(panels, lattices, strict=True):
        for panel, statistic in zip(row, STATISTICS, strict=True):
            key = (lattice.axis, lattice.period, statistic)
            moves = np.arange(1 - lattice.period, lattice.period)
            if reference is not None and any(key in clip.profiles for clip in reference):
                panel.plot(moves, mean_profile(reference, key), color="0.7", lw=1, label="reference")
            profile = mean_profile(clips, key)
            panel.plot(moves, profile, color="tab:blue", lw=1, label="samples")
            compared = lattice_moves(lattice)[0]
            panel.plot(compared, profile[lattice.period - 1 + compared], "o", ms=4, color="tab:blue", label="compared")
            verdict = verdicts.get(key)
            colour, remark = _VERDICTS[None if verdict is None else verdict.significant]
            panel.plot([0], [profile[lattice.period - 1]], "D", ms=6, color=colour, label="borders")
            result = f"excess {verdict.excess:.3f}{remark}" if verdict else ""
            panel.set_title(f"{NAMES[lattice.axis]}, period {lattice.period}, {statistic}: {result}", fontsize=8)
            panel.tick_params(labelsize=7)
    panels[0][0].legend(fontsize=7)
    for panel in panels[-1]:
        panel.set_xlabel("lattice moved by (samples)", fontsize=8)
    return figure


def _map(clips: Sequence[Any], finest: Mapping[str, int]) -> Figure | None:
    """Borders of the finest lattices, coloured by their mean excess over the clips of the most frequent size.

    finest: {axis: period of all its borders}, which cuts those of other axes. None where there are no borders.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    colours = matplotlib.colormaps[COLOURS]
    shapes = Counter(clip.shape[1:] for clip in clips if clip.edges)
    if not shapes:
        return None
    shape, count = shapes.most_common(1)[0]
    clips = [clip for clip in clips if clip.shape[1:] == shape]
    spatial = {
        statistic: [
            _segments(axis, *edge, shape, finest)
            for axis in "hw"
            if (edge := _mean_edges(clips, axis, statistic)) is not None
        ]
        for statistic in STATISTICS
    }
    in_time = {statistic: _mean_edges(clips, "f", statistic) for statistic in STATISTICS}
    values = [v for parts in spatial.values() for _, v in parts]
    values += [edge[1].ravel() for edge in in_time.values() if edge is not None]
    limit = max(0.5, float(np.quantile(np.concatenate(values), 0.98)))
    scale = Normalize(0, limit)
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, len(STATISTICS), squeeze=False, height_ratios=(3, 1))
    for column, statistic in enumerate(STATISTICS):
        panel = panels[0][column]
        for segments, excess in spatial[statistic]:
            panel.add_collection(LineCollection(segments, cmap=colours, norm=scale, array=excess, lw=4))
        panel.set(xlim=(0, shape[1]), ylim=(shape[0], 0), aspect="equal", facecolor="0.85")
        panel.set_title(f"{statistic}, mean of {count} clips of {shape[0]}x{shape[1]}", fontsize=9)
        panel = panels[1][column]
        borders = in_time[statistic]
        if borders is None:
            panel.axis("off")
            continue
        lines, excess = borders
        panel.imshow(excess.T, aspect="auto", cmap=colours, norm=scale, interpolation="nearest")
        panel.set_xticks(range(len(lines)), lines, fontsize=7)
        panel.set(xlabel="border before frame", ylabel="tile")
    mappable = ScalarMappable(norm=scale, cmap=colours)
    figure.colorbar(mappable, ax=panels, shrink=0.6, label="excess, log contrast")
    return figure


def _mean_edges(clips: Sequence[Any], axis: str, statistic: str) -> tuple[Sequence[int], np.ndarray] | None:
    """(lines, mean excess [lines, across]) over clips; longer clips add lines in time. None where no clip has any."""
    edges = [clip.edges[axis, statistic] for clip in clips if (axis, statistic) in clip.edges]
    edges = [edge for edge in edges if len(edge[0])]
    if not edges:
        return None
    lines = max((edge[0] for edge in edges), key=len)
    total, count = np.zeros((len(lines), edges[0][1].shape[1])), np.zeros((len(lines), 1))
    for own, excess in edges:
        total[: len(own)] += excess
        count[: len(own)] += 1
    return lines, total / count


def _segments(
    axis: str, lines: Sequence[int], excess: np.ndarray, shape: Sequence[int], finest: Mapping[str, int]
) -> tuple[list, np.ndarray]:
    """Line segments of the borders of one axis, and their excess in the same order."""
    length, other = (shape[1], "w") if axis == "h" else (shape[0], "h")
    cuts = [*range(0, length, finest.get(other, length)), length]
    segments = []
    for line in lines:
        for low, high in pairwise(cuts):
            segments.append([(low, line), (high, line)] if axis == "h" else [(line, low), (line, high)])
    return segments, excess.ravel()
