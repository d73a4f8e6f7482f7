"""Sampling in half precision: the network alone is in it; canvas, solver, averages and weights stay float32."""

import dataclasses

import pytest
import torch

from hpdm.sampling import precision, tiled
from hpdm.sampling.calls import CallSizes
from hpdm.sampling.groups import Evaluator, TileGroup
from hpdm.sampling.precision import network_precision
from hpdm.sampling.tiled import TiledSampler
from tests.support.sampling_models import tiny_config, tiny_network


@pytest.fixture(scope="module")
def network():
    return tiny_network(tiny_config())


def sampled(network, dtype=None, **settings):
    config = tiny_config()
    sampling = dataclasses.replace(config.sampling, **{"overlap": "w", "steps": (2, 3, 2)} | settings)
    sampler = TiledSampler(network, config.diffusion, sampling, call_sizes=CallSizes(sizes=(16,), threads=1))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        return sampler.sample([0], [1], 3)


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.bfloat16, {"tilings": 2, "tiling_borders": "kept", "start_noise": 2.0}),
        (torch.float16, {"tile_weights": "feathered", "steps": (1, 2, 1)}),
    ],
)
def test_only_the_network_is_in_half_precision(network, monkeypatch, dtype, settings):
    seen = {"canvas": set(), "estimates": set(), "totals": set(), "products": set()}
    call, add, take = Evaluator.__call__, TileGroup.add, TileGroup.take

    def watched_call(self, level, noisy, *arguments, **options):
        estimate, out = call(self, level, noisy, *arguments, **options)
        seen["estimates"].add(estimate.dtype)
        return estimate, out

    def watched_add(self, totals, patches, weights=None):
        seen["totals"].add(totals.dtype)
        return add(self, totals, patches, weights)

    def watched_take(self, canvas, starts=None):
        seen["canvas"].add(canvas.dtype)
        return take(self, canvas, starts)

    monkeypatch.setattr(Evaluator, "__call__", watched_call)
    monkeypatch.setattr(TileGroup, "add", watched_add)
    monkeypatch.setattr(TileGroup, "take", watched_take)
    linear = [module for module in network.blocks[0].modules() if isinstance(module, torch.nn.Linear)]
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen["products"].add(output.dtype))
        for module in linear
    ]
    try:
        videos = sampled(network, dtype, **settings)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen["canvas"] == seen["estimates"] == seen["totals"] == {torch.float32}
    assert seen["products"] == {dtype}
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    exact = sampled(network, **settings)
    for video, wanted in zip(videos, exact, strict=True):
        assert video.dtype == torch.float32
        scale = wanted.std()
        assert 0 < (video - wanted).square().mean().sqrt() < (0.15 if dtype == torch.bfloat16 else 0.03) * scale


def test_precision_by_name(monkeypatch):
    before = torch.backends.cuda.matmul.allow_tf32
    for name, tf32 in (("fp32", False), ("tf32", True), ("bf16", False), ("fp16", False)):
        with network_precision(name, "cpu"):
            assert torch.backends.cuda.matmul.allow_tf32 == tf32
            assert not torch.is_autocast_enabled("cpu")  # only a GPU gains from it
        asked = []
        monkeypatch.setattr(
            precision.torch,
            "autocast",
            lambda *arguments, **options: asked.append((arguments, options)) or __import__("contextlib").nullcontext(),
        )
        with network_precision(name, "cuda"):
            pass
        monkeypatch.undo()
        ((arguments, options),) = asked
        assert arguments[0] == "cuda" and options["enabled"] == (name in ("bf16", "fp16"))
        assert arguments[1] == {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    assert torch.backends.cuda.matmul.allow_tf32 == before and tiled.TiledSampler is TiledSampler
