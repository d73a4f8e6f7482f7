"""The parts of a training step that the design makes cheap.

B batch, d token width; a token grid is frames x rows x columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from hpdm.config import load_config
from hpdm.model.fusion import band_width, interpolation_matrix, resample
from hpdm.training.plan import make_plan
from hpdm_eval.benchmarks.results import CPU, Measured
from hpdm_eval.benchmarks.speed import training_step
from hpdm_eval.support.timing import median_rates, peak_rss_mib


def bench_fusion(
    *,
    width: int = 1024,
    grid: tuple[int, int, int] = (16, 16, 16),
    batch: int = 1,
    rounds: int = 3,
    device: torch.device = CPU,
    seed: int = 0,
    quiet: bool = False,
) -> Measured:
    """Resampling of a coarse level's tokens, forward and backward: three small matrices against F.grid_sample.

    width: channels of a token; grid: tokens of a patch along frames, rows and columns.
    """
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(batch, *grid, width, generator=generator).to(device).requires_grad_()
    # A window of the next level: half of its parent along every axis, somewhere inside it.
    places = []
    for n in grid:
        start = torch.rand(batch, 1, generator=generator) / 2
        places.append((start + (torch.arange(n) + 0.5) / (2 * n)).to(device))

    def by_matrices():
        return resample(
            source, [interpolation_matrix(u, n, band_width(n, n, 1)) for u, n in zip(places, grid, strict=True)]
        )

    def by_grid_sample():
        f, h, w = (2 * u - 1 for u in places)
        shape = (batch, *grid)
        where = torch.stack(
            [w[:, None, None].expand(shape), h[:, None, :, None].expand(shape), f[:, :, None, None].expand(shape)],
            dim=-1,
        )
        sampled = F.grid_sample(source.movedim(-1, 1), where, align_corners=False, padding_mode="border")
        return sampled.movedim(1, -1)

    gradient = torch.randn(source.shape, generator=generator).to(device)

    def with_backward(run):
        return batch, lambda: torch.autograd.grad(run(), source, gradient)

    error = (by_matrices() - by_grid_sample()).abs().max().item()
    stages = {"grid_sample": with_backward(by_grid_sample), "matrices": with_backward(by_matrices)}
    rates = median_rates(stages, rounds, quiet, device)
    result = {
        "bench": "fusion",
        "width": width,
        "tokens": list(grid),
        "batch": batch,
        "rounds": rounds,
        "seed": seed,
        "milliseconds": {name: 1e3 * batch / rate for name, rate in rates.items()},
        "ratio": rates["matrices"] / rates["grid_sample"],
        "largest_difference": error,
    }
    lines = [f"{batch}x{width}x{'x'.join(map(str, grid))}, forward and backward"]
    lines += [f"{name:<14}{ms:>10.2f} ms" for name, ms in result["milliseconds"].items()]
    lines += [f"ratio {result['ratio']:.1f}, largest difference {error:.1e}"]
    return Measured(result=result, lines=lines, device=device)


def bench_training(
    size: str = "S",
    *,
    overrides: Sequence[str] = (),
    batch: int = 1,
    rounds: int = 3,
    device: torch.device = CPU,
    seed: int = 0,
    quiet: bool = False,
) -> Measured:
    """Forward and backward of a training sample: with and without adaptive computation, and matrix products alone.

    size: of the network, or a file of settings; overrides: "section.key=value"; batch: samples per pass. Without
    adaptive computation every level runs every block. The yardstick of efficiency is the time that the step's matrix
    products would take at the rate of large ones, measured in the same run. Latent self-conditioning is left out: its
    first pass would blur what is compared.
    """
    config = load_config(
        size,
        [
            *overrides,
            "training.self_conditioning_rate=0",
            f"training.batch={batch}",
            f"training.seed={seed}",
            "training.micro_batch=null",
        ],
    )
    full = replace(config.network, levels_per_block=(config.pyramid.levels,) * len(config.network.levels_per_block))
    variants = {"adaptive": config, "not adaptive": replace(config, network=full)}
    stages: dict[str, tuple[float, Callable[..., object]]] = {}
    flops = {}
    for name, variant in variants.items():
        # Forward, and twice as much backward. Counted without data: some attention kernels escape the counter.
        flops[name] = 3 * make_plan(variant).flops_per_sample
        stages[name] = batch, training_step(variant, batch, device, update=False)
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device)
    stages["matrix products"] = 2 * side**3 / 1e9, lambda: a @ b
    rates = median_rates(stages, rounds, quiet, device)
    gemm = rates.pop("matrix products")  # GFLOP/s
    result: dict[str, Any] = {
        "bench": "training",
        "size": config.size,
        "batch": batch,
        "rounds": rounds,
        "seed": seed,
        "overrides": list(overrides),
        "precision": config.training.precision,
        "activation_checkpointing": config.training.activation_checkpointing,
        "samples_per_second": rates,
        "adaptive_speedup": rates["adaptive"] / rates["not adaptive"],
        "gflop_per_sample": {name: value / 1e9 for name, value in flops.items()},
        "gemm_gflop_per_second": gemm,
        "time_over_matrix_products": {name: gemm / (rates[name] * flops[name] / 1e9) for name in rates},
        "peak_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_rss_mib(),
    }
    lines = [
        f"{config.size}, batch {batch}, forward and backward, {result['precision']}",
        f"{'':<16}{'samples/s':>12}{'s/sample':>10}{'GFLOP':>10}{'of GEMM time':>14}",
    ]
    for name, rate in rates.items():
        lines.append(
            f"{name:<16}{rate:>12.4g}{1 / rate:>10.4g}{flops[name] / 1e9:>10.4g}"
            f"{result['time_over_matrix_products'][name]:>13.2f}x"
        )
    lines += [
        f"adaptive computation: {result['adaptive_speedup']:.2f}x; matrix products of {side}: {gemm:.0f} GFLOP/s; "
        f"peak memory {result['peak_memory_mib']:.0f} MiB"
    ]
    return Measured(result=result, lines=lines, device=device)
