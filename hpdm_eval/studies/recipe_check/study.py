"""Would the large sizes train as published? A check by small networks with the large sizes' own settings.

    python -m hpdm_eval.studies.recipe_check --out reports

Three parts: gradients of every way to compute them against float64 (`recipe_gradients`); output and loss after 200
steps by starting values and optimizer (`recipe_learning`); and, with `--records`, what noise levels and orders of
windows teach, from the records of the studies `noise` and `window-order` of `hpdm-eval ablations`. The command fails
where a gradient is missing or wrong.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import click
from matplotlib.figure import Figure

from hpdm.config import load_config
from hpdm.sampling.steps import plan_level
from hpdm.support.console import Command, OutputFolder, own_folder
from hpdm.support.environment import hardware
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, write_json
from hpdm.support.progress import note
from hpdm_eval.metrics.positions import POSITIONS
from hpdm_eval.report.collect import collect_records
from hpdm_eval.report.figures import render
from hpdm_eval.report.plots import line_style
from hpdm_eval.studies.ablations.denoising import RATIOS
from hpdm_eval.studies.recipe_check.gradients import ALL_WORLDS, WORLDS, measure, wrong
from hpdm_eval.studies.recipe_check.learning import LAST, STEPS, VARIANTS, learn

SIZES = ("nano", "nano-T2V", "S", "M", "L", "T2V", "T2V-1K")
FAILED = 1
LOSSES, SMOOTHED = "recipe-check-loss.svg", 10


@click.command(cls=Command)
@click.option(
    "--out", type=OutputFolder(path_type=Path), required=True, help="Folder of recipe-check.md and recipe-check.json."
)
@click.option(
    "--full", is_flag=True, help="All combinations of gradients, not one setting at a time; takes hours of a core."
)
@click.option(
    "--records",
    type=click.Path(exists=True),
    metavar="DIR|ARCHIVE",
    help="Also the tables of the studies noise and window-order, from their records.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Groups of processes that share the gradients of each number of processes (1 to 4).",
)
@click.option("--quiet", is_flag=True, help="No notes on stderr.")
def main(out: Path, full: bool, records: Path | None, jobs: int, quiet: bool) -> int:
    """Check gradients, starting values and noise of the large sizes on small networks. Runs on the CPU."""
    own_folder(out)
    note("gradients", quiet)
    gradients = measure(ALL_WORLDS if full else WORLDS, quick=not full, parts=jobs)
    learning = []
    for variant in VARIANTS:
        note(f"{STEPS} steps: {variant}", quiet)
        learning.append(learn(variant))
    write_json(out / "recipe-check.json", {"gradients": gradients, "learning": learning})
    with atomic_file(out / LOSSES) as file:
        file.write(loss_figure(learning))
    parts = [
        _HEAD.format(options=" --full" if full else "", hardware=hardware("cpu")),
        gradient_table(gradients),
        learning_table(learning),
        share_table(),
        *([denoising_tables(records), position_tables(records)] if records else []),
    ]
    with atomic_file(out / "recipe-check.md", "w") as file:
        file.write("\n\n".join(parts) + "\n")
    if bad := wrong(gradients):
        click.echo(
            f"{len(bad)} of {len(gradients)} combinations have missing or wrong gradients: {json.dumps(bad[0])}",
            err=True,
        )
        return FAILED
    click.echo(f"{len(gradients)} combinations have all gradients, within rounding of float64's")
    return 0


_HEAD = """# Recipe check

`python -m hpdm_eval.studies.recipe_check --out reports{options}` on {hardware}. Small networks with the optimizer, \
schedule, input scales, dropout and parallelism of L; see `hpdm_eval/studies/recipe_check/stand_in.py`."""


def gradient_table(rows: Sequence[dict]) -> str:
    """Missing tensors and error against float64 of every combination."""
    lines = [
        "## Gradients",
        "",
        "Error: norm of the difference to float64 over the norm, all tensors together; worst: the same of one tensor.",
        "",
        "| processes | parallel | precision | self-conditioning | checkpointing | compile | reshard | missing | "
        "error | worst |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        flags = " | ".join(
            "yes" if row[name] else "no" for name in ("self_conditioning", "checkpointing", "compile", "reshard")
        )
        lines.append(
            f"| {row['processes']} | {row['parallel']} | {row['precision']} | {flags} | {row['missing']} of "
            f"{row['tensors']} ({row['missing_share']:.0%}) | {row['error']:.1e} | {row['worst']:.1e} |"
        )
    return "\n".join(lines)


def learning_table(rows: Sequence[dict]) -> str:
    """Loss and size of the output after 200 steps."""
    lines = [
        f"## Starting values: {STEPS} steps of L's schedule, cut to that length",
        "",
        f"Loss: mean of the last {LAST} steps. An untrained network that predicts zero has an output of 0.",
        "",
        f"| | loss at step 1 | loss after {STEPS} | rms of the output |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['variant']} | {row['loss'][0]:.3f} | {row['loss_after']:.3f} | {row['output_rms']:.3f} |"
        for row in rows
    ]
    lines += ["", f"![Loss over steps, each the mean of the {SMOOTHED} steps up to it]({LOSSES})"]
    return "\n".join(lines)


def loss_figure(rows: Sequence[dict]) -> bytes:
    """SVG of the loss of every step, each the mean of the SMOOTHED steps up to it."""

    def draw():
        figure = Figure(figsize=(6.0, 3.4), layout="constrained")
        axes = figure.subplots()
        for number, row in enumerate(rows):
            losses = [mean(row["loss"][max(0, step - SMOOTHED) : step]) for step in range(1, len(row["loss"]) + 1)]
            style = {**line_style(number), "marker": None}
            axes.plot(range(1, len(losses) + 1), losses, label=row["variant"], **style)
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()
        return figure

    return render(draw)["svg"]


def share_table() -> str:
    """Share of training draws with more signal than noise, by size and level."""
    lines = [
        "## Noise: training draws with more signal than noise, %, and sampling steps above 10 times the signal",
        "",
        "| size | level 0 | 1 | 2 | 3 |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        config = load_config(size)
        d, cells = config.diffusion, []
        for level in range(config.pyramid.levels):
            plan = plan_level(config.pyramid, d, config.sampling, level)
            idle = int((plan.sigmas[:-1] * d.scale_in(level) > 10 * (1 + 1e-6)).sum())
            cells.append(f"{100 * d.share_above_noise(level):.1f} ({idle} of {plan.steps} steps)")
        lines.append(f"| {size} | " + " | ".join(cells + [""] * (4 - len(cells))) + " |")
    return "\n".join(lines)


def denoising_tables(folder: Path) -> str:
    """Errors of denoised pixels by level and noise, and of the finest level by position, from a folder of records.

    Means over the trainings of a variant, with the smallest and the largest.
    """
    records = [item for item in collect_records([folder]) if item.record.metric == "denoising"]
    if not records:
        raise InputError(
            f"{folder} holds no record of the measure denoising; `hpdm-eval ablations --only noise` makes them"
        )
    errors, places, trainings = defaultdict(list), defaultdict(list), set()
    for item in records:
        variant = f"{item.get('study')}.{item.get('variant')}"
        trainings.add(item.get("repeat"))
        for entry in item.record.details:
            if "position" in entry:
                places[variant, entry["position"]].append(entry["error"])
            else:
                errors[variant, item.get("level"), entry["noise_over_signal"]].append(entry["error"])
    lines = [
        "## Noise levels: mean squared error of denoised pixels",
        "",
        f"Of the records in `{Path(folder).name}`: mean of up to {len(trainings)} trainings, smallest to largest; one "
        "number where there is one training. Noise is stated over the signal of the level; pixels are in [-1, 1].",
        "",
        "| variant | level | " + " | ".join(f"noise {ratio:g}" for ratio in RATIOS) + " |",
        "|---|---|" + "---|" * len(RATIOS),
    ]
    for variant, level in sorted({key[:2] for key in errors}, key=lambda key: (key[1], key[0])):
        lines.append(
            f"| {variant} | {level} | " + " | ".join(_spread(errors[variant, level, ratio]) for ratio in RATIOS) + " |"
        )
    lines += [
        "",
        "Finest level at noise 0.5, by how many axes of the tile touch the border of the video",
        "",
        "| variant | " + " | ".join(POSITIONS) + " |",
        "|---|" + "---|" * len(POSITIONS),
    ]
    lines += [
        f"| {variant} | " + " | ".join(_spread(places[variant, name]) for name in POSITIONS) + " |"
        for variant in sorted({key[0] for key in places})
    ]
    return "\n".join(lines)


def position_tables(folder: Path) -> str:
    """FVD and seam excess by position of the tile, from a folder of records of the measure `positions`."""
    records = [item for item in collect_records([folder]) if item.record.metric == "positions"]
    values = defaultdict(list)
    for item in records:
        for entry in item.record.details:
            what = "FVD of tiles"
            if entry["figure"] == "seams":
                what = f"seam excess {entry['axis']}, {entry['statistic']}"
            values[what, item.get("variant"), entry["position"]].append(entry["value"])
    lines = [
        "## Orders of windows: FVD and seams by position of the tile",
        "",
        "Tiles of the samples against tiles of real clips at the same position; seam excess is in log units over that "
        "of real clips. Mean over trainings, smallest to largest.",
        "",
        "| figure | variant | " + " | ".join(POSITIONS) + " |",
        "|---|---|" + "---|" * len(POSITIONS),
    ]
    for what, variant in sorted({key[:2] for key in values}):
        lines.append(
            f"| {what} | {variant} | " + " | ".join(_spread(values[what, variant, name]) for name in POSITIONS) + " |"
        )
    return "\n".join(lines)


def _spread(values):
    if len(values) < 2:
        return f"{values[0]:.2g}" if values else ""
    return f"{mean(values):.2g} ({min(values):.2g} to {max(values):.2g})"


if __name__ == "__main__":
    main()
