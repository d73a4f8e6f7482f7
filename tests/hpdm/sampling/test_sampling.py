"""The tiled sampler: exact where the network is, cached as uncached, and the same bits whatever shares a call."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hpdm.config.network import FUSION_MODES
from hpdm.config.sampling import SamplingConfig
from hpdm.diffusion import DiffusionConfig
from hpdm.model.network import LevelOutput
from hpdm.pyramid import OVERLAPS, tile_starts
from hpdm.sampling.calls import CallSizes, find_call_sizes, reference_size
from hpdm.sampling.steps import plan_level
from hpdm.sampling.tiled import TiledSampler, stream_seed, tile_scale
from hpdm.support.errors import InputError
from tests.support.sampling_models import KnownVideos, tiny_config, tiny_network

PATCH = (4, 4, 4)
ALONE = CallSizes(sizes=(1,), threads=1)


def videos(batch=2, levels=3):
    generator = torch.Generator().manual_seed(3)
    finest = torch.rand(batch, 1, *(r << (levels - 1) for r in PATCH), generator=generator, dtype=torch.float64) * 2 - 1
    pyramid = [finest]
    for _ in range(levels - 1):
        pyramid.insert(0, F.avg_pool3d(pyramid[0], 2))
    return [level.float() for level in pyramid]


def sample(network, indices, labels, *, diffusion, sampling, levels=None, seed=5, **options):
    sampler = TiledSampler(network, diffusion, sampling, **options)
    return sampler.sample(indices, labels, seed, levels), sampler


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("heun_levels", [0, 1, 3])
def test_a_network_that_returns_the_truth_gives_the_truth(overlap, heun_levels):
    truth = videos()
    network = KnownVideos(truth, PATCH)
    sampling = SamplingConfig(steps=(5, 3, 2), overlap=overlap, heun_levels=heun_levels)
    got, _ = sample(
        network,
        [0, 1],
        [1, 0],
        diffusion=network.diffusion,
        sampling=sampling,
        call_sizes=CallSizes(sizes=(2, 16), threads=1),
    )
    for level, (video, expected) in enumerate(zip(got, truth, strict=True)):
        assert video.shape == (2, 1, *network.pyramid.resolution(level))
        torch.testing.assert_close(video, expected.flip(0), atol=2e-4, rtol=0)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_the_average_over_a_constant_field_is_that_field(overlap):
    network = KnownVideos([torch.full_like(v, 0.3) for v in videos(1)], PATCH)
    sampler = TiledSampler(network, network.diffusion, SamplingConfig(steps=(2, 2, 2), overlap=overlap))
    for level in range(3):
        (tiling,) = plan_level(network.pyramid, network.diffusion, sampler.sampling, level).tilings
        weight = tile_scale(tiling, network.pyramid.resolution(level))
        covering = torch.zeros_like(weight)
        for f, h, w in tile_starts(network.pyramid, level, overlap).tolist():
            covering[f : f + 4, h : h + 4, w : w + 4] += 0.3 * weight[f : f + 4, h : h + 4, w : w + 4]
        torch.testing.assert_close(covering, torch.full_like(covering, 0.3), atol=1e-7, rtol=0)
    got, _ = sample(network, [0], [0], diffusion=network.diffusion, sampling=sampler.sampling)
    assert all((video - 0.3).abs().max() < 1e-5 for video in got)


def test_overlap_averages_the_estimates_of_covering_tiles():
    # Each tile answers with its own number of its column; where two overlap the canvas must hold their mean.
    truth = [torch.zeros(1, 1, *PATCH), torch.zeros(1, 1, 8, 8, 8)]
    network = KnownVideos(truth, PATCH, estimate=lambda x, start: x + start[2])
    got, _ = sample(network, [0], [0], diffusion=network.diffusion, sampling=SamplingConfig(steps=(1, 4), overlap="w"))
    expected = torch.tensor([0, 0, 1, 1, 3, 3, 4, 4.0])  # tiles at columns 0, 2, 4
    torch.testing.assert_close(got[1][0, 0], expected.expand(8, 8, 8), atol=1e-4, rtol=0)


def test_seams_vanish_with_overlap_for_a_smooth_denoiser():
    # A tile whose estimate is off by a ramp of its own: without overlap the ramps' ends meet at the borders.
    ramp = torch.linspace(-0.5, 0.5, 4, dtype=torch.float64)
    black = [torch.zeros(1, 1, *PATCH), torch.zeros(1, 1, 8, 8, 8)]
    network = KnownVideos(black, PATCH, estimate=lambda x, start: x + ramp)

    def jump(overlap):
        sampling = SamplingConfig(steps=(1, 2), overlap=overlap)
        got, _ = sample(network, [0], [0], diffusion=network.diffusion, sampling=sampling)
        return got[1].diff(dim=-1).abs().max()

    assert jump("none") > 0.99
    assert jump("w") < 0.55 * jump("none")


@pytest.mark.parametrize(("overlap", "parents"), [("fhw", 27), ("hw", 18), ("none", 8)])
def test_every_tile_takes_its_context_from_windows_that_contain_it(overlap, parents):
    network = KnownVideos(videos(1), PATCH)
    sample(network, [0], [0], diffusion=network.diffusion, sampling=SamplingConfig(steps=(2, 2, 2), overlap=overlap))
    finest = [(start, chain) for level, start, chain in network.asked if level == 2]
    assert len({chain[1] for _, chain in finest}) == parents
    for start, chain in finest:
        assert [level for level, _ in chain] == [0, 1]
        for level, parent in chain:
            factor = 2 ** (2 - level)
            for a, p, r in zip(start, parent, PATCH, strict=True):
                assert factor * p <= a and a + r <= factor * (p + r)


@pytest.mark.parametrize("fusion", FUSION_MODES)
@pytest.mark.parametrize(("overlap", "guidance"), [("none", 1.0), ("hw", 2.0)])
def test_cached_and_uncached_videos_are_equal(fusion, overlap, guidance):
    config = tiny_config(fusion=fusion)
    network = tiny_network(config)
    sampling = dataclasses.replace(config.sampling, overlap=overlap, guidance=guidance)
    options = {"diffusion": config.diffusion, "sampling": sampling, "call_sizes": CallSizes(sizes=(16,), threads=1)}
    cached, fast = sample(network, [0, 1], [0, 1], **options)
    uncached, slow = sample(network, [0, 1], [0, 1], use_cache=False, **options)
    for a, b in zip(cached, uncached, strict=True):
        assert a.abs().max() > 0.1
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    fused = fusion not in ("shallow", "none")
    assert (fast.evaluator.block_evaluations < slow.evaluator.block_evaluations / 2.5) == fused


def test_context_reaches_finer_levels():
    config = tiny_config()
    network = tiny_network(config)
    options = {"diffusion": config.diffusion, "levels": 2}
    a, _ = sample(network, [0], [0], sampling=dataclasses.replace(config.sampling, steps=(3, 2)), **options)
    b, _ = sample(network, [0], [0], sampling=dataclasses.replace(config.sampling, steps=(2, 2)), **options)
    assert not torch.equal(a[0], b[0])
    assert (a[1] - b[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("use_cache", "per_video"), [(True, 18682 + 6 + 18 * 4), (False, 88314)])
def test_block_evaluations_are_those_of_the_paper_s_sampler(use_cache, per_video, monkeypatch):
    # HPDM at 128, 64, 32 steps with spatial overlap; the cache adds one pass over each window that serves as context.
    config = tiny_config(levels_per_block=(1, 1, 2, 2, 3, 3))
    network = tiny_network(config)
    nothing = torch.zeros(16, 1, 1)

    def forward_level(level, patch, c_noise, labels, constants, **options):
        return LevelOutput(output=patch, latents=nothing, activations=[nothing] * 6)

    monkeypatch.setattr(network, "forward_level", forward_level)
    monkeypatch.setattr(network, "level_constants", lambda level, start, parents: [None] * 6)
    sampling = dataclasses.replace(config.sampling, steps=(128, 64, 32))
    _, sampler = sample(
        network,
        [0],
        [0],
        diffusion=config.diffusion,
        sampling=sampling,
        use_cache=use_cache,
        call_sizes=CallSizes(sizes=(1, 2, 4, 8, 16), threads=1),
    )
    assert sampler.evaluator.block_evaluations == per_video


@pytest.fixture(scope="module")
def tiny():
    config = tiny_config()
    return config, tiny_network(config)


def test_a_sample_does_not_depend_on_what_shares_its_calls(tiny):
    config, network = tiny
    options = {"diffusion": config.diffusion, "sampling": config.sampling}
    sizes = find_call_sizes(network, 64)
    together, _ = sample(network, list(range(8)), [i % 4 for i in range(8)], call_sizes=sizes, **options)
    few = find_call_sizes(network, 1)
    assert few.sizes == sizes.sizes[:1]
    for index in (0, 5):
        for call_sizes in (sizes, few):
            alone, _ = sample(network, [index], [index % 4], call_sizes=call_sizes, **options)
            for a, b in zip(alone, together, strict=True):
                assert torch.equal(a[0], b[index])
    other, _ = sample(network, [1], [1], seed=6, call_sizes=sizes, **options)
    assert not torch.equal(other[-1][0], together[-1][1])


class Drifting(torch.nn.Module):
    """Wraps a network; results of calls of `wrong` sizes are off in the last bit."""

    def __init__(self, network, wrong, place=None):
        super().__init__()
        self.network, self.wrong, self.place = network, wrong, place

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.network, name)

    def forward_level(self, level, patch, *arguments, **options):
        out = self.network.forward_level(level, patch, *arguments, **options)
        if len(patch) in self.wrong:
            rows = slice(None) if self.place is None else slice(self.place, self.place + 1)
            out.output[rows] = torch.nextafter(out.output[rows], torch.tensor(9.0))
        return out


def test_call_sizes_whose_bits_differ_are_left_out(tiny):
    _, network = tiny
    usual = find_call_sizes(network, 64).sizes
    assert set(find_call_sizes(Drifting(network, {32, 4}), 64).sizes) == set(usual) - {32, 4}
    # Results that depend on the place in the call: that size is out, and if it is the reference, so are all.
    assert set(find_call_sizes(Drifting(network, {64}, place=3), 64).sizes) == set(usual) - {64}
    reference = reference_size(64)
    assert find_call_sizes(Drifting(network, {reference}, place=3), 64).sizes == (1,)


def test_calls_are_cut_into_sizes_that_agree_and_only_the_last_is_padded():
    sizes = CallSizes(sizes=(4, 16), threads=1)
    for count in range(1, 60):
        calls = sizes.split(count)
        assert sum(real for _, real in calls) == count
        assert all(size in sizes.sizes and size == real for size, real in calls[:-1])
        assert calls[-1][0] in sizes.sizes and calls[-1][0] - calls[-1][1] < 4
        assert all(a[0] >= b[0] for a, b in pairwise(calls))


@pytest.mark.parametrize(("tokens", "tiles"), [(1, 16), (64, 16), (512, 8), (3000, 1), (4096, 1), (100_000, 1)])
def test_reference_calls_hold_about_four_thousand_tokens(tokens, tiles):
    assert reference_size(tokens) == tiles


def test_stopping_early_gives_the_coarse_levels_of_the_whole_video(tiny):
    config, network = tiny
    sizes = CallSizes(sizes=(16,), threads=1)
    options = {"diffusion": config.diffusion, "sampling": config.sampling, "call_sizes": sizes}
    whole, _ = sample(network, [0], [0], **options)
    early, _ = sample(network, [0], [0], levels=2, **options)
    assert len(early) == 2
    assert all(torch.equal(a, b) for a, b in zip(early, whole, strict=False))


def test_guidance_extrapolates_from_no_class():
    # Label 0 answers 0.2, no label (1) answers 0.1: scale 3 makes 0.1 + 3 * 0.1.
    truth = [torch.stack([torch.full((1, *PATCH), v) for v in (0.2, 0.1)])]
    network = KnownVideos(truth, PATCH)
    network.null_label = 1
    sampling = SamplingConfig(steps=(4,), guidance=3.0, overlap="none")
    got, _ = sample(network, [0], [0], diffusion=network.diffusion, sampling=sampling)
    torch.testing.assert_close(got[0], torch.full_like(got[0], 0.4), atol=1e-4, rtol=0)


def test_streams_of_noise_have_seeds_of_their_own():
    seeds = {stream_seed(s, i, k, level) for s in range(3) for i in range(20) for k in range(3) for level in range(3)}
    assert len(seeds) == 3 * 20 * 3 * 3
    assert stream_seed(0, 7, 1, 2) == int(np.random.SeedSequence([0, 7, 1, 2]).generate_state(1, np.uint64)[0] >> 1)


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"steps": ()}, {"steps": (4, 0)}, {"overlap": "wh"}, {"sigma_context": 0.0}, {"heun_levels": -1}):
        with pytest.raises(InputError):
            SamplingConfig(**wrong)
    with pytest.raises(InputError, match="3 levels need 3"):
        SamplingConfig(steps=(4, 2)).level_steps(3)


@pytest.mark.parametrize("fusion", ["deep", "shallow"])
def test_noise_over_signal_samples_what_the_same_sigmas_do(fusion):
    """With one input scale for all levels, both ways can state the same: start, churn, context and end."""
    config = tiny_config(fusion=fusion)
    network = tiny_network(config)
    common = {"input_scale": "constant", "input_scale_base": 4.0}
    stated = DiffusionConfig(**common, noise="signal", sigma_min=0.008, sigma_max=80.0)
    absolute = DiffusionConfig(**common, sigma_min=0.002, sigma_max=20.0)
    settings = {"steps": (3, 2, 2), "overlap": "none"}
    found = [
        sample(
            network,
            [0],
            [1],
            diffusion=diffusion,
            sampling=SamplingConfig(**settings, sigma_context=0.1 * times, S_min=0.05 * times, S_max=4.0 * times),
        )[0]
        for diffusion, times in ((stated, 4.0), (absolute, 1.0))
    ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
