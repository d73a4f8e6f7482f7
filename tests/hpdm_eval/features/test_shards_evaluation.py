"""`--shard` and `hpdm-eval merge`: what jobs extract apart gives the record of one process."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.commands.entry import main
from hpdm_eval.features import cache as cache_module
from tests.support import small_cache
from tests.support.small_network import draw_clips, random_shapes3d

OF_ONE_RUN = ("seconds", "created", "shards")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders `a` of 11 videos, one of which cannot be read, and `b` of 9, and the options of a network."""
    root = tmp_path_factory.mktemp("shards")
    for name, count in (("a", 11), ("b", 9)):
        draw_clips(root / name, count, seed=count)
    (root / "a" / "02.mp4").write_bytes(b"no video")
    words = [
        "--samples",
        root / "a",
        "--reference",
        root / "b",
        "--protocol",
        "native",
        "--device",
        "cpu",
        "--workers",
        0,
        "--num-samples",
        10,
        *random_shapes3d(root / "random.safetensors"),
    ]
    return root, words


def run(*words, code=0):
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result


def records(result):
    """Records that a command printed, without what differs from run to run."""
    found = json.loads(result.stdout)
    found = found if isinstance(found, list) else [found]
    return [{key: value for key, value in record.items() if key not in OF_ONE_RUN} for record in found]


@pytest.mark.parametrize("command", [["fvd"], ["all", "--splits", 2, "-k", 2]])
def test_three_jobs_make_the_record_of_one(sets, tmp_path, command, monkeypatch):
    _, words = sets
    own = [*command, *words, "--json"]
    expected = records(run(*own, "--no-cache"))
    for record in expected:
        record["command"] = record["command"].replace(" --no-cache", "")
    for number in (3, 1, 2):
        result = run(*own, "--shard", f"{number}/3", "--shards", tmp_path / "s")
        assert result.stdout == "" and f"shard {number} of 3 is done" in result.stderr
    seen, extract = [], Backbone.extract
    monkeypatch.setattr(Backbone, "extract", lambda self, clips: seen.append(len(clips)) or extract(self, clips))
    merged = run("merge", tmp_path / "s")
    assert records(merged) == expected
    passes = 2 if command[0] == "all" else 1  # of clips, and of frames
    assert len(seen) <= passes  # of the ten candidates that were shared out one is no video; the eleventh is read now
    found = json.loads(merged.stdout)
    listed = (found[0] if isinstance(found, list) else found)["shards"]
    assert [shard["number"] for shard in listed] == [1, 2, 3] and sum(shard["clips"] for shard in listed) == 18 * passes
    seen.clear()
    assert records(run("merge", tmp_path / "s")) == expected and not seen


def test_a_job_that_is_run_again_continues(sets, tmp_path, monkeypatch):
    _, words = sets
    seen, extract = [], Backbone.extract

    def until_five(self, clips):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(len(clips))
        return extract(self, clips)

    monkeypatch.setattr(Backbone, "extract", until_five)
    shard = ["fvd", *words, "--batch", 1, "--shard", "1/1", "--shards", tmp_path / "s"]
    run(*shard, code=130)
    monkeypatch.setattr(Backbone, "extract", lambda self, clips: seen.append(len(clips)) or extract(self, clips))
    run(*shard)
    assert sum(seen) == 18


def test_missing_and_mixed_shards_are_refused(sets, tmp_path):
    root, words = sets
    folder = tmp_path / "s"
    folder.mkdir()
    assert "holds no shard" in run("merge", folder, code=2).stderr
    common = ["kvd", *words, "--quiet"]
    run(*common, "--shard", "2/3", "--shards", folder)
    result = run("merge", folder, code=2)
    assert "2 of 3 shards are missing: 1, 3; for each run `hpdm-eval kvd" in result.stderr
    assert "--shard 1/3" in result.stderr and result.stderr.count("\n") == 1
    run(*common, "--batch", 3, "--shard", "1/3", "--shards", folder)
    assert "differ in the command" in run("merge", folder, code=2).stderr
    (folder / "shard-0001-of-0003.json").write_text("[]")
    assert "not the description of a shard" in run("merge", folder, code=2).stderr
    (folder / "shard-0001-of-0003.json").unlink()
    run(*common, "--shard", "1/2", "--shards", folder)
    assert "differ in the number of shards" in run("merge", folder, code=2).stderr


def test_other_clips_or_processors_are_refused(sets, tmp_path, monkeypatch):
    root, words = sets
    shutil.copytree(root / "a", tmp_path / "a")
    words = ["kvd", *[tmp_path / "a" if word == root / "a" else word for word in words], "--quiet"]
    run(*words, "--shard", "1/2", "--shards", tmp_path / "s")
    shutil.copy(tmp_path / "a" / "00.mp4", tmp_path / "a" / "0.mp4")
    run(*words, "--shard", "2/2", "--shards", tmp_path / "s")
    assert "differ in the clips" in run("merge", tmp_path / "s", code=2).stderr
    run(*words, "--shard", "1/2", "--shards", tmp_path / "s")
    monkeypatch.setattr(cache_module, "processor", lambda device: "another")
    assert "another kind of processor" in run("merge", tmp_path / "s", code=2).stderr
    run(*words, "--shard", "1/2", "--shards", tmp_path / "s")
    assert "differ in the network, processor" in run("merge", tmp_path / "s", code=2).stderr


def test_a_record_that_asks_for_a_shard_writes_none(sets, tmp_path):
    root, words = sets
    record = json.loads(run("kvd", *words, "--json").stdout)
    record["command"] += f" --shard 1/1 --shards {tmp_path / 'planted'}"
    (tmp_path / "record.json").write_text(json.dumps(record))
    again = run("reproduce", tmp_path / "record.json", "--allow", root / "random.safetensors")
    assert not (tmp_path / "planted").exists() and "kvd" in again.output


@pytest.mark.parametrize(
    "more, message",
    [
        (["--no-cache", "--shard", "1/2"], "leave one out"),
        (["--shard", "3/2"], "1/8 ... 8/8"),
        (["--shard", "0/2"], "1/8 ... 8/8"),
        (["--shard", "half"], "1/8 ... 8/8"),
    ],
)
def test_shards_that_make_no_sense(sets, tmp_path, more, message):
    _, words = sets
    assert message in run("fvd", *words, *more, "--shards", tmp_path / "s", code=2).stderr


def test_damaged_shards_are_computed_again(sets, tmp_path):
    _, words = sets
    own = ["kvd", *words, "--json"]
    expected = records(run(*own))
    for number in (1, 2):
        run(*own, "--shard", f"{number}/2", "--shards", tmp_path / "s")
    for file in (tmp_path / "s").rglob("*.features"):
        content = bytearray(file.read_bytes())
        for place in np.random.default_rng(0).integers(0, len(content), 20):
            content[place] ^= 64
        file.write_bytes(content)
    result = run("merge", tmp_path / "s")
    assert records(result) == expected and "damaged entries" in result.stderr


def test_more_shards_than_clips(sets, tmp_path):
    _, words = sets
    for number in range(1, 13):
        run("kvd", *words, "--quiet", "--shard", f"{number}/12", "--shards", tmp_path / "s")
    assert small_cache.files() == []  # the user's own cache is left alone
    assert "kvd" in run("merge", tmp_path / "s", "--quiet").stdout
