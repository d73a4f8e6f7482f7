"""Figures by tile position: geometry by brute force, the command on clips that are wrong in one place only."""

import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation.reproduce import rerun_words
from hpdm_eval.metrics.positions import draw_tiles, seams_by_position, tiles_by_position
from hpdm_eval.metrics.seams import seam_lattices
from hpdm_eval.records.record import load_record
from tests.support.rerun import reproduce

PATCH = (4, 8, 8)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 5)] * 3), st.tuples(*[st.integers(0, 2)] * 3))
def test_every_sample_of_the_video_is_in_a_tile_and_positions_count_borders(patch, times, more):
    shape = tuple(r * n + min(extra, r - 1) for r, n, extra in zip(patch, times, more))
    if all(size == r for size, r in zip(shape, patch)):
        with pytest.raises(InputError, match="one tile"):
            tiles_by_position(shape, patch)
        return
    covered = np.zeros(shape, dtype=int)
    order = list(tiles_by_position(shape, patch))
    for position, starts in tiles_by_position(shape, patch).items():
        for start in starts:
            covered[tuple(slice(a, a + r) for a, r in zip(start, patch))] += 1
            divided = [axis for axis in range(3) if shape[axis] > patch[axis]]
            touching = sum(start[axis] == 0 or start[axis] + patch[axis] == shape[axis] for axis in divided)
            names = ["inside", "face", "edge", "corner"] if len(divided) == 3 else ["inside", "edge", "corner"]
            if len(divided) == 1:
                names = ["inside", "face"]
            assert position == names[touching]
    assert covered.min() == 1
    assert order == [name for name in ("inside", "face", "edge", "corner") if name in order]


def test_a_grid_of_four_tiles_an_axis_has_eight_corners():
    counts = {name: len(starts) for name, starts in tiles_by_position((16, 32, 32), PATCH).items()}
    assert counts == {"inside": 8, "face": 24, "edge": 24, "corner": 8}


def test_an_axis_of_one_tile_divides_nothing():
    counts = {name: len(starts) for name, starts in tiles_by_position((4, 32, 32), PATCH).items()}
    assert counts == {"inside": 4, "edge": 8, "corner": 4}


def test_drawn_tiles_depend_on_seed_and_name_alone():
    first = draw_tiles((16, 32, 32), PATCH, 3, "a.mp4", 0)
    assert first == draw_tiles((16, 32, 32), PATCH, 3, "a.mp4", 0)
    assert first != draw_tiles((16, 32, 32), PATCH, 3, "b.mp4", 0)
    assert all(
        len(starts) == 3 and set(starts) <= set(tiles_by_position((16, 32, 32), PATCH)[name])
        for name, starts in first.items()
    )


def smooth_clips(count, seed):
    """uint8 [N, 16, 32, 32, 3]: slow waves with a little noise."""
    random = np.random.default_rng(seed)
    f, h, w = np.meshgrid(np.arange(16), np.arange(32), np.arange(32), indexing="ij")
    clips = []
    for _ in range(count):
        a, b, c, phase = random.uniform(0.05, 0.2, 3).tolist() + [random.uniform(0, 6)]
        wave = 110 + 60 * np.sin(a * f + b * h + c * w + phase)
        clips.append(wave[..., None] + random.normal(0, 2, (16, 32, 32, 3)))
    return np.stack(clips).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("place, expected", [("corner", {"corner"}), ("inside", {"inside", "face"})])
def test_a_step_at_tiles_of_one_position_is_found_there(place, expected):
    lattices = seam_lattices(PATCH, lossless=True)
    found = {key: [] for key in itertools.product("fhw", ("inside", "face", "edge", "corner"))}
    for clip in smooth_clips(12, 0):
        starts = tiles_by_position((16, 32, 32), PATCH)[place]
        for start in starts if place == "corner" else starts[:1]:  # inside tiles that all change have no step between
            where = tuple(slice(a, a + r) for a, r in zip(start, PATCH))
            clip[where] = np.clip(clip[where].astype(int) + 9, 0, 255)
        for (axis, statistic), excesses in seams_by_position(clip, lattices).items():
            if statistic == "coherent-step":
                for name, excess in excesses.items():
                    found[axis, name].append(excess)
    means = {key: np.mean(values) for key, values in found.items()}
    for axis in "fhw":
        # a border belongs to the outer one of its two tiles
        others = [means[axis, name] for name in ("inside", "face", "edge", "corner") if name not in expected]
        assert min(means[axis, name] for name in expected) > max(others) + (0.5 if place == "corner" else 0.1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Samples whose corner tiles are noise, and real clips."""
    root = tmp_path_factory.mktemp("positions")
    for name, seed in (("real", 1), ("good", 2), ("bad", 2)):
        (root / name).mkdir()
        clips = smooth_clips(48, seed)
        if name == "bad":
            random = np.random.default_rng(9)
            for start in tiles_by_position((16, 32, 32), PATCH)["corner"]:
                where = (slice(None), *(slice(a, a + r) for a, r in zip(start, PATCH)))
                clips[where] = random.integers(0, 256, clips[where].shape)
        np.save(root / name / "clips.npy", clips)
    return root


def judged(root, name, *words):
    words = [
        "positions",
        "--samples",
        str(root / name),
        "--reference",
        str(root / "real"),
        "--patch",
        "4x8x8",
        "--backbone",
        "shapes3d",
        "--lossless",
        "--tiles",
        "1",
        "--quiet",
        "--json",
        "--no-cache",
        *words,
    ]
    outcome = CliRunner().invoke(main, words)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_the_command_finds_corners_that_are_noise(folders):
    good, bad = judged(folders, "good"), judged(folders, "bad")
    value = {
        name: {entry["position"]: entry["value"] for entry in record["details"] if entry["figure"] == "fvd"}
        for name, record in (("good", good), ("bad", bad))
    }
    assert value["bad"]["corner"] > 5 * value["good"]["corner"]
    assert value["bad"]["inside"] == value["good"]["inside"]
    assert bad["value"] == pytest.approx(value["bad"]["corner"] - value["bad"]["inside"])
    assert bad["ci95"][0] > value["good"]["corner"] and bad["ci95"][0] < bad["value"] < bad["ci95"][1]
    corner = [entry for entry in bad["details"] if entry["figure"] == "seams" and entry["position"] == "corner"]
    assert {entry["axis"] for entry in corner} == set("fhw") and min(entry["value"] for entry in corner) > 0.3
    assert {entry["position"] for entry in bad["details"]} == {"inside", "face", "edge", "corner"}
    assert bad["settings"]["patch"] == [4, 8, 8]


def test_a_record_is_made_again_without_the_cache(folders, tmp_path):
    record = tmp_path / "record.json"
    record.write_text(json.dumps(judged(folders, "good")))
    name, words = rerun_words("hpdm-eval positions --samples a --reference b --patch 4x8x8", tmp_path)
    assert name == "positions" and "--no-cache" in words
    found = reproduce(load_record(record))
    assert found.equal and found.now.details == found.recorded.details


def test_statistics_and_large_patches_are_refused_in_a_line(folders, tmp_path):
    stats = tmp_path / "real.npz"
    outcome = CliRunner().invoke(
        main,
        [
            "stats",
            "--data",
            str(folders / "real"),
            "--backbone",
            "shapes3d",
            "--out",
            str(stats),
            "--quiet",
            "--protocol",
            "native",
            "--no-cache",
        ],
    )
    assert outcome.exit_code == 0, outcome.output
    common = ["--backbone", "shapes3d", "--quiet", "--samples", str(folders / "good")]
    outcome = CliRunner().invoke(main, ["positions", *common, "--reference", str(stats), "--patch", "4x8x8"])
    assert outcome.exit_code == 2 and "the clips themselves" in outcome.stderr
    outcome = CliRunner().invoke(
        main, ["positions", *common, "--reference", str(folders / "real"), "--patch", "16x64x64"]
    )
    assert outcome.exit_code == 2 and "do not fit" in outcome.stderr and "Traceback" not in outcome.output
