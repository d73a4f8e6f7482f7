"""Two processes under gloo against one: the same figures, counts and lists, and one voice."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm_eval.commands.entry import main
from hpdm_eval.features.extraction import FeatureSet
from hpdm_eval.support.distributed import share
from tests.support.processes import run_processes
from tests.support.small_network import draw_clips, random_shapes3d


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder `a` of eleven videos, of which two cannot be read and one is too short, `b` of eight, and a network."""
    root = tmp_path_factory.mktemp("distributed")
    for name, count in (("a", 11), ("b", 8)):
        draw_clips(root / name, count, seed=count)
    for index in (0, 7):
        (root / "a" / f"{index:02d}.mp4").write_bytes(b"no video")
    draw_clips(root / "short", 1, frames=2)
    (root / "short" / "00.mp4").rename(root / "a" / "03.mp4")
    return root, random_shapes3d(root / "random.safetensors")


def run_both(words, tmp_path, code=0):
    """(what CliRunner gives for one process, [stdout, stderr] of two); all end with the same exit code."""
    words = [*map(str, words), "--protocol", "native", "--workers", "0", "--device", "cpu", "--batch", "3"]
    alone = CliRunner().invoke(main, [*words, "--no-cache"])
    assert alone.exit_code == code, alone.output
    return alone, run_processes(words, tmp_path, code)


@pytest.mark.parametrize("rule, rejected", [("sorted", 3), ("class-balanced", 1)])
def test_records_equal_those_of_one_process(clips, tmp_path, rule, rejected):
    """Six samples out of eleven files take several rounds, since those that are rejected are replaced."""
    root, network = clips
    words = [
        "all",
        "--samples",
        root / "a",
        "--reference",
        root / "b",
        "--num-samples",
        6,
        "--json",
        "--splits",
        2,
        "-k",
        2,
        "--samples-selection",
        rule,
        *network,
    ]
    alone, ((first, _), (second, _)) = run_both(words, tmp_path)
    assert second == ""
    expected, found = json.loads(alone.stdout), json.loads(first)
    assert [record["metric"] for record in found] == ["fvd", "kvd", "prdc", "is", "fid"]
    for ours, theirs in zip(found, expected):
        for key in (
            "value",
            "ci95",
            "details",
            "samples",
            "reference",
            "num_samples",
            "num_reference",
            "protocol",
            "backbone",
        ):
            assert ours[key] == theirs[key], key
    assert found[0]["num_samples"] == 6 and len(found[0]["samples"]["rejected"]) == rejected


def test_features_come_in_the_order_of_one_process(clips, tmp_path):
    root, network = clips
    out = tmp_path / "f.npz"
    words = ["features", "--samples", root / "a", "--num-samples", 7, "--out", out, "--quiet", *network]
    run_both(words, tmp_path)
    together = FeatureSet.load(out)
    alone = CliRunner().invoke(main, [*map(str, words), "--workers", "0", "--device", "cpu", "--no-cache"])
    assert alone.exit_code == 0, alone.output
    expected = FeatureSet.load(out)
    assert together.names == expected.names and len(expected.names) == 7
    np.testing.assert_array_equal(together.features, expected.features)


def test_what_one_process_cannot_use_stops_both(clips, tmp_path):
    root, network = clips
    words = [
        "is",
        "--samples",
        root / "a",
        "--strict",
        "--num-samples",
        4,
        "--splits",
        2,
        "--samples-selection",
        "sorted",
        *network,
    ]
    alone, outputs = run_both(words, tmp_path, code=2)
    assert "00.mp4" in alone.stderr
    for stdout, stderr in outputs:
        assert stdout == "" and "00.mp4" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("length", [0, 1, 5, 12])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_shares_make_the_whole(length, size):
    parts = [share(range(length), rank, size) for rank in range(size)]
    assert [item for part in parts for item in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
