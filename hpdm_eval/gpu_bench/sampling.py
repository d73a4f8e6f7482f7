"""Sampling with networks of starting values: what they learnt does not change what a step costs.

All 128, 64 and 32 steps of a large network take long, so a few of each level are timed and the rest is extrapolated:
a level costs what begins and ends it, and its steps times the median of those that were timed.
"""

import dataclasses
import statistics
from functools import partial
from itertools import pairwise

import torch

from hpdm.conditioning import no_conditions
from hpdm.methods import make_method
from hpdm.sampling.calls import find_call_sizes
from hpdm_eval.gpu_bench.bench import wake

PRECISIONS = ("tf32", "fp16", "bf16", "fp32")


def calls(bench, *, size, largest):
    """Which numbers of tiles per call agree bit for bit, and how fast a call of each is."""
    network = _network(bench, size)
    largest = min(largest, 4) if bench.rehearse else largest
    for precision in PRECISIONS:
        settings = {"size": bench.size(size), "precision": precision}
        yield bench.attempt("calls that agree bit for bit", settings, partial(
            _calls, bench, network, precision, largest))


def _calls(bench, network, precision, largest):
    with bench.precision(precision, network), torch.no_grad():
        agreeing = find_call_sizes(network, largest, bench.device).sizes
        rates = {tiles: tiles / bench.seconds(_call(bench, network, tiles), rounds=3, at_most=0.5)
                 for tiles in (1, 4, 16, 64) if tiles <= largest}
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
        network.forward_level, 0, patch, torch.zeros(tiles, device=bench.device),
        no_conditions(config, tiles, bench.device), network.level_constants(0, start, []), latents=latents)


def video(bench, *, size, cases):
    """Seconds per video, extrapolated; `cases` are (precision, overlap, cached, videos at once, tiles a call)."""
    network = _network(bench, size)
    for precision, overlap, cached, videos, tiles in cases:
        tiles, videos = min(tiles, 4) if bench.rehearse else tiles, bench.few(videos)
        settings = {"size": bench.size(size), "precision": precision, "overlap": overlap, "cached": cached,
                    "videos": videos, "most tiles a call": tiles}
        yield bench.attempt("sampling", settings, partial(
            _sampling, bench, network, size, precision, overlap, cached, videos, tiles))


def _network(bench, size):
    def make():
        torch.manual_seed(bench.seed)
        with bench.device:
            network = make_method(bench.config(size)).make_network()
        return wake(network, bench.seed).eval().requires_grad_(False)

    return bench.kept(("sampling", size), make)


class Watch:
    """The clock and the count of block evaluations after each evaluation of a canvas."""

    def __init__(self, bench):
        self.bench, self.sampler, self.marks = bench, None, []

    def __call__(self, level, done, evaluations):
        self.marks.append((level, self.bench.clock(), self.sampler.evaluator.block_evaluations))


def _sampling(bench, network, size, precision, overlap, cached, videos, tiles):
    config = bench.config(size)
    method = make_method(config)
    levels = 2 if bench.rehearse else config.pyramid.levels
    timed = (2, *[3] * (levels - 1))  # steps; level 0 evaluates twice a step but for the last
    settings = dataclasses.replace(config.sampling, overlap=overlap, steps=timed)
    with bench.precision(precision, network):
        sizes = find_call_sizes(network, tiles, bench.device)
        watch = Watch(bench)
        sampler = watch.sampler = method.sampler(
            network, config.diffusion, settings, device=bench.device, call_sizes=sizes, use_cache=cached, on_step=watch)
        labels = [index % config.network.num_classes for index in range(videos)]
        bench.reset_peak()
        began = bench.clock()
        made = sampler.sample(range(videos), labels, bench.seed, levels)[-1]
        total = bench.clock() - began
    evaluations = [2 * steps - 1 if level < settings.heun_levels else steps
                   for level, steps in enumerate(config.sampling.level_steps(levels))]
    seconds, blocks, each = extrapolate(watch.marks, evaluations, began, began + total,
                                        sampler.evaluator.block_evaluations)
    details = {
        "levels": levels, "block evaluations a video": blocks / videos, "seconds measured": total,
        "evaluations timed": ", ".join(str(sum(of == level for of, *_ in watch.marks)) for level in range(len(each))),
        "of": ", ".join(map(str, evaluations)), "calls of": ", ".join(map(str, sizes.sizes)),
        **{f"ms an evaluation, level {level}": 1e3 * value for level, value in enumerate(each)},
        "peak GiB": bench.peak_gib(), "finite": bool(made.isfinite().all()),
    }
    return seconds / videos, "s/video, extrapolated", details


def extrapolate(marks, evaluations, began, ended, blocks):
    """(seconds, block evaluations, [seconds of an evaluation of each level]) of a whole run from a short one.

    marks: (level, seconds, block evaluations so far) after each evaluation; `evaluations`: how many each level has in a
    whole run; the short run lasted from `began` to `ended` and took `blocks`. Each level of it has two marks at least.
    """
    seconds, count, each = 0.0, 0, []
    for level, wanted in enumerate(evaluations):
        own = [mark[1:] for mark in marks if mark[0] == level]
        seconds_each = statistics.median(b[0] - a[0] for a, b in pairwise(own))
        blocks_each = own[-1][1] - own[-2][1]
        seconds += (wanted - len(own)) * seconds_each
        count += (wanted - len(own)) * blocks_each
        each.append(seconds_each)
    return seconds + ended - began, count + blocks, each
