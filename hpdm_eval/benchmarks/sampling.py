"""`hpdm-eval bench sampling`: what the context cache and the overlap of tiles cost and save."""

import dataclasses
import math
from pathlib import Path

import click
import torch

from hpdm.checkpoint.load import load_checkpoint
from hpdm.pyramid import OVERLAPS
from hpdm.sampling.calls import find_call_sizes, reference_size
from hpdm.sampling.memory import GIB, choose_tile_batch, estimate_memory
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm_eval.benchmarks.results import bench_options, finish
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.support.timing import median_rates, peak_rss_mib


@click.command(cls=RecordedCommand)
@click.option("--checkpoint", default="nano", show_default=True, metavar="RUN|FILE|nano", help="As for hpdm-sample.")
@click.option("--videos", type=click.IntRange(min=1), default=4, show_default=True, help="Videos made at once.")
@click.option("--steps", metavar="128,64,32", help="Steps per level. [default: the checkpoint's]")
@click.option("--overlaps", default="none,hw,fhw", show_default=True, metavar="O,O,..", help="Overlaps to time.")
@click.option("--cached-only", is_flag=True, help="Leave out the runs that recompute all context: they take long.")
@bench_options
def sampling(
    checkpoint: str,
    videos: int,
    steps: str | None,
    overlaps: str,
    cached_only: bool,
    rounds: int,
    as_json: bool,
    record: Path | None,
    device: torch.device,
    seed: int,
    quiet: bool,
) -> None:
    """Sampling with the context cache and without, for several overlaps of tiles, in one run.

    Both make the same videos. A block evaluation is one block of the network on one tile.
    """
    device = choose_device(device)
    loaded = load_checkpoint(checkpoint, device=device)
    network, config = loaded.network, loaded.config
    settings = config.sampling
    if steps:
        settings = dataclasses.replace(settings, steps=_steps(steps))
    rows, stages = [], {}
    for overlap in _overlaps(overlaps):
        chosen = dataclasses.replace(settings, overlap=overlap)
        for cached in (True, False)[: 1 if cached_only else 2]:
            plan = {"levels": config.pyramid.levels, "batch": videos, "use_cache": cached, "offload": False}
            tile_batch = choose_tile_batch(
                network, chosen, device=device, at_least=reference_size(math.prod(network.token_grid)), **plan
            )
            sampler = loaded.method.sampler(
                network,
                config.diffusion,
                chosen,
                device=device,
                use_cache=cached,
                call_sizes=find_call_sizes(network, tile_batch, device),
            )
            name = f"{overlap}, {'cached' if cached else 'uncached'}"
            rows.append(
                (name, overlap, cached, sampler, estimate_memory(network, chosen, tile_batch=tile_batch, **plan))
            )
            stages[name] = (
                videos,
                lambda sampler=sampler: sampler.sample(
                    range(videos), [index % config.network.num_classes for index in range(videos)], seed
                ),
            )
    rates = median_rates(stages, rounds, quiet, device)
    runs = rounds + 1  # the first warms up
    figures = [
        {
            "overlap": overlap,
            "cached": cached,
            "seconds_per_video": 1 / rates[name],
            "block_evaluations_per_video": sampler.evaluator.block_evaluations / (runs * videos),
            "estimated_memory_gib": memory.needed / GIB,
        }
        for name, overlap, cached, sampler, memory in rows
    ]
    on_gpu = device.type == "cuda"
    result = {
        "bench": "sampling",
        "size": config.size,
        "checkpoint": loaded.describe(),
        "steps": list(settings.steps),
        "videos": videos,
        "rounds": rounds,
        "seed": seed,
        "figures": figures,
        "peak_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else peak_rss_mib(),
    }
    lines = [
        f"{config.size} at step {loaded.step}, weights {loaded.sha256[:12]}, "
        f"{'x'.join(map(str, config.pyramid.resolution(config.pyramid.levels - 1)))}, "
        f"steps {','.join(map(str, settings.steps))}, {videos} videos at once",
        f"{'overlap':<9}{'cache':<7}{'s/video':>10}{'blocks/video':>14}{'estimated GiB':>15}{'time saved':>12}",
    ]
    for row in figures:
        other = [r["seconds_per_video"] for r in figures if r["overlap"] == row["overlap"] and not r["cached"]]
        saved = f"{other[0] / row['seconds_per_video']:>11.2f}x" if other and row["cached"] else ""
        lines.append(
            f"{row['overlap']:<9}{'yes' if row['cached'] else 'no':<7}{row['seconds_per_video']:>10.4g}"
            f"{row['block_evaluations_per_video']:>14,.0f}{row['estimated_memory_gib']:>15.2f}{saved}"
        )
    lines.append(f"peak memory of all these runs: {result['peak_memory_mib']:.0f} MiB")
    finish(result, lines, device=device, as_json=as_json, record=record)


def _steps(text):
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise InputError(f"--steps takes whole numbers such as 128,64,32; got {text!r}") from error


def _overlaps(text):
    names = text.split(",")
    if unknown := [name for name in names if name not in OVERLAPS]:
        raise InputError(f"--overlaps: unknown {unknown[0]!r}; choose among {', '.join(OVERLAPS)}")
    return names
