"""Whether the device computes what a processor computes: the shipped nano model, one fixed input and whole samples."""

import dataclasses
from collections.abc import Iterator

import torch

from hpdm.checkpoint.load import load_checkpoint
from hpdm.data.ranges import to_uint8
from hpdm.pyramid import sample_windows
from hpdm.sampling.calls import find_call_sizes
from hpdm_eval.benchmarks.gpu.bench import PRECISIONS, Bench, Result

SAMPLED = ("fp32", "tf32", "bf16", "fp16")
TOLERANCE = 1e-4  # of the forward pass in fp32
VIDEOS = 2


def forward(bench: Bench) -> Iterator[Result]:
    """One input through all levels: the largest difference from the processor's fp32 result, in every precision."""
    wanted = _outputs(_nano("cpu"), "cpu")
    scale = max(level.abs().max().item() for level in wanted)
    network = _nano(bench.device)
    for precision in PRECISIONS:

        def measure(precision=precision):
            with bench.precision(precision, network):
                got = _outputs(network, bench.device)
            largest = max((a.float().cpu() - b).abs().max().item() for a, b in zip(got, wanted, strict=True))
            agrees = {"agrees": largest < TOLERANCE, "tolerance": TOLERANCE} if precision == "fp32" else {}
            return largest, "largest difference", {"largest output": scale, **agrees}

        yield bench.attempt("forward pass of nano against the processor", {"precision": precision}, measure)


def samples(bench: Bench) -> Iterator[Result]:
    """Videos of nano: how far they are from the processor's in fp32, in grey levels of 0 to 255."""
    steps = (3, 2) if bench.rehearse else (16, 8, 8)  # of two levels in a rehearsal
    wanted = _sample(_load("cpu"), "cpu", bench.seed, steps)
    loaded = _load(bench.device)
    for precision in SAMPLED:

        def measure(precision=precision):
            with bench.precision(precision, loaded.network):
                got = _sample(loaded, bench.device, bench.seed, steps)
            levels = [
                (to_uint8(a.float().cpu()).int() - to_uint8(b).int()).abs() for a, b in zip(got, wanted, strict=True)
            ]
            details = {f"mean, level {level}": of_level.double().mean().item() for level, of_level in enumerate(levels)}
            details |= {
                "largest, last level": levels[-1].max().item(),
                "differing, last level": (levels[-1] > 0).double().mean().item(),
                "videos": VIDEOS,
                "steps": ", ".join(map(str, steps)),
            }
            return levels[-1].double().mean().item(), "grey levels", details

        yield bench.attempt("samples of nano against the processor", {"precision": precision}, measure)


def _load(device):
    return load_checkpoint("nano", device=device)


def _nano(device):
    return _load(device).network


@torch.no_grad()
def _outputs(network, device):
    """Outputs of all levels of one input, drawn on the processor."""
    generator = torch.Generator().manual_seed(0)
    config, pyramid, batch = network.config, network.pyramid, 4
    patches = [
        torch.randn(batch, config.channels, *pyramid.patch, generator=generator).to(device)
        for _ in range(pyramid.levels)
    ]
    c_noise = torch.randn(batch, pyramid.levels, generator=generator).mul(0.5).to(device)
    windows = sample_windows(pyramid, batch, generator).to(device)
    labels = torch.arange(batch, device=device) % config.num_classes
    return network(patches, c_noise, windows, labels)[0]


def _sample(loaded, device, seed, steps):
    settings = dataclasses.replace(loaded.config.sampling, steps=steps)
    sampler = loaded.method.sampler(
        loaded.network,
        loaded.config.diffusion,
        settings,
        device=device,
        call_sizes=find_call_sizes(loaded.network, 64, device),
    )
    return sampler.sample(range(VIDEOS), list(range(VIDEOS)), seed, len(steps))
