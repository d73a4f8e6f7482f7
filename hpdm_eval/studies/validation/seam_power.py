"""How well seams are found: known ones put into real clips, judged in random sets of clips.

n clips in a set; a condition is (kind, amount) of `inject_seams`
"""

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.pixels import measure_clips, pixel_record
from hpdm_eval.evaluation.seams import size_text
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.metrics.score_tests import LEVEL, TOLERANCE, mean_interval, mean_t_interval
from hpdm_eval.metrics.seam_contrasts import STATISTICS
from hpdm_eval.metrics.seam_moves import settle_lattices
from hpdm_eval.metrics.seam_tests import judge_seams, pool_seams
from hpdm_eval.metrics.seams import ClipSeams, Lattice, measure_clip, rescore, seam_lattices
from hpdm_eval.records.record import Record
from hpdm_eval.report.plots import line_style
from hpdm_eval.studies.validation.seam_injection import inject_seams

AMOUNTS = {"brightness": (1, 2, 3, 4), "shift": (1, 2, 3), "blur": (1, 2)}
COLUMNS = ("kind", "amount", "axis", "statistic", "clips", "excess", "detected", "withheld")
COVERED = (("none", 0), ("brightness", 1))  # versions whose headline is simulated
SIZES = (4, 8, 24, 96)  # clips in a simulated set
SETS = 1000
BOOTSTRAP = 400  # draws of the interval of the largest excess, in as many sets

Condition = tuple[str, int]  # kind and amount
Row = dict[str, Any]


def study_seam_power(
    evaluation: Evaluation,
    out: Path,
    *,
    patch: tuple[int, int, int] = (16, 64, 64),
    per_test: int = 16,
    resamples: int = 200,
    longest: int = 64,
) -> Record:
    """Put seams into the evaluation's clips, judge random sets of them, and write seams-power.md, .csv and .png.

    patch: tiles to put in and to look for (frames, rows, columns); per_test: clips in a set; resamples: sets; longest:
    frames used of each clip. The Record's value is the rate of false positives, its details are `power_rows`.
    """
    started = time.time()
    lattices = seam_lattices(patch)
    note(f"{len(conditions())} versions of each clip", evaluation.quiet)

    def measure(clip: Clip) -> dict[Condition, ClipSeams]:
        return measure_conditions(clip, patch, lattices, longest)

    measured, summary = measure_clips(evaluation, "samples", measure)
    rows = power_rows(measured, lattices, per_test, resamples, evaluation.seed)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    coverage = coverage_rows(measured, lattices, evaluation.seed)
    page = power_report(rows, coverage, size_text(patch), per_test, resamples, summary, longest)
    for name, content in (
        ("seams-power.csv", table.getvalue().encode()),
        ("seams-power.png", power_plot(rows)),
        ("seams-power.md", page.encode()),
    ):
        with atomic_file(out / name) as file:
            file.write(content)
        note(f"wrote {out / name}", evaluation.quiet)
    unchanged = next(row for row in rows if row["kind"] == "none" and row["axis"] == "any")
    return pixel_record(
        "seams-false-positives",
        evaluation,
        {
            "patch": size_text(patch),
            "clips": per_test,
            "resamples": resamples,
            "longest": longest,
            "tolerance": TOLERANCE,
        },
        started=started,
        value=unchanged["detected"],
        higher_is_better=False,
        num_samples=summary["clips"],
        samples=summary,
        details=tuple(rows),
        extra={"coverage": coverage},
    )


def conditions() -> list[Condition]:
    """(kind, amount) of every version of a clip, the unchanged one first."""
    return [("none", 0), *((kind, amount) for kind, amounts in AMOUNTS.items() for amount in amounts)]


def measure_conditions(
    clip: Clip, patch: tuple[int, int, int], lattices: Sequence[Lattice], longest: int
) -> dict[Condition, ClipSeams]:
    """{condition: ClipSeams} of one Clip, of its first `longest` frames; tiles differ from clip to clip."""
    video = clip.pixels[:longest]
    seed = int(clip.digest[:8], 16)
    return {
        (kind, amount): measure_clip(inject_seams(video, patch, kind, amount, seed), lattices, clip.name)
        for kind, amount in conditions()
    }


def power_rows(
    measured: Sequence[Mapping[Condition, ClipSeams]],
    lattices: Sequence[Lattice],
    per_test: int,
    resamples: int,
    seed: int = 0,
) -> list[Row]:
    """Share of sets judged to have a seam: list of dicts with `COLUMNS`.

    measured: list over clips of `measure_conditions`. `detected` is the share of `resamples` random sets of `per_test`
    clips in which the axis is called a seam by the statistic, `withheld` of those without a verdict; in the others the
    verdict is "no". Axis "any", statistic "any": whether anything is called, whether nothing gets a verdict. `excess`
    is the mean over all clips.
    """
    rng = np.random.default_rng(seed)
    sets = [rng.choice(len(measured), min(per_test, len(measured)), replace=False) for _ in range(resamples)]
    rows: list[Row] = []
    for kind, amount in conditions():
        clips = [versions[kind, amount] for versions in measured]
        verdicts = [judge_seams([clips[index] for index in chosen], lattices, draws=0) for chosen in sets]
        base = {"kind": kind, "amount": amount, "clips": per_test}
        for figure in judge_seams(clips, lattices, draws=0):
            key = (figure.axis, figure.statistic)
            own = [[f.significant for f in verdict if (f.axis, f.statistic) == key] for verdict in verdicts]
            rows.append(
                {**base, "axis": figure.axis, "statistic": figure.statistic, "excess": figure.excess, **_shares(own)}
            )
        largest = max(row["excess"] for row in rows if (row["kind"], row["amount"]) == (kind, amount))
        own = [[figure.significant for figure in verdict] for verdict in verdicts]
        rows.append({**base, "axis": "any", "statistic": "any", "excess": largest, **_shares(own)})
    return rows


def _shares(verdicts: list[list[bool | None]]) -> dict[str, float]:
    """Shares of sets, each with its values of `significant`, that have a seam, and that have no verdict at all."""
    return {
        "detected": float(np.mean([any(own) for own in verdicts])),
        "withheld": float(np.mean([all(value is None for value in own) for own in verdicts])),
    }


def coverage_rows(
    measured: Sequence[Mapping[Condition, ClipSeams]], lattices: Sequence[Lattice], seed: int = 0
) -> list[Row]:
    """How often 95 % intervals of the headline hold the value of all clips: list of dicts.

    measured: list over clips of `measure_conditions`, taken as the population: sets are drawn with replacement. For
    each version of the clips and size of a set, the mean and the coverage of the pooled figure, and of the largest
    excess with its own interval, which was the headline before and shows what choosing the largest does.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for kind, amount in COVERED:
        clips = [versions[kind, amount] for versions in measured]
        settled = settle_lattices(clips, lattices)
        clips = [rescore(clip, settled) for clip in clips]
        pooled = pool_seams(clips, settled)
        keys = [(lattice.axis, lattice.period, statistic) for lattice in settled for statistic in STATISTICS]
        table = np.array([[clip.scores.get(key, np.nan) for key in keys] for clip in clips])
        table = table[:, np.isfinite(table).all(axis=0)]
        for size in SIZES:
            sets = rng.integers(len(clips), size=(SETS, size))
            values = pooled.scores[sets]
            rows.append(
                {
                    "kind": kind,
                    "amount": amount,
                    "clips": size,
                    "headline": "pooled",
                    "truth": pooled.value,
                    "mean": float(values.mean()),
                    "covered": _covered(values, pooled.value, mean_t_interval),
                }
            )
            largest = table.mean(axis=0).max()
            chosen = sets[:BOOTSTRAP]
            best = table[chosen].mean(axis=1).argmax(axis=1)
            values = np.array([table[rows_of, column] for rows_of, column in zip(chosen, best)])
            rows.append(
                {
                    "kind": kind,
                    "amount": amount,
                    "clips": size,
                    "headline": "largest",
                    "truth": float(largest),
                    "mean": float(values.mean()),
                    "covered": _covered(values, largest, lambda scores: mean_interval(scores, rng, BOOTSTRAP)),
                }
            )
    return rows


def _covered(values: np.ndarray, truth: float, interval: Callable[[np.ndarray], tuple[float, float] | None]) -> float:
    covers = []
    for scores in values:
        ends = interval(scores)
        assert ends is not None  # the smallest of SIZES is enough for one
        covers.append(ends[0] <= truth <= ends[1])
    return float(np.mean(covers))


def power_report(
    rows: Sequence[Row],
    coverage: Sequence[Row],
    patch: str,
    per_test: int,
    resamples: int,
    summary: Mapping[str, Any],
    longest: int,
) -> str:
    """The markdown page that goes with the tables of `power_rows` and `coverage_rows`."""
    lines = [
        "# Seams: what is found, what is called a seam by mistake",
        "",
        f"Made by `hpdm-eval seams-power` on {summary['clips']} real clips (first {longest} frames of each), tiles of "
        f"{patch}. Every tile of a clip was raised by 0 or `amount` grey levels at random (brightness), moved by "
        "`amount` pixels up, down, left or right (shift), or, every second one, averaged with its copies `amount` "
        f"pixels away (blur). Then {resamples} random sets of {per_test} clips were judged as `hpdm-eval seams` does: "
        f"an excess above {TOLERANCE} that stands out among the lattice's own moves, one-sided at {LEVEL:.0%} after "
        "Benjamini and Hochberg over axes and statistics. `detected` is the share of sets called a seam; in "
        "the rows of "
        "kind `none` it is the rate of false positives. `withheld` is the share without a verdict, because a "
        "step of one "
        'grey level would not be found there in 95 % of sets; in the rest "no seam" was said. The excess is '
        "the mean over all clips, in log units. What "
        "resizing and codecs do to the same clips is in [seams-codecs.md](seams-codecs.md).",
        "",
        "![power](seams-power.png)",
        "",
        "| kind | amount | axis | statistic | excess | detected | withheld |",
        "|---|---:|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['kind']} | {row['amount']} | {row['axis']} | {row['statistic']} | {row['excess']:.3f} | "
        f"{row['detected']:.1%} | {row['withheld']:.1%} |"
        for row in rows
    ]
    return "\n".join([*lines, *coverage_section(coverage)]) + "\n"


def coverage_section(coverage: Sequence[Row]) -> list[str]:
    """Lines of markdown on `coverage_rows`."""
    lines = [
        "",
        "## The headline and its interval",
        "",
        (
            "The headline of `seams` is the mean excess over the finest lattice of each axis and both "
            "statistics, with an "
            f"interval by Student's t over clips. {SETS} sets were drawn with replacement from real clips, "
            "whose own value "
            "is the truth; `covered` is the share of 95 % intervals that hold it. Rows `largest` are the "
            "earlier headline, "
            f"the largest excess with the bootstrap interval of that lattice ({BOOTSTRAP} sets), against the "
            "largest of all "
            "clips: it is too large in few clips, and the more lattices there are the larger."
        ),
        "",
        "| seam | clips | headline | truth | mean over sets | covered |",
        "|---|---:|---|---:|---:|---:|",
    ]
    return lines + [
        (
            f"| {row['kind'] if row['kind'] == 'none' else '{kind} {amount}'.format(**row)} | {row['clips']} | "
            f"{row['headline']} | {row['truth']:.3f} | {row['mean']:.3f} | {row['covered']:.1%} |"
        )
        for row in coverage
    ]


def power_plot(rows: Sequence[Row]) -> bytes:
    """PNG bytes: excess and share detected over the amount, one panel row for each kind."""
    from matplotlib.figure import Figure

    kinds = list(AMOUNTS)
    figure = Figure(figsize=(9, 2.6 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), 2, squeeze=False)
    series = list(dict.fromkeys((row["axis"], row["statistic"]) for row in rows))
    for line, kind in zip(panels, kinds):
        for axis, statistic in series:
            points = [
                row
                for row in rows
                if row["kind"] in ("none", kind) and (row["axis"], row["statistic"]) == (axis, statistic)
            ]
            if axis == "any":
                continue
            style = {
                **line_style("whf".index(axis)),
                "markersize": 3,
                "linestyle": "-" if statistic == "step" else "--",
                "label": f"{axis}, {statistic}",
            }
            for panel, key in zip(line, ("excess", "detected")):
                panel.plot([row["amount"] for row in points], [row[key] for row in points], **style)
        for panel, title in zip(line, ("excess, log units", "share of sets called a seam")):
            panel.set(title=f"{kind}: {title}", xlabel="grey levels" if kind == "brightness" else "pixels")
        line[0].axhline(TOLERANCE, color="0.7", lw=0.8)
        line[1].axhline(LEVEL, color="0.7", lw=0.8)
    panels[0][0].legend(fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
