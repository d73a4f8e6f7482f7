"""`hpdm-train` and `hpdm-info`: exit codes, stopping by signals, resuming bit for bit, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hpdm.checkpoint.folder import latest_checkpoint
from hpdm.commands.entry import info, train
from hpdm.training.log import read_log
from hpdm.training.resume import find_checkpoint
from tests.support.paths import ROOT
from tests.support.small_training import SMALL, small_config, write_small

STEPS = 40
FILES = ("model.safetensors", "ema.safetensors", "training.pt", "config.yaml")


@pytest.fixture
def size(tmp_path):
    return str(write_small(tmp_path / "small.yaml"))


@pytest.fixture(autouse=True)
def own_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def invoke(command, *arguments):
    return CliRunner().invoke(command, [*arguments, "--device", "cpu"])


def start(size, run, *arguments):
    """The command in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "hpdm.training",
        "--size",
        size,
        "--out",
        str(run),
        "--steps",
        str(STEPS),
        "--device",
        "cpu",
        "--quiet",
        *arguments,
    ]
    root = ROOT
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def wait_for_step(run, step, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(line["step"] >= step for line in read_log(run)):
            return
        time.sleep(0.01)
    raise AssertionError(f"never reached step {step}: {process.poll()}")


def figures(run):
    """The log without what depends on the clock."""
    return [{key: value for key, value in line.items() if "second" not in key} for line in read_log(run)]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    size = str(write_small(folder / "small.yaml"))
    assert invoke(train, "--size", size, "--out", str(folder / "run"), "--steps", str(STEPS)).exit_code == 0
    return folder / "run"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_as_if_never_stopped(tmp_path, size, never_stopped, number):
    run = tmp_path / "run"
    process = start(size, run, "--set", "checkpoint_every=7")
    wait_for_step(run, 10, process)
    process.send_signal(number)
    code, errors = finish(process)
    saved = int(latest_checkpoint(run).name.removeprefix("step-"))
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL and saved % 7 == 0
    else:
        assert code == 130, errors
        assert saved == read_log(run)[-1]["step"] < STEPS
    assert invoke(train, "--size", size, "--out", str(run), "--steps", str(STEPS), "--resume").exit_code == 0
    for file in ("model.safetensors", "ema.safetensors", "training.pt"):
        assert (run / "latest" / file).read_bytes() == (never_stopped / "latest" / file).read_bytes(), file
    assert figures(run) == figures(never_stopped)


def test_a_second_interrupt_ends_at_once(tmp_path, size):
    """A step of many passes takes seconds; the second Ctrl-C does not wait for it."""
    process = start(size, tmp_path / "run", "--batch", "4096", "--set", "training.log_every=1")
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    code, errors = finish(process)
    assert code == 130 and time.monotonic() - sent < 2 and "at once" in errors
    assert latest_checkpoint(tmp_path / "run") is None


def test_stop_after_keeps_the_schedule(tmp_path, size):
    whole, halved = str(tmp_path / "whole"), str(tmp_path / "halved")
    assert invoke(train, "--size", size, "--out", whole).exit_code == 0
    assert invoke(train, "--size", size, "--out", halved, "--stop-after", "3").exit_code == 0
    assert latest_checkpoint(halved).name == "step-00000003"
    again = invoke(train, "--size", size, "--out", halved, "--stop-after", "3")
    assert again.exit_code == 0 and "nothing to do" in again.stderr
    assert invoke(train, "--size", size, "--out", halved).exit_code == 0
    for file in FILES:
        assert (tmp_path / "whole/latest" / file).read_bytes() == (tmp_path / "halved/latest" / file).read_bytes(), file
    assert figures(whole) == figures(halved)


def test_other_settings_are_refused_with_the_differences(tmp_path, size):
    run = str(tmp_path / "run")
    assert invoke(train, "--size", size, "--out", run, "--stop-after", "1").exit_code == 0
    before = sorted(p.name for p in Path(run).rglob("*"))
    result = invoke(train, "--size", size, "--out", run, "--steps", "9", "--seed", "3")
    assert result.exit_code == 2
    assert "training.steps was 6, now 9" in result.stderr and "training.seed was 0, now 3" in result.stderr
    assert sorted(p.name for p in Path(run).rglob("*")) == before
    free = small_config("micro_batch=4", "log_every=3", "parallel=fsdp")
    assert find_checkpoint(run, free, resume=True).name == "step-00000001"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "training.learning_rate=1"), "unknown key 'training.learning_rate'"),
        (("--set", "nonsense=1"), "unknown key 'nonsense'"),
        (("--set", "pyramid.patch=[2, 5, 4]"), "not a multiple of network.token"),
        (("--set", "levels_per_block=[1, 3]"), "must reach pyramid.levels"),
        (("--set", "num_classes=5"), "12 classes, but the model only 5"),
        (("--batch", "0"), "--batch"),
        (("--data", "{tmp}/absent"), "absent"),
        (("--data", "{tmp}/empty"), "empty"),
        (("--resume",), "no checkpoint"),
        (("--set", "lr=fast"), "lr"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(tmp_path, size, arguments, message):
    (tmp_path / "empty").mkdir()
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    before = sorted(tmp_path.rglob("*"))
    result = invoke(train, "--size", size, "--out", str(tmp_path / "run"), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_out_must_be_a_run_or_new(tmp_path, size):
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "photo.png").touch()
    for out, message in (("things", "holds no training run"), ("small.yaml", "is a file")):
        result = invoke(train, "--size", size, "--out", str(tmp_path / out))
        assert result.exit_code == 2 and message in result.stderr
    result = invoke(train, "--size", size)
    assert result.exit_code == 2 and "--out" in result.stderr


def test_too_many_steps_that_are_not_finite_exit_1(tmp_path, size):
    result = invoke(
        train,
        "--size",
        size,
        "--out",
        str(tmp_path / "run"),
        "--set",
        "lr=1e30",
        "--set",
        "warmup=0",
        "--set",
        "max_nonfinite=2",
        "--steps",
        "50",
        "--set",
        "optimizer=adamw",
    )
    assert result.exit_code == 1
    assert "2 steps had a loss or gradient that is not finite" in result.stderr and "Traceback" not in result.stderr


def test_dry_run_shows_settings_and_costs_and_writes_nothing(tmp_path, size):
    result = invoke(train, "--size", size, "--dry-run", "--out", str(tmp_path / "run"))
    assert result.exit_code == 0 and not (tmp_path / "run").exists()
    settings = yaml.safe_load(result.stdout.split("\nsmall: ")[0])
    assert settings["training"]["steps"] == SMALL["training"]["steps"]
    for part in ("decay:", "no decay:", "GFLOP", "memory of one process", "8 = 1 processes x 4 passes x 2 samples"):
        assert part in result.stdout


def test_profile_data_compares_data_and_steps(size):
    result = invoke(train, "--size", size, "--profile-data")
    assert result.exit_code == 0 and "clips/s" in result.stdout and "samples/s" in result.stdout


def test_sheets_are_pictures_of_the_right_size(tmp_path, size):
    from matplotlib.image import imread

    assert (
        invoke(
            train, "--size", size, "--out", str(tmp_path / "run"), "--steps", "2", "--set", "sheet_every=1"
        ).exit_code
        == 0
    )
    picture = imread(tmp_path / "run/sheets/step-00000002.png")
    assert picture.shape[:2] == (4 * 2 * 68, 5 * 68)  # 4 clips x 2 levels, clean and 4 estimates, of 64 + 2 * 2 pixels


def test_info_prints_one_json_object(size):
    result = invoke(info, "--size", size, "--json")
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert values["size"] == "small" and values["parameters"] == sum(values["parameters_by_part"].values())
    assert values["flops_per_sample"] == values["flops_outside_blocks"] + sum(e["flops"] for e in values["flops"])


def test_info_for_people(size):
    result = invoke(info, "--size", size)
    assert result.exit_code == 0 and "parameters" in result.stdout and "level 1" in result.stdout
    assert "block evaluations a video" in result.stdout
    assert invoke(info, "--size", "XXL").exit_code == 2
