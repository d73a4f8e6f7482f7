"""Lines of plots are told apart without colour."""

import matplotlib.figure

from hpdm_eval.report.plots import COLOURS, curve_figure
from hpdm_eval.studies.validation import seam_power


def looks(panel, number=None):
    """(colour, marker, dashes) of each line with a label, the first `number` of them."""
    lines = [line for line in panel.get_lines() if line.get_marker() not in ("None", "_", "|")]
    return [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines][:number]


def test_lines_of_curves_differ_in_marker_and_dashes():
    sets = {name: [(64, 3.0 + index, 0.5), (256, 2.0 + index, None)] for index, name in enumerate("abc")}
    for panel, lines in zip(curve_figure(sets).axes, (3, 2), strict=True):
        found = looks(panel)
        assert len(found) == lines
        for part in zip(*found, strict=True):
            assert len(set(part)) == lines
        assert {colour for colour, *_ in found} <= set(COLOURS)


def test_axes_and_statistics_of_the_power_differ_without_colour(monkeypatch):
    drawn = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *args, **options: (drawn.append(self), save(self, *args, **options)),
    )
    rows = [
        {
            "kind": kind,
            "amount": amount,
            "axis": axis,
            "statistic": statistic,
            "clips": 24,
            "excess": 0.1 * amount,
            "detected": 0.5,
        }
        for kind, amount in seam_power.conditions()
        for axis in "whf"
        for statistic in ("step", "coherent-step")
    ]
    assert seam_power.power_plot(rows).startswith(b"\x89PNG")
    found = looks(drawn[0].axes[0])
    assert len(found) == 6 and len({look[1:] for look in found}) == 6
    assert {colour for colour, *_ in found} == set(COLOURS[:3])
