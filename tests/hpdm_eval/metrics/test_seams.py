"""Seams against steps computed by hand, brute force, and seams put into clips; on real video where it is at hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from hpdm.support.errors import InputError
from hpdm_eval.clips.source import open_clips
from hpdm_eval.metrics.score_tests import TOLERANCE, benjamini_hochberg, mean_above, mean_interval, permuted_above
from hpdm_eval.metrics.seam_contrasts import CLIP, FLOOR, axis_contrasts, random_levels, third_difference
from hpdm_eval.metrics.seam_tests import WEAK, judge_seams, standing
from hpdm_eval.metrics.seams import (
    Lattice,
    all_moves,
    border_excess,
    lattice_moves,
    lattice_score,
    measure_clip,
    move_profile,
    parse_patch,
    rescore,
    seam_lattices,
    with_step,
)
from hpdm_eval.protocols import load_protocol
from hpdm_eval.studies.validation.seam_injection import KINDS, inject_seams

PATCH = (8, 32, 32)


def textured(seed, shape=(16, 96, 96)):
    """A clip of smooth random texture that drifts: uint8 [T,H,W,3]."""
    rng = np.random.default_rng(seed)
    frames, height, width = shape
    noise = gaussian_filter(rng.normal(size=(height + frames, width)), 3)
    noise = 128 + 30 * noise / noise.std()
    video = np.stack([noise[k // 2 : k // 2 + height] for k in range(frames)])
    video = video[..., None] + rng.normal(0, 1, size=(*shape, 3))
    return np.clip(video, 0, 255).astype(np.uint8)


def measured(count, patch=PATCH, kind="none", amount=0, first=0, lossless=False, shape=(16, 96, 96)):
    lattices = seam_lattices(patch, lossless=lossless)
    clips = [
        measure_clip(inject_seams(textured(first + k, shape), patch, kind, amount, k), lattices, f"clip {k}")
        for k in range(count)
    ]
    return clips, lattices


def by_key(figures):
    return {(figure.axis, figure.statistic): figure for figure in figures}


@given(st.integers(2, 17), st.floats(-50, 50), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_the_third_difference_is_the_height_of_a_step_on_a_parabola(place, height, curve):
    x = np.arange(20.0)
    values = np.polyval(curve, x / 4) + height * (x >= place)
    s = third_difference(values, 0)
    assert s.shape == (17,)
    expected = np.zeros(21)
    expected[place - 1 : place + 2] = np.array([-0.5, 1, -0.5]) * height
    assert s == pytest.approx(expected[2:19], abs=1e-9)


def test_contrasts_agree_with_a_plain_loop():
    """Along each axis, both statistics, one position at a time; tiles do not divide the clip."""
    video = textured(3, (10, 38, 44))
    finest = {"f": 4, "h": 16, "w": 16}
    luma = video @ np.array([0.299, 0.587, 0.114])
    for number, axis in enumerate("fhw"):
        size = video.shape[number]
        moved = np.moveaxis(luma, number, 0)
        others = [name for name in "fhw" if name != axis]
        logs = {"step": {}, "coherent-step": {}}
        for p in range(2, size - 1):
            s = 1.5 * (moved[p] - moved[p - 1]) - 0.5 * (moved[p + 1] - moved[p - 2])
            tiles = [
                s[a : a + finest[others[0]], b : b + finest[others[1]]]
                for a in range(0, s.shape[0], finest[others[0]])
                for b in range(0, s.shape[1], finest[others[1]])
            ]
            logs["coherent-step"][p] = [
                np.log(
                    abs(np.clip(tile, -CLIP["coherent-step"], CLIP["coherent-step"]).mean()) + FLOOR["coherent-step"]
                )
                for tile in tiles
            ]
            strips = (
                tiles
                if axis == "f"
                else [s[:, b : b + finest[others[1]]] for b in range(0, s.shape[1], finest[others[1]])]
            )
            logs["step"][p] = [np.log(np.minimum(abs(strip), CLIP["step"]).mean() + FLOOR["step"]) for strip in strips]
        found = axis_contrasts(video, axis, finest)
        for statistic, values in logs.items():
            for p in range(3, size - 2):
                near = [values[q] for q in range(p - 6, p + 7) if abs(q - p) > 1 and q in values]
                expected = np.array(values[p]) - np.median(near, axis=0)
                assert found[statistic][p] == pytest.approx(expected, abs=2e-3), (axis, statistic, p)
            assert np.isnan(found[statistic][[0, 1, 2, size - 2, size - 1, size]]).all()


def test_lattices_name_half_periods_where_tiles_overlap_and_coarser_levels():
    found = {(lattice.axis, lattice.period): lattice.finest for lattice in seam_lattices((16, 64, 64), "w", levels=2)}
    assert found == {
        ("f", 16): 16,
        ("f", 32): 16,
        ("h", 64): 64,
        ("h", 128): 64,
        ("w", 32): 32,
        ("w", 64): 32,
        ("w", 128): 32,
    }
    assert {lattice.axis for lattice in seam_lattices((1, 16, 16))} == {"h", "w"}
    with pytest.raises(InputError, match="cannot overlap"):
        seam_lattices((15, 64, 64), "f")
    with pytest.raises(InputError, match="unknown overlap"):
        seam_lattices((16, 64, 64), "x")


@pytest.mark.parametrize("text", ["16x64", "16x64x0", "a", "", "-1x2x3", None])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="write frames x height x width"):
        parse_patch(text)


@given(st.sampled_from("fhw"), st.integers(2, 7), st.booleans(), st.booleans())
def test_moves_keep_to_the_codec_and_off_every_border(axis, power, halved, lossless):
    period = 2**power
    finest = period // 2 if halved and period >= 8 else period
    lattice = Lattice(axis=axis, period=period, finest=finest, block=1 if lossless else {"f": 4}.get(axis, 16))
    moves, kept, step = lattice_moves(lattice)
    assert len(moves) and (moves % step == 0).all() and kept == (step == lattice.block)
    assert (moves % finest != 0).all() and (abs(moves) < period).all()
    assert (np.sort(-moves) == moves).all() and set(moves) <= set(all_moves(lattice))
    if not lossless and axis != "f":
        assert kept == (finest >= 32)


def test_a_profile_is_the_median_over_lines_of_the_moved_lattice():
    lattice = Lattice(axis="w", period=32, finest=32, block=16)
    values = np.random.default_rng(0).normal(size=121)
    profile = move_profile(values, lattice)
    for move in range(-31, 32):
        lines = np.array([32, 64, 96]) + move
        if lines[0] >= 3 and lines[-1] <= 117:
            assert profile[31 + move] == np.median(values[lines])
        else:
            assert np.isnan(profile[31 + move])
    assert lattice_score(profile, lattice) == pytest.approx(profile[31] - (profile[15] + profile[47]) / 2)
    # 240 rows: the last line, 224, cannot be moved on by a block, so it is left out on both sides
    values = np.random.default_rng(1).normal(size=241)
    profile = move_profile(values, lattice)
    assert profile[31] == np.median(values[32:224:32]) and profile[47] == np.median(values[48:224:32])


def test_an_edge_at_one_height_does_not_count():
    """A letterbox whose edge sits exactly on a line of the lattice."""
    lattices = seam_lattices((16, 64, 64))
    video = textured(1, (16, 256, 256))
    before = measure_clip(video, lattices).scores
    video[:, :64] = 0
    after = measure_clip(video, lattices).scores
    assert axis_contrasts(video, "h", {"f": 16, "h": 64, "w": 64})["step"][64].mean() > 1
    assert after["h", 64, "step"] < before["h", 64, "step"] + 0.15


def test_blocks_of_a_codec_cancel():
    """Steps at all multiples of 16 are no seam of period 64; steps at multiples of 64 on top of them are."""
    shape = (16, 192, 192)
    lattices = seam_lattices((16, 64, 64))
    clips = [inject_seams(textured(k, shape), (16, 16, 16), "brightness", 6, k) for k in range(6)]
    blocks = by_key(judge_seams([measure_clip(clip, lattices) for clip in clips], lattices))
    assert not any(figure.significant for figure in blocks.values())
    assert all(abs(figure.excess) < 0.2 for figure in blocks.values())
    clips = [inject_seams(clip, (16, 64, 64), "shift", 3, k) for k, clip in enumerate(clips)]
    both = by_key(judge_seams([measure_clip(clip, lattices) for clip in clips], lattices))
    assert both["h", "step"].significant and both["w", "step"].significant


@pytest.mark.parametrize("kind, statistic", [("brightness", "coherent-step"), ("shift", "step")])
def test_excess_grows_with_the_seam_and_is_found_on_every_axis(kind, statistic):
    found = []
    for amount in (0, 1, 2, 4):
        clips, lattices = measured(8, kind=kind, amount=amount)
        found.append(by_key(judge_seams(clips, lattices)))
    for axis in "fhw":
        excess = [figures[axis, statistic].excess for figures in found]
        assert excess == sorted(excess) and excess[1] > excess[0] + 0.1, (axis, excess)
        assert not found[0][axis, statistic].significant
        assert found[2][axis, statistic].significant and found[3][axis, statistic].significant


def test_plain_clips_are_not_called_a_seam():
    for first in (100, 200, 300):
        clips, lattices = measured(8, first=first)
        assert not any(figure.significant for figure in judge_seams(clips, lattices))


def test_flat_and_black_clips_have_no_excess():
    lattices = seam_lattices(PATCH)
    for level in (0, 77, 255):
        scores = measure_clip(np.full((16, 96, 96, 3), level, dtype=np.uint8), lattices).scores
        assert scores and all(score == 0 for score in scores.values())


def test_a_short_period_has_no_verdict_unless_lossless_or_with_a_reference():
    patch, shape = (8, 16, 16), (16, 64, 64)
    clips, lattices = measured(8, patch, "shift", 3, shape=shape)
    figures = by_key(judge_seams(clips, lattices))
    assert figures["w", "step"].excess > 0.2 and figures["w", "step"].p_value < 0.01
    assert not figures["w", "step"].codec_matched and not figures["w", "step"].significant
    real, _ = measured(8, patch, first=50, shape=shape)
    assert by_key(judge_seams(clips, lattices, reference=real))["w", "step"].significant
    clips, lattices = measured(8, patch, "shift", 3, shape=shape, lossless=True)
    assert by_key(judge_seams(clips, lattices))["w", "step"].significant


def test_a_reference_with_the_same_blocks_takes_them_away():
    """Steps of period 16 in both are nothing; in the samples alone they are seams."""
    lattices = seam_lattices((16, 16, 16))

    def stepped(first, amount):
        return [
            measure_clip(
                inject_seams(textured(first + k, (16, 64, 64)), (16, 16, 16), "brightness", amount, k), lattices
            )
            for k in range(8)
        ]

    same = judge_seams(stepped(0, 4), lattices, reference=stepped(20, 4))
    assert not any(figure.significant for figure in same)
    figures = by_key(judge_seams(stepped(0, 4), lattices, reference=stepped(20, 0)))
    figure = figures["w", "coherent-step"]
    assert figure.significant and figure.excess > 0.5
    assert figure.excess == pytest.approx(figure.excess_samples - figure.excess_reference)
    assert figure.ci95[0] < figure.excess < figure.ci95[1]


@pytest.mark.parametrize(
    "patch, shape", [((16, 32, 64), (40, 96, 130)), ((8, 32, 32), (80, 72, 72)), ((16, 32, 32), (12, 96, 96))]
)
def test_a_clip_is_also_measured_with_a_step_of_one_grey_level(patch, shape):
    """As if its tiles had been raised before; long clips are thinned, short ones have one tile in time."""
    lattices = seam_lattices(patch, levels=2)
    video = np.clip(textured(3, shape), 0, 254)
    clip = measure_clip(video, lattices)
    levels = random_levels(video, {lattice.axis: lattice.finest for lattice in lattices})
    assert set(levels.ravel()) == {0, 1}
    plane = levels
    for axis, size in enumerate(patch):
        plane = plane.repeat(size, axis=axis).take(range(shape[axis]), axis=axis)
    raised = measure_clip((video + plane[..., None]).astype(np.uint8), lattices)
    assert clip.stepped.keys() == clip.values.keys() == raised.values.keys() and len(clip.values) >= 4
    for key, values in clip.stepped.items():
        assert np.allclose(values, raised.values[key], atol=1e-4, equal_nan=True)
        assert np.nanmax(np.abs(values - clip.values[key])) > 0.004
    scored = rescore(with_step(clip), lattices)
    assert scored.scores.keys() == raised.scores.keys()
    assert all(scored.scores[key] == pytest.approx(score, abs=1e-3) for key, score in raised.scores.items())


def noisy(seed, amount, kind="brightness", noise=12.0, shape=(16, 96, 96)):
    """Tiles of 8x32x32 in noise, in which small steps drown."""
    rng = np.random.default_rng(seed)
    video = np.clip(128 + noise * rng.normal(size=(*shape, 1)), 0, 255).repeat(3, axis=-1).astype(np.uint8)
    return inject_seams(video, PATCH, kind, amount, seed)


@pytest.mark.parametrize("with_reference", [False, True])
def test_no_seam_is_said_only_where_a_step_would_be_found(with_reference):
    """Without one, no seam in enough clips, no verdict in few; a seam is one in few clips too."""
    lattices = seam_lattices(PATCH, lossless=True)

    def judged(count, amount, noise):
        clips = [measure_clip(noisy(k, amount, noise=noise), lattices) for k in range(count)]
        real = (
            [measure_clip(noisy(100 + k, 0, noise=noise), lattices) for k in range(count)] if with_reference else None
        )
        return judge_seams(clips, lattices, reference=real)

    assert all(figure.significant is False and figure.reason is None for figure in judged(24, 0, 1.0))
    few = judged(4, 0, 12.0)
    assert all(figure.significant is None and figure.reason == WEAK.format(4) for figure in few)
    assert {"no verdict"} == {figure.verdict for figure in few}
    figures = judged(6, 24, 12.0)
    seamed = {figure.axis for figure in figures if figure.significant}
    assert seamed and all(figure.reason is None for figure in figures if figure.axis in seamed)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1.0, 3.0, 6.0])
def test_where_a_verdict_is_given_steps_are_found(noise):
    """Sets of eight clips: none is called seamed; of those that could get a verdict, stepped ones are called."""
    lattices, found, missed, wrong = seam_lattices(PATCH, lossless=True), 0, 0, 0
    for first in range(0, 200, 8):
        wrong += any(
            figure.significant
            for figure in judge_seams(
                [measure_clip(noisy(first + k, 0, noise=noise), lattices) for k in range(8)], lattices
            )
        )
        figures = judge_seams([measure_clip(noisy(first + k, 1, noise=noise), lattices) for k in range(8)], lattices)
        for axis in "fhw":
            own = [figure.significant for figure in figures if figure.axis == axis]
            found += any(own)
            missed += not any(own) and False in own
    assert wrong <= 3 and missed <= 0.08 * (found + missed) and (noise > 1 or found > 60)


def test_where_the_seam_is():
    """One border of one tile is raised; the map names it."""
    lattices = seam_lattices((16, 32, 32))
    excess = 0
    for k in range(6):
        video = textured(k, (16, 128, 128)).astype(int)
        video[:, 32:64, 64:] += 6
        edges = measure_clip(np.clip(video, 0, 255).astype(np.uint8), lattices).edges["w", "coherent-step"]
        lines, values = edges
        assert lines.tolist() == [32, 64, 96] and values.shape == (3, 4)
        excess = excess + values
    assert np.unravel_index(excess.argmax(), excess.shape) == (1, 1)


def test_borders_are_averaged_over_tiles_in_time():
    lattice = Lattice(axis="w", period=32, finest=32, block=16)
    contrast = np.random.default_rng(0).normal(size=(129, 6))
    lines, values = border_excess(contrast, lattice, 3)
    expected = contrast[64].reshape(2, 3).mean(0) - contrast[[48, 80]].reshape(2, 2, 3).mean((0, 1))
    assert values[lines.tolist().index(64)] == pytest.approx(expected, abs=1e-6)


def test_axes_without_a_border_are_left_out():
    lattices = seam_lattices((16, 64, 64))
    clip = measure_clip(textured(0, (16, 64, 160)), lattices)
    assert {key[0] for key in clip.scores} == {"w"}
    assert judge_seams([measure_clip(textured(0, (16, 64, 64)), lattices)], lattices) == []


def test_long_clips_are_thinned_for_space_but_not_for_time():
    lattices = seam_lattices((8, 32, 32))
    video = np.concatenate([textured(4, (64, 72, 72))] * 3)
    thin = measure_clip(video, lattices)
    assert thin.profiles["f", 8, "step"].shape == (15,) and len(thin.edges["f", "step"][0]) == 23
    assert {key[0] for key in thin.scores} == {"f", "h", "w"}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_by_definition(p_values):
    ordered = sorted(p_values)
    count = max([k + 1 for k, p in enumerate(ordered) if p <= 0.05 * (k + 1) / len(ordered)], default=0)
    limit = ordered[count - 1] if count else -1
    assert benjamini_hochberg(p_values).tolist() == [p <= limit for p in p_values]


def test_tests_hold_their_level_and_intervals_their_coverage():
    """Skewed scores, at the edge of the null hypothesis."""
    rng = np.random.default_rng(0)
    scores = rng.gamma(2, 0.05, size=(400, 16)) - 0.1 + TOLERANCE
    one = np.mean([mean_above(row) < 0.05 for row in scores])
    two = np.mean([permuted_above(row[:8], row[8:] - TOLERANCE, TOLERANCE, rng, draws=199) <= 0.05 for row in scores])
    covered = [low <= TOLERANCE <= high for low, high in (mean_interval(row, rng, 300) for row in scores[:200])]
    assert one < 0.07 and 0.02 < two < 0.09 and np.mean(covered) > 0.9


def test_few_or_equal_scores_get_no_verdict_by_accident():
    assert mean_above(np.full(3, 9.0)) == 1 and mean_interval(np.full(3, 9.0), np.random.default_rng(0)) is None
    assert mean_above(np.zeros(8)) == 1 and mean_above(np.full(8, 0.3)) == 0
    assert mean_interval(np.zeros(8), np.random.default_rng(0)) == (0, 0)


def test_standing_ranks_the_lattice_among_its_moves():
    lattice = Lattice(axis="w", period=32, finest=32, block=16)
    rng = np.random.default_rng(0)
    profile = rng.normal(0, 0.01, 63)
    profile[[15, 31, 47]] += 0.7  # the codec's blocks, the lattice among them
    z, rank, phases, p_value = standing(profile, lattice)
    assert abs(z) < 4 and phases > 50 and (p_value < 0.5) == (z > 0)
    profile[31] += 0.2
    z, rank, _, p_value = standing(profile, lattice)
    assert z > 10 and rank == 1 and p_value < 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_injection_changes_what_it_says(kind):
    video = textured(0)
    changed = inject_seams(video, PATCH, kind, 1, 3)
    assert changed.shape == video.shape and changed.dtype == np.uint8
    assert (inject_seams(video, PATCH, kind, 1, 3) == changed).all() and (changed == video).all() == (kind == "none")
    assert (inject_seams(video, PATCH, kind, 0, 3) == video).all()
    if kind == "brightness":
        assert set(np.unique(changed.astype(int) - np.clip(video, 0, 254))) <= {0, 1}
    if kind == "shift":
        tile = changed[:8, 32:64, 32:64]
        moves = [(0, 1), (0, -1), (1, 0), (-1, 0)]
        assert any((tile == video[:8, 32 + a : 64 + a, 32 + b : 64 + b]).all() for a, b in moves)
    with pytest.raises(InputError, match="unknown kind"):
        inject_seams(video, PATCH, "nonesuch", 1)


@pytest.fixture(scope="module")
def real_clips(shared):
    """Sixteen clips of different scenes, 24 frames each."""
    source = open_clips(
        shared / "data" / "ucf101-mini" / "videos",
        load_protocol("native", frames=24, samples_selection="shuffled"),
        num=40,
        workers=0,
        quiet=True,
    )
    scenes = {}
    for clip in source:
        scenes.setdefault(clip.name.rsplit("_", 1)[0], clip.video)
    return list(scenes.values())[:16]


@pytest.mark.parametrize("kind, amount", [("none", 0), ("brightness", 1), ("shift", 1)])
def test_sixteen_real_clips(real_clips, kind, amount):
    """A step of one grey level and a shift by one pixel are found on every axis; nothing is found without."""
    patch = (16, 64, 64)
    lattices = seam_lattices(patch)
    clips = [measure_clip(inject_seams(video, patch, kind, amount, k), lattices) for k, video in enumerate(real_clips)]
    figures = judge_seams(clips, lattices)
    assert {figure.axis for figure in figures if figure.significant} == (set() if kind == "none" else set("fhw"))


@pytest.mark.parametrize("sheet, grid", [("provided-pvdm-16.mp4", "1x8"), ("provided-digan-128.mp4", "1x8+2")])
def test_published_samples_have_no_tile_seams(shared, sheet, grid):
    """PVDM's show steps at all multiples of 16, which are its codec's, or its autoencoder's, but not tiles'."""
    clips = list(
        open_clips(
            shared / "data" / "published-samples" / sheet,
            load_protocol("native", frames=16),
            grid=grid,
            workers=0,
            quiet=True,
        )
    )
    for size in (64, 32):
        lattices = seam_lattices((16, size, size))
        figures = judge_seams([measure_clip(clip.video, lattices) for clip in clips], lattices)
        assert len(figures) == 4 and not any(figure.significant for figure in figures)
