from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hpdm.pyramid import (
    OVERLAPS,
    WINDOW_ORDERS,
    Pyramid,
    extract_patches,
    parent_coordinates,
    parent_tiles,
    sample_windows,
    shrink_video,
    tile_starts,
    token_centres,
)
from hpdm.support.errors import InputError

UCF = Pyramid(levels=3, patch=(16, 64, 64))

sizes = st.integers(1, 12)
pyramids = st.builds(lambda levels, *r: Pyramid(levels=levels, patch=r), st.integers(1, 5), sizes, sizes, sizes)
even_pyramids = st.builds(
    lambda levels, *r: Pyramid(levels=levels, patch=tuple(2 * n for n in r)),
    st.integers(2, 4),
    *[st.integers(1, 5)] * 3,
)
seeds = st.integers(0, 2**32)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def extent(start, level, r):
    """First and last point of a window along one axis, exact fractions of the video."""
    return Fraction(start, r * 2**level), Fraction(start + r, r * 2**level)


def contains(outer, inner):
    return outer[0] <= inner[0] and inner[1] <= outer[1]


@given(pyramids, seeds, st.sampled_from(WINDOW_ORDERS))
def test_every_window_lies_inside_all_its_parents(pyramid, seed, order):
    windows = sample_windows(pyramid, 4, seeded(seed), order)
    assert windows.shape == (4, pyramid.levels, 3) and windows.dtype == torch.int64
    for starts in windows.tolist():
        for axis, r in enumerate(pyramid.patch):
            extents = [extent(start[axis], level, r) for level, start in enumerate(starts)]
            assert extents[0] == (0, 1)
            for level, inner in enumerate(extents):
                assert inner[1] - inner[0] == Fraction(pyramid.scale(level))
                assert all(contains(outer, inner) for outer in extents[:level])


def chain_probabilities(r, levels, order):
    """Probability of every nested chain of starts along one axis, by enumeration."""
    nested = [
        chain
        for chain in product(*[range(r * (2**level - 1) + 1) for level in range(levels)])
        if all(2 * a <= b <= 2 * a + r for a, b in pairwise(chain))
    ]
    steps = range(levels) if order == "coarse-first" else range(levels - 1, -1, -1)
    probabilities = dict.fromkeys(nested, Fraction(1))
    drawn = []
    for level in steps:
        options = {}
        for chain in nested:
            options.setdefault(tuple(chain[k] for k in drawn), set()).add(chain[level])
        for chain in nested:
            probabilities[chain] /= len(options[tuple(chain[k] for k in drawn)])
            if order == "finest-first" and level < levels - 1:
                # Given the finer window, what is finer still does not matter.
                assert {c[level] for c in nested if c[level + 1] == chain[level + 1]} == options[
                    tuple(chain[k] for k in drawn)
                ]
        drawn.append(level)
    return probabilities


@pytest.mark.parametrize("order", WINDOW_ORDERS)
def test_windows_have_the_stated_distribution(order):
    pyramid = Pyramid(levels=3, patch=(1, 2, 3))
    n = 40_000
    windows = sample_windows(pyramid, n, seeded(1), order)
    for axis, r in enumerate(pyramid.patch):
        probabilities = chain_probabilities(r, 3, order)
        assert sum(probabilities.values()) == 1
        chains, counts = windows[:, :, axis].unique(dim=0, return_counts=True)
        observed = dict(zip(map(tuple, chains.tolist()), counts.tolist(), strict=True))
        assert observed.keys() == probabilities.keys()
        for chain, p in probabilities.items():
            assert abs(observed[chain] - n * p) < 5 * float(n * p * (1 - p)) ** 0.5


@pytest.mark.parametrize("order", WINDOW_ORDERS)
def test_windows_follow_the_generator(order):
    again = [sample_windows(UCF, 8, seeded(seed), order) for seed in (3, 3, 4)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_finest_first_favours_no_place():
    finest = sample_windows(UCF, 20_000, seeded(0), "finest-first")[:, -1].double()
    last = torch.tensor([48.0, 192.0, 192.0]).double()
    # Uniform on 0..last: mean last / 2, standard deviation sqrt(((last + 1)^2 - 1) / 12).
    std = (((last + 1) ** 2 - 1) / 12).sqrt()
    assert ((finest.mean(0) - last / 2).abs() < 5 * std / 20_000**0.5).all()
    torch.testing.assert_close(finest.std(0), std, rtol=0.02, atol=0)
    chained = sample_windows(UCF, 20_000, seeded(0), "coarse-first")[:, -1].double()
    assert (chained.std(0) < 0.95 * std).all()


def block_mean(video, factors):
    """Mean over blocks, with NumPy's axes instead of pooling."""
    for dim, factor in zip((2, 3, 4), factors, strict=True):
        video = video.unflatten(dim, (-1, factor)).mean(dim + 1)
    return video


def test_each_level_is_the_mean_of_the_next():
    video = torch.rand(2, 3, 8, 16, 24)
    shrunk = shrink_video(video, 3)
    assert torch.equal(shrunk[-1], video)
    for coarse, fine in pairwise(shrunk):
        torch.testing.assert_close(coarse, block_mean(fine, (2, 2, 2)), rtol=0, atol=1e-6)
    torch.testing.assert_close(shrunk[0], block_mean(video, (4, 4, 4)), rtol=0, atol=1e-6)


def test_strided_shrinking_keeps_frames_whole():
    video = torch.rand(2, 3, 8, 16, 24)
    shrunk = shrink_video(video, 3, "stride")
    torch.testing.assert_close(shrunk[1], block_mean(video[:, :, ::2], (1, 2, 2)), rtol=0, atol=1e-6)
    torch.testing.assert_close(shrunk[0], block_mean(video[:, :, ::4], (1, 4, 4)), rtol=0, atol=1e-6)


@given(st.integers(1, 3), st.tuples(*[st.integers(1, 4)] * 3), seeds, st.sampled_from(WINDOW_ORDERS))
def test_patches_are_slices_of_the_shrunken_video(levels, patch, seed, order):
    pyramid = Pyramid(levels=levels, patch=patch)
    video = torch.rand(2, 3, *pyramid.resolution(levels - 1), dtype=torch.float64)
    windows = sample_windows(pyramid, 2, seeded(seed), order)
    patches = extract_patches(video, windows)
    assert len(patches) == levels
    for level, got in enumerate(patches):
        factor = 2 ** (levels - 1 - level)
        for i in range(2):
            f, h, w = (windows[i, level] * factor).tolist()
            rf, rh, rw = (n * factor for n in patch)
            piece = video[i : i + 1, :, f : f + rf, h : h + rh, w : w + rw]
            torch.testing.assert_close(got[i : i + 1], block_mean(piece, [factor] * 3), rtol=0, atol=1e-12)


def test_coarse_patch_shows_what_the_fine_one_shows():
    windows = sample_windows(UCF, 1, seeded(5))
    even = windows - windows % 2
    even[:, 1] = 2 * (even[:, 2] // 4)
    video = torch.rand(1, 3, 64, 256, 256)
    _, middle, fine = extract_patches(video, even)
    f, h, w = ((even[0, 2] - 2 * even[0, 1]) // 2).tolist()
    torch.testing.assert_close(
        middle[:, :, f : f + 8, h : h + 32, w : w + 32], block_mean(fine, (2, 2, 2)), rtol=0, atol=1e-6
    )


@given(pyramids, seeds, st.tuples(*[st.integers(1, 6)] * 3))
def test_token_centres_are_the_middles_of_equal_parts(pyramid, seed, tokens):
    windows = sample_windows(pyramid, 2, seeded(seed))
    level = pyramid.levels - 1
    centres = token_centres(windows[:, level], level, pyramid, tokens)
    for axis, (centre, n, r) in enumerate(zip(centres, tokens, pyramid.patch, strict=True)):
        assert centre.shape == (2, n) and centre.dtype == torch.float64
        for i in range(2):
            low, high = extent(windows[i, level, axis].item(), level, r)
            want = [float(low + (high - low) * Fraction(2 * k + 1, 2 * n)) for k in range(n)]
            assert centre[i].tolist() == pytest.approx(want, abs=1e-12)


@given(pyramids, seeds, st.tuples(*[st.integers(1, 6)] * 3), st.sampled_from(WINDOW_ORDERS))
def test_coordinates_agree_with_grid_sample_on_a_ramp(pyramid, seed, tokens, order):
    windows = sample_windows(pyramid, 3, seeded(seed), order)
    level = pyramid.levels - 1
    child = token_centres(windows[:, level], level, pyramid, tokens)
    for parent in range(level):
        u = parent_coordinates(windows[:, level], level, windows[:, parent], parent, pyramid, tokens)
        assert all(((x >= 0) & (x <= 1)).all() for x in u)
        frames, rows, columns = (2 * x - 1 for x in u)
        shape = (3, *tokens)
        grid = torch.stack(
            [
                columns[:, None, None, :].expand(shape),
                rows[:, None, :, None].expand(shape),
                frames[:, :, None, None].expand(shape),
            ],
            dim=-1,
        )
        # What each of the parent's tokens holds: its own position in the video, one channel per axis.
        f, h, w = token_centres(windows[:, parent], parent, pyramid, tokens)
        ramp = torch.stack(
            [f[:, :, None, None].expand(shape), h[:, None, :, None].expand(shape), w[:, None, None, :].expand(shape)],
            dim=1,
        )
        sampled = F.grid_sample(ramp, grid, mode="bilinear", padding_mode="border", align_corners=False)
        for axis, (own, parents) in enumerate(zip(child, (f, h, w), strict=True)):
            # Beyond the parent's outermost token centres the border's value repeats.
            want = torch.clamp(own, parents[:, :1], parents[:, -1:])
            want = want.reshape(3, *[-1 if k == axis else 1 for k in range(3)]).expand(shape)
            torch.testing.assert_close(sampled[:, axis], want, rtol=0, atol=1e-6)


def test_coordinates_of_a_window_in_itself_and_in_single_precision():
    start = torch.tensor([[7, 100, 31]])
    u = parent_coordinates(start, 2, start, 2, UCF, (16, 16, 16))
    for x in u:
        torch.testing.assert_close(x[0], (torch.arange(16).double() + 0.5) / 16, rtol=0, atol=1e-12)
    assert {x.dtype for x in parent_coordinates(start, 2, start, 2, UCF, (4, 4, 4), dtype=torch.float32)} == {
        torch.float32
    }


@given(even_pyramids, st.sampled_from(OVERLAPS))
def test_tiles_cover_the_video_and_no_more(pyramid, overlap):
    level = min(pyramid.levels - 1, 2)
    canvas = torch.zeros(pyramid.resolution(level))
    rf, rh, rw = pyramid.patch
    tiles = tile_starts(pyramid, level, overlap).tolist()
    for f, h, w in tiles:
        assert canvas[f : f + rf, h : h + rh, w : w + rw].shape == (rf, rh, rw)
        canvas[f : f + rf, h : h + rh, w : w + rw] += 1
    axes = 0 if overlap == "none" else len(overlap)
    assert canvas.min() == 1 and canvas.max() == 2**axes
    assert len({tuple(t) for t in tiles}) == len(tiles) == (2 * 2**level - 1) ** axes * (2**level) ** (3 - axes)


canvases = st.tuples(*[st.integers(1, 3)] * 3)


@given(even_pyramids, st.sampled_from(OVERLAPS), canvases)
def test_tiles_of_a_larger_canvas_have_parents_down_to_level_0(pyramid, overlap, canvas):
    level = min(pyramid.levels - 1, 2)
    tiles = tile_starts(pyramid, level, overlap, canvas)
    ends = tiles.max(0).values + torch.tensor(pyramid.patch)
    assert ends.tolist() == list(pyramid.resolution(level, canvas))
    for parent in range(level):
        offset = tiles - (parent_tiles(pyramid, level, tiles, parent, overlap, canvas) << (level - parent))
        room = torch.tensor(pyramid.patch) * (2 ** (level - parent) - 1)
        assert (offset >= 0).all() and (offset <= room).all()
    covered = torch.zeros(pyramid.resolution(level, canvas), dtype=torch.bool)
    for f, h, w in tiles.tolist():
        rf, rh, rw = pyramid.patch
        covered[f : f + rf, h : h + rh, w : w + rw] = True
    assert covered.all()


@pytest.mark.parametrize("overlap, middle, fine", [("none", 8, 64), ("hw", 18, 196), ("fhw", 27, 343)])
def test_tiles_and_parents_of_ucf(overlap, middle, fine):
    assert len(tile_starts(UCF, 0, overlap)) == 1
    parents = {tuple(t) for t in tile_starts(UCF, 1, overlap).tolist()}
    tiles = tile_starts(UCF, 2, overlap)
    assert len(parents) == middle and len(tiles) == fine
    chosen = {tuple(t) for t in parent_tiles(UCF, 2, tiles, 1, overlap).tolist()}
    assert chosen == parents
    assert not parent_tiles(UCF, 2, tiles, 0, overlap).any()


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("pyramid", [UCF, Pyramid(levels=4, patch=(8, 36, 64))], ids=["ucf", "text-to-video"])
def test_parent_contains_its_tile_and_centres_it_best(pyramid, overlap):
    for level in range(1, pyramid.levels):
        tiles = tile_starts(pyramid, level, overlap)
        for parent in range(level):
            chosen = parent_tiles(pyramid, level, tiles, parent, overlap)
            candidates = {tuple(t) for t in tile_starts(pyramid, parent, overlap).tolist()}
            assert {tuple(t) for t in chosen.tolist()} <= candidates
            for axis, r in enumerate(pyramid.patch):
                pairs = set(zip(tiles[:, axis].tolist(), chosen[:, axis].tolist(), strict=True))
                windows = [extent(start, parent, r) for start in {c[axis] for c in candidates}]
                for tile, start in pairs:
                    inner, outer = extent(tile, level, r), extent(start, parent, r)
                    assert contains(outer, inner)
                    off_centre = min(abs(sum(w) - sum(inner)) for w in windows if contains(w, inner))
                    assert abs(sum(outer) - sum(inner)) == off_centre


@pytest.mark.parametrize("order", WINDOW_ORDERS)
def test_an_axis_that_is_not_split_has_one_window_on_every_level(order):
    whole, pyramid = (Pyramid(levels=3, patch=(4, 6, 8), split=split) for split in ("fhw", "hw"))
    windows = sample_windows(pyramid, 50, seeded(1), order)
    assert not windows[..., 0].any()
    assert torch.equal(windows[..., 1:], sample_windows(whole, 50, seeded(1), order)[..., 1:])
    places = parent_coordinates(windows[:, 2], 2, windows[:, 0], 0, pyramid, (4, 3, 4))
    torch.testing.assert_close(places[0], ((torch.arange(4) + 0.5) / 4).expand(50, 4).double())
    tiles = tile_starts(pyramid, 2, "fhw")
    assert len(tiles) == 7 * 7 and not tiles[:, 0].any()
    assert not parent_tiles(pyramid, 2, tiles, 1, "fhw")[:, 0].any()
    video = torch.rand(2, 3, 4, 24, 32)
    coarse = shrink_video(video, 3, split="hw")[0]
    torch.testing.assert_close(coarse, F.avg_pool3d(video, (1, 4, 4)))
    patches = extract_patches(video, windows[:2], split="hw")
    assert all(patch.shape == (2, 3, 4, 6, 8) for patch in patches) and torch.equal(patches[0], coarse)


def test_parents_of_a_tile_are_nested():
    # A tile's windows on all coarser levels form a chain, as in training.
    pyramid = Pyramid(levels=4, patch=(8, 36, 64))
    tiles = tile_starts(pyramid, 3, "fhw")
    offset = parent_tiles(pyramid, 3, tiles, 2, "fhw") - 2 * parent_tiles(pyramid, 3, tiles, 1, "fhw")
    assert (offset >= 0).all() and (offset <= torch.tensor(pyramid.patch)).all()


def test_tile_that_no_parent_contains_is_refused():
    with pytest.raises(ValueError, match="axis w"):
        parent_tiles(UCF, 2, torch.tensor([[0, 0, 96]]), 1, "none")


def test_resolutions():
    assert [UCF.resolution(level) for level in range(3)] == [(16, 64, 64), (32, 128, 128), (64, 256, 256)]
    assert [UCF.scale(level) for level in range(3)] == [1, 0.5, 0.25]
    assert Pyramid(levels=4, patch=[8, 36, 64]).resolution(3) == (64, 288, 512)


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda: Pyramid(levels=0, patch=(1, 1, 1)), "at least one level"),
        (lambda: Pyramid(levels=3, patch=(16, 64)), "three positive"),
        (lambda: Pyramid(levels=3, patch=(16, 64, 0)), "three positive"),
        (lambda: Pyramid(levels=3, patch=(16, 64, 64.5)), "three positive"),
        (lambda: tile_starts(UCF, 1, "wh"), "Unknown overlap"),
        (lambda: tile_starts(Pyramid(levels=2, patch=(3, 4, 4)), 1, "f"), "even"),
        (lambda: sample_windows(UCF, 1, seeded(0), "sideways"), "sideways"),
        (lambda: shrink_video(torch.zeros(1, 3, 4, 4, 4), 2, "nearest"), "nearest"),
        (lambda: shrink_video(torch.zeros(1, 3, 4, 6, 4), 3), "multiples of 4"),
    ],
)
def test_impossible_geometry_is_refused(ask, said):
    with pytest.raises(InputError, match=said):
        ask()
