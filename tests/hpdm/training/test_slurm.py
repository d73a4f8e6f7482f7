"""`hpdm-train --slurm`: what is submitted, and a job that is pre-empted, comes up again and ends as any other run."""

import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from hpdm.checkpoint.folder import step_folder
from hpdm.commands.entry import train
from hpdm.commands.train import run_command
from hpdm.support.errors import InputError
from hpdm.training import loop, slurm
from hpdm.training.log import RunLog, read_log
from hpdm.training.provenance import read_provenance
from tests.support.paths import ROOT
from tests.support.small_training import small_config, write_small

submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")
STEPS, LONG = 12, 40


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1-0", 1440), ("2-12:30", 3630), ("0-00:00:30", 1), ("1:30:00", 90), ("00:00:61", 2)],
)
def test_times_as_sbatch_takes_them(text, minutes):
    assert slurm.parse_time(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "soon", "1:30", "-5", "1-", "0-0"])
def test_other_times_are_refused(text):
    with pytest.raises(InputError, match="--slurm-time"):
        slurm.parse_time(text)


@pytest.mark.parametrize("text", ["8", "0x8", "2x0", "2x", "2x8x1", "twox8"])
def test_other_shapes_are_refused(text):
    with pytest.raises(InputError, match="NODESxGPUS"):
        slurm.parse_shape(text)


def test_the_job_gets_the_command_without_its_own_options():
    words = [
        "--size",
        "L",
        "--slurm",
        "2x8",
        "--out",
        "r",
        "--slurm-time=1-0",
        "--set",
        "lr=1",
        "--slurm-set",
        "account=a",
        "--resume",
    ]
    assert slurm.without_slurm(words) == ["--size", "L", "--out", "r", "--set", "lr=1", "--resume"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder whose sbatch keeps what it is given; there is no SLURM behind it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", f'cat "$1" > {tmp_path}/job.sh; echo Submitted batch job 4242'), ("srun", "exit 0")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "job.sh"


def submit(tmp_path, *words, batch="16"):
    size = write_small(tmp_path / "small.yaml")
    return CliRunner().invoke(train, ["--size", str(size), "--out", str(tmp_path / "run"), "--batch", batch, *words])


def test_what_is_submitted(cluster, tmp_path):
    result = submit(
        tmp_path,
        "--slurm",
        "2x8",
        "--slurm-partition",
        "gpu",
        "--slurm-time",
        "2-0",
        "--slurm-cpus",
        "12",
        "--slurm-set",
        "account=vision",
    )
    assert result.exit_code == 0, result.stderr
    assert "job 4242" in result.stdout and not (tmp_path / "run").exists()
    lines = set(cluster.read_text().splitlines())
    assert {
        f"#SBATCH --{option}"
        for option in (
            "nodes=2",
            "ntasks-per-node=8",
            "gpus-per-node=8",
            "cpus-per-task=12",
            "partition=gpu",
            "time=2880",
            "requeue",
            "account=vision",
            "signal=USR2@120",
            "job-name=run",
        )
    } <= lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--slurm", "2x16"), "batch of 16 leaves some of 32 processes without a sample"),
        (("--slurm", "2by8"), "NODESxGPUS"),
        (("--slurm", "2x8", "--slurm-set", "account"), "key=value"),
        (("--slurm", "2x2", "--slurm-cluster", "local"), "one node"),
    ],
)
def test_bad_input_submits_nothing(cluster, tmp_path, words, message):
    result = submit(tmp_path, *words)
    assert result.exit_code == 2 and message in result.stderr and not cluster.exists()


def test_without_slurm_or_submitit_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = submit(tmp_path, "--slurm", "1x2")
    assert result.exit_code == 2 and "srun" in result.stderr
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = submit(tmp_path, "--slurm", "1x2")
    assert result.exit_code == 2 and "pip install 'hpdm[slurm]'" in result.stderr


def test_submitit_requeues_a_training_that_it_pre_empts(tmp_path, monkeypatch):
    """One task with submitit's own handler, in this process: the signal comes some steps in, the run is saved, the hook
    writes the job that comes up again, and that one ends like a run that nobody disturbed."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that they are gone afterwards
        monkeypatch.delenv(name)
    here = {
        "EXECUTOR": "local",
        "LOCAL_JOB_ID": "7",
        "LOCAL_NTASKS": "1",
        "LOCAL_JOB_NUM_NODES": "1",
        "LOCAL_NODEID": "0",
        "LOCAL_GLOBALID": "0",
        "LOCAL_LOCALID": "0",
        "FOLDER": str(tmp_path),
    }
    for name, value in here.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)}
    words = [
        "--size",
        str(write_small(tmp_path / "small.yaml")),
        "--device",
        "cpu",
        "--quiet",
        "--steps",
        str(STEPS),
        "--out",
        str(tmp_path / "run"),
        "--set",
        "micro_batch=8",
    ]
    delayed = submitit.helpers.DelayedSubmission(slurm.TrainingJob(run_command, words))
    delayed.set_timeout(60, 5)
    environment = submitit.local.local.LocalJobEnvironment()
    write = RunLog.write

    def write_and_signal(self, line):
        write(self, line)
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGUSR2)

    try:
        environment._handle_signals(environment.paths, delayed)
        with monkeypatch.context() as patch:
            patch.setattr(RunLog, "write", write_and_signal)
            with pytest.raises(SystemExit) as end:
                delayed.result()
        assert end.value.code == submitit.local.local.LOCAL_REQUEUE_RETURN_CODE
        assert read_log(tmp_path / "run")[-1]["step"] == 3
        again = submitit.helpers.DelayedSubmission.load(environment.paths.submitted_pickle)
        assert again.function.words == tuple(words) and again.result() == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    loop.train(small_config(f"training.steps={STEPS}", "micro_batch=8"), tmp_path / "plain", device="cpu", quiet=True)
    for file in ("model.safetensors", "ema.safetensors", "training.pt"):
        ours, theirs = (step_folder(tmp_path / run, STEPS) / file for run in ("run", "plain"))
        assert ours.read_bytes() == theirs.read_bytes(), file


@pytest.mark.parametrize("code", [0, 1, 130])
def test_other_ends_are_not_requeued(monkeypatch, code):
    monkeypatch.setattr(slurm, "torchrun_environment", dict)
    if not code:
        assert slurm.TrainingJob(lambda words: code, ())() == 0
        return
    with pytest.raises(SystemExit) as end:
        slurm.TrainingJob(lambda words: code, ())()
    assert end.value.code == code


def start(folder, name):
    """A local job of two processes, on the processor."""
    size = write_small(folder / "small.yaml")
    words = ["--size", str(size), "--out", str(folder / name), "--steps", str(LONG), "--device", "cpu", "--quiet"]
    return slurm.submit(run_command, words, folder / name, shape="1x2", time="30", cluster="local", use_gpus=False)


def tasks_of(job):
    """Process ids of the job's tasks, the children of its controller."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if fields[1] == job.job_id:
            found.append(int(path.parent.name))
    return found


def wait_for(condition, what):
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def preempted(tmp_path, monkeypatch):
    """Folder of a run that was pre-empted once, some steps in."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = start(tmp_path, "run")
    wait_for(lambda: job.done() or any(line["step"] >= 3 for line in read_log(tmp_path / "run")), "no steps")
    for pid in tasks_of(job):
        os.kill(pid, signal.SIGUSR2)
    wait_for(job.done, "no end")
    output = "".join(path.read_text() for path in (tmp_path / "run-slurm").glob("*_log.*"))
    assert job.results() == [0, 0], output
    assert "Requeued job" in output
    return tmp_path / "run"


@pytest.mark.slow
def test_a_preempted_job_comes_up_again_and_ends_as_any_other(preempted, tmp_path):
    assert len(starts := read_provenance(preempted)) == 2 and 3 <= starts[1]["step"] < LONG
    assert all(line["processes"] == 2 for line in starts)
    loop.train(small_config(f"training.steps={LONG}"), tmp_path / "plain", device="cpu", quiet=True)
    assert [line["step"] for line in read_log(preempted)] == list(range(1, LONG + 1))
    ours, theirs = (load_file(step_folder(run, LONG) / "ema.safetensors") for run in (preempted, tmp_path / "plain"))
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
def test_a_preempted_job_equals_one_that_was_not_to_the_bit(preempted, tmp_path):
    job = start(tmp_path, "undisturbed")
    wait_for(job.done, "no end")
    for file in ("model.safetensors", "ema.safetensors"):
        ours, theirs = (load_file(step_folder(run, LONG) / file) for run in (preempted, tmp_path / "undisturbed"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), file
