"""`bench index` and `bench shards`: what they measure is what they say."""

import json

import pytest
from click.testing import CliRunner

from hpdm_eval.benchmarks import index_cost
from hpdm_eval.commands.entry import main


def run(*words):
    result = CliRunner().invoke(main, ["bench", *map(str, words), "--quiet", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def check(starts, count):
    assert {row["videos"] for row in starts.values()} == {count} and all(row["seconds"] > 0 for row in starts.values())
    for kind in ("", ", captions"):
        assert starts[f"index{kind}"]["fingerprint"] == starts[f"every file{kind}"]["fingerprint"]


def test_every_kind_of_start_finds_the_same_data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index_cost._make(tmp_path / "videos", 1200, files=True, quiet=True)
    check(
        {name: index_cost.start(tmp_path / "videos", settings) for name, (settings, _) in index_cost.STARTS.items()},
        1200,
    )


@pytest.mark.slow
def test_starts_in_processes_of_their_own():
    result = run("index", "--rows", "1000")
    check(result["starts"], 1000)
    assert "times as fast" in result["text"]


@pytest.mark.slow
def test_shards_and_folder_make_the_same_clips():
    result = run("shards", "--videos", "16", "--rounds", "1")
    assert all(result["as they are"]["equal"].values()) and len(result["as they are"]["equal"]) == 2
    assert result["averaged 8x8x8"]["ratio"]["packed smaller"] > 0
