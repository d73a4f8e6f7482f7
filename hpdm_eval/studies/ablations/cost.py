"""What a plan will cost, counted without computing anything."""

from typing import Any

from hpdm.config import Config
from hpdm.sampling.steps import plan_level
from hpdm.training.plan import EXAMPLE_TFLOPS, count_flops
from hpdm_eval.studies.ablations.plan import Plan
from hpdm_eval.support.text_tables import aligned

HOUR_OF_FLOPS = EXAMPLE_TFLOPS * 1e12 * 3600


def sampling_flops(config: Config, figures: Any) -> float:
    """FLOPs of one sample; `figures` is `count_flops(config)`. What context and caching add or save is left out."""
    sampling, levels = config.sampling, config.pyramid.levels
    windows = config.training.windows(levels)  # which `figures` count and samples do not have
    total = 0.0
    for level in range(levels):
        of_level = sum(entry["flops"] for entry in figures.by_block if entry["level"] == level) / windows[level]
        tiles = plan_level(config.pyramid, config.diffusion, sampling, level).tile_evaluations
        total += tiles * (of_level + figures.outside_blocks / sum(windows))
    return total * (2 if sampling.guided else 1)


def describe_cost(plan: Plan) -> str:
    """The trainings and sample sets of a plan with their hours at EXAMPLE_TFLOPS, as a table for a terminal."""
    figures, rows, total = {}, [], 0.0

    def figures_of(run):
        if run.name not in figures:
            figures[run.name] = count_flops(run.config)
        return figures[run.name]

    def add(what, name, repeats, size, flops):
        nonlocal total
        hours = repeats * flops / HOUR_OF_FLOPS
        total += hours
        rows.append([what, name, str(repeats), size, f"{hours:,.3g}"])

    runs, sets = {}, {}
    for run in plan.runs:
        runs.setdefault(run.name, []).append(run)
    for samples in plan.sample_sets:
        if samples.run and not samples.reconstructed:
            sets.setdefault(samples.name, []).append(samples)
    for name, repeats in runs.items():
        training = repeats[0].config.training
        add(
            "train",
            name,
            len(repeats),
            f"{training.steps:,} steps of {training.batch}",
            float(figures_of(repeats[0]).training) * training.steps * training.batch,
        )
    for name, repeats in sets.items():
        samples = repeats[0]
        add(
            "sample",
            name,
            len(repeats),
            f"{samples.count:,} videos",
            samples.count * sampling_flops(samples.config, figures_of(samples.run)),
        )
    rows.append(["", "all", "", "", f"{total:,.3g}"])
    return (
        aligned(["", "variant", "repeats", "", "hours"], rows, right=("repeats", "hours"))
        + f"\nHours of one GPU at {EXAMPLE_TFLOPS} TFLOP/s sustained; judging comes on top. "
        "Variants not listed share one of these."
    )
