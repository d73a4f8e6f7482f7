"""Would the large sizes train as published? A check by small networks with the large sizes' own settings.

    python -m hpdm_eval.studies.recipe_check --out reports

Three parts: gradients of every way to compute them against float64 (`recipe_gradients`); output and loss after 200
steps by starting values and optimizer (`recipe_learning`); and, with `--noise-steps`, what noise recipes and orders of
windows teach (`recipe_noise`). The command fails where a gradient is missing or wrong.
"""

import json
from pathlib import Path

import click

from hpdm.config import load_config
from hpdm.console import Command, OutputFolder, note
from hpdm.environment import hardware
from hpdm.files import atomic_file, write_json
from hpdm_eval.commands.options import own_folder
from hpdm_eval.studies import recipe_noise
from hpdm_eval.studies.recipe_gradients import measure, wrong
from hpdm_eval.studies.recipe_learning import LAST, STEPS, VARIANTS, learn

SIZES = ("nano", "nano-T2V", "S", "M", "L", "T2V", "T2V-1K")
FAILED = 1


@click.command(cls=Command)
@click.option("--out", type=OutputFolder(path_type=Path), required=True,
              help="Folder of recipe-check.md and recipe-check.json.")
@click.option("--full", is_flag=True, help="All combinations of gradients, not one setting at a time; takes minutes.")
@click.option("--noise-steps", type=click.IntRange(min=0), default=0, show_default=True,
              help="Also train each noise recipe for this many steps; 0 leaves them out.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Trainings per noise recipe.")
@click.option("--quiet", is_flag=True, help="No notes on stderr.")
def main(out, full, noise_steps, seeds, quiet):
    """Check gradients, starting values and noise of the large sizes on small networks. Runs on the CPU."""
    own_folder(out)
    note("gradients", quiet)
    gradients = measure(quick=not full)
    learning = []
    for variant in VARIANTS:
        note(f"{STEPS} steps: {variant}", quiet)
        learning.append(learn(variant))
    noise = []
    for name in recipe_noise.RECIPES if noise_steps else ():
        for seed in range(seeds):
            note(f"{noise_steps} steps: {name}, seed {seed}", quiet)
            noise.append(recipe_noise.study(name, steps=noise_steps, seed=seed))
    write_json(out / "recipe-check.json", {"gradients": gradients, "learning": learning, "noise": noise})
    parts = [_HEAD.format(options=" --full" if full else "", hardware=hardware("cpu")), gradient_table(gradients),
             learning_table(learning), share_table(), *([noise_tables(noise)] if noise else [])]
    with atomic_file(out / "recipe-check.md", "w") as file:
        file.write("\n\n".join(parts) + "\n")
    if bad := wrong(gradients):
        click.echo(f"{len(bad)} of {len(gradients)} combinations have missing or wrong gradients: {json.dumps(bad[0])}",
                   err=True)
        return FAILED
    click.echo(f"{len(gradients)} combinations have all gradients, within rounding of float64's")
    return 0


_HEAD = """# Recipe check

`python -m hpdm_eval.studies.recipe_check --out reports{options}` on {hardware}. Small networks with the optimizer, \
schedule, input scales, dropout and parallelism of L; see `hpdm_eval/studies/stand_in.py`."""


def gradient_table(rows) -> str:
    """Missing tensors and error against float64 of every combination."""
    lines = [
        "## Gradients", "",
        "Error: norm of the difference to float64 over the norm, all tensors together; worst: the same of one tensor.",
        "",
        "| processes | parallel | precision | self-conditioning | checkpointing | compile | reshard | missing | "
        "error | worst |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        flags = " | ".join("yes" if row[name] else "no"
                           for name in ("self_conditioning", "checkpointing", "compile", "reshard"))
        lines.append(
            f"| {row['processes']} | {row['parallel']} | {row['precision']} | {flags} | {row['missing']} of "
            f"{row['tensors']} ({row['missing_share']:.0%}) | {row['error']:.1e} | {row['worst']:.1e} |"
        )
    return "\n".join(lines)


def learning_table(rows) -> str:
    """Loss and size of the output after 200 steps."""
    lines = [
        f"## Starting values: {STEPS} steps of L's schedule, cut to that length", "",
        f"Loss: mean of the last {LAST} steps. An untrained network that predicts zero has an output of 0.", "",
        f"| | loss at step 1 | loss after {STEPS} | rms of the output |", "|---|---|---|---|",
    ]
    lines += [
        f"| {row['variant']} | {row['loss'][0]:.3f} | {row['loss_after']:.3f} | {row['output_rms']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def share_table() -> str:
    """Share of training draws with more signal than noise, by size and level."""
    lines = [
        "## Noise: training draws with more signal than noise, %, and sampling steps above 10 times the signal", "",
        "| size | level 0 | 1 | 2 | 3 |", "|---|---|---|---|---|",
    ]
    for size in SIZES:
        config = load_config(size)
        d, cells = config.diffusion, []
        for level in range(config.pyramid.levels):
            steps = config.sampling.steps[level]
            idle = int((d.noise_levels(level, steps)[:-1] * d.scale_in(level) > 10).sum())
            cells.append(f"{100 * d.share_above_noise(level):.1f} ({idle} of {steps} steps)")
        lines.append(f"| {size} | " + " | ".join(cells + [""] * (4 - len(cells))) + " |")
    return "\n".join(lines)


def noise_tables(rows) -> str:
    """Errors of noise recipes by level and noise, and of the finest level by the place of the tile."""
    ratios = recipe_noise.RATIOS
    lines = [f"## Noise recipes: mean squared error of denoised pixels after {rows[0]['steps']} steps", ""]
    lines += ["| recipe | seed | level | " + " | ".join(f"noise {ratio:g}" for ratio in ratios) + " |",
              "|---|---|---|" + "---|" * len(ratios)]
    for row in rows:
        for level, errors in row["by_noise"].items():
            cells = " | ".join(f"{errors[ratio]:.4f}" for ratio in ratios)
            lines.append(f"| {row['recipe']} | {row['seed']} | {level} | {cells} |")
    lines += ["", "Finest level at noise 0.5 by how many axes of the tile touch the border of the video", "",
              "| recipe | seed | " + " | ".join(recipe_noise.PLACES) + " |",
              "|---|---|" + "---|" * len(recipe_noise.PLACES)]
    lines += [
        f"| {row['recipe']} | {row['seed']} | " + " | ".join(f"{row['by_place'][p]:.4f}" for p in recipe_noise.PLACES)
        + " |" for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
