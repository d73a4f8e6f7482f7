"""Files that crash or hang their decoder while a run reads them: what takes their place; Ctrl-C always ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hpdm.data.loader as loader_module
from hpdm.checkpoint.folder import latest_checkpoint
from hpdm.data.loader import DataConfig, make_loader, open_clips
from hpdm.data.quarantine import QUARANTINE_FILE, Quarantine
from hpdm.training.log import read_log
from tests.support.paths import ROOT
from tests.support.small_training import write_small
from tests.support.video_files import frame_numbers, grey_clip, write_video

SIZE = {"frames": 4, "height": 8, "width": 8, "seed": 3, "quiet": True}
VIDEOS = 8
BAD = ("c/crash-clip.mp4", "c/hang-clip.mp4")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals") / "c"
    for k in range(VIDEOS):
        write_video(root / f"{k}.mp4", grey_clip(8, 16, 16, first=3 * k))
    return root


@pytest.fixture
def folder(originals, tmp_path, monkeypatch, bad_decoder):
    """Eight videos, one more that crashes its decoder when a clip is cut, and one that hangs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(originals, tmp_path / "videos" / "c")
    for name in BAD:
        shutil.copy(originals / "0.mp4", tmp_path / "videos" / name)
    return tmp_path / "videos"


@pytest.fixture
def short_limit(monkeypatch):
    """A hung decoder is given up after three seconds."""
    seconds = loader_module.seconds_of
    monkeypatch.setattr(loader_module, "seconds_of", lambda job: 3 if "hang-clip" in job.source.path else seconds(job))


def opened(folder, file=None):
    clips = open_clips(DataConfig(path=str(folder)), **SIZE)
    clips.quarantine = Quarantine(file)
    return clips


def take(clips, first, end, batch=4, **options):
    size = {name: value for name, value in SIZE.items() if name != "quiet"}
    loader = make_loader(DataConfig(steps_ahead=1), **size, batch=batch, clips=clips, start_step=first, **options)
    return torch.cat([next(loader)[0] for _ in range(first, end)])


def test_what_crashes_or_hangs_is_replaced_and_listed_and_never_met_again(folder, tmp_path, short_limit, caplog):
    """Five steps in one go, and stopped after two; two workers and one: the same clips."""
    steps = 5
    whole = opened(folder, tmp_path / "whole.jsonl")
    clips = take(whole, 0, steps, num_workers=2)
    listed = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert {entry["path"] for entry in listed} == set(BAD)
    assert {entry["reason"].split(" (")[0] for entry in listed} == {
        "decoding it killed the process",
        "decoding it stood still for 3 s and was stopped",
    }
    assert all(entry["when"].endswith("Z") and entry["from"] % 4 == 0 for entry in listed)
    assert all(name in caplog.text for name in BAD) and "7.mp4" not in caplog.text
    for number, clip in enumerate(clips):
        levels = frame_numbers(clip)[0]
        assert (levels[1:] - levels[:-1] == 1).all()  # frames of one video
        if whole.source.name(whole.item(number)) not in BAD:
            k = int(Path(whole.source.name(whole.item(number))).stem)
            assert levels[0] - 3 * k in range(5)

    half = opened(folder, tmp_path / "half.jsonl")
    begun = take(half, 0, steps // 2, num_workers=1)
    half.close()
    again = opened(folder, tmp_path / "half.jsonl")
    went_on = take(again, steps // 2, steps, num_workers=1)
    again.close()
    assert torch.equal(torch.cat([begun, went_on]), clips)
    # With the whole list no file on it is opened any more, and the clips are still the same.
    known = opened(folder, tmp_path / "whole.jsonl")
    before = (tmp_path / "whole.jsonl").read_bytes()
    assert torch.equal(take(known, 0, steps, num_workers=1), clips)
    assert (tmp_path / "whole.jsonl").read_bytes() == before
    whole.close(), known.close()


def test_processes_that_share_the_list_share_the_clips(originals, tmp_path):
    """One process, two, and one that decodes in larger pieces; two files are damaged after they were indexed."""
    shutil.copytree(originals, tmp_path / "videos" / "c")
    steps, made = 7, {}
    for name, ranks, micro_batch in (("one", 1, 4), ("two", 2, 1)):
        found = [opened(tmp_path / "videos", tmp_path / f"{name}.jsonl") for _ in range(ranks)]
        for damaged in ("2", "5"):
            (tmp_path / "videos" / "c" / f"{damaged}.mp4").write_bytes(b"no video any more")
        size = {key: value for key, value in SIZE.items() if key != "quiet"}
        size |= {"batch": 4, "micro_batch": micro_batch, "world_size": ranks}
        loaders = [
            make_loader(DataConfig(steps_ahead=2), **size, clips=clips, rank=rank) for rank, clips in enumerate(found)
        ]
        pieces = 4 // ranks // micro_batch
        made[name] = torch.cat([next(loader)[0] for _ in range(steps) for loader in loaders for _ in range(pieces)])
        for clips in found:
            clips.close()
        for damaged in ("2", "5"):
            shutil.copy2(originals / f"{damaged}.mp4", tmp_path / "videos" / "c")
    assert torch.equal(made["one"], made["two"])
    listed = {
        name: {
            (entry["path"], entry["clip"], entry["from"])
            for entry in map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())
        }
        for name in made
    }
    assert listed["one"] == listed["two"] and {path for path, _, _ in listed["one"]} == {"c/2.mp4", "c/5.mp4"}


def test_the_list_is_read_with_damaged_and_added_lines(tmp_path):
    file = tmp_path / QUARANTINE_FILE
    first = Quarantine(file)
    first.add("a.mp4", "crashed", clip=5, first=12)
    with open(file, "a") as opened:
        opened.write('{"path": "by hand.mp4"}\n[1]\n\n{"path": "half')
    second = Quarantine(file)
    assert [clip for clip in (4, 5, 6, 11, 12, 99) if second.reason("a.mp4", clip)] == [5, 12, 99]
    assert second.reason("by hand.mp4", 0) and second.reason("b.mp4", 0) is None and len(second) == 2
    with open(file, "a") as opened:
        opened.write(' written.mp4", "from": 2}\n')
    second.refresh()
    assert second.reason("half written.mp4", 2) and second.reason("half written.mp4", 1) is None
    first.refresh()
    assert first.reason("by hand.mp4", 3)


def test_a_folder_that_is_gone_quarantines_nothing(originals, tmp_path):
    shutil.copytree(originals, tmp_path / "videos" / "c")
    clips = opened(tmp_path / "videos", tmp_path / "list.jsonl")
    shutil.rmtree(tmp_path / "videos")
    with pytest.raises(loader_module.InputError, match=r"in a row cannot be decoded.*no such file"):
        take(clips, 0, 1)
    assert not (tmp_path / "list.jsonl").exists()
    clips.close()


def start(tmp_path, folder, bad_decoder, *arguments):
    root = ROOT
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{bad_decoder}:{root}"}
    size = str(write_small(tmp_path / "small.yaml"))
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hpdm.training",
            "--size",
            size,
            "--data",
            str(folder),
            "--out",
            str(tmp_path / "run"),
            "--steps",
            "50",
            "--device",
            "cpu",
            "--quiet",
            *arguments,
        ],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid):
    """Pids of the decoding processes of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            ours = b"hpdm.video.workers" in entry.with_name("cmdline").read_bytes()
            if ours and int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
        except (OSError, ValueError):
            continue
    return found


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        code = process.poll()
        assert code is None and time.monotonic() < deadline, (code, process.stderr.read() if code is not None else "")
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize("phase", ["open", "clip"])
def test_an_interrupt_ends_a_run_whose_decoders_hang_forever(originals, tmp_path, bad_decoder, monkeypatch, phase):
    """While the folder is indexed, and while the first step waits for its clips."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k in range(2):
        (tmp_path / "videos" / "c").mkdir(parents=True, exist_ok=True)
        shutil.copy(originals / f"{k}.mp4", tmp_path / "videos" / "c" / f"{k}-hang-{phase}.mp4")
    process = start(tmp_path, tmp_path / "videos", bad_decoder)
    if phase == "clip":
        wait_until(lambda: (tmp_path / "run" / "log.jsonl").exists(), process)
    wait_until(lambda: children(process.pid), process)
    time.sleep(2)
    decoders = children(process.pid)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert time.monotonic() - sent < 40 and "Traceback" not in errors
    assert latest_checkpoint(tmp_path / "run") is None
    assert not any(Path(f"/proc/{pid}").exists() for pid in decoders)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends children with their parent")
def test_a_killed_run_leaves_no_hung_decoder(originals, tmp_path, bad_decoder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "videos" / "c").mkdir(parents=True)
    shutil.copy(originals / "0.mp4", tmp_path / "videos" / "c" / "hang-open.mp4")
    process = start(tmp_path, tmp_path / "videos", bad_decoder)
    wait_until(lambda: children(process.pid), process)
    time.sleep(2)
    decoders = children(process.pid)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in decoders), process=_Ended(), seconds=20)


class _Ended:
    @staticmethod
    def poll():
        return None


def test_a_run_with_a_file_that_crashes_trains_and_goes_on(folder, tmp_path, bad_decoder):
    """Through the command; the run is interrupted and resumed, and equals one that never was."""
    (folder / "c" / "hang-clip.mp4").rename(folder / "c" / "crash-open.mp4")
    figures = []
    for name, stops in (("whole", ["9"]), ("resumed", ["4", "9"])):
        (tmp_path / name).mkdir()
        for stop in stops:
            process = start(tmp_path / name, folder, bad_decoder, "--stop-after", stop, "--batch", "4")
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
        listed = (tmp_path / name / "run" / QUARANTINE_FILE).read_text().splitlines()
        listed = [json.loads(line)["path"] for line in listed]
        assert listed[0] == "c/crash-open.mp4" and listed[1:] == [BAD[0]] * len(listed[1:]) and len(listed) > 1
        figures.append([line["loss_per_level"] for line in read_log(tmp_path / name / "run")])
    assert figures[0] == figures[1] and len(figures[0]) == 9
