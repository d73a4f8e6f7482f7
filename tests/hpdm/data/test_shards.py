"""Shards: the same clips and weights as from the folder, shards of other tools, damage, networks, packing."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file

import hpdm.data.addresses as addresses
import hpdm.data.pack as pack_module
from hpdm.data.loader import DataConfig, open_clips
from hpdm.data.quarantine import Quarantine
from hpdm.data.store import INDEX_FILE, PACKING
from hpdm.support.errors import InputError
from hpdm.training.data import fingerprint_of
from hpdm.training.log import read_log
from hpdm.video.errors import DecodingError
from hpdm.video.pixels import read_picture
from hpdm.video.reader import VideoReader
from tests.support.paths import ROOT
from tests.support.small_data import (
    clips_of,
    in_process,
    learn,
    packed,
    run_data,
    sample,
    steps_of,
    video_bytes,
    write_classes,
    write_tar,
)
from tests.support.small_text import write_captioned, write_rows
from tests.support.video_files import frame_numbers, grey_clip, write_video

SIZE = {"frames": 4, "height": 16, "width": 16, "seed": 3, "quiet": True}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(addresses, "WAITS", (0.01, 0.01))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """(folder of classes, its shards on disk, the same in memory)."""
    place = tmp_path_factory.mktemp("data")
    root = write_classes(place / "videos", suffixes=(".mp4", ".mkv", ".avi"))
    (root / "odd" / "bad.mp4").write_text("no video")
    shards = packed(root, place / "shards", "--shard-size", "8KiB")
    return root, shards, in_memory(shards, "originals")


def in_memory(folder, name):
    """Address of a copy of a folder in fsspec's file system in memory."""
    system = fsspec.filesystem("memory")
    for path in Path(folder).iterdir():
        system.pipe_file(f"/{name}/{path.name}", path.read_bytes())
    return f"memory://{name}"


def test_shards_make_the_clips_of_their_folder(originals):
    root, shards, address = originals
    assert len(list(shards.glob("*.tar"))) > 3
    expected, labels = clips_of(root)
    prints = set()
    for path in originals:
        clips = open_clips(DataConfig(path=str(path), flip=True), **SIZE)
        prints.add(fingerprint_of(clips))
        about = clips.describe()
        assert (about["videos"], about["classes"]) == (7, 2)
        assert [clips.source.name(item) for item in range(2)] == ["even/0.mp4", "even/2.avi"]
    assert len(prints) == 1
    for path in (shards, address):
        videos, said = clips_of(path)
        assert torch.equal(videos, expected) and said == labels


def test_steps_do_not_depend_on_workers_processes_or_where_they_were_begun(originals):
    root, shards, address = originals
    whole, _ = clips_of(root)
    assert torch.equal(steps_of(shards, 0, 3, num_workers=2, steps_ahead=5), whole)
    clips = open_clips(DataConfig(path=address, flip=True), **SIZE)
    assert torch.equal(steps_of(clips, 1, 3), whole[4:])
    ranks = [steps_of(clips, 0, 2, rank=rank, world_size=2) for rank in range(2)]
    assert torch.equal(torch.cat([ranks[0][:2], ranks[1][:2], ranks[0][2:], ranks[1][2:]]), whole[:8])
    clips.close()


def test_a_run_changes_between_folder_and_shards_as_if_it_never_had(originals, tmp_path):
    """Weights, bit for bit: from the folder alone; begun on its shards, gone on from memory with more workers."""
    root, shards, address = originals
    assert learn(tmp_path, root, run="whole", steps=2).exit_code == 0
    for path, words in ((shards, ["--stop-after", "1"]), (address, ["--set", "data.num_workers=2"])):
        result = learn(tmp_path, path, *words, run="parts", steps=2)
        assert result.exit_code == 0, result.output
    mine, theirs = (load_file(tmp_path / run / "latest" / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    names = [(tmp_path / run / "data-files.csv").read_bytes() for run in ("whole", "parts")]
    assert names[0] == names[1]


def start_run(tmp_path, path, run):
    root = ROOT
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hpdm.training",
            "--size",
            str(tmp_path / "small.yaml"),
            "--data",
            str(path),
            "--out",
            str(tmp_path / run),
            "--steps",
            "12",
            "--batch",
            "4",
            "--device",
            "cpu",
            "--quiet",
            "--set",
            "checkpoint_every=2",
            "--set",
            "data.num_workers=2",
        ],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_run_on_shards_equals_one_on_the_folder_that_never_was(originals, tmp_path):
    root, shards, _ = originals
    assert learn(tmp_path, root, run="whole", steps=12).exit_code == 0
    for seen in (3, 7):
        process = start_run(tmp_path, shards, "killed")
        deadline = time.monotonic() + 300
        while not any(line["step"] >= seen for line in read_log(tmp_path / "killed")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start_run(tmp_path, shards, "killed")
    assert process.wait(timeout=300) == 0
    process.communicate()
    mine, theirs = (load_file(tmp_path / run / "latest" / "model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_captions_and_pictures_go_into_shards(tmp_path):
    root = tmp_path / "clips"
    rows = write_captioned(root, videos=3, images=2)
    rows += [{"path": rows[1]["path"], "caption": "another"}, {"path": "gone.mp4", "caption": "x"}]
    rows[2]["fps"] = 10
    write_rows(root / "captions.jsonl", rows)
    shards = packed(root, tmp_path / "shards")
    address = in_memory(shards, "captioned")
    settings = {"captions": "auto", "image_share": 0.5, "start": "center"}
    expected, told = clips_of(root, range(8), **settings)
    for path in (shards, address):
        videos, said = clips_of(path, range(8), **settings)
        assert torch.equal(videos, expected)
        for mine, theirs in zip(said, told, strict=True):
            assert mine["caption"] == theirs["caption"] and torch.equal(mine["measures"], theirs["measures"])
    prints = {
        fingerprint_of(open_clips(DataConfig(path=str(path), **settings), **SIZE)) for path in (root, shards, address)
    }
    assert len(prints) == 1
    with pytest.raises(InputError, match="bring their captions along"):
        open_clips(DataConfig(path=str(shards), captions=str(root / "captions.jsonl")), **SIZE)
    assert open_clips(DataConfig(path=str(shards)), **SIZE).describe()["videos"] == 3  # without captions, videos alone


# ------------------------------------------------------------------------------------ other tools


def test_webdataset_reads_our_shards(originals):
    webdataset = pytest.importorskip("webdataset", reason="checks that webdataset reads what pack writes")
    root, shards, _ = originals
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == 7
    for entry in samples:
        about = json.loads(entry["json"])
        content = (root / about["hpdm"]["path"]).read_bytes()
        assert entry[about["hpdm"]["path"].rpartition(".")[2]] == content
        assert int(entry["cls"]) == ("even", "odd").index(about["class"])


@pytest.mark.parametrize("writer", ["tarfile", "webdataset"])
def test_shards_that_others_wrote_are_read(tmp_path, writer):
    videos = [video_bytes(tmp_path, first=4 * k) for k in range(4)]
    shards = tmp_path / "shards"
    shards.mkdir()
    if writer == "tarfile":
        write_tar(
            shards / "00000.tar",
            [
                *sample("000.a", videos[0], cls=4, txt=" one\ncaption "),
                *sample("dir/001", videos[1], cls=0, json={"caption": "two", "fps": 5}),
            ],
        )
        write_tar(shards / "00001.tar", [*sample("000", videos[2], cls=4), *sample("x", videos[3], txt="four")])
    else:
        webdataset = pytest.importorskip("webdataset", reason="writes shards with webdataset")
        words = [
            {"cls": 4, "txt": "one caption"},
            {"cls": 0, "json": {"caption": "two", "fps": 5}},
            {"cls": 4},
            {"txt": "four"},
        ]
        for shard in range(2):
            with webdataset.TarWriter(str(shards / f"{shard}.tar")) as out:
                for k in (2 * shard, 2 * shard + 1):
                    out.write({"__key__": f"sample{k}", "mp4": videos[k], **words[k]})
    (shards / "stats.parquet").write_bytes(b"beside")
    result = run_data("index", "--data", shards, "--jobs", "1")
    assert result.exit_code == 0 and "4 files, 0 broken, 3 captions; 4 opened now" in result.stdout, result.output
    assert "0 opened now" in run_data("index", "--data", shards, "--jobs", "1").stdout
    clips = in_process(open_clips(DataConfig(path=str(shards), start="first"), **SIZE))
    assert clips.source.class_names == ("0", "1", "2", "3", "4")
    assert sorted(clips.source.labels.tolist()) == [-1, 0, 4, 4]
    first = {int(frame_numbers(clips[number][0])[0][0]) for number in range(4)}
    assert first == {0, 4, 8, 12}
    told = open_clips(DataConfig(path=str(shards), captions="auto"), **SIZE)
    assert {told.source.conditions(item)["caption"] for item in range(3)} == {"one caption", "two", "four"}
    assert sorted(told.source.conditions(item)["measures"][0].item() for item in range(3)) == [5, 25, 25]


def test_what_is_odd_in_a_shard_is_counted_and_never_leaves_it(tmp_path):
    video = video_bytes(tmp_path)
    link = tarfile.TarInfo("l.mp4")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members = [
        *sample("good", video),
        ("../evil.mp4", video),
        ("/abs.mp4", video),
        (link, b""),
        (".hidden.mp4", b"x"),
        ("text.mp4", b"no video"),
        ("two.mp4", video),
        ("two.avi", video),
        ("alone.txt", b"x"),
        ("good.json", b"{"),
        ("good.txt", b"\xff"),
        ("other.npy", b"1"),
    ]
    write_tar(tmp_path / "shards" / "a.tar", members)
    whole = (tmp_path / "shards" / "a.tar").read_bytes()
    (tmp_path / "shards" / "b.tar").write_bytes(whole[: whole.index(b"text.mp4")])
    (tmp_path / "shards" / "c.tar").write_bytes(b"no tar file at all" * 100)
    result = run_data("index", "--data", tmp_path / "shards", "--jobs", "1")
    assert result.exit_code == 0 and "3 files, 1 broken" in result.stdout
    for said in (
        "4 name that leads out of the shard",
        "2 link or special file",
        "1 second video or picture of a sample",
        "2 sample without a video",
        "1 .json that cannot be read",
        "1 .txt that cannot be read",
        "rest of shard b.tar",
        "rest of shard c.tar",
        "1 .npy",
    ):
        assert said in result.stderr, (said, result.stderr)
    assert "broken: a/text.mp4" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch.mp4", "shards"]


# ------------------------------------------------------------------------------------ damage and networks


def test_a_damaged_member_is_quarantined_like_a_file(originals, tmp_path):
    _, shards, _ = originals
    clips = open_clips(DataConfig(path=str(shards)), **SIZE)
    places = {clips.source.name(item): clips.source.job(item, None).member for item in range(7)}
    damaged = {f"/damaged/{path.name}": bytearray(path.read_bytes()) for path in shards.iterdir()}
    member = places["odd/1.mkv"]
    shard = damaged[f"/damaged/{Path(member.shard).name}"]
    shard[member.offset : member.offset + member.size] = bytes(member.size)
    for name, content in damaged.items():
        fsspec.filesystem("memory").pipe_file(name, bytes(content))
    clips = open_clips(DataConfig(path="memory://damaged"), **SIZE)
    clips.quarantine = Quarantine(tmp_path / "list.jsonl")
    whole, got = clips_of(shards, range(8))[0], [clips[number][0] for number in range(8)]
    clips.close()
    listed = {json.loads(line)["path"] for line in (tmp_path / "list.jsonl").read_text().splitlines()}
    assert listed == {"odd/1.mkv"} and len(got) == len(whole)


class Failing(MemoryFileSystem):
    """Fails as networks do: every read so many times before it works."""

    protocol = "failing"
    failures, tried = 0, 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("failing://", "memory://"))

    def cat_file(self, path, start=None, end=None, **rest):
        if start and Failing.failures > 0:  # the index is read from its beginning
            Failing.failures -= 1
            Failing.tried += 1
            raise ConnectionError("reset by peer")
        return super().cat_file(path, start=start, end=end, **rest)


def test_networks_that_fail_are_asked_again_and_then_end_the_run_with_one_line(originals, tmp_path, monkeypatch):
    _, shards, address = originals
    fsspec.register_implementation("failing", Failing, clobber=True)
    where = address.replace("memory", "failing")
    expected, _ = clips_of(shards, range(3))
    Failing.failures = 2
    assert torch.equal(clips_of(where, range(3))[0], expected) and Failing.tried >= 2
    Failing.failures = 10**9
    result = learn(tmp_path, where, steps=1)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "cannot be read (ConnectionError: reset by peer), tried 3 times" in result.stderr
    assert not (tmp_path / "run" / "quarantine.jsonl").exists()
    Failing.failures = 0


def test_a_missing_shard_is_named_before_anything_runs(originals, tmp_path):
    _, shards, _ = originals
    for path in list(shards.iterdir())[:]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "shard-000001.tar").unlink()
    with pytest.raises(InputError, match=r"holds (\d) of the (\d) shards that were packed"):
        open_clips(DataConfig(path=str(tmp_path)), **SIZE)
    (tmp_path / PACKING).unlink()
    with pytest.raises(InputError, match="lacks 1 of the .* shards of its index, the first is shard-000001.tar"):
        open_clips(DataConfig(path=str(tmp_path)), **SIZE)


def test_content_in_memory_is_read_as_its_file(shared):
    """Every container and codec at hand, by bytes and by path."""
    files = [path for folder in ("data/odd-files", "cases/suffixes") for path in (shared / folder).rglob("*")]
    files = [path for path in files if path.is_file() and path.stat().st_size < 2_000_000]
    assert files
    for path in files[:16]:
        if path.suffix in (".png", ".jpg"):
            assert np.array_equal(read_picture(path), read_picture(path.name, path.read_bytes()))
            continue
        with VideoReader(path) as one, VideoReader(path.read_bytes()) as other:
            numbers = [one.timeline.frames - 1, 0, one.timeline.frames // 2]
            assert one.info() == other.info() and np.array_equal(one.read(numbers), other.read(numbers)), path


# ------------------------------------------------------------------------------------ packing


def test_an_ended_packing_is_no_data_and_goes_on(originals, tmp_path, monkeypatch):
    root, shards, _ = originals
    out, fail = tmp_path / "out", [0]
    write = tarfile.TarFile.addfile

    def full(archive, info, content=None):
        fail[0] += 1
        if fail[0] == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(archive, info, content)

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    words = ["pack", "--data", root, "--out", out, "--jobs", "1", "--shard-size", "8KiB", "--quiet"]
    result = run_data(*words)
    assert result.exit_code == 2 and "No space left" in result.stderr and result.stderr.count("\n") == 1, result.output
    whole = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert whole and not (out / INDEX_FILE).exists()
    assert {path.name for path in out.iterdir()} == {*whole, PACKING}  # nothing half
    with pytest.raises(InputError, match="not packed to its end"):
        open_clips(DataConfig(path=str(out)), **SIZE)
    assert run_data("index", "--data", out).exit_code == 2
    monkeypatch.undo()
    changed = run_data(*words[:-2], "9KiB")
    assert changed.exit_code == 2 and "other settings" in changed.stderr
    result = run_data(*words, "--jobs", "3")
    assert result.exit_code == 0 and "1 left out" in result.stdout
    for path in shards.glob("*.tar"):  # the same bytes as in one go
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert all((out / name).stat().st_mtime_ns == when for name, when in whole.items())


def test_the_split_goes_with_the_shards(tmp_path):
    """Without UCF-101's lists the test videos would be trained on."""
    root = write_classes(tmp_path / "data" / "UCF-101", 4, frames=6)
    lists = tmp_path / "data" / "ucfTrainTestlist"
    lists.mkdir()
    for name, text in (
        ("classInd", "1 even\n2 odd\n"),
        ("trainlist01", "odd/1.avi 2\neven/2.avi 1\n"),
        ("testlist01", "odd/3.avi\neven/0.avi\n"),
    ):
        (lists / f"{name}.txt").write_text(text)
    shards = packed(root, tmp_path / "elsewhere" / "shards")
    system = fsspec.filesystem("memory")
    address = "memory://split"
    for path in shards.rglob("*.*"):
        system.pipe_file(f"/split/{path.relative_to(shards).as_posix()}", path.read_bytes())
    for path in (root, shards, address):
        clips = open_clips(DataConfig(path=str(path)), **SIZE)
        assert [video.path for video in clips.source.videos] == ["even/2.mp4", "odd/1.mp4"]
        assert clips.source.labels.tolist() == [0, 1]


def test_an_interrupted_packing_writes_no_shard_that_lacks_videos(tmp_path, monkeypatch):
    """Ended while videos are made smaller: a process that is ended must not pass for a damaged video."""
    root = write_classes(tmp_path / "videos", 4, frames=6)
    result = pack_module._content

    def interrupted(table, row, source, future):
        made = result(table, row, source, future)
        if row == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(1)
            raise DecodingError("its process was ended")
        return made

    monkeypatch.setattr(pack_module, "_content", interrupted)
    words = ["pack", "--data", root, "--out", tmp_path / "out", "--jobs", "1", "--shrink", "2x2x2", "--quiet"]
    assert run_data(*words).exit_code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == [PACKING]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "4 videos" in run_data(*words).stdout


def test_a_killed_packing_leaves_whole_shards_alone(tmp_path):
    root = write_classes(tmp_path / "videos", 6, frames=5)
    out = tmp_path / "out"
    code = (
        "import time, hpdm.data.pack as pack\nadd = pack._add\n"
        "pack._add = lambda *rest: time.sleep(0.1) or add(*rest)\nfrom hpdm.commands.entry import data\ndata()"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = ["pack", "--data", str(root), "--out", str(out), "--jobs", "1", "--shard-size", "1KiB"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.tar"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    for path in out.glob("*.tar"):
        with tarfile.open(path) as archive:
            assert len(archive.getnames()) == 3
    assert not (out / INDEX_FILE).exists()
    result = run_data(*words)
    assert result.exit_code == 0 and "6 videos" in result.stdout
    assert not [path.name for path in out.iterdir() if path.name.endswith(".part")]


def test_packing_smaller_averages_as_training_would(tmp_path):
    """Against averaging in training, where a clip begins with a block; two colours beside each other, one changes."""
    frames = grey_clip(24, 32, 48)
    frames[:, :, 24:, 0] = (7 * np.arange(24, dtype=np.uint8))[:, None, None]
    root = tmp_path / "videos"
    write_video(root / "a.mp4", frames, fps=24)
    (root / "captions.jsonl").write_text('{"path": "a.mp4", "caption": "a"}\n')
    shards = packed(root, tmp_path / "low", "--shrink", "2x4x4")
    settings = {"start": "first", "captions": "auto", "shrink": (2, 4, 4)}
    size = {**SIZE, "frames": 12, "height": 8, "width": 12}
    got = []
    for path in (root, shards):
        got.append(in_process(open_clips(DataConfig(path=str(path), **settings), **size))[0])
    assert (got[0][0].int() - got[1][0].int()).abs().max() <= 1 and got[0][0].float().std() > 20
    assert got[0][1]["measures"].tolist() == got[1][1]["measures"].tolist() == [24, 32, 48]
    with pytest.raises(InputError, match=r"packed with --shrink 2x4x4, and this run averages over 1x1x1"):
        open_clips(DataConfig(path=str(shards), captions="auto"), **size)
    again = packed(root, tmp_path / "small", "--resolution", "16x24", "--captions", "none")
    (tar,) = again.glob("*.tar")
    with tarfile.open(tar) as archive:
        video = archive.extractfile("000000000.mp4").read()
    with VideoReader(video) as reader:
        assert (reader.info().frames, reader.info().height, reader.info().width, reader.info().fps) == (24, 16, 24, 24)
