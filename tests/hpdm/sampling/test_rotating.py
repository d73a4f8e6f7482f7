"""Cheaper sampling: tilings in turn, levels that start from the one below, feathered tiles, and what they cost."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from hpdm.config import load_config
from hpdm.config.sampling import SamplingConfig, named_sampler
from hpdm.pyramid import OVERLAPS, Pyramid, enlarge_video, rotating_starts, shrink_video, tile_starts
from hpdm.sampling import groups, tiled
from hpdm.sampling.calls import CallSizes, largest_calls
from hpdm.sampling.groups import gather_patches, scatter_patches
from hpdm.sampling.steps import count_block_evaluations, group_starts, plan_level
from hpdm.sampling.tiled import TiledSampler
from hpdm.support.errors import InputError
from hpdm.training.plan import sampling_evaluations
from tests.support.sampling_models import KnownVideos, tiny_config, tiny_network

PATCH = (4, 4, 4)
FAST = {"tilings": 2, "tiling_borders": "kept", "start_noise": 1.0}


def truth(levels=3):
    finest = torch.rand(2, 1, *(r << (levels - 1) for r in PATCH), generator=torch.Generator().manual_seed(3)) * 2 - 1
    return shrink_video(finest, levels)


def covering(size, patch, tiles):
    count = torch.zeros(size)
    for start in tiles:
        count[tuple(slice(at, at + r) for at, r in zip(start, patch))] += 1
    return count


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("canvas", [(1, 1, 1), (1, 2, 1)])
def test_tilings_are_made_of_today_s_tiles_and_cover_the_video(overlap, canvas):
    if canvas[1] > 1 and "h" not in overlap:
        return
    pyramid = Pyramid(levels=3, patch=PATCH)
    axes = 0 if overlap == "none" else len(overlap)
    for level, borders in itertools.product(range(3), ("covered", "kept")):
        size = pyramid.resolution(level, canvas)
        every = set(map(tuple, tile_starts(pyramid, level, overlap, canvas).tolist()))
        tilings = [
            set(map(tuple, torch.cartesian_prod(*starts).tolist()))
            for starts in rotating_starts(pyramid, level, overlap, 8, borders, canvas)
        ]
        assert len(tilings) == 2**axes or level == 0
        for number, tiles in enumerate(tilings):
            assert tiles <= every
            count = covering(size, PATCH, tiles)
            assert count.max() == 1 or (borders == "covered" and number)
            assert count.min() == 1 or (borders == "kept" and number)
        if borders == "kept":  # every tile is in one of them
            assert set.union(*tilings) == every and sum(map(len, tilings)) == len(every)


def test_the_second_tiling_is_shifted_along_all_axes_and_tiles_are_counted_truly():
    pyramid = Pyramid(levels=3, patch=(16, 64, 64))
    f, h, w = rotating_starts(pyramid, 2, "hw", 2, "covered")[1]
    assert f.tolist() == [0, 16, 32, 48] and h.tolist() == [0, 32, 96, 160, 192] == w.tolist()
    f, h, w = rotating_starts(pyramid, 2, "hw", 2, "kept")[1]
    assert h.tolist() == [32, 96, 160] == w.tolist()
    assert [len(t[1]) for t in rotating_starts(pyramid, 2, "hw", 4, "kept")] == [4, 3, 3, 4]  # none, both, h, w
    assert [len(t[2]) for t in rotating_starts(pyramid, 2, "hw", 4, "kept")] == [4, 3, 4, 3]
    assert len(rotating_starts(pyramid, 2, "none", 4)) == 1 and len(rotating_starts(pyramid, 0, "hw", 4)) == 1
    with pytest.raises(InputError, match="borders"):
        rotating_starts(pyramid, 2, "hw", 2, "open")


@pytest.mark.parametrize(
    ("settings", "overlap", "heun_levels"),
    [
        ({"tilings": 2}, "hw", 3),
        ({"tilings": 4, "tiling_borders": "kept"}, "fhw", 1),
        ({"tilings": 3, "averaged_steps": 1}, "hw", 1),
        ({"start_noise": 2.0}, "w", 3),
        ({**FAST, "tile_weights": "feathered", "averaged_steps": 1}, "hw", 1),
        ({"solver": "multistep"}, "hw", 1),
        ({"solver": "multistep", "start_noise": 2.0, "tile_weights": "feathered"}, "w", 0),
    ],
)
def test_a_network_that_returns_the_truth_gives_the_truth(settings, overlap, heun_levels):
    videos = truth()
    network = KnownVideos(videos, PATCH)
    sampling = SamplingConfig(steps=(3, 4, 4), overlap=overlap, heun_levels=heun_levels, **settings)
    sampler = TiledSampler(network, network.diffusion, sampling, call_sizes=CallSizes(sizes=(2, 16), threads=1))
    for video, expected in zip(sampler.sample([0, 1], [1, 0], 5), videos, strict=True):
        torch.testing.assert_close(video, expected.flip(0), atol=3e-4, rtol=0)


def test_a_step_takes_the_estimate_of_its_tiling_and_keeps_the_last_one_elsewhere():
    # Each tile answers with its own column; the canvas must hold the number of the tile that was asked last.
    network = KnownVideos(
        [torch.zeros(1, 1, *PATCH), torch.zeros(1, 1, 8, 8, 8)], PATCH, estimate=lambda x, start: x + start[2]
    )
    got = {}
    for borders, steps in itertools.product(("kept", "covered"), (1, 2, 3)):
        sampling = SamplingConfig(steps=(1, steps), overlap="w", tilings=2, tiling_borders=borders)
        sampler = TiledSampler(network, network.diffusion, sampling)
        seen = []
        sampler.on_step = lambda level, done, total: seen.append((level, done, total))
        estimates = []
        solver = tiled.euler
        try:
            tiled.euler = lambda canvas, y, sigmas, s_in: (
                estimates.append([canvas(y, sigma)[0, 0, 0, 0].clone() for sigma in sigmas[:-1]]) or y
            )
            sampler.sample([0], [0], 0)
        finally:
            tiled.euler = solver
        got[borders, steps] = estimates[-1]
        assert seen[-1] == (1, steps, steps)
    plain, shifted = torch.tensor([0, 0, 0, 0, 4, 4, 4, 4.0]), torch.tensor([0, 0, 2, 2, 2, 2, 4, 4.0])
    averaged = torch.tensor([0, 0, 1, 1, 3, 3, 4, 4.0])  # tiles at 0, 2 and 4
    for (borders, steps), estimates in got.items():
        wanted = [plain, shifted if borders == "kept" else averaged, plain][:steps]
        for estimate, expected in zip(estimates, wanted, strict=True):
            torch.testing.assert_close(estimate, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("patch", [(4, 8, 8), (6, 10, 4)])
@pytest.mark.parametrize("overlap", ["hw", "fhw", "w", "none"])
def test_feathered_weights_add_up_to_one(patch, overlap):
    pyramid = Pyramid(levels=3, patch=patch)
    plan = plan_level(pyramid, load_config("nano").diffusion, SamplingConfig(overlap=overlap), 2)
    (tiling,) = plan.tilings
    frames, rows, columns = tiling.feathered_weights()
    total = torch.zeros(pyramid.resolution(2))
    for f, h, w in tiling.starts.tolist():
        weight = frames[f][:, None, None] * rows[h][:, None] * columns[w]
        total[f : f + patch[0], h : h + patch[1], w : w + patch[2]] += weight
        if overlap == "none":
            assert (weight == 1).all()
    torch.testing.assert_close(total, torch.ones_like(total), atol=3e-7, rtol=0)
    if patch == (4, 8, 8):
        assert (total == 1).all()  # patches of a power of two: not a bit off
    if "w" in overlap:
        inner = columns[patch[2] // 2]
        assert inner[0] < inner[patch[2] // 2 - 1] == inner[patch[2] // 2] > inner[-1] == inner[0]
        assert (columns[0][: patch[2] // 2] == 1).all()  # nothing else there


@pytest.fixture(scope="module")
def tiny():
    config = tiny_config()
    return config, tiny_network(config)


def videos_of(
    tiny, indices=(0,), levels=None, call_sizes=CallSizes(sizes=(16,), threads=1), use_cache=True, **settings
):
    config, network = tiny
    sampling = dataclasses.replace(config.sampling, **settings)
    sampler = TiledSampler(network, config.diffusion, sampling, call_sizes=call_sizes, use_cache=use_cache)
    return sampler.sample(list(indices), [i % 4 for i in indices], 5, levels), sampler


@pytest.mark.parametrize(
    "settings",
    [
        {"tilings": 2, "averaged_steps": 1, "steps": (2, 3, 3)},
        {**FAST, "overlap": "w", "guidance": 2.0, "steps": (2, 4, 4)},
        {"overlap": "fhw", "tilings": 3, "tiling_borders": "kept", "steps": (1, 2, 2)},
    ],
)
def test_cached_and_uncached_agree_and_take_the_block_evaluations_that_were_counted(tiny, settings):
    config, network = tiny
    settings = {"overlap": "hw", **settings}
    sizes = CallSizes(sizes=(16,), threads=1)
    found = {}
    for use_cache in (True, False):
        found[use_cache], sampler = videos_of(tiny, use_cache=use_cache, call_sizes=sizes, **settings)
        assert sampler.evaluator.block_evaluations == count_block_evaluations(
            config.network, config.pyramid, config.diffusion, sampler.sampling, use_cache=use_cache, split=sizes.split
        )
    for a, b in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("fusion", "levels"), [("shallow", 2), ("none", 1)])
def test_counts_of_fewer_levels_and_of_fusions_without_context(fusion, levels):
    config = tiny_config(fusion=fusion)
    for use_cache in (True, False):
        _, sampler = videos_of((config, tiny_network(config)), indices=(0, 1), levels=levels, use_cache=use_cache)
        assert sampler.evaluator.block_evaluations == 2 * count_block_evaluations(
            config.network, config.pyramid, config.diffusion, sampler.sampling, levels, use_cache=use_cache
        )


def of_the_paper(size):
    """The configuration of a size with the sampler of the paper."""
    config = load_config(size)
    sampling = dataclasses.replace(config.sampling, **named_sampler("paper", config.sampling))
    return dataclasses.replace(config, sampling=sampling)


def test_counts_of_the_published_sizes():
    counts = {}
    for size, settings in itertools.product("SML", ({}, {"tilings": 2}, FAST)):
        config = of_the_paper(size)
        sampling = dataclasses.replace(config.sampling, **settings)
        count = count_block_evaluations(config.network, config.pyramid, config.diffusion, sampling)
        counts.setdefault(tuple(settings.items()), set()).add(count)
    paper, two, fast = (only for (only,) in counts.values())
    assert paper == 18682 + 6 + 18 * 4  # and one pass over each window that serves as context
    # Level 1: 4 frames-by-columns tiles or 9, of two frames each; level 2: 16 or 25 of four.
    assert two == 255 * 6 + 6 + 18 * 4 + 64 * 4 * 2 * (4 + 9) // 2 + 32 * 2 * 4 * (16 + 25) // 2
    assert fast == 255 * 6 + 6 + 18 * 4 + (14 * 4 + 13 * 1) * 4 * 2 + 7 * 2 * 4 * (16 + 9)
    assert paper > 5 * fast
    for size in "SML":
        config = load_config(size)
        own = count_block_evaluations(config.network, config.pyramid, config.diffusion, config.sampling)
        # Of 14 and 7 steps those above ten times the signal are left out: 11 and 5.
        assert own == 127 * 6 + 6 + 18 * 4 + 11 * 18 * 4 + 5 * 196 * 2 and paper > 5 * own
        changes = named_sampler("multistep", of_the_paper(size).sampling)
        assert dataclasses.replace(of_the_paper(size).sampling, **changes) == config.sampling


def test_a_plan_says_what_sampling_takes():
    assert sampling_evaluations(load_config("nano")) == 63 * 4 + 4 + 18 * 2 + 16 * 18 * 2 + 16 * 196
    assert sampling_evaluations(load_config("nano", ["sampling.steps=[2, 2]"])) is None


def test_samples_are_the_same_whatever_shares_their_calls(tiny):
    settings = {**FAST, "overlap": "w", "steps": (2, 4, 4)}
    sizes = CallSizes(sizes=(16,), threads=1)
    together, _ = videos_of(tiny, range(3), call_sizes=sizes, **settings)
    alone, _ = videos_of(tiny, (2,), call_sizes=sizes, **settings)
    assert all(torch.equal(a[2], b[0]) for a, b in zip(together, alone, strict=True))
    fastest, _ = videos_of(tiny, (2,), call_sizes=largest_calls(24), **settings)
    assert largest_calls(24).sizes == (1, 2, 4, 8, 16)
    for a, b in zip(fastest, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "settings", [{"tilings": 2}, {"start_noise": 1.0}, {"tile_weights": "feathered"}, {"solver": "multistep"}]
)
def test_every_option_changes_the_video(tiny, settings):
    plain, _ = videos_of(tiny, overlap="w", steps=(1, 3, 2))
    other, _ = videos_of(tiny, overlap="w", steps=(1, 3, 2), **settings)
    assert torch.equal(plain[0], other[0]) and not torch.equal(plain[2], other[2])


def test_latents_of_a_tile_are_those_of_its_last_use(tiny):
    config, network = tiny
    given = {}
    forward = network.forward_level

    def watched(level, patch, c_noise, labels, constants, latents=None, **options):
        out = forward(level, patch, c_noise, labels, constants, latents=latents, **options)
        if level == 1 and not options.get("keep_activations"):
            key = float(constants[-1][0].sum())  # a tile's constant is its own
            given.setdefault(key, []).append((latents[0].clone(), out.latents[0].clone()))
        return out

    network.forward_level = watched
    try:
        videos_of(
            tiny,
            levels=2,
            overlap="hw",
            tilings=2,
            tiling_borders="kept",
            steps=(1, 5),
            call_sizes=CallSizes(sizes=(1,), threads=1),
        )
    finally:
        del network.forward_level
    assert sorted(map(len, given.values())) == [2] * 2 + [3] * 8  # 2 shifted tiles, 8 others
    for uses in given.values():
        assert not uses[0][0].any()
        assert all(torch.equal(later[0], earlier[1]) for earlier, later in itertools.pairwise(uses))


@pytest.mark.parametrize("shrink", ["area", "stride"])
@pytest.mark.parametrize("split", ["fhw", "hw", "w"])
def test_enlarging_is_undone_by_shrinking(shrink, split):
    coarse = torch.rand(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fine = enlarge_video(coarse, shrink, split)
    assert fine.shape[2:] == tuple(n * (2 if axis in split else 1) for axis, n in zip("fhw", (4, 6, 8)))
    torch.testing.assert_close(shrink_video(fine, 2, shrink, split)[0], coarse, atol=1e-12, rtol=0)
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 1, 4, 6, 8)
    inner = enlarge_video(ramp, shrink, split)[..., 4:-4].diff(dim=-1)
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=1e-12, rtol=0)  # smooth, and where it was
    if "f" in split:
        frames = torch.arange(4, dtype=torch.float64)[:, None, None].expand(1, 1, 4, 6, 8)
        moved = enlarge_video(frames, shrink, split)[0, 0, :, 0, 0]
        assert moved[2:-2].diff().sub(0.5).abs().max() < 1e-12
        assert moved[0] == 0 or shrink == "area"
    with pytest.raises(InputError, match="shrink"):
        enlarge_video(coarse, "nearest")


def test_steps_above_the_start_are_left_out_at_the_same_spacing():
    config = of_the_paper("S")
    for start, levels in itertools.product((10.0, 2.0, 1.0, 0.1), (1, 2)):
        d, steps = config.diffusion, config.sampling.steps[levels]
        plan = plan_level(config.pyramid, d, dataclasses.replace(config.sampling, start_noise=start), levels)
        s_in = d.scale_in(levels)
        assert plan.sigmas[0].item() * s_in == pytest.approx(start) and plan.sigmas[-1] == 0
        assert plan.sigmas[-2].item() * s_in == pytest.approx(d.sigma_min)
        whole = d.noise_levels(levels, steps)
        below = int((whole[:-1] * s_in <= start).sum())
        assert abs(plan.steps - below) <= 1
        spacing = [float(sigmas[:-1].pow(1 / d.rho).diff().abs().max()) for sigmas in (plan.sigmas, whole)]
        assert spacing[0] == pytest.approx(spacing[1], rel=0.5 / (plan.steps - 1))
    first = plan_level(config.pyramid, config.diffusion, dataclasses.replace(config.sampling, start_noise=1.0), 0)
    assert first.steps == 128 and not first.from_parent
    above = plan_level(config.pyramid, config.diffusion, dataclasses.replace(config.sampling, start_noise=40.0), 1)
    assert not above.from_parent and torch.equal(above.sigmas, config.diffusion.noise_levels(1, 64))
    several = dataclasses.replace(config.sampling, start_noise=[2.0, 0.5])
    assert [several.start_of(level) for level in range(3)] == [None, 2.0, 0.5]
    assert plan_level(config.pyramid, config.diffusion, several, 2).sigmas[0].item() * s_in == pytest.approx(0.5)
    with pytest.raises(InputError, match="one for each level"):
        dataclasses.replace(config.sampling, start_noise=(2.0,)).start_of(2)
    with pytest.raises(InputError, match="sigma_min"):
        plan_level(config.pyramid, config.diffusion, dataclasses.replace(config.sampling, start_noise=0.008), 1)


def test_a_level_starts_from_the_one_below_with_noise_over_its_own_signal(tiny):
    config, _ = tiny
    network = KnownVideos(truth(2), PATCH)
    sampling = SamplingConfig(steps=(4, 4), overlap="hw", start_noise=1.5)
    sampler = TiledSampler(network, network.diffusion, sampling)
    seen, solver = [], tiled.euler
    try:
        tiled.euler = lambda canvas, y, sigmas, s_in: seen.append((y, sigmas, s_in)) or solver(canvas, y, sigmas, s_in)
        coarse, _ = sampler.sample([0], [0], 0)
    finally:
        tiled.euler = solver
    ((y, sigmas, s_in),) = seen
    noise = s_in * y - enlarge_video(coarse)
    assert noise.std() == pytest.approx(1.5, rel=0.1) and float(sigmas[0]) * s_in == pytest.approx(1.5)
    assert abs(float(F.avg_pool3d(noise, 2).mean())) < 0.3


def test_patches_by_index_are_those_by_slice():
    canvas = torch.randn(3, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([[0, 4, 4], [4, 0, 0], [2, 3, 1], [4, 4, 4]])
    rows, patch = [2, 0, 1, 2], (4, 3, 2)
    found = gather_patches(canvas, rows, starts, patch)
    for row, (f, h, w), patch_found in zip(rows, starts.tolist(), found):
        assert torch.equal(patch_found, canvas[row, :, f : f + 4, h : h + 3, w : w + 2])
    assert found.is_contiguous()
    again = torch.zeros_like(canvas)
    scatter_patches(again, rows, starts, found)
    assert torch.equal(gather_patches(again, rows, starts, patch), found)
    assert int((again != 0).sum()) == 4 * 2 * 4 * 3 * 2


@pytest.mark.parametrize("settings", [{**FAST, "guidance": 2.0, "steps": (2, 3, 2)}, {"tilings": 2}])
def test_a_gpu_s_way_to_read_and_write_patches_gives_the_same_videos(tiny, monkeypatch, settings):
    settings = {"overlap": "hw", **settings}
    plain, _ = videos_of(tiny, (0, 1), **settings)
    monkeypatch.setattr(groups, "by_index", lambda canvas: True)
    again, _ = videos_of(tiny, (0, 1), **settings)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_tiles_are_grouped_by_the_tilings_they_are_in():
    pyramid = Pyramid(levels=2, patch=PATCH)
    plan = plan_level(pyramid, load_config("nano").diffusion, SamplingConfig(steps=(2, 4), tilings=2, overlap="w"), 1)
    grouped = {numbers: starts.tolist() for numbers, starts in group_starts(plan.tilings)}
    assert {start[2] for start in grouped[frozenset({1})]} == {2}
    assert {start[2] for start in grouped[frozenset({0, 1})]} == {0, 4}  # also at the borders of the shifted tiling
    assert plan.turns == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tilings": 0},
        {"averaged_steps": -1},
        {"start_noise": 0.0},
        {"start_noise": ()},
        {"start_noise": (1.0, -1.0)},
        {"tile_weights": "round"},
        {"tiling_borders": "open"},
        {"solver": "rk4"},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        SamplingConfig(**wrong)
