"""Sampling with networks of starting values: what they learnt does not change what a step costs.

All 128, 64 and 32 steps of a large network take long, so a few of each level are timed and the rest is extrapolated:
a level costs what begins and ends it, and its block evaluations times what those of the timed steps took each.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from hpdm.config import Config
from hpdm.config.sampling import SAMPLERS, SamplingConfig, named_sampler
from hpdm.methods import make_method
from hpdm.model.conditioning import no_conditions
from hpdm.sampling.calls import find_call_sizes, largest_calls
from hpdm.sampling.steps import plan_level
from hpdm_eval.benchmarks.gpu.bench import Bench, Result, wake

PRECISIONS = ("tf32", "fp16", "bf16", "fp32")
KEPT = {"tilings": 2, "tiling_borders": "kept"}
# What each case of `options` changes of the sampler of the paper.
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tilings 2": {"tilings": 2},
    "tilings 2, borders kept": KEPT,
    "start 1": {"start_noise": 1.0},
    "feathered": {"tile_weights": "feathered"},
    "tilings 2, start 1": {"tilings": 2, "start_noise": 1.0},
    "tilings 2 kept, start 1": {**KEPT, "start_noise": 1.0},
    "tilings 2 kept on all axes, start 1": {**KEPT, "overlap": "fhw", "start_noise": 1.0},
    "multistep": {},  # the sampler of that name
}


def calls(bench: Bench, *, size: str, largest: int) -> Iterator[Result]:
    """Which numbers of tiles per call agree bit for bit, and how fast a call of each is."""
    network = _network(bench, size)
    largest = min(largest, 4) if bench.rehearse else largest
    for precision in PRECISIONS:
        settings = {"size": bench.size(size), "precision": precision}
        yield bench.attempt(
            "calls that agree bit for bit", settings, partial(_calls, bench, network, precision, largest)
        )


def _calls(bench, network, precision, largest):
    with bench.precision(precision, network), torch.no_grad():
        agreeing = find_call_sizes(network, largest, bench.device).sizes
        rates = {
            tiles: tiles / bench.seconds(_call(bench, network, tiles), rounds=3, at_most=0.5)
            for tiles in (1, 4, 16, 64)
            if tiles <= largest
        }
    details = {"sizes": ", ".join(map(str, agreeing))}
    details |= {f"tiles/s at {tiles} a call": rate for tiles, rate in rates.items()}
    return max(agreeing), "tiles a call", details


def _call(bench, network, tiles):
    """A function that runs all blocks on `tiles` tiles of level 0."""
    config = network.config
    patch = torch.randn(tiles, config.channels, *network.pyramid.patch, device=bench.device)
    start = torch.zeros(tiles, 3, dtype=torch.int64, device=bench.device)
    latents = torch.zeros(tiles, config.num_latents, config.latent_width, device=bench.device)
    return partial(
        network.forward_level,
        0,
        patch,
        torch.zeros(tiles, device=bench.device),
        no_conditions(config, tiles, bench.device),
        network.level_constants(0, start, []),
        latents=latents,
    )


def video(bench: Bench, *, size: str, cases: Sequence[tuple]) -> Iterator[Result]:
    """Seconds per video, extrapolated; `cases` are (precision, overlap, cached, videos at once, tiles a call)."""
    network = _network(bench, size)
    for precision, overlap, cached, videos, tiles in cases:
        settings = {"overlap": overlap, "cached": cached}
        changes = named_sampler("paper", bench.config(size).sampling) | {"overlap": overlap}
        yield _case(bench, network, size, settings, precision, videos, tiles, changes, cached=cached)


def options(bench: Bench, *, size: str, cases: Sequence[tuple]) -> Iterator[Result]:
    """Seconds per video, extrapolated; `cases` are (what over the sampler of the paper, precision, calls, videos)."""
    network = _network(bench, size)
    for name, precision, calls, videos in cases:
        sampler = name if name in SAMPLERS else "paper"
        changes = named_sampler(sampler, bench.config(size).sampling) | OPTIONS[name]
        settings = {"sampler": name, "calls": calls}
        yield _case(bench, network, size, settings, precision, videos, 64, changes, calls=calls)


def _case(bench, network, size, settings, precision, videos, tiles, changes, **how):
    tiles, videos = min(tiles, 4) if bench.rehearse else tiles, bench.few(videos)
    settings = {
        "size": bench.size(size),
        "precision": precision,
        **settings,
        "videos": videos,
        "most tiles a call": tiles,
    }
    return bench.attempt(
        "sampling", settings, partial(_sampling, bench, network, size, precision, changes, videos, tiles, **how)
    )


def _network(bench, size):
    def make():
        torch.manual_seed(bench.seed)
        with bench.device:
            network = make_method(bench.config(size)).make_network()
        return wake(network, bench.seed).eval().requires_grad_(False)

    return bench.kept(("sampling", size), make)


class Watch:
    """The clock and the count of block evaluations after each evaluation of a canvas."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.sampler: Any = None  # set by the run
        self.marks: list[tuple[int, float, int]] = []

    def __call__(self, level: int, done: int, evaluations: int) -> None:
        self.marks.append((level, self.bench.clock(), self.sampler.evaluator.block_evaluations))


def _sampling(bench, network, size, precision, changes, videos, tiles, cached=True, calls="exact"):
    config = bench.config(size)
    method = make_method(config)
    levels = 2 if bench.rehearse else config.pyramid.levels
    whole = dataclasses.replace(config.sampling, **changes)
    short = few_steps(config, whole)
    with bench.precision(precision, network):
        sizes = find_call_sizes(network, tiles, bench.device) if calls == "exact" else largest_calls(tiles)
        watch = Watch(bench)
        sampler = watch.sampler = method.sampler(
            network, config.diffusion, short, device=bench.device, call_sizes=sizes, use_cache=cached, on_step=watch
        )
        labels = [index % config.network.num_classes for index in range(videos)]
        bench.reset_peak()
        began = bench.clock()
        made = sampler.sample(range(videos), labels, bench.seed, levels)[-1]
        total = bench.clock() - began
    plans, timed = (
        [plan_level(config.pyramid, config.diffusion, own, level) for level in range(levels)] for own in (whole, short)
    )
    more = [
        (plan.tile_evaluations - few.tile_evaluations) * videos * sampler.evaluator.blocks[level]
        for level, (plan, few) in enumerate(zip(plans, timed))
    ]
    seconds, each = extrapolate(watch.marks, more, began, began + total)
    blocks = sampler.evaluator.block_evaluations + sum(more)
    details = {
        "levels": levels,
        "block evaluations a video": blocks / videos,
        "seconds measured": total,
        "evaluations timed": ", ".join(str(sum(of == level for of, *_ in watch.marks)) for level in range(len(each))),
        "of": ", ".join(str(plan.evaluations) for plan in plans),
        "calls of": ", ".join(map(str, sizes.sizes)),
        **{f"ms an evaluation, level {level}": 1e3 * value for level, value in enumerate(each)},
        "peak GiB": bench.peak_gib(),
        "finite": bool(made.isfinite().all()),
    }
    return seconds / videos, "s/video, extrapolated", details


def few_steps(config: Config, sampling: SamplingConfig) -> SamplingConfig:
    """The settings with so few steps that each level takes every tiling twice behind its first evaluation."""
    steps = []
    for level in range(config.pyramid.levels):
        number, plan = 1, None
        while plan is None or plan.evaluations < 1 + 2 * len(plan.tilings):
            number += 1
            tried = dataclasses.replace(sampling, steps=(*steps, number))
            plan = plan_level(config.pyramid, config.diffusion, tried, level)
        steps.append(number)
    return dataclasses.replace(sampling, steps=tuple(steps))


def extrapolate(marks: Sequence[tuple], more: Sequence[int], began: float, ended: float) -> tuple[float, list[float]]:
    """(seconds, [seconds of an evaluation of each level]) of a whole run from a short one.

    marks: (level, seconds, block evaluations so far) after each evaluation of the short run, which lasted from `began`
    to `ended`; more: block evaluations of each level that the whole run has beyond them. Each level has two marks at
    least; its first evaluation is not timed, for it begins the level.
    """
    seconds, each = ended - began, []
    for level, blocks in enumerate(more):
        own = [mark[1:] for mark in marks if mark[0] == level]
        (first, before), (last, after) = own[0], own[-1]
        seconds += blocks * (last - first) / (after - before)
        each.append((last - first) / (len(own) - 1))
    return seconds, each
