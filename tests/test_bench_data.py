"""`bench index` and `bench shards`: what they measure is what they say."""

import json

from click.testing import CliRunner

from hpdm_eval.cli import main


def run(*words):
    result = CliRunner().invoke(main, ["bench", *map(str, words), "--quiet", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_kind_of_start_finds_the_same_data():
    result = run("index", "--rows", "1000")
    starts = result["starts"]
    assert {row["videos"] for row in starts.values()} == {1000} and all(row["seconds"] > 0 for row in starts.values())
    for kind in ("", ", captions"):
        assert starts[f"index{kind}"]["fingerprint"] == starts[f"every file{kind}"]["fingerprint"]
    assert "times as fast" in result["text"]


def test_shards_and_folder_make_the_same_clips():
    result = run("shards", "--videos", "16", "--rounds", "1")
    assert all(result["as they are"]["equal"].values()) and len(result["as they are"]["equal"]) == 2
    assert result["averaged 8x8x8"]["ratio"]["packed smaller"] > 0
