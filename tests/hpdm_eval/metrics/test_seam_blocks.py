"""Blocks that clips went through: found in the clips, compared with their like, and told from steps between tiles."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from hpdm_eval.clips.coding import Codings, read_coding
from hpdm_eval.clips.resize import resize
from hpdm_eval.clips.source import open_clips
from hpdm_eval.metrics.score_tests import by_source, mean_t_interval
from hpdm_eval.metrics.seam_blocks import Blocks, find_blocks, fold
from hpdm_eval.metrics.seam_moves import match_moves, settle_lattices
from hpdm_eval.metrics.seam_tests import judge_seams, pool_seams
from hpdm_eval.metrics.seams import ClipSeams, Lattice, measure_clip, rescore, seam_lattices
from hpdm_eval.protocols import load_protocol
from hpdm_eval.studies.validation.seam_codecs import CODECS, Encode, Resize, combinations, encode_with, put_through
from hpdm_eval.studies.validation.seam_injection import inject_seams
from hpdm_eval.studies.validation.seam_verdicts import (
    judge_combination,
    load_measured,
    measure_combinations,
    page,
    save_measured,
)

PATCH = (16, 64, 64)


def textured(seed, shape=(6, 240, 240)):
    """A clip of smooth random texture that drifts: uint8 [T,H,W,3]."""
    rng = np.random.default_rng(seed)
    frames, height, width = shape
    noise = gaussian_filter(rng.normal(size=(height + frames, width)), 3)
    noise = 128 + 30 * noise / noise.std()
    video = np.stack([noise[k : k + height] for k in range(frames)])
    video = video[..., None] + rng.normal(0, 1, size=(*shape, 3))
    return np.clip(video, 0, 255).astype(np.uint8)


def blocked(seed, size=256, amount=6, **how):
    """The same with steps between blocks of 8, then resized."""
    clip = inject_seams(textured(seed), (16, 8, 8), "brightness", amount, seed)
    return resize(clip, (size, size), **how)


def judged(videos, patch=PATCH, lossless=True, **more):
    lattices = seam_lattices(patch, levels=2, lossless=lossless)
    clips = [measure_clip(video, lattices) for video in videos]
    return {(figure.axis, figure.period, figure.statistic): figure for figure in judge_seams(clips, lattices, **more)}


@given(st.floats(5, 40), st.floats(0, 1), st.integers(0, 99))
def test_folding_finds_the_period_of_a_comb(period, offset, seed):
    positions = np.arange(7, 250)
    values = np.random.default_rng(seed).normal(0, 0.05, len(positions))
    phase = (positions - offset * period) % period
    values += 0.5 * (np.minimum(phase, period - phase) < 0.75)
    tried = np.append(np.exp(np.linspace(np.log(4), np.log(84), 40)), period)
    tried = tried[(np.abs(tried / period % 1) > 0.02) | (tried == period)]  # multiples of it are right as well
    evidence, amplitude = fold(positions, values - values.mean(), tried)
    assert evidence[-1] > 7 and amplitude[-1] > 0.2


def test_folding_agrees_with_an_analysis_of_variance():
    from scipy.stats import f_oneway

    positions, rng = np.arange(5, 200), np.random.default_rng(1)
    values = rng.normal(size=len(positions))
    values -= values.mean()
    evidence, amplitude = fold(positions, values, np.array([12.0]))
    groups = [values[positions % 12 == phase] for phase in range(12)]
    assert evidence[0] == pytest.approx(-np.log10(f_oneway(*groups).pvalue))
    means = [group.mean() for group in groups]
    assert amplitude[0] == pytest.approx(max(means) - np.median(means))


def test_noise_has_no_period():
    lattices = seam_lattices(PATCH)
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = {
            ("w", statistic): rng.normal(0, 0.1, 257).astype(np.float32) for statistic in ("step", "coherent-step")
        }
        clips = [ClipSeams(name="", shape=(16, 256, 256), scores={}, profiles={}, edges={}, values=values)]
        found += bool(find_blocks(clips, "w", lattices[-1].finest))
    assert found <= 1


@pytest.mark.parametrize(
    "size, how", [(256, {}), (256, {"method": "bicubic", "antialias": True}), (180, {"antialias": True}), (288, {})]
)
def test_blocks_from_before_a_resize_are_found_and_no_seam(size, how):
    clips = [blocked(k, size, **how) for k in range(8)]
    lattices = seam_lattices(PATCH, lossless=True)
    measured = [measure_clip(clip, lattices) for clip in clips]
    period = 8 * size / 240
    for axis in "hw":
        (found,) = find_blocks(measured, axis, 64)
        assert any(found.period == pytest.approx(period * times, rel=0.004) for times in (1, 2, 4, 5, 10)), (
            axis,
            found,
        )
    figures = judged(clips)
    assert not any(figure.significant for figure in figures.values())
    before = settle_lattices(measured, lattices)
    assert all(lattice.blocks for lattice in before if lattice.axis != "f")


@pytest.mark.parametrize("how", [{}, {"method": "bicubic", "antialias": True}])
def test_a_step_of_the_tiles_is_found_over_resized_blocks(how):
    clips = [inject_seams(blocked(k, amount=3, **how), PATCH, "brightness", 2, k) for k in range(12)]
    figures = judged(clips)
    for axis in "hw":
        figure = figures[axis, 64, "coherent-step"]
        assert figure.significant and figure.blocks, (axis, figure)


def test_between_two_kinds_of_blocks_there_is_no_verdict():
    """320 columns in 256 have macroblocks of 12.8, which moves of 13 and 26 nearly meet; nothing meets 16 as well."""
    lattice = Lattice(axis="w", period=32, finest=32, block=1)
    blocks = [Blocks(axis="w", period=12.8, amplitude=0.4, evidence=30)]
    comparison = match_moves(lattice, blocks)
    assert comparison.reason is None and sorted(comparison.moves.tolist()) == [-26, -13, 13, 26]
    both = [*blocks, Blocks(axis="w", period=16.0, amplitude=0.4, evidence=30)]
    comparison = match_moves(Lattice(axis="w", period=64, finest=64, block=1), both)
    assert "several kinds" in comparison.reason and comparison.weights.sum() == pytest.approx(1)


@given(st.floats(4, 40), st.sampled_from((32, 64, 128)))
def test_moves_are_near_multiples_and_their_weights_extrapolate_a_line(period, size):
    lattice = Lattice(axis="w", period=size, finest=size, block=1)
    comparison = match_moves(lattice, [Blocks(axis="w", period=period, amplitude=0.3, evidence=20)])
    assert comparison.weights.sum() == pytest.approx(1)
    if comparison.reason is None:
        misses = np.abs(comparison.moves - period * np.round(comparison.moves / period))
        assert misses.max() <= 0.46 and (comparison.moves % size != 0).all()
        if np.ptp(comparison.weights) > 0:
            assert comparison.weights @ (0.7 - 1.3 * misses) == pytest.approx(0.7)


def test_tiles_with_blocks_twice_as_large_get_no_verdict_when_larger_blocks_leave_more():
    """Steps at multiples of 16, larger ones at 32 and larger ones yet at 64, as AV1 leaves them."""
    clips = []
    for k in range(8):
        clip = textured(k, (6, 256, 256))
        for size, amount in ((16, 3), (32, 3), (64, 3)):
            clip = inject_seams(clip, (16, size, size), "brightness", amount, 10 * k + size)
        clips.append(clip)
    figures = judged(clips, lossless=False)
    figure = figures["w", 64, "step"]
    assert figure.significant is None and "leave more" in figure.reason and figure.excess > 0.05
    assert not any(figure.significant for figure in figures.values())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One clip by every codec, with a key frame every 8 frames."""
    folder = tmp_path_factory.mktemp("coded")
    for codec in CODECS:
        (folder / f"{codec}.mkv").write_bytes(encode_with(textured(0, (20, 64, 64)), codec, 8))
    return folder


@pytest.mark.parametrize(
    "codec, name, block",
    [
        ("x264", "h264", 16),
        ("HEVC", "hevc", 16),
        ("VP9", "vp9", 16),
        ("AV1", "av1", 64),
        ("MPEG-4", "mpeg4", 16),
        ("MJPEG", "mjpeg", 16),
    ],
)
def test_key_frames_and_codecs_are_read_from_files(files, tmp_path, codec, name, block):
    coding = read_coding(files / f"{codec}.mkv")
    assert (coding.codec, coding.block, len(coding.sizes)) == (name, block, 20)
    assert coding.inner_keys == (() if codec == "MJPEG" else (8, 16)) and coding.intra == (codec == "MJPEG")
    assert Codings(files).of(f"{codec}.mkv") == Codings(files / f"{codec}.mkv").of(f"{codec}.mkv#3") == coding
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(files / f"{codec}.mkv", f"top/a/{codec}.mkv")
    assert Codings(tmp_path / "all.zip").of(f"a/{codec}.mkv") == coding
    assert Codings(tmp_path).of(f"all.zip/a/{codec}.mkv") == coding


def test_files_that_cannot_be_read_have_no_coding(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    codings = Codings(tmp_path)
    assert codings.of("a.mp4") is codings.of("b.mp4") is codings.of("c.npy") is codings.of("d.zip/c.mp4") is None
    assert read_coding(io.BytesIO(b"")) is None


def test_borders_at_key_frames_alone_get_no_verdict_and_others_are_compared_without_them():
    """A step in brightness at every key frame is no seam of tiles that start there; tiles elsewhere are judged."""

    def clips(period, gop):
        lattices = seam_lattices((period, 64, 64), lossless=False)
        measured = []
        for k in range(8):
            video = textured(k, (40, 96, 96)).astype(np.int16)
            video += 6 * (np.arange(40) // gop % 2).astype(np.int16)[:, None, None, None]
            measured.append(measure_clip(np.clip(video, 0, 255).astype(np.uint8), lattices, "", _Keys(gop)))
        return [figure for figure in judge_seams(measured, lattices) if figure.axis == "f"]

    for figure in clips(8, 8):
        assert figure.significant is None and "key frames" in figure.reason and figure.excess > 0.3
    for figure in clips(8, 12):
        assert not figure.significant and abs(figure.excess) < 0.15


class _Keys:
    """Stands in for a Coding with frames of one size."""

    intra, block = False, 16

    def __init__(self, gop):
        self.inner_keys, self.sizes = tuple(range(gop, 40, gop)), (1000,) * 40


def test_too_few_clips_are_no_proof_that_there_is_no_seam():
    figures = judged([textured(k, (6, 192, 192)) for k in range(3)])
    assert all(figure.significant is None and "fewer than" in figure.reason for figure in figures.values())
    figures = judged([textured(k, (6, 192, 192)) for k in range(12)])
    assert all(
        figure.significant is False and figure.reason is None for figure in figures.values() if figure.period == 64
    )


def test_the_pooled_figure_is_a_mean_over_axes_and_does_not_grow_with_lattices():
    clips, values = [textured(k, (16, 160, 160)) for k in range(6)], []
    for levels in (1, 3):
        lattices = seam_lattices((4, 16, 16), levels=levels, lossless=True)
        measured = [measure_clip(clip, lattices) for clip in clips]
        settled = settle_lattices(measured, lattices)
        measured = [rescore(clip, settled) for clip in measured]
        pooled = pool_seams(measured, settled)
        assert pooled.over == (("f", 4), ("h", 16), ("w", 16))
        expected = np.mean(
            [
                [clip.scores[axis, period, statistic] for clip in measured]
                for axis, period in pooled.over
                for statistic in ("step", "coherent-step")
            ]
        )
        assert pooled.value == pytest.approx(expected) == pytest.approx(pooled.scores.mean())
        assert pooled.ci95[0] < pooled.value < pooled.ci95[1]
        values.append(pooled.value)
    assert values[0] == pytest.approx(values[1], abs=0.01)


def test_clips_too_small_for_an_axis_do_not_count_as_without_a_seam():
    lattices = seam_lattices((16, 32, 32), lossless=True)
    clips = [measure_clip(textured(k, (6, 96, 96 if k % 2 else 34)), lattices) for k in range(6)]
    pooled = pool_seams(clips, lattices)
    scores = [
        [clip.scores[axis, 32, statistic] for clip in clips if (axis, 32, statistic) in clip.scores]
        for axis in "hw"
        for statistic in ("step", "coherent-step")
    ]
    assert pooled.value == pytest.approx(np.mean([np.mean(part) for part in scores]))


@pytest.mark.parametrize("clips", [4, 8, 24])
def test_the_pooled_interval_covers(clips):
    """Scores as skewed as those of one lattice, averaged over four of them."""
    rng = np.random.default_rng(clips)
    covered = []
    for _ in range(1500):
        low, high = mean_t_interval((rng.gamma(2, 0.1, size=(clips, 4)) - 0.2).mean(axis=1))
        covered.append(low <= 0 <= high)
    assert 0.925 < np.mean(covered) < 0.97


def test_clips_of_one_source_count_together():
    """Sources of one to seven clips that have most of their score in common: the interval covers, that of clips not."""
    rng = np.random.default_rng(0)
    covered = {True: [], False: []}
    for _ in range(800):
        sources = np.repeat(np.arange(12), rng.integers(1, 8, size=12)).astype(str)
        scores = rng.normal(size=12)[sources.astype(int)] + 0.3 * rng.normal(size=len(sources))
        for grouped in (True, False):
            low, high = mean_t_interval(by_source(scores, sources) if grouped else scores)
            covered[grouped].append(low <= 0 <= high)
        assert by_source(scores, sources).mean() == pytest.approx(scores.mean())
    assert np.mean(covered[True]) > 0.9 and np.mean(covered[False]) < 0.75
    assert by_source(scores, range(len(scores))) is scores


def test_verdicts_and_the_headline_are_over_sources():
    lattices = seam_lattices((8, 32, 32), lossless=True)
    clips = [measure_clip(textured(k, (16, 96, 96)), lattices) for k in range(4)]
    sixteen = [replace(clip, source=str(k)) for _ in range(4) for k, clip in enumerate(clips)]
    unknown = [replace(clip, source=None) for clip in sixteen]
    for one, four, apart in zip(*(judge_seams(chosen, lattices) for chosen in (clips, sixteen, unknown))):
        assert four.clips == 16 and four.p_value == pytest.approx(one.p_value)
        assert four.ci95[1] - four.ci95[0] > 1.5 * (apart.ci95[1] - apart.ci95[0])
    assert pool_seams(sixteen, lattices).ci95 == pytest.approx(pool_seams(clips, lattices).ci95)


def test_there_are_forty_different_combinations_of_all_factors_filters_and_codecs():
    steps = combinations()
    assert len(steps) == len(set(steps)) == 40
    used = [step for chain in steps for step in chain]
    assert len({step.factor for step in used if isinstance(step, Resize)}) == 4
    assert len({step.filter for step in used if isinstance(step, Resize)}) == 3
    assert {step.codec for step in used if isinstance(step, Encode)} == set(CODECS)


def test_measurements_of_the_study_are_kept_as_they_are(tmp_path):
    class clip:
        video, name = textured(1, (20, 240, 320)), "a"

    steps = (Resize("128 crop", "bilinear"), Encode("x264", 16))
    (measured,) = measure_combinations([clip] * 4, [steps])
    save_measured(tmp_path / "a.npz", measured)
    first, second = (judge_combination(steps, kind) for kind in (measured, load_measured(tmp_path / "a.npz")))
    assert first == second and [row["clips"] for row in first] == [4]
    text = page(first, ["v_Punch_g08_c01.avi", "v_Punch_g08_c02.avi", "v_Punch_g09_c01.avi", "x.avi"], 0)
    assert (
        "on 4 UCF-101 clips of 240x320 from 3 groups" in text
        and "| 128 crop bilinear, then x264 g16 | 4 | 0/1 |" in text
    )


def test_the_page_counts_what_was_found_and_missed():
    row = {
        "patch": "16x64x64",
        "clips": 24,
        "called": 1,
        **{f"verdicts {axis}": 2 for axis in "fhw"},
        **{f"found {axis}": 1 for axis in "fhw"},
        **{f"missed {axis}": 0 for axis in "fhw"},
        "sets": 2,
    }
    rows = [{**row, "steps": "a"}, {**row, "steps": "b", "found h": 0, "missed w": 1}]
    lines = page(rows, ["x.avi"], 3).splitlines()
    assert "| 24 | 2/4 (50%) | 4/4 (100%) | 4/4 (100%) | 4/4 (100%) | 2/2 | 1/1 | 2/3 |" in lines
    assert "| b | 24 | 1/2 | 2/2 | 2/2 | 2/2 | 1/1 | no verdict | 1/2 |" in lines


@pytest.fixture(scope="module")
def real_clips(shared):
    """Twelve clips of different scenes, 24 frames each."""
    source = open_clips(
        shared / "data" / "ucf101-mini" / "videos",
        load_protocol("native", frames=24, samples_selection="shuffled"),
        num=30,
        workers=0,
        quiet=True,
    )
    scenes = {}
    for clip in source:
        scenes.setdefault(clip.name.rsplit("_", 1)[0], clip.video)
    return list(scenes.values())[:12]


@pytest.mark.parametrize(
    "steps, stepped",
    [
        ((Resize("256 crop", "bilinear"),), "hw"),
        ((Resize("256 squash", "bicubic"),), "hw"),
        ((Encode("x264", 16),), "w"),
        ((Encode("MPEG-4", 12),), "hw"),
        ((Encode("AV1", 16),), ""),
    ],
)
def test_real_clips_after_a_resize_or_a_codec(real_clips, steps, stepped):
    """None is called seamed; a step of one grey level is, but where AV1's own blocks end with the tiles.

    Between rows, 24 clips are needed after x264: UCF-101's letterboxes leave fewer lines.
    """
    lattices = seam_lattices(PATCH, lossless=isinstance(steps[-1], Resize))
    for amount in (0, 1):
        clips = []
        for k, video in enumerate(real_clips):
            video, coding = put_through(video, steps)
            video = inject_seams(video, PATCH, "brightness", amount, k)
            clips.append(measure_clip(video, lattices, "", coding))
        figures = judge_seams(clips, lattices)
        found = {figure.axis for figure in figures if figure.significant}
        if amount:
            assert found >= set(stepped), [figure for figure in figures if figure.axis in "hw"]
        else:
            assert not found
        if steps == (Encode("x264", 16),):
            assert all("key frames" in figure.reason for figure in figures if figure.axis == "f")
