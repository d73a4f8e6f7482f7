"""Every writer on a full disk: one line that names the file, exit code 2, and nothing that was there is lost."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.checkpoint.folder import latest_checkpoint
from hpdm.commands.entry import sample, train
from hpdm.support.errors import InputError, WriteError
from hpdm.support.files import append_line, atomic_file, atomic_folder, checked_file, sweep, write_json
from hpdm.training.log import read_log
from hpdm.training.loop import train as train_run
from hpdm_eval.commands.entry import main
from tests.support.paths import ROOT
from tests.support.small_training import small_config, write_small


@contextmanager
def largest_file(size):
    """Within the block no file grows beyond `size` bytes: writing fails as on a full disk, with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def small_disk(tmp_path):
    """make(kilobytes) → a file system of that size; needs the right to mount."""
    places = []

    def make(kilobytes):
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], capture_output=True)
        if done.returncode:
            pytest.skip("file systems cannot be mounted here; the limits on file sizes cover the same writers")
        places.append(place)
        return place

    yield make
    for place in places:
        subprocess.run(["umount", "-l", place], check=False)


def only_line(text):
    lines = [line for line in text.splitlines() if not line.startswith("[")]
    assert "Traceback" not in text, text
    return lines[-1]


WRITERS = {
    "bytes": lambda file: file.write(b"x" * 200_000),
    "numpy": lambda file: np.save(file, np.zeros(100_000)),
    "npz": lambda file: np.savez(file, a=np.zeros(100_000), b=np.zeros(10)),
    "torch": lambda file: torch.save({"a": torch.zeros(100_000)}, file),
    "many small": lambda file: [file.write(b"0123456789") for _ in range(20_000)],
}


@pytest.mark.parametrize("kind", WRITERS)
def test_whatever_a_library_makes_of_it_it_is_said_as_it_is(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    message = "file could not be written: File too large"
    with largest_file(50_000), pytest.raises(WriteError, match=message) as caught, atomic_file(path) as file:
        WRITERS[kind](file)
    assert caught.value.errno == errno.EFBIG and isinstance(caught.value, InputError)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_what_fits_has_the_bytes_that_a_plain_file_gets(tmp_path, kind):
    with atomic_file(tmp_path / "ours") as file:
        WRITERS[kind](file)
    with open(tmp_path / "plain", "wb") as file:
        WRITERS[kind](file)
    with checked_file(tmp_path / "checked") as file:
        WRITERS[kind](file)
    ours = (tmp_path / "ours").read_bytes()
    assert ours == (tmp_path / "checked").read_bytes()
    if kind != "torch":  # its archives name the file's stem
        assert ours == (tmp_path / "plain").read_bytes()


def test_folders_name_themselves_not_their_temporary_place(tmp_path):
    for write in (
        lambda folder: (folder / "a").write_bytes(b"x" * 90_000),
        lambda folder: write_json(folder / "b", "x" * 90_000),
    ):
        refusal = pytest.raises(WriteError, match=r"/run could not be written: File too large")
        with largest_file(50_000), refusal, atomic_folder(tmp_path / "run") as folder:
            write(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_does_not_fit(tmp_path):
    append_line(tmp_path / "log", "first")
    with largest_file(20), pytest.raises(WriteError, match="log could not be written"):
        append_line(tmp_path / "log", "x" * 100)
    append_line(tmp_path / "log", "last")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "first" and lines[-1] == "last"


CONFIG = ("training.steps=4", "checkpoint_every=2", "log_every=1", "keep=3")


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    run = tmp_path_factory.mktemp("full") / "run"
    train_run(small_config(*CONFIG), run, device="cpu", stop_after=2, quiet=True)
    return run


def go_on(run, size_file):
    words = ["--size", size_file, "--out", run, *(w for text in CONFIG for w in ("--set", text))]
    return CliRunner().invoke(train, [*map(str, words), "--device", "cpu", "--quiet"])


@pytest.mark.parametrize("limit", [500, 5_000, 100_000, 250_000])
def test_training_stops_with_one_line_and_goes_on_where_it_was(half, tmp_path, limit):
    run, size_file = shutil.copytree(half, tmp_path / "run", symlinks=True), write_small(tmp_path / "small.yaml")
    with largest_file(limit):
        result = go_on(run, size_file)
    assert result.exit_code == 2 and "could not be written: File too large" in only_line(result.stderr), result.stderr
    assert latest_checkpoint(run).name == "step-00000002" and not list(run.glob("step-00000004"))
    assert go_on(run, size_file).exit_code == 0
    assert latest_checkpoint(run).name == "step-00000004"
    assert [line["step"] for line in read_log(run)] == [1, 2, 3, 4] and sweep(run) == 0


def test_training_on_a_disk_that_fills_up(half, small_disk, tmp_path):
    size_file = write_small(tmp_path / "small.yaml")
    one = sum(path.stat().st_size for path in (half / "step-00000002").iterdir())
    disk = small_disk(one * 3 // 2 // 1024 + 100)  # one checkpoint fits, two do not
    result = go_on(disk / "run", size_file)
    line = only_line(result.stderr)
    assert result.exit_code == 2 and "No space left on device" in line and "step 2 is kept; make room" in line
    moved = shutil.copytree(disk / "run", tmp_path / "moved", symlinks=True)
    assert go_on(moved, size_file).exit_code == 0


@pytest.mark.parametrize("words", [["--format", "npy"], []])
def test_sampling_keeps_what_is_there(half, small_disk, words, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    disk = small_disk(40)
    command = [
        "--checkpoint",
        str(half),
        "--num",
        "400",
        "--out",
        str(disk / "out"),
        "--device",
        "cpu",
        "--quiet",
        "--batch",
        "16",
        "--steps",
        "1,1",
        *words,
    ]
    result = CliRunner().invoke(sample, command)
    line = only_line(result.stderr)
    assert result.exit_code == 2 and "No space left" in line and "videos are kept; make room" in line, result.stderr
    kept = [path for path in (disk / "out").iterdir() if path.suffix in (".npy", ".mp4")]
    assert f"{len(kept)} videos" in line and not list((disk / "out").glob(".*.part"))


def test_evaluation_says_what_it_could_not_write(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for index in range(4):
        np.save(clips / f"{index}.npy", np.random.default_rng(index).integers(0, 255, (16, 32, 32, 3), np.uint8))
    common = ["--backbone", "shapes3d", "--protocol", "native", "--workers", "0", "--device", "cpu", "--quiet"]
    for words in (
        ["stats", "--data", clips, "--out", tmp_path / "stats.npz"],
        ["features", "--samples", clips, "--out", tmp_path / "features.npz"],
        ["fvd", "--samples", clips, "--reference", clips, "--record", tmp_path / "records"],
    ):
        with largest_file(600):
            result = CliRunner().invoke(main, [*map(str, words), *common])
        line = only_line(result.stderr)
        assert result.exit_code == 2 and "could not be written: File too large" in line, result.stderr
        assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("**/.*.part"))


def test_a_full_temporary_folder(small_disk, tmp_path):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive, archive.open("clip.npy", "w") as file:
        np.save(file, np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3), np.uint8))
    disk = small_disk(64)
    words = [
        sys.executable,
        "-m",
        "hpdm_eval",
        "features",
        "--samples",
        tmp_path / "clips.zip",
        "--out",
        tmp_path / "f.npz",
        "--backbone",
        "shapes3d",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--quiet",
    ]
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(disk)},
    )
    assert done.returncode == 2 and "TMPDIR" in only_line(done.stderr), done.stderr
    assert not (tmp_path / "f.npz").exists() and list(disk.iterdir()) == []


COMMANDS = [
    ["-c", "import hpdm.commands.entry; hpdm.commands.entry.info()", "--size", "nano"],
    ["-c", "from hpdm_eval.commands.entry import main; main()", "--help"],
    ["-c", "from hpdm_eval.commands.entry import main; main()", "weights", "list", "--json"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=["info", "help", "json"])
def test_stdout_on_a_full_disk(words):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
    assert done.returncode == 2 and done.stderr == "error: the output could not be written: No space left on device\n"


def test_a_stderr_that_cannot_be_written_ends_no_work(half, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    run, size_file = shutil.copytree(half, tmp_path / "run", symlinks=True), write_small(tmp_path / "small.yaml")
    words = ["--size", size_file, "--out", run, *(w for text in CONFIG for w in ("--set", text)), "--device", "cpu"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hpdm.training", *map(str, words)],
            stderr=full,
            timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
    assert done.returncode == 0 and latest_checkpoint(run).name == "step-00000004"
