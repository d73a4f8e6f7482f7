"""`hpdm-eval bench`: small runs that print, save and turn into a page."""

import json

import pytest
from click.testing import CliRunner

from hpdm.model.threads import threads
from hpdm_eval.benchmarks.results import NOTES
from hpdm_eval.benchmarks.threads import bench_threads
from hpdm_eval.commands.entry import main
from tests.support.sampling_models import save_tiny

SMALL = ["--rounds", "1", "--device", "cpu", "--quiet"]


def run(*words):
    result = CliRunner().invoke(main, ["bench", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result


def test_fusion_compares_equal_results():
    result = json.loads(run("fusion", "--width", "8", "--tokens", "3x4x5", *SMALL, "--json").stdout)
    assert result["largest_difference"] < 1e-5
    expected = result["milliseconds"]["grid_sample"] / result["milliseconds"]["matrices"]
    assert result["ratio"] == pytest.approx(expected)


def test_training_counts_work_and_page_shows_it(tmp_path):
    run("training", "--size", "nano", *SMALL, "--record", tmp_path)
    (file,) = tmp_path.glob("*.json")
    result = json.loads(file.read_text())
    # nano's blocks host 1, 1, 2, 3 levels, and 3 each without adaptive computation.
    assert (
        7 / 12 * 0.8
        < result["gflop_per_sample"]["adaptive"] / result["gflop_per_sample"]["not adaptive"]
        < 7 / 12 * 1.2
    )
    assert result["command"].startswith("hpdm-eval bench training --size nano")
    run("page", tmp_path, "--out", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert result["text"] in page and "## Training step" in page
    (tmp_path / "page.md").write_text(page + f"\n{NOTES}\n\n## Predictions\n\nTwice as fast.\n")
    run("page", tmp_path, "--out", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == page + f"\n{NOTES}\n\n## Predictions\n\nTwice as fast.\n"


def test_extract_keeps_the_features(tmp_path):
    result = run(
        "extract",
        "--clips",
        "4",
        "--frames",
        "9",
        "--size",
        "32",
        "--batch",
        "2",
        "--memory",
        "4",
        "--workers",
        "0",
        *SMALL,
        "--json",
    )
    result = json.loads(result.stdout)
    assert result["feature_error"] < 1e-4
    assert result["memory"][0]["clips"] == 4 and result["memory"][0]["peak_rss_mib"] > 100
    assert set(result["clips_per_second"]) == {
        "plain network",
        "decode",
        "resize",
        "network, ReLU apart",
        "network",
        "whole",
    }


@pytest.mark.slow
def test_scale_measures_every_state_of_the_cache(tmp_path):
    """Six processes that start PyTorch."""
    result = CliRunner().invoke(
        main,
        [
            "bench",
            "scale",
            "--clips",
            "40,80",
            "--reference",
            "40",
            "--frames",
            "16",
            "--commands",
            "fvd",
            "--quiet",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["clips"], row["cache"]) for row in rows] == [
        (count, state) for count in (40, 80) for state in ("empty cache", "full cache, decoding", "full cache")
    ]
    assert all(row["mib"] > 100 and row["processor_seconds"] > 0 for row in rows)
    used = [row["processor_seconds"] for row in rows]
    assert used[2] < used[0] and used[5] < used[3]


def test_interval_times_two_ways_to_the_same_figure():
    result = json.loads(run("interval", "--clips", 200, "--features", 20, *SMALL, "--json").stdout)
    assert len(result["seconds"]) == 3 and max(result["differences"].values()) < 1e-8 and result["ratio"] > 0


def test_threads_are_timed_one_by_one_up_to_all(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with threads(3):
        result = bench_threads(calls=[("nano", 1), ("nano", 8)], rounds=1, quiet=True).complete()
    assert result["most"] == 3 and [row["work"] for row in result["rows"]] == [589_824, 8 * 589_824]
    assert all(list(row["seconds"]) == ["1", "2", "3"] and row["chosen"] == 1 for row in result["rows"])
    assert all(row["ratio"] > 0 and row["fastest"] in (1, 2, 3) for row in result["rows"])
    assert "4,718,592" in result["text"]


def test_a_folder_without_results_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["bench", "page", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert result.exit_code == 2 and "--record" in result.stderr and not (tmp_path / "page.md").exists()
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "odd.json").write_text("{")
    result = CliRunner().invoke(main, ["bench", "page", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert result.exit_code == 2 and "odd.json is not a readable JSON file" in result.stderr


def test_sampling_counts_what_the_cache_saves(tmp_path):
    checkpoint = save_tiny(tmp_path / "step-00000007")
    words = ["sampling", "--checkpoint", checkpoint, "--videos", "2", "--overlaps", "none,hw", *SMALL, "--json"]
    figures = json.loads(run(*words).stdout)["figures"]
    blocks = {(row["overlap"], row["cached"]): row["block_evaluations_per_video"] for row in figures}
    # Levels 0, 1, 2 run 3, 2, 1 blocks with 5, 2, 2 evaluations on 1, 8, 64 tiles (overlapping in space: 1, 18, 196),
    # and once more on finished levels, for those above them.
    assert blocks["none", True] == 3 * (5 + 1) + 8 * 2 * (2 + 1) + 64 * 2
    assert blocks["hw", True] == 3 * (5 + 1) + 18 * 2 * (2 + 1) + 196 * 2
    assert blocks["none", False] > 2 * blocks["none", True]
