"""`hpdm-eval ablations` and `efficiency` from the command line: what they write, continue, share and refuse."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm.pyramid import shrink_video
from hpdm.sampling.writer import SamplesFolder
from hpdm.support.errors import InputError
from hpdm.training import loop
from hpdm_eval.commands.entry import main
from hpdm_eval.features.reference_statistics import Statistics
from hpdm_eval.records.labels import format_value
from hpdm_eval.records.record import load_record
from hpdm_eval.studies.ablations import tasks, work
from hpdm_eval.studies.ablations.plan import load_tier, make_plan
from hpdm_eval.studies.ablations.real import RealClips
from tests.support.paths import ROOT
from tests.support.processes import free_ports

CHOSEN = ("table3.deep", "table3.shallow")
TABLE3 = {
    "accuracy",
    "flops",
    "fvd-level0",
    "fvd-level1",
    "fvd-level2",
    "memory",
    "parameters",
    "pyramid",
    "seams",
    "throughput",
}


def ablations(out, *words):
    command = ["ablations", "--tier", "smoke", "--out", out, "--device", "cpu", *words]
    return CliRunner().invoke(main, list(map(str, command)))


def records(out):
    return {path.stem: load_record(path) for path in sorted((out / "records").glob("*.json"))}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The smoke tier's deep and shallow variants of table 3, of one and the same folder."""
    out = tmp_path_factory.mktemp("ablations") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPDM_EVAL_CACHE", str(out.parent / "features"))
        result = ablations(out, "--only", "table3.deep,table3.shallow")
    assert result.exit_code == 0, result.output
    return out, result


def test_records_of_the_chosen_variants_and_no_others(made):
    out, result = made
    found = {name: record for name, record in records(out).items() if "-r0-" in name and name.split("-")[0] in CHOSEN}
    assert set(found) == {f"table3.{variant}-r0-{part}" for variant in ("deep", "shallow") for part in TABLE3}
    assert f"{len(found)} records are in {out / 'records'}" in result.stdout
    table = (out / "report" / "tables" / "table3-smoke.md").read_text()
    assert "shallow fusion" in table and format_value(found["table3.deep-r0-fvd-level1"].value) in table
    for name, record in found.items():
        assert record.extra["study"] == "table3" and record.extra["tier"] == "smoke" and record.extra["repeat"] == 0
        assert record.extra["variant"] == name.split("-")[0].split(".")[1]
        assert ("level" in record.extra) == ("fvd" in name)
    fvd = found["table3.deep-r0-fvd-level1"]
    assert (fvd.num_samples, fvd.num_reference, fvd.extra["level"], fvd.backbone["name"]) == (24, 48, 1, "shapes3d")
    assert fvd.command.startswith("hpdm-eval fvd --samples ")
    deep, shallow = (found[f"table3.{variant}-r0-parameters"].value for variant in ("deep", "shallow"))
    assert deep != shallow
    assert found["table3.deep-r0-throughput"].value > 0 and found["table3.deep-r0-throughput"].unit == "videos/s"
    assert 0.001 < found["table3.deep-r0-memory"].value < 10


def test_samples_of_a_level_are_judged_against_real_clips_of_that_level(made):
    """The statistics are those of clips that are shrunken here by the pyramid's own rule."""
    out, _ = made
    config = load_tier("smoke").base()
    clip = next(iter(RealClips(config, 1, 1, procedural_seed=5)))
    whole = torch.from_numpy(procedural_clip(5, 0, 16, 32, 32)[0]).permute(3, 0, 1, 2).double()
    expected = shrink_video(whole[None], 3)[1][0].permute(1, 2, 3, 0).numpy()
    assert clip.video.shape == (8, 16, 16, 3)
    assert np.abs(clip.video - expected).max() <= 0.5 + 1e-6
    statistics = Statistics.load(out / "reference" / "level1-area.npz")
    assert statistics.moments.n == 48 and statistics.source["level"] == 1


def test_what_is_finished_is_not_done_again(made):
    out, _ = made
    before = stamps(out / "runs") | stamps(out / "samples") | stamps(out / "records")
    result = ablations(out, "--only", "table3.shallow")
    assert result.exit_code == 0
    assert stamps(out / "runs") | stamps(out / "samples") | stamps(out / "records") == before


def test_studies_share_trainings_and_samples(made):
    """Overlap none of table 4 needs samples of its own from the deep model of table 3; overlap hw needs nothing."""
    out, _ = made
    runs, samples = stamps(out / "runs"), stamps(out / "samples")
    result = ablations(out, "--only", "table4.hw", "--only", "table4.none")
    assert result.exit_code == 0, result.output
    assert stamps(out / "runs") == runs
    assert {path.relative_to(out / "samples").parts[0] for path in stamps(out / "samples").keys() - samples.keys()} == {
        "table4.none"
    }
    found = records(out)
    same = [found[f"table{n}.{variant}-r0-fvd-level2"] for n, variant in ((3, "deep"), (4, "hw"))]
    assert same[0].value == same[1].value and same[0].samples["sha256"] == same[1].samples["sha256"]
    assert found["table4.none-r0-fvd-level2"].samples["sha256"] != same[0].samples["sha256"]
    manifest = json.loads((out / "samples/table4.none/repeat0/level2/samples.json").read_text())
    assert manifest["settings"]["overlap"] == "none" and manifest["checkpoint"]["step"] == 8


def test_counts_checkpoints_and_short_clips(made):
    out, _ = made
    result = ablations(out, "--only", "figure8,table6")
    assert result.exit_code == 0, result.output
    found = records(out)
    steps = {(record.extra["step"], record.num_samples) for name, record in found.items() if name.startswith("figure8")}
    assert steps == {(step, count) for step in (4, 8) for count in (12, 24)}
    short, whole = (found[f"table6.{variant}-r0-fvd-level2-n24"] for variant in ("short", "whole"))
    assert short.protocol["frames"] == 4 and whole.protocol["frames"] is None and short.value != whole.value
    last = found["figure8.deep-r0-fvd-level2-step8-n24"]
    assert last.value == whole.value


def test_real_clips_are_a_row(made):
    out, _ = made
    result = ablations(out, "--only", "table3.real")
    assert result.exit_code == 0, result.output
    found = records(out)
    assert {name for name in found if "real" in name} == {
        f"table3.real-r0-{part}" for part in TABLE3 - {"flops", "memory", "parameters", "throughput"}
    }
    for level in range(3):
        assert found[f"table3.real-r0-fvd-level{level}"].value < found[f"table3.deep-r0-fvd-level{level}"].value
    assert found["table3.real-r0-accuracy"].value > 0.9


def test_a_folder_of_an_earlier_version_is_continued(made, tmp_path):
    """What that version's configuration did not have takes its default; what it had otherwise is another study."""
    out = tmp_path / "study"
    shutil.copytree(made[0], out)
    settings = json.loads((out / "study.json").read_text())
    del settings["config"]["method"], settings["config"]["pyramid"]["split"]
    (out / "study.json").write_text(json.dumps(settings))
    assert ablations(out, "--only", "table3.shallow").exit_code == 0
    settings["config"]["training"]["lr"] = 0.5
    (out / "study.json").write_text(json.dumps(settings))
    result = ablations(out, "--only", "table3.shallow")
    assert result.exit_code == 2 and "the configuration" in result.stderr


def test_records_name_the_code_that_trained_and_the_commands_that_sampled(made):
    out, _ = made
    (trained,) = records(out)["table3.deep-r0-fvd-level2"].extra["trained_by"]
    (line,) = (out / "runs/table3.deep/repeat0/provenance.jsonl").read_text().splitlines()
    assert trained == (json.loads(line)["git"] or "unknown")
    command = json.loads((out / "samples/table3.deep/repeat0/level2/samples.json").read_text())["command"]
    assert command.startswith("hpdm-sample --checkpoint ") and "--save-levels" in command


def test_a_run_of_other_settings_is_not_taken_for_the_variants(made, tmp_path):
    """As after a change to studies.yaml: the folder's tier is the same, and the run is finished."""
    out = tmp_path / "study"
    shutil.copytree(made[0], out)
    path = out / "runs/table3.shallow/repeat0/config.yaml"
    path.write_text(path.read_text().replace("fusion: shallow", "fusion: detached"))
    result = ablations(out, "--only", "table3.shallow")
    assert result.exit_code == 2 and "network.fusion" in result.stderr and "table3.shallow" in result.stderr
    assert ablations(out, "--only", "table3.deep").exit_code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_damaged_study_is_refused(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    result = ablations(tmp_path, "--only", "table3.deep")
    assert result.exit_code == 2 and "study.json is damaged" in result.stderr


def test_a_task_that_makes_too_little_ends_the_work(tmp_path):
    calls = []
    task = work.Task(name="sample x", done=lambda: False, run=lambda: calls.append(1))
    with pytest.raises(InputError, match="sample x: what was made is less"):
        work.work([task], tmp_path, work.Progress([task], tmp_path / "log.txt", True))
    assert len(calls) == 1


def test_what_does_not_fit_is_timed_without(tmp_path, monkeypatch, capsys):
    """Shallow does not fit at all, not-adaptive with fewer videos at once: the task is done, and the log says so."""

    def fitting(config, device, most):
        assert most == 4
        if config.network.fusion == "shallow":
            return 0
        return 4 if len(set(config.network.levels_per_block)) > 1 else 1

    monkeypatch.setattr(tasks, "fitting_batch", fitting)
    monkeypatch.setattr(tasks, "training_memory", lambda config, **_: 2**30)
    plan = make_plan(load_tier("smoke"), ["table3.deep", "table3.shallow", "table3.not-adaptive"])
    workshop = tasks.Workshop(plan, tmp_path, device=torch.device("cpu"), command="hpdm-eval ablations")
    (task,) = [task for task in workshop.tasks() if task.alone]
    work.work([task], tmp_path / "locks", work.Progress([task], tmp_path / "log.txt", False))
    assert task.done()
    found = records(tmp_path)
    assert {name.split("-r0-")[0] for name in found} == {"table3.deep", "table3.not-adaptive"}
    assert found["table3.deep-r0-memory"].warnings == ()
    for metric in ("memory", "throughput"):
        record = found[f"table3.not-adaptive-r0-{metric}"]
        assert record.details[0]["batch"] == 1 and "steps of 1 where 4 were wanted" in record.warnings[0]
    for said in (capsys.readouterr().err, (tmp_path / "log.txt").read_text()):
        assert said.count("a step of one video of table3.shallow does not fit on cpu") == 1


@pytest.mark.slow
def test_baselines_share_a_budget_and_the_lattice_of_seams(made):
    """Latent with the autoencoder that it needs: trained, sampled or reconstructed, and judged."""
    out, _ = made
    result = ablations(out, "--only", "baselines.latent,baselines.autoencoder")
    assert result.exit_code == 0, result.output
    found = {name: record for name, record in records(out).items() if name.startswith("baselines.")}
    both = {"fvd-level2", "accuracy", "is", "seams", "throughput", "parameters", "flops", "compute", "memory"}
    assert set(found) == {f"baselines.autoencoder-r0-{part}" for part in both | {"psnr"}} | {
        f"baselines.latent-r0-{part}" for part in both | {"sampling"}
    }
    for variant in ("latent", "autoencoder"):
        settings = found[f"baselines.{variant}-r0-seams"].extra["settings"]
        assert settings["patch"] == [4, 8, 8] and settings["levels"] == 3 and settings["lossless"] is True
    assert found["baselines.latent-r0-sampling"].unit == "s/video"
    folder = out / "samples" / "baselines.autoencoder" / "repeat0"
    psnr = json.loads((folder / "reconstruction.json").read_text())["psnr"]
    record = found["baselines.autoencoder-r0-psnr"]
    assert record.value == psnr > 5
    assert record.samples == found["baselines.autoencoder-r0-seams"].samples
    for variant in ("latent", "autoencoder"):
        finest = out / "samples" / f"baselines.{variant}" / "repeat0" / f"level{0 if variant == 'latent' else 2}"
        assert sorted(finest.glob("*.npy"))[-1].name == "00023_c011.npy" or variant == "autoencoder"
        assert len(list(finest.glob("*.npy"))) == 24


def test_another_tiers_folder_is_refused(made, tmp_path):
    out, _ = made
    result = CliRunner().invoke(main, ["ablations", "--tier", "cpu", "--only", "table3.deep", "--out", str(out)])
    assert result.exit_code == 2 and "was made with other settings" in result.stderr
    assert "samples: 24 -> 144" in result.stderr
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "photo.png").touch()
    result = ablations(tmp_path / "things", "--only", "table3.deep")
    assert result.exit_code == 2 and "holds no study" in result.stderr
    assert ablations(tmp_path / "new", "--only", "table9").exit_code == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_papers_tier_states_its_cost_and_waits_for_yes(tmp_path):
    words = ["ablations", "--tier", "paper", "--only", "table3.deep", "--seeds", "1", "--out", str(tmp_path / "study")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "--yes" in result.stderr and "50,000 steps of 512" in result.stdout
    assert not (tmp_path / "study").exists()


def interrupt_at(monkeypatch, module, name, when):
    """Let Ctrl-C come while `module.name` is called for the `when`-th time."""
    original, calls = getattr(module, name), 0

    def counted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == when:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, counted)


def test_an_interrupted_study_goes_on_as_if_never_stopped(made, tmp_path, monkeypatch):
    """Ctrl-C in the fourth step of a training, then after the twentieth clip of a sample set."""
    whole, out = made[0], tmp_path / "study"
    with monkeypatch.context() as patch:
        interrupt_at(patch, loop, "seed_dropout", 4)
        result = ablations(out, "--only", "table4.hw")
    assert result.exit_code == 130 and "interrupted: 0 of 5 tasks done" in result.stderr
    run = out / "runs/table3.deep/repeat0"
    assert [folder.name for folder in run.glob("step-*")] == ["step-00000004"]

    with monkeypatch.context() as patch:
        interrupt_at(patch, SamplesFolder, "write", 3 * 20)
        result = ablations(out, "--only", "table4.hw")
    assert result.exit_code == 130 and "continuing from" in result.stderr
    finest = out / "samples/table3.deep/repeat0/level2"
    assert 0 < len(list(finest.glob("*.npy"))) < 24
    assert not list((out / "records").glob("*"))

    result = ablations(out, "--only", "table4.hw")
    assert result.exit_code == 0, result.output
    for part in (
        "runs/table3.deep/repeat0/step-00000008/ema.safetensors",
        "samples/table3.deep/repeat0/level2/00023_c011.npy",
    ):
        assert (out / part).read_bytes() == (whole / part).read_bytes(), part
    assert records(out)["table4.hw-r0-fvd-level2"].value == records(whole)["table3.deep-r0-fvd-level2"].value
    assert "interrupted" in (out / "log.txt").read_text()


def test_time_that_is_up_is_no_failure(tmp_path):
    out = tmp_path / "study"
    result = ablations(out, "--only", "table4.hw", "--stop-after-minutes", "0.0005")
    assert result.exit_code == 0 and "time is up" in result.stderr
    assert not list((out / "records").glob("*"))


@pytest.mark.slow
def test_several_processes_share_the_work(made, tmp_path):
    """Two jobs on a folder whose samples exist: each record is made once, by either."""
    out = tmp_path / "study"
    shutil.copytree(made[0], out)
    timed = {path for metric in ("throughput", "memory") for path in (out / "records").glob(f"table3.*-{metric}.json")}
    for path in set((out / "records").iterdir()) - timed:
        path.unlink()
    result = ablations(out, "--only", "table3.deep,table3.shallow", "--jobs", "2")
    assert result.exit_code == 0, result.output + (out / "job0.txt").read_text()
    assert set(records(out)) == {f"table3.{v}-r0-{part}" for v in ("deep", "shallow") for part in TABLE3}
    assert (out / "log.txt").read_text().count("judge table3.deep-r0") == 2  # once in the copied log


@pytest.mark.slow
def test_processes_of_torchrun_work_together(made, tmp_path):
    """They sample the set again, which comes out the same, and judge it."""
    out = tmp_path / "study"
    shutil.copytree(made[0], out)
    for folder in ("samples", "records", "reference"):
        shutil.rmtree(out / folder)
    (port,) = free_ports(1)
    environment = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-c",
        "from hpdm_eval.commands.entry import main; main()",
        "ablations",
        "--tier",
        "smoke",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--only",
        "table4.hw",
    ]
    processes = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    try:
        (first, errors), (second, _) = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "records are in" in first and second == ""
    again, before = records(out)["table4.hw-r0-fvd-level2"], records(made[0])["table3.deep-r0-fvd-level2"]
    assert again.samples["sha256"] == before.samples["sha256"]
    assert again.value == pytest.approx(before.value, rel=1e-9)


def test_locks_leave_a_task_to_whoever_has_it(tmp_path):
    path = tmp_path / "task.lock"
    with work._taken(path) as first, work._taken(path) as second:
        assert first and not second
    with work._taken(path) as again:
        assert again
