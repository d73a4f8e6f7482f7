"""`hpdm-eval compare`: tables, tests and records of several sets."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation.compare_methods import tiling_plans
from hpdm_eval.records.record import load_record
from tests.support.small_network import random_shapes3d

pytestmark = pytest.mark.filterwarnings("ignore::hpdm_eval.metrics.inception_score.FewPerSplitWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`real`, `good` like it, `grey` without colour, `twin` equal to good, `few` with less of it."""
    root = tmp_path_factory.mktemp("sets")
    for name, seed, count in (("real", 0, 60), ("good", 1, 60), ("grey", 2, 60), ("few", 1, 44)):
        clips = np.stack([procedural_clip(seed, index, 8, 32, 32)[0] for index in range(count)])
        if name == "grey":
            clips = np.repeat(clips.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
        (root / name).mkdir()
        np.save(root / name / "clips.npy", clips)
    (root / "twin").symlink_to(root / "good")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return random_shapes3d(tmp_path_factory.mktemp("weights") / "random.safetensors")


def run(folders, network, names, *words):
    sets = [word for name in names for word in ("--samples", f"{name}={folders / name}")]
    command = [
        "compare",
        *sets,
        "--reference",
        folders / "real",
        "--protocol",
        "native",
        "--workers",
        "0",
        "--device",
        "cpu",
        *network,
        *words,
    ]
    return CliRunner().invoke(main, list(map(str, command)))


def test_tables_are_sorted_tested_and_marked(folders, network, tmp_path):
    result = run(
        folders, network, ["grey", "good", "twin"], "--metrics", "fvd,kvd,prdc,is", "--report", tmp_path / "report"
    )
    assert result.exit_code == 0, result.output
    first, second, notes = result.stdout.strip().split("\n\n")
    lines = first.splitlines()
    for figure in ("fvd", "kvd", "precision", "recall", "density", "coverage", "is"):
        assert f"{figure}[shapes3d]" in lines[0]
    rows = {line.split()[0]: line for line in lines[2:]}
    assert list(rows) == ["good", "twin", "grey"] and "*" in rows["good"]
    columns = {name: line.split()[1:] for name, line in rows.items()}
    assert columns["good"] == columns["twin"]
    tests = [line.split() for line in second.splitlines()[2:]]
    assert len(tests) == 7 * 3
    fvd = {" ".join(line[1:4]): line[-1] for line in tests if line[0] == "fvd"}
    assert fvd == {"good - twin": "open", "good - grey": "good", "twin - grey": "twin"}
    assert "60 samples of each set; protocol native@" in notes
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert markdown.count("|---") >= 2 and all(f"| {name} |" in markdown for name in rows)
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<video") == 3 and page.index("Comparison") < page.index("good - grey")
    latex = (tmp_path / "report" / "tables" / "comparison-pairs.tex").read_text()
    assert latex.count("good - grey") == 7


def test_records_hold_intervals_and_pairs(folders, network, tmp_path):
    words = ["--metrics", "fvd,prdc", "--json", "--record", tmp_path / "records"]
    result = run(folders, network, ["grey", "good"], *words)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    saved = sorted((load_record(path) for path in (tmp_path / "records").iterdir()), key=lambda record: record.value)
    assert len(printed) == 4 == len(saved) and {record["name"] for record in printed} == {"good", "grey"}
    fvd = {record["name"]: record for record in printed if record["metric"] == "fvd"}
    (pair,) = fvd["good"]["pairs"]
    assert fvd["grey"]["pairs"] == [pair] and pair["figure"] == "fvd"
    assert pair["difference"] == pytest.approx(fvd[pair["first"]]["value"] - fvd[pair["second"]]["value"])
    alone = CliRunner().invoke(
        main,
        list(
            map(
                str,
                [
                    "fvd",
                    "--samples",
                    folders / "good",
                    "--reference",
                    folders / "real",
                    "--protocol",
                    "native",
                    "--workers",
                    "0",
                    "--device",
                    "cpu",
                    "--json",
                    "--quiet",
                    *network,
                ],
            )
        ),
    )
    same = json.loads(alone.stdout)
    assert (same["value"], same["ci95"]) == (fvd["good"]["value"], fvd["good"]["ci95"])
    prdc = [record for record in printed if record["metric"] == "prdc"]
    for record in prdc:
        assert record["ci95"][0] <= record["value"] <= record["ci95"][1] and len(record["pairs"]) == 4


def test_seams_and_dead_tokens_of_the_pixels(folders, network, tmp_path):
    seamed = tmp_path / "seamed"
    seamed.mkdir()
    clips = np.load(folders / "good" / "clips.npy").astype(int)
    clips[:, :, 16:] += 8  # a step where two patches of 16 rows meet
    np.save(seamed / "clips.npy", clips.clip(0, 255).astype(np.uint8))
    (folders / "seamed").symlink_to(seamed)
    words = ["--metrics", "fvd,seams,dead-tokens", "--patch", "4x16x16", "--json"]
    result = run(folders, network, ["good", "seamed"], *words)
    assert result.exit_code == 0, result.output
    records = {(record["name"], record["metric"]): record for record in json.loads(result.stdout)}
    (pair,) = records["seamed", "seams"]["pairs"]
    assert pair["significant"] and records["seamed", "seams"]["value"] > records["good", "seams"]["value"] + 0.1
    alone = CliRunner().invoke(
        main,
        list(
            map(
                str,
                [
                    "dead-tokens",
                    "--samples",
                    folders / "good",
                    "--workers",
                    "0",
                    "--device",
                    "cpu",
                    "--json",
                    "--quiet",
                ],
            )
        ),
    )
    same = json.loads(alone.stdout)
    assert (same["value"], same["ci95"]) == tuple(records["good", "dead-tokens"][key] for key in ("value", "ci95"))
    table = run(folders, network, ["good", "seamed"], *words[:-1])
    assert "good: patches of 4x16x16, overlap none (as given)" in table.stdout
    assert table.stdout.count("native with num_samples=60") == 1


def test_sets_that_do_not_say_are_looked_at_where_the_tiles_of_others_meet(tmp_path):
    manifest = {"resolution": [16, 32, 32], "settings": {"levels": 3, "overlap": "hw", "format": "npy"}}
    for name, change in (("bare", None), ("tiled", {}), ("whole", {"levels": 1})):
        (tmp_path / name).mkdir()
        if change is not None:
            told = {**manifest, "settings": {**manifest["settings"], **change}}
            (tmp_path / name / "samples.json").write_text(json.dumps(told))
    plans = tiling_plans({name: tmp_path / name for name in ("bare", "tiled", "whole")})
    assert {plan.patch for plan in plans.values()} == {(4, 8, 8)} and {p.overlap for p in plans.values()} == {"hw"}
    assert [plans[name].source for name in ("bare", "tiled", "whole")] == ["as tiled", "samples.json", "as tiled"]
    assert [plans[name].lossless for name in ("bare", "tiled", "whole")] == [False, True, True]
    with pytest.raises(InputError, match="give --patch"):
        tiling_plans({"bare": tmp_path / "bare"})


def test_sets_are_cut_to_one_size(folders, network):
    result = run(folders, network, ["good", "few"], "--metrics", "fvd", "--json")
    assert result.exit_code == 0, result.output
    assert "60 (good), 44 (few): all are cut to 44" in result.stderr
    good, few = json.loads(result.stdout)
    assert good["num_samples"] == few["num_samples"] == 44 and good["value"] != few["value"]  # 44 of 60 are drawn
    words = ["--metrics", "fvd", "--json", "--samples-selection", "sorted"]
    good, few = json.loads(run(folders, network, ["good", "few"], *words).stdout)
    assert good["num_samples"] == few["num_samples"] == 44 and good["value"] == few["value"]


def test_sorting_and_what_is_refused(folders, network):
    result = run(folders, network, ["grey", "good"], "--metrics", "fvd,prdc", "--sort", "coverage", "--json")
    coverage = [record["value"] for record in json.loads(result.stdout) if record["metric"] == "prdc"]
    assert coverage == sorted(coverage, reverse=True)
    assert run(folders, network, ["good"]).exit_code == 2
    assert "could not be had" in run(folders, network, ["good", "grey"], "--metrics", "fvd", "--sort", "is").stderr
    bad = CliRunner().invoke(main, ["compare", "--samples", "folder", "--reference", "x"])
    assert bad.exit_code == 2 and "write NAME=DIR" in bad.stderr


def test_the_range_of_float_samples_is_that_of_all_metrics(folders, network, tmp_path):
    clips = np.load(folders / "good" / "clips.npy")[:44].astype(np.float32) / 255
    for name, shift in (("a", -0.05), ("b", -0.02)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "clips.npy", clips + shift)  # ambiguous: neither 0..1 nor -1..1
    (tmp_path / "real").symlink_to(folders / "real")
    words = ["--metrics", "fvd,seams,dead-tokens", "--patch", "8x8x8", "--json"]
    assert "--range" in run(tmp_path, network, ["a", "b"], *words).stderr
    result = run(tmp_path, network, ["a", "b"], *words, "--range", "0..1")
    assert result.exit_code == 0, result.output
    assert {record["protocol"]["value_range"] for record in json.loads(result.stdout)} == {"0..1"}
