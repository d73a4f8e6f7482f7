"""What the context cache and the overlap of tiles cost and save."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from hpdm.checkpoint.load import load_checkpoint
from hpdm.sampling.calls import find_call_sizes, reference_size
from hpdm.sampling.memory import GIB, choose_tile_batch, estimate_memory
from hpdm_eval.benchmarks.results import CPU, Measured
from hpdm_eval.support.timing import median_rates, peak_rss_mib


def bench_sampling(
    checkpoint: str = "nano",
    *,
    videos: int = 4,
    steps: tuple[int, ...] | None = None,
    overlaps: Sequence[str] = ("none", "hw", "fhw"),
    cached_only: bool = False,
    rounds: int = 3,
    device: torch.device = CPU,
    seed: int = 0,
    quiet: bool = False,
) -> Measured:
    """Sampling with the context cache and without, for several overlaps of tiles, in one run.

    checkpoint: as for `load_checkpoint`; videos: made at once; steps: per level, None as the checkpoint has them. Both
    make the same videos. A block evaluation is one block of the network on one tile.
    """
    loaded = load_checkpoint(checkpoint, device=device)
    network, config = loaded.network, loaded.config
    settings = config.sampling
    if steps:
        settings = dataclasses.replace(settings, steps=steps)
    rows, stages = [], {}
    for overlap in overlaps:
        chosen = dataclasses.replace(settings, overlap=overlap)
        for cached in (True, False)[: 1 if cached_only else 2]:
            plan: dict[str, Any] = {
                "levels": config.pyramid.levels,
                "batch": videos,
                "use_cache": cached,
                "offload": False,
            }
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
    return Measured(result=result, lines=lines, device=device)
