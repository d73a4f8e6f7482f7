"""Signals, locks, leftovers, and environments in which something usual is missing."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.commands.entry import info, sample, train
from hpdm.support.console import Command
from hpdm.support.environment import choose_device, processes_here
from hpdm.support.errors import InputError
from hpdm.support.files import (
    atomic_file,
    atomic_folder,
    holds_something,
    home_folder,
    scratch_folder,
    sweep,
    user_cache,
)
from hpdm.support.interrupts import ends_at_once, raises_interrupt
from hpdm.support.lock import LOCK_FILE, hold
from hpdm.training.log import read_log
from hpdm.training.loop import train as train_run
from hpdm_eval.backbones import weights
from hpdm_eval.commands.entry import main
from hpdm_eval.features.cache import cache_folder
from tests.support.paths import ROOT
from tests.support.small_training import small_config, write_small

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def python(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=options.pop("env", ENVIRONMENT),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


WORKING = """
import click, sys, time
from hpdm.support.console import Command
from hpdm.support.files import scratch_folder, atomic_file
@click.command(cls=Command)
def work():
    with scratch_folder("hpdm-test") as folder, atomic_file(PLACE + "/result") as file:
        file.write(b"half"); file.flush()
        print(folder, flush=True)
        time.sleep(60)
work([])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_temporary_goes_with_a_signal(tmp_path, number):
    process = python(f"PLACE = {str(tmp_path)!r}" + WORKING)
    folder = process.stdout.readline().strip()
    assert Path(folder).is_dir()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.split() == ["interrupted"]
    assert not Path(folder).exists() and list(tmp_path.iterdir()) == []


def test_what_an_evaluation_has_unpacked_goes_with_sigterm(tmp_path):
    clips = [np.random.default_rng(index).integers(0, 255, (16, 64, 64, 3), np.uint8) for index in range(60)]
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        for index, clip in enumerate(clips):
            with archive.open(f"{index:02d}.npy", "w") as file:
                np.save(file, clip)
    place = tmp_path / "tmp"
    place.mkdir()
    words = [
        "features",
        "--samples",
        tmp_path / "clips.zip",
        "--out",
        tmp_path / "f.npz",
        "--backbone",
        "shapes3d",
        "--device",
        "cpu",
        "--batch",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "hpdm_eval", *map(str, words)],
        text=True,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"TMPDIR": str(place), "HPDM_EVAL_CACHE": str(tmp_path / "cache")},
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not list(place.rglob("*.npy")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.split()[-1] == "interrupted" and "Traceback" not in errors
    assert not list(place.rglob("*.npy")) and not (tmp_path / "f.npz").exists()


def test_what_a_kill_leaves_is_swept_at_the_next_start(tmp_path):
    process = python(f"PLACE = {str(tmp_path)!r}" + WORKING)
    folder = Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()
    assert folder.is_dir() and len(list(tmp_path.glob(".result.*.part"))) == 1
    with scratch_folder("hpdm-test"):
        assert not folder.exists()
    with atomic_file(tmp_path / "other") as file:
        file.write(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_a_living_process_writes_is_not_swept(tmp_path):
    with atomic_file(tmp_path / "a") as file, atomic_folder(tmp_path / "b") as folder:
        file.write(b"x")
        assert sweep(tmp_path) == 0 and folder.is_dir()
        (tmp_path / ".c.abcdefgh.part").write_bytes(b"")
        (tmp_path / ".d.abcdefgh.part").mkdir()
        assert sweep(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_downloads_that_go_on_later_are_not_leftovers(tmp_path):
    for name in ("net.pt.part", ".part", ".a.part", "a.abcdefgh.part"):
        (tmp_path / name).touch()
    assert sweep(tmp_path) == 0


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.06, 0.1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_while_a_program_starts(number, delay):
    """From the first import of ours on; the interpreter's own start belongs to nobody."""
    process = python(
        "from hpdm.support.interrupts import ends_at_once\nwith ends_at_once():\n    print(flush=True)\n"
        "    from hpdm_eval.commands.entry import main\nmain(['weights', 'list'])"
    )
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 130) and "Traceback" not in errors
    assert process.returncode == 0 or errors.split() == ["interrupted"]


def test_an_interrupt_that_a_library_makes_something_of_is_still_one():
    def swallow():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt as error:
            raise ImportError("numpy.core.multiarray failed to import") from error

    result = CliRunner().invoke(Command("swallow", callback=swallow), [])
    assert result.exit_code == 130 and result.stderr.split() == ["interrupted"]


def test_a_second_sigterm_does_not_disturb_cleaning_up():
    done = []
    with raises_interrupt() as asked:
        try:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                done.append(True)
        except KeyboardInterrupt:
            done.append(asked.to_end)
    assert done == [True, True]


def test_handlers_of_others_are_left_and_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with raises_interrupt(), ends_at_once():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raises_interrupt():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    failed = []

    def elsewhere():
        with raises_interrupt(), ends_at_once():
            failed.append(signal.getsignal(signal.SIGTERM) is not before)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert failed == [False]


def test_a_start_that_was_killed_at_its_first_file_is_no_foreign_folder(tmp_path):
    for name in (".config.yaml.abcdefgh.part", LOCK_FILE):
        (tmp_path / name).touch()
    assert not holds_something(tmp_path) and not holds_something(tmp_path / "absent")
    train_run(small_config("training.steps=1"), tmp_path, device="cpu", quiet=True)
    assert holds_something(tmp_path) and not list(tmp_path.glob(".*"))


# Locks


def test_a_second_owner_is_refused_by_the_first_ones_name(tmp_path):
    run = tmp_path / "new" / "run"
    with hold(run):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"), hold(run):
            pass
        with hold(run, ".lock-1"):
            pass
        (run / "result").touch()
    assert [path.name for path in run.iterdir()] == ["result"]
    with hold(tmp_path / "else" / "run"):
        pass
    assert not (tmp_path / "else").exists()


def test_the_lock_of_a_killed_owner_is_nobodys(tmp_path):
    process = python(
        f"import time\nfrom hpdm.support.lock import hold\nwith hold({str(tmp_path)!r}):\n print(1, flush=True)\n "
        "time.sleep(60)"
    )
    process.stdout.readline()
    with pytest.raises(InputError, match=f"process {process.pid}"), hold(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK_FILE).exists()
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()


def test_a_lock_of_another_host_counts_while_it_is_touched(tmp_path):
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps({"host": "elsewhere", "process": 1, "since": "2026-01-01T00:00:00Z"}))
    with pytest.raises(InputError, match="process 1 on elsewhere, since 2026-01-01"), hold(tmp_path):
        pass
    os.utime(path, (time.time() - 1000,) * 2)
    with hold(tmp_path):
        pass
    for content in (b"", b"\xff\xff", b"[]", b"{"):
        path.write_bytes(content)
        with hold(tmp_path):
            pass


def test_two_trainers_on_one_run(tmp_path):
    run, size = tmp_path / "run", write_small(tmp_path / "small.yaml")
    config = small_config("training.steps=2")
    train_run(config, run, device="cpu", stop_after=1, quiet=True)
    words = ["--size", str(size), "--set", "training.steps=2", "--out", str(run), "--device", "cpu", "--quiet"]
    with hold(run):
        result = CliRunner().invoke(train, words)
        assert result.exit_code == 2 and "is in use by process" in result.stderr and result.stderr.count("\n") == 1
        assert [line["step"] for line in read_log(run)] == [1]
    assert CliRunner().invoke(train, words).exit_code == 0
    assert [line["step"] for line in read_log(run)] == [1, 2]
    options = [
        "--checkpoint",
        str(run),
        "--num",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
        "--quiet",
        "--steps",
        "1,1",
    ]
    with hold(tmp_path / "out"):
        result = CliRunner().invoke(sample, options)
        assert result.exit_code == 2 and "is in use by process" in result.stderr
    assert CliRunner().invoke(sample, options).exit_code == 0
    assert not list((tmp_path / "out").glob(".lock*"))


# Environments


@pytest.fixture
def nobody(monkeypatch):
    """A user without a home and without an entry in the list of users."""
    for name in ("HOME", "XDG_CACHE_HOME", "HPDM_EVAL_CACHE", "HPDM_EVAL_WEIGHTS", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def test_without_a_home(nobody, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert home_folder() is None and user_cache("x").parent == tmp_path
    assert cache_folder().is_relative_to(tmp_path) and weights.cache_dir().is_relative_to(tmp_path)
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", "~/weights")
    assert weights.cache_dir() == Path("~/weights")
    result = CliRunner().invoke(main, ["weights", "list"])
    assert result.exit_code == 0, result.output


def test_a_cache_in_the_temporary_folder_is_ours_alone(nobody, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    planted = tmp_path / f"x-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert user_cache("x") != planted
    shutil.rmtree(planted)
    assert user_cache("x") == planted and planted.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "values, message",
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 of a WORLD_SIZE of 2"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE in the environment is 'two'"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE is 0"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK in the environment is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_half_an_environment_of_torchrun(monkeypatch, tmp_path, values, message):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    commands = [
        (train, ["--size", "nano", "--out", tmp_path / "run", "--device", "cpu"]),
        (main, ["fvd", "--samples", tmp_path, "--reference", tmp_path, "--device", "cpu"]),
    ]
    if "MASTER" not in message:  # sampling's processes never meet
        commands.append((sample, ["--checkpoint", "nano", "--num", "1", "--out", tmp_path / "out", "--device", "cpu"]))
    for command, words in commands:
        result = CliRunner().invoke(command, list(map(str, words)))
        assert result.exit_code == 2 and message in result.stderr, result.output
        assert result.stderr.count("\n") == 1 and not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_one_process_needs_no_rank(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("RANK", raising=False)
    assert processes_here().rank == 0


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:9", "mps", "xpu", "meta", "nonsense", "hpu:1"])
def test_a_device_that_is_not_here(name, tmp_path):
    if name in ("cuda", "cuda:0") and torch.cuda.is_available() or name == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is here")
    with pytest.raises(InputError) as error:
        choose_device(name)
    assert f"--device {name}" in str(error.value) and len(str(error.value)) < 300
    for command, words in (
        (sample, ["--checkpoint", "nano", "--num", "1", "--out", tmp_path / "o"]),
        (train, ["--size", "nano", "--out", tmp_path / "r"]),
        (main, ["fvd", "--samples", tmp_path, "--reference", tmp_path]),
    ):
        result = CliRunner().invoke(command, [*map(str, words), "--device", name])
        assert result.exit_code == 2 and "Traceback" not in result.stderr and f"--device {name}" in result.stderr


@pytest.mark.parametrize("name", ["cuda:x", "CUDA", "", "cuda:1:2", "../x", "cuda:99999"])
def test_what_is_no_device_at_all(name):
    result = CliRunner().invoke(info, ["--size", "nano", "--device", name])
    assert result.exit_code == 2 and "--device" in result.stderr


def test_devices_that_are_here(monkeypatch):
    assert choose_device("cpu") == choose_device("cpu:0") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("hpdm.support.environment._try", lambda device, name: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    # A device without a number is one that torch.cuda.set_device refuses.
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="there are 2 here"):
        choose_device("cuda:2")
    for name, value in (("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    assert choose_device("cuda") == choose_device("auto") == choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="each process takes its own"):
        choose_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(InputError, match="there are 2 here"):
        choose_device("cuda")


# Launchers


@pytest.mark.parametrize(
    "module, words",
    [
        ("hpdm.sampling", ["--num", "12"]),
        ("hpdm.training", ["--size", "S", "--batch", "8"]),
        ("hpdm_eval", ["fvd", "--num-samples", "8"]),
    ],
)
def test_torchrun_leaves_the_options_of_the_documented_launchers_alone(module, words):
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", module, "--", *words])
    assert parsed.training_script == module and [w for w in parsed.training_script_args if w != "--"] == words
    assert f"-m {module} -- " in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("separator", [[], ["--"]])
@pytest.mark.parametrize("module, program", [("hpdm.sampling", "hpdm-sample"), ("hpdm_eval", "hpdm-eval")])
def test_modules_are_the_commands(module, program, separator):
    done = subprocess.run(
        [sys.executable, "-m", module, *separator, "--help"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: {program} "), done.stderr
