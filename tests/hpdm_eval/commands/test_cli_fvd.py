"""`hpdm-eval fvd`, `stats` and `quickstart` from video files to what they print, write and refuse."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from hpdm.data.procedural import CLASS_NAMES, procedural_clip
from hpdm.video.writer import write_video
from hpdm_eval.backbones.shapes3d import Shapes3D
from hpdm_eval.commands.entry import main
from hpdm_eval.metrics.frechet import FewSamplesWarning, frechet_from_features
from hpdm_eval.records.record import load_record


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folders `a`, `b` of six short videos each, and `empty`."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate("ab"):
        for index in range(6):
            write_video(root / name / f"{index}.mp4", procedural_clip(number, index, 8, 32, 32)[0])
    (root / "empty").mkdir()
    return root


@pytest.fixture(scope="module")
def random_network(tmp_path_factory):
    """Options for a small network with random weights, so that these tests do not depend on the shipped ones."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    state = {key: value for key, value in Shapes3D(12).state_dict().items() if "num_batches" not in key}
    save_file(state, path, {"format": "shapes3d", "classes": json.dumps(CLASS_NAMES)})
    return ["--backbone", "shapes3d", "--weights", str(path), "--unverified"]


@pytest.fixture
def run(random_network):
    """Call a command under the protocol `native` and the random network, decoding in this process."""

    def call(command, *words, network=random_network, protocol="native"):
        shared = ["--protocol", protocol, "--workers", "0", "--device", "cpu", *network]
        return CliRunner().invoke(main, [command, *map(str, words), *shared])

    return call


def test_table_names_metric_network_protocol_and_counts(run, clips):
    result = run("fvd", "--samples", clips / "a", "--reference", clips / "b", "--quiet")
    assert result.exit_code == 0, result.output
    header, _, row = result.stdout.splitlines()[:3]
    assert header.split() == ["metric", "value", "protocol", "samples", "reference", "seed"]
    assert row.startswith("fvd[shapes3d] ") and " native@" in row and row.split()[-3:] == ["6", "6", "0"]
    assert "weights not verified (unverified)" in result.stdout
    assert result.stderr == ""


def test_json_is_one_object_and_equals_the_saved_record(run, clips, tmp_path):
    words = ["--samples", clips / "a", "--reference", clips / "b", "--json", "--record", tmp_path / "records"]
    result = run("fvd", *words)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    (saved,) = (tmp_path / "records").iterdir()
    assert json.loads(saved.read_text()) == printed
    record = load_record(saved)
    assert record.metric == "fvd" and record.value > 0 and not record.higher_is_better
    assert record.samples["path"] == str(clips / "a") and len(record.samples["sha256"]) == 64
    assert (record.num_samples, record.num_reference) == (6, 6)
    assert record.backbone["verified"] is False
    assert shlex.split(record.command)[:4] == ["hpdm-eval", "fvd", "--samples", str(clips / "a")]
    assert "6 and 6 clips for 128 features" in record.warnings[0] and record.warnings[0] in result.stderr


def test_value_is_the_distance_of_the_features(run, clips, random_network, tmp_path):
    """Against features from `hpdm-eval features`, and from stored statistics with and without features."""
    sides = {}
    for name in "ab":
        result = CliRunner().invoke(
            main,
            [
                "features",
                "--samples",
                str(clips / name),
                "--protocol",
                "native",
                "--out",
                str(tmp_path / f"{name}.npz"),
                "--workers",
                "0",
                *random_network,
            ],
        )
        assert result.exit_code == 0, result.output
        sides[name] = np.load(tmp_path / f"{name}.npz")["features"]
    with pytest.warns(FewSamplesWarning):
        expected = frechet_from_features(sides["a"], sides["b"])
    references = [clips / "b"]
    for name, more in (("moments.npz", []), ("features.npz", ["--keep-features"])):
        result = run("stats", "--data", clips / "b", "--out", tmp_path / name, *more)
        assert result.exit_code == 0, result.output
        references.append(tmp_path / name)
    digests = set()
    for reference in references:
        record = json.loads(run("fvd", "--samples", clips / "a", "--reference", reference, "--json").stdout)
        assert record["value"] == pytest.approx(expected, rel=1e-5)
        digests.add(record["reference"]["sha256"])
    assert len(digests) == 1


def test_same_folder_on_both_sides_is_at_zero(run, clips, tmp_path):
    assert json.loads(run("fvd", "--samples", clips / "a", "--reference", clips / "a", "--json").stdout)["value"] == 0
    run("stats", "--data", clips / "a", "--out", tmp_path / "a.npz")
    result = run("fvd", "--samples", clips / "a", "--reference", tmp_path / "a.npz", "--json")
    assert json.loads(result.stdout)["value"] == 0


def test_statistics_of_other_settings_are_refused_by_name(run, clips, tmp_path):
    assert run("stats", "--data", clips / "b", "--out", tmp_path / "b.npz", "--frames", "8").exit_code == 0
    words = ["--samples", clips / "a", "--reference", tmp_path / "b.npz", "--frames", "4", "--crop", "center"]
    result = run("fvd", *words)
    assert result.exit_code == 2
    assert "frames is 8 there and 4 here" in result.stderr and "crop is none there and center here" in result.stderr
    assert result.stdout == ""


def test_statistics_of_another_network_are_refused_by_name(run, clips, tmp_path):
    torch.manual_seed(1)
    state = {key: value for key, value in Shapes3D(12).state_dict().items() if "num_batches" not in key}
    save_file(state, tmp_path / "other.safetensors", {"format": "shapes3d", "classes": json.dumps(CLASS_NAMES)})
    other = ["--backbone", "shapes3d", "--weights", str(tmp_path / "other.safetensors"), "--unverified"]
    assert run("stats", "--data", clips / "b", "--out", tmp_path / "b.npz", network=other).exit_code == 0
    result = run("fvd", "--samples", clips / "a", "--reference", tmp_path / "b.npz")
    assert result.exit_code == 2 and "backbone's sha256 is" in result.stderr


def test_overridden_settings_are_recorded_and_marked(run, clips):
    words = ["--samples", clips / "a", "--reference", clips / "b", "--frames", "4", "--num-samples", "5"]
    record = json.loads(run("fvd", *words, "--json").stdout)
    assert record["protocol"]["frames"] == 4 and record["num_samples"] == 5
    assert {"frames=4", "num_samples=5"} <= set(record["protocol"]["overrides"])
    assert "native with frames=4" in run("fvd", *words).stdout


def test_fewer_clips_than_the_protocol_wants_is_marked(run, clips):
    cut = ["--frames", "8", "--resolution", "32", "--split", "none"]
    result = run("fvd", "--samples", clips / "a", "--reference", clips / "b", *cut, protocol="hpdm-16f")
    assert result.exit_code == 0, result.output
    assert "the protocol wants 10000" in result.stdout


def test_rejected_files_are_listed_and_the_run_goes_on(run, clips, tmp_path):
    write_video(tmp_path / "s" / "good.mp4", procedural_clip(5, 0, 8, 32, 32)[0])
    write_video(tmp_path / "s" / "good too.mp4", procedural_clip(5, 1, 8, 32, 32)[0])
    (tmp_path / "s" / "broken.mp4").write_bytes(b"not a video")
    words = ["--samples", tmp_path / "s", "--reference", clips / "b"]
    result = run("fvd", *words, "--json")
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)["samples"]["rejected"]
    assert entry["path"] == "broken.mp4" and entry["reason"] and "broken.mp4" in result.stderr
    assert "1 of the samples rejected" in run("fvd", *words).stdout
    strict = run("fvd", *words, "--strict")
    assert strict.exit_code == 2 and "broken.mp4" in strict.stderr


@pytest.mark.parametrize(
    "samples, protocol, more, message",
    [
        ("empty", "native", [], "no readable clip"),
        ("nowhere", "native", [], "nowhere"),
        ("a", "native", ["--num-samples", "1"], "at least 2 clips"),
        ("a", "native", ["--frames", "2"], "at least 4 frames"),
        ("a", "native", ["--frames", "64"], "no readable clip"),
        ("a", "native", ["--frames", "some"], "--frames"),
        ("a", "nonesuch", [], "nonesuch"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(run, clips, samples, protocol, more, message):
    result = run("fvd", "--samples", clips / samples, "--reference", clips / "b", "--quiet", *more, protocol=protocol)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output
    assert result.stdout == ""


def test_stats_needs_two_clips(run, clips, tmp_path):
    result = run("stats", "--data", clips / "a", "--out", tmp_path / "s.npz", "--num-reference", "1")
    assert result.exit_code == 2 and "at least 2 clips" in result.stderr and not (tmp_path / "s.npz").exists()


def test_a_process_keeps_stdout_for_the_record(clips, random_network):
    """The same through a real process and its decoding workers."""
    words = ["fvd", "--samples", str(clips / "a"), "--reference", str(clips / "b"), "--protocol", "native", "--json"]
    program = "import sys; sys.argv[0] = 'hpdm-eval'; from hpdm_eval.commands.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *words, *random_network], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    record = json.loads(done.stdout)
    assert shlex.split(record["command"])[:2] == ["hpdm-eval", "fvd"]


def test_quickstart_moves_the_number_the_right_way(tmp_path):
    out = tmp_path / "quick"
    result = CliRunner().invoke(main, ["quickstart", "--out", str(out), "--clips", "48", "--device", "cpu", "--quiet"])
    assert result.exit_code == 0, result.output
    records = [load_record(path) for path in (out / "records").iterdir()]
    records = {Path(record.samples["path"]).name: record for record in records}
    assert set(records) == {"real", "few-classes", "blurred", "nano"}
    assert all(records["real"].value < records[name].value for name in ("few-classes", "blurred", "nano"))
    table = (out / "table.md").read_text()
    assert "fvd[shapes3d]" in table and table.count("\n| ") == 4
    assert (out / "reference" / "00023_c011.mp4").is_file()
    page = out / "report" / "index.html"
    assert str(page) in result.stdout.splitlines() and page.read_text().count("<video ") == 4 * 12 + 3
    again = CliRunner().invoke(main, ["quickstart", "--out", str(out), "--clips", "2", "--device", "cpu", "--quiet"])
    assert again.exit_code == 0
    assert len(list((out / "real").iterdir())) == len(list((out / "nano").glob("*.mp4"))) == 2
    assert len(list((out / "records").iterdir())) == 4 and page.read_text().count("<video ") == 5 * 2


def test_quickstart_leaves_other_folders_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    result = CliRunner().invoke(main, ["quickstart", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "--out" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_clips_too_short_for_the_network_are_rejected_with_the_reason(run, clips, tmp_path):
    mixed = tmp_path / "mixed"
    for index in range(3):
        write_video(mixed / f"{index}.mp4", procedural_clip(0, index, 3 if index == 1 else 8, 32, 32)[0])
    result = run("fvd", "--samples", mixed, "--reference", clips / "b", "--json")
    assert result.exit_code == 0, result.output
    samples = json.loads(result.stdout)["samples"]
    assert samples["clips"] == 2
    assert samples["rejected"] == [
        {"path": "1.mp4", "reason": "3 frames, needs at least 4; --frames 4 --short loop repeats them"}
    ]
    assert "rejected 1.mp4: 3 frames" in result.stderr
