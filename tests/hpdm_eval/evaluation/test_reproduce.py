"""`hpdm-eval reproduce`: the committed record comes out again, and what changed is named when it does not.

The record's clips are drawn here: `draw_inputs` is how they were made, and the command's paths are relative to the
folder that holds them. To make the record anew after a change that is meant to move the figure, draw them, and run the
command that is in it with --record.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm.support.files import write_json
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation.reproduce import rerun_words
from hpdm_eval.records.record import load_record
from tests.support.paths import TESTS
from tests.support.rerun import reproduce

COMMITTED = TESTS / "records" / "fvd-shapes3d-procedural.json"
COUNT = 44  # a jackknife needs 40


def draw_inputs(folder):
    """Two folders of clips that the record compares: samples lack a third of the classes."""
    for name, seed, classes in (("samples", 31, 8), ("reference", 32, 12)):
        path = folder / "clips" / name
        path.mkdir(parents=True)
        for index in range(COUNT):
            np.save(path / f"{index:03d}.npy", procedural_clip(seed, index, 16, 32, 32, label=index % classes)[0])
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return draw_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def copied(inputs, tmp_path):
    """The same clips, to be changed."""
    shutil.copytree(inputs / "clips", tmp_path / "clips")
    return tmp_path


def run(record, folder, *words):
    return CliRunner().invoke(main, ["reproduce", str(record), "--folder", str(folder), *words])


def states(result):
    return {what: change["state"] for what, change in json.loads(result.stdout)["changes"].items()}


def test_the_committed_record_comes_out_again(inputs):
    result = run(COMMITTED, inputs)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("fvd[shapes3d]: ") and ": equal (" in result.stdout
    printed = run(COMMITTED, inputs, "--json")
    values = json.loads(printed.stdout)
    assert values["equal"] and values["now"] == pytest.approx(values["recorded"], rel=1e-4)
    assert values["differences"] == [] and values["record"]["samples"]["clips"] == COUNT
    assert states(printed)["weights"] == states(printed)["settings"] == "unchanged"
    assert sorted(path.name for path in inputs.iterdir()) == ["clips"]  # nothing is written


def test_other_inputs_are_named(copied):
    shutil.copy(copied / "clips/samples/000.npy", copied / "clips/samples/001.npy")
    result = run(COMMITTED, copied, "--json")
    assert result.exit_code == 1
    values = json.loads(result.stdout)
    assert not values["equal"] and any(line.startswith("value: ") for line in values["differences"])
    assert "samples SHA-256" in values["changes"]["inputs"]["detail"] and states(result)["inputs"] == "changed"
    assert states(result)["weights"] == "unchanged"
    text = run(COMMITTED, copied)
    assert text.exit_code == 1 and "DIFFERENT" in text.stdout and "inputs" in text.stdout
    assert run(COMMITTED, copied, "--tolerance", "1").exit_code == 0


@pytest.mark.parametrize(
    "change, what",
    [
        ({"git": "0" * 40}, "code"),
        ({"versions": {"torch": "1.0"}}, "versions"),
        ({"hardware": "abacus"}, "hardware"),
        ({"backbone": {"name": "shapes3d", "sha256": "0" * 64}}, "weights"),
        ({"protocol": {"name": "native", "frames": 4}}, "settings"),
    ],
)
def test_what_has_changed_is_named(inputs, change, what):
    result = reproduce(replace(load_record(COMMITTED), **change), folder=inputs)
    assert result.equal
    assert {item.what: item.state for item in result.changes}[what] == "changed"


def test_figures_beside_the_value_are_compared(inputs):
    record = load_record(COMMITTED)
    details = tuple({**entry, "value": 1.01 * entry["value"]} for entry in record.details)
    result = reproduce(replace(record, details=details, ci95=None), folder=inputs)
    assert not result.equal
    assert {line.split(":")[0] for line in result.differences} == {"ci95", "details[0].value"}


def test_missing_inputs_and_records_are_bad_input(tmp_path):
    result = run(COMMITTED, tmp_path)
    assert result.exit_code == 2 and "clips" in result.stderr
    (tmp_path / "r.json").write_text("{}")
    assert run(tmp_path / "r.json", tmp_path).exit_code == 2
    assert run(tmp_path / "none.json", tmp_path).exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "python -m hpdm_eval.studies.shipped.nano --out reports",
        "hpdm-sample --checkpoint nano --out x",
        "hpdm-eval",
        "hpdm-eval ablations --tier smoke --out x",
        "hpdm-eval weights fetch i3d",
        "hpdm-eval fvd --samples 'x",
        "hpdm-eval report --records a --out b",
    ],
)
def test_other_commands_are_not_run(tmp_path, command):
    record = {**load_record(COMMITTED).to_dict(), "command": command}
    write_json(tmp_path / "record.json", record)
    result = run(tmp_path / "record.json", tmp_path)
    assert result.exit_code == 2 and result.stderr.startswith("error: ")
    assert not (tmp_path / "x").exists()


def test_a_shell_is_not_asked(tmp_path):
    _, words = rerun_words("hpdm-eval seams --samples 'a; touch b' --patch 4x8x8", tmp_path)
    assert words[:2] == ["--samples", "a; touch b"]


@pytest.mark.parametrize(
    "command, expected",
    [
        ("/usr/bin/hpdm-eval fvd --samples a --record r --json --reference b", "--samples a --reference b"),
        ("hpdm-eval is --samples a --record=r", "--samples a"),
        ("hpdm-eval curve --samples a --out o --quiet", "--samples a --out SCRATCH"),
        ("hpdm-eval fvd --samples a --device cuda", "--samples a --device cpu"),
        ("hpdm-eval fvd --samples a --seed=4", "--samples a --seed 5"),
    ],
)
def test_what_would_be_written_is_left_out(command, expected):
    device = "cpu" if "cuda" in command else None
    _, words = rerun_words(command, "SCRATCH", device, 5 if "seed" in command else None)
    assert " ".join(words) == f"{expected} --no-cache --json --quiet"


def test_a_command_that_lost_the_metric(inputs):
    with pytest.raises(InputError, match="gives no kvd"):
        reproduce(replace(load_record(COMMITTED), metric="kvd"), folder=inputs)


def test_a_seam_record_with_its_plots(tmp_path):
    """A metric on pixels, several axes of details, and an option that writes."""
    for index in range(6):
        path = tmp_path / "clips" / f"{index}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, procedural_clip(3, index, 16, 32, 32)[0])
    words = ["seams", "--samples", "clips", "--patch", "8x16x16", "--lossless", "--workers", "0", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert CliRunner().invoke(main, [*words, "--record", "records", "--plots", "plots"]).exit_code == 0
    (record,) = (tmp_path / "records").iterdir()
    shutil.rmtree(tmp_path / "plots")
    result = run(record, tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "plots").exists() and len(json.loads(result.stdout)["record"]["details"]) > 2


def test_inputs_are_found_beside_the_record_or_above_it(copied, tmp_path, monkeypatch):
    (copied / "deep" / "records").mkdir(parents=True)
    shutil.copy(COMMITTED, copied / "deep" / "records" / "r.json")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    result = CliRunner().invoke(main, ["reproduce", str(copied / "deep" / "records" / "r.json"), "--json"])
    assert result.exit_code == 0, result.output
    assert states(result)["inputs"] == "unchanged"
    lost = tmp_path.parent / "lost"
    lost.mkdir()
    shutil.copy(COMMITTED, lost / "r.json")
    result = CliRunner().invoke(main, ["reproduce", str(lost / "r.json")])
    assert result.exit_code == 2 and "--folder DIR" in result.stderr and "clips" in result.stderr
    assert "is not in " in run(COMMITTED, elsewhere).stderr


def test_the_record_s_own_protocol_is_run_whatever_its_name_means_now(inputs):
    """A record of the time when samples were taken in sorted order: its settings are in it."""
    record = load_record(COMMITTED)
    assert record.protocol["samples_selection"] == "sorted"
    result = reproduce(record, folder=inputs)
    assert result.equal and result.now.protocol["samples_selection"] == "sorted"
    assert {change.what: change.state for change in result.changes}["settings"] == "unchanged"


@pytest.mark.parametrize(
    "command, words",
    [
        ("hpdm-eval all --samples a --reference b --metrics fvd,kvd,is", ["--metrics", "fvd"]),
        ("hpdm-eval compare --samples x=a --samples y=c --reference b --sort kvd --report p", ["--metrics", "fvd"]),
        ("hpdm-eval curve --samples c --samples a --reference b --out o --at 8", ["--samples", "clips/samples"]),
        ("hpdm-eval compare-protocols --samples a --reference b --protocols native,pvdm-16f --out o --no-legacy", []),
    ],
)
def test_only_what_the_record_needs_is_run(tmp_path, command, words):
    record = load_record(COMMITTED)
    name, found = rerun_words(command, str(tmp_path), record=record)
    assert name == ("fvd" if "compare-protocols" in command else command.split()[1])
    assert not {"--report", "p", "--sort", "--protocols", "--no-legacy", "c"} & set(found) or name == "compare"
    assert [found.index(word) for word in words] == sorted(found.index(word) for word in words)
    protocol = Path(found[found.index("--protocol") + 1])
    assert protocol.name == "native.yaml" and protocol.parent == tmp_path


def test_a_record_of_a_comparison_comes_out_again(tmp_path, monkeypatch):
    for name, seed in (("a", 1), ("b", 2), ("real", 3)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "clips.npy", np.stack([procedural_clip(seed, k, 8, 32, 32)[0] for k in range(44)]))
    monkeypatch.chdir(tmp_path)
    words = [
        "compare",
        "--samples",
        "a=a",
        "--samples",
        "b=b",
        "--reference",
        "real",
        "--protocol",
        "native",
        "--backbone",
        "shapes3d",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--metrics",
        "fvd,kvd,prdc",
        "--record",
        "records",
        "--quiet",
    ]
    assert CliRunner().invoke(main, words).exit_code == 0
    for path in (tmp_path / "records").glob("kvd-*.json"):
        result = CliRunner().invoke(main, ["reproduce", str(path), "--json"])
        assert result.exit_code == 0, result.output
