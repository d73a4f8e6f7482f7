"""Inputs as users have them: suffixes, lists, tar shards, arrays that are no videos, odd names, parts of data sets."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from hpdm.support.errors import InputError
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.protocols import load_protocol
from tests.support.reading import NATIVE, random_clips, read, reasons, save_frames
from tests.support.video_files import frame_numbers, grey_clip, write_video

CONTAINERS = {
    ".m4v": {},
    ".mpg": {"codec": "mpeg2video"},
    ".ts": {},
    ".flv": {},
    ".wmv": {"codec": "wmv2"},
    ".3gp": {},
    ".mpeg": {"codec": "mpeg1video"},
    ".ogv": {"codec": "libvpx"},
}


def npy(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def add(archive, name, content, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_other_containers_are_read(tmp_path, suffix):
    write_video(tmp_path / f"a{suffix.upper()}", 2 * grey_clip(12), **CONTAINERS[suffix])
    _, found = read(tmp_path)
    (clip,) = found.values()
    assert frame_numbers(clip.video.astype(float) / 2)[:, 0].tolist() == list(range(12))


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tiff", "jpeg"])
def test_other_pictures_are_frames(tmp_path, suffix):
    video = grey_clip(5, 16, 16)
    save_frames(tmp_path / "a", video, suffix)
    _, found = read(tmp_path)
    assert frame_numbers(found["a"].video)[:, 0].tolist() == list(range(5))


def test_what_is_passed_over_is_counted_by_suffix_in_one_line(tmp_path, capfd):
    write_video(tmp_path / "c" / "a.mp4", grey_clip(4))
    for name in ("c/a.txt", "b.TXT", "samples.json", "c/sheet.png", "LICENSE", ".hidden.json", "__MACOSX/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    source, found = read(tmp_path, quiet=False)
    assert list(found) == ["c/a.mp4"] and not source.rejected
    assert source.summary()["passed_over"] == {".json": 1, ".png": 1, ".txt": 2, "without a suffix": 1}
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("passed over: 2 .txt, 1 .json, 1 .png, 1 without a suffix")


SIDE_ARRAYS = {
    "embedding": np.zeros((12, 64), np.float32),
    "pooled": np.zeros(768, np.float32),
    "tokens": np.zeros((1, 77, 768), np.float16),
    "latent": np.random.default_rng(0).normal(size=(4, 5, 8, 8)).astype(np.float32),
    "latent of three channels": np.random.default_rng(0).normal(size=(3, 5, 32, 32)).astype(np.float32),
    "grey latent": np.random.default_rng(0).normal(size=(16, 4, 32, 32)).astype(np.float32),
    "batch of latents": np.random.default_rng(0).normal(size=(1, 4, 5, 32, 32)).astype(np.float32),
    "small": np.zeros((4, 8, 8, 3), np.uint8),
    "flow": np.zeros((7, 32, 32, 2), np.float32),
    "masks": np.random.default_rng(0).integers(0, 2, (8, 32, 32, 1), dtype=np.uint8),
    "flags": np.zeros((8, 32, 32, 3), bool),
    "words": np.array([["a", "b"]]),
}


@pytest.mark.parametrize("kind", SIDE_ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_arrays_that_are_no_videos_push_nothing_out(tmp_path, kind, suffix):
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", grey_clip(8, 32, 32))
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".npy":
            np.save(path, SIDE_ARRAYS[kind])
        elif suffix == ".npz":
            np.savez(path, SIDE_ARRAYS[kind])
        else:
            if kind == "words":
                pytest.skip("tensors hold no text")
            torch.save(torch.from_numpy(SIDE_ARRAYS[kind]), path)
    np.save(tmp_path / "of all.npy", SIDE_ARRAYS[kind])
    source, found = read(tmp_path)
    assert [name for name in found if name.endswith(".mp4")] == ["a.mp4", "b.mp4"]
    if kind in ("latent of three channels", "masks", "small"):  # alone, those could be videos: said, and not in silence
        return
    assert len(found) == 2 and not source.rejected
    counted = source.summary()["passed_over"]
    assert sum(counted.values()) == 3 and all("holds no videos" in kind for kind in counted)


@pytest.mark.parametrize("save", ["uint8", "0..1", "-1..1", "channels first", "npz", "pt", "grey"])
def test_arrays_of_the_same_videos_still_win(tmp_path, save):
    clip = random_clips(6, 16, 20, 3)
    write_video(tmp_path / "a.mp4", clip)
    if save == "grey":
        clip = np.repeat(clip[..., :1], 3, -1)
    array = {
        "uint8": clip,
        "0..1": (clip / 255).astype(np.float32),
        "-1..1": (clip / 127.5 - 1).astype(np.float32),
        "channels first": clip.transpose(0, 3, 1, 2),
        "grey": clip[..., :1],
    }.get(save, clip)
    if save == "npz":
        np.savez(tmp_path / "a.npz", array)
    elif save == "pt":
        torch.save(torch.from_numpy(array), tmp_path / "a.pt")
    else:
        np.save(tmp_path / "a.npy", array)
    source, found = read(tmp_path)
    (read_clip,) = found.values()
    assert np.array_equal(read_clip.video, clip)
    assert source.summary()["passed_over"] == {".mp4 beside the same in another form": 1}


def test_a_damaged_array_pushes_nothing_out(tmp_path):
    write_video(tmp_path / "a.mp4", grey_clip(6, 16, 16))
    (tmp_path / "a.npy").write_bytes(npy(grey_clip(6, 16, 16))[:-10])
    source, found = read(tmp_path)
    assert list(found) == ["a.mp4"] and list(reasons(source)) == ["a.npy"]


def test_lists_of_files(tmp_path):
    odd = "a #1 & 50%,\u2028 x.mp4"
    for name in ("set/Punch/1.mp4", f"set/Dive/{odd}", "other/2.mp4"):
        write_video(tmp_path / name, grey_clip(4, first=len(name)))
    save_frames(tmp_path / "set" / "Dive" / "frames", grey_clip(3, 16, 16))
    np.save(tmp_path / "set" / "x.npy", random_clips(2, 4, 16, 16, 3))
    lines = [
        "set/Punch/1.mp4",
        f"set/Dive/{odd}",
        str(tmp_path / "other" / "2.mp4"),
        "",
        "set/Dive/frames",
        "set/x.npy",
        "set/gone.mp4",
        "set/Punch/../Punch/1.mp4",
        "list.txt",
    ]
    for ends in ("\n", "\r\n"):
        (tmp_path / "list.txt").write_bytes(ends.join(lines).encode())
        source, found = read(tmp_path / "list.txt")
        assert {name: clip.label for name, clip in found.items()} == {
            "set/Punch/1.mp4": "Punch",
            f"set/Dive/{odd}": "Dive",
            str(tmp_path / "other" / "2.mp4"): "other",
            "set/Dive/frames": "Dive",
            "set/x.npy#0": "set",
            "set/x.npy#1": "set",
        }
        got = reasons(source)
        assert list(got) == ["set/gone.mp4", "set/Punch/../Punch/1.mp4", "list.txt"]
        assert "no such file" in got["set/gone.mp4"] and got["set/Punch/../Punch/1.mp4"] == "listed before"
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    with pytest.raises(InputError, match="no list of files"):
        read(tmp_path / "binary.txt")
    (tmp_path / "none.txt").write_text("x.mp4\n")
    with pytest.raises(InputError, match="1 rejected, the first is x.mp4: no such file; paths in none.txt start"):
        read(tmp_path / "none.txt")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_tar_shards_with_what_belongs_to_them(tmp_path, suffix):
    """As WebDataset writes them: members of one stem belong together, and only the videos are read."""
    (tmp_path / "shards").mkdir()
    clips = [write_video(tmp_path / f"{k}.mp4", grey_clip(5, first=3 * k)).read_bytes() for k in range(4)]
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"shard-{shard:03d}{suffix}", "w:gz" if "gz" in suffix else "w") as tar:
            for k in (2 * shard, 2 * shard + 1):
                add(tar, f"./{k:06d}.mp4", clips[k])
                add(tar, f"./{k:06d}.json", json.dumps({"k": k}).encode())
                add(tar, f"./{k:06d}.cls", b"3")
    source, found = read(tmp_path / "shards")
    assert list(found) == [f"shard-{k // 2:03d}{suffix}/{k:06d}.mp4" for k in range(4)]
    for k, clip in enumerate(found.values()):
        assert frame_numbers(clip.video, 3 * k)[:, 0].tolist() == list(range(5)) and clip.label is None
    assert source.summary()["passed_over"] == {".cls": 4, ".json": 4}
    _, found = read(tmp_path / "shards" / f"shard-001{suffix}")
    assert list(found) == ["000002.mp4", "000003.mp4"]


@pytest.mark.parametrize("name", ["../evil.npy", "/evil.npy", "a/../../evil.npy"])
def test_tar_archives_cannot_write_outside(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, name, npy(random_clips(2, 16, 16, 3)))
    with pytest.raises(InputError, match="outside the archive"):
        read(tmp_path / "a.tar")
    assert not list(tmp_path.parent.glob("**/evil.npy"))


def test_links_devices_and_archives_in_a_tar_are_refused_alone(tmp_path):
    good = npy(random_clips(2, 16, 16, 3))
    (tmp_path / "secret.npy").write_bytes(good)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "good.npy", good)
        add(tar, "link.npy", b"", tarfile.SYMTYPE, str(tmp_path / "secret.npy"))
        add(tar, "hard.npy", b"", tarfile.LNKTYPE, "good.npy")
        add(tar, "pipe.npy", b"", tarfile.FIFOTYPE)
        add(tar, "device.npy", b"", tarfile.CHRTYPE)
        add(tar, "folder", b"", tarfile.SYMTYPE, str(tmp_path))
        add(tar, "folder/evil.npy", good)
        add(tar, "inner.tar", b"x")
        add(tar, "last.npy", good)
    source, found = read(tmp_path / "a.tar")
    assert list(found) == ["folder/evil.npy", "good.npy", "last.npy"]  # the link `folder` was not made
    assert sorted(reasons(source)) == ["device.npy", "hard.npy", "inner.tar", "link.npy", "pipe.npy"]
    assert not (tmp_path / "evil.npy").exists()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_damaged_and_empty_tars(tmp_path, suffix):
    folder = tmp_path / "set"
    folder.mkdir()
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        for k in range(6):
            add(tar, f"{k}.npy", npy(random_clips(4, 32, 32, 3, seed=k)))
    whole = (tmp_path / "whole.tar").read_bytes()
    cut, struck = whole[: len(whole) // 2], bytearray(whole)
    struck[3 * (512 + 12800) + 10] ^= 255  # a header in the middle
    for name, content in (("cut", cut), ("struck", bytes(struck)), ("text", b"no archive" * 100), ("empty", b"")):
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix == ".tar.gz" else content)
    (folder / f"half{suffix}").write_bytes(gzip.compress(whole)[:-2000] if suffix == ".tar.gz" else cut)
    source, found = read(folder)
    assert f"cut{suffix}/0.npy" in found and f"struck{suffix}/0.npy" in found and f"half{suffix}/0.npy" in found
    said = {name.split("/")[0] for name in reasons(source)}
    assert said == {f"{name}{suffix}" for name in ("cut", "struck", "text", "empty", "half")}


def test_bombs_in_tars(tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_MAX_UNPACKED", "1M")
    for name in ("a.npy", "unread.bin"):
        with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as tar:
            add(tar, name, bytes(24 << 20))
        with pytest.raises(InputError, match="decompression bomb; HPDM_EVAL_MAX_UNPACKED"):
            read(tmp_path / "bomb.tgz")
    header = tarfile.TarInfo("a.npy")
    header.type, header.size = tarfile.XHDTYPE, 24 << 20
    (tmp_path / "headers.tgz").write_bytes(gzip.compress(header.tobuf() + bytes(24 << 20)))
    with pytest.raises(InputError, match="headers are too large"):
        read(tmp_path / "headers.tgz")


def test_characters_in_names(tmp_path):
    names = ["a #1 fan-0.mp4", "a #1/x#2.mp4", "a dog & a cat, 100%-0.mp4", "#.mp4", "x[1].mp4"]
    for name in names:
        write_video(tmp_path / "s" / name, grey_clip(4))
    np.save(tmp_path / "s" / "many #3.npy", random_clips(2, 4, 16, 16, 3))
    assert sorted(read(tmp_path / "s", match="*.mp4")[1]) == sorted(names)
    assert list(read(tmp_path / "s", match="a #1*")[1]) == ["a #1 fan-0.mp4"]  # the name, not the folder's
    assert list(read(tmp_path / "s", match="a #1/*")[1]) == ["a #1/x#2.mp4"]
    assert list(read(tmp_path / "s", match="*#2.mp4")[1]) == ["a #1/x#2.mp4"]
    assert list(read(tmp_path / "s", match="many #3*")[1]) == ["many #3.npy#0", "many #3.npy#1"]
    assert list(read(tmp_path / "s", match="*/*.mp4")[1]) == ["a #1/x#2.mp4"]


@pytest.mark.parametrize(
    "kind", ["list", "tuple", "dict of lists", "list of batches", "other sizes", "grey", "grey npy"]
)
def test_tensors_in_lists_and_grey_arrays(tmp_path, kind):
    clips = random_clips(4, 5, 16, 20, 3)
    tensors = [torch.from_numpy(clip) for clip in clips]
    names = [f"a.pt#{k}" for k in range(4)]
    if kind == "other sizes":
        tensors = [*tensors[:3], tensors[3][:4]]
        names = [f"a.pt/{k}" for k in range(4)]
    values = {
        "list": tensors,
        "tuple": tuple(tensors),
        "dict of lists": {"videos": tensors, "names": ["a", "b", "c", "d"]},
        "list of batches": [torch.from_numpy(clips[:2]), torch.from_numpy(clips[2:])],
        "other sizes": tensors,
        "grey": torch.from_numpy(clips[..., 0]),
    }
    if kind == "grey npy":
        np.save(tmp_path / "a.npy", clips[..., 0])
        names = [f"a.npy#{k}" for k in range(4)]
    else:
        torch.save(values[kind], tmp_path / "a.pt")
    _, found = read(tmp_path)
    assert list(found) == names
    for k, clip in enumerate(found.values()):
        expected = np.repeat(clips[k][..., :1], 3, -1) if "grey" in kind else clips[k][: len(clip.video)]
        assert np.array_equal(clip.video, expected)


def layout(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, random_clips(4, 16, 16, 3, seed=number))


def test_train_and_test_above_the_classes(tmp_path, capfd):
    layout(tmp_path, "train/a/1.npy", "train/b/2.npy", "test/a/3.npy", "val/b/4.npy")
    source, found = read(tmp_path, role="reference", quiet=False)
    assert {name: clip.label for name, clip in found.items()} == {"train/a/1.npy": "a", "train/b/2.npy": "b"}
    assert "the train part is used, 2 clips; 2 of the others are not" in capfd.readouterr().err
    assert source.summary()["part"] == "train"
    with pytest.raises(InputError, match="holds test, train, val above the classes: name the one.*--match 'test/"):
        read(tmp_path)
    assert {clip.label for clip in read(tmp_path, match="test/*")[1].values()} == {"a"}
    assert {clip.label for clip in read(tmp_path / "train")[1].values()} == {"a", "b"}


@pytest.mark.parametrize(
    "names, labels",
    [
        (["Training/a/1.npy", "TEST/b/2.npy"], ["a"]),
        (["train/a/1.npy"], ["a"]),
        (["train/1.npy", "test/2.npy"], [None]),
        (["train/1.npy"], ["train"]),  # one folder of clips is a class
        (["train/1.npy", "car/2.npy"], ["car", "train"]),  # vehicles
        (["train/a/1.npy", "extra/2.npy"], ["extra", "train"]),
    ],
)
def test_which_layouts_are_parts(tmp_path, names, labels):
    layout(tmp_path, *names)
    found = read(tmp_path, role="reference")[1]
    assert sorted({clip.label for clip in found.values()}, key=str) == labels


def test_without_a_train_part_the_reference_must_be_named_too(tmp_path):
    layout(tmp_path, "val/a/1.npy", "test/a/2.npy")
    with pytest.raises(InputError, match="name the one that is meant, such as .*/test$"):
        read(tmp_path, role="reference")


def test_official_lists_choose_among_the_parts(tmp_path):
    layout(tmp_path, "train/Punch/v_Punch_g01_c01.npy", "test/Punch/v_PUNCH_g08_c01.npy")
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").write_bytes(b"Punch/v_Punch_g08_c01.avi 1\r\n")
    source, found = read(tmp_path, load_protocol("native", split="ucf101-train-01"), role="reference")
    assert {name: clip.label for name, clip in found.items()} == {"test/Punch/v_PUNCH_g08_c01.npy": "Punch"}
    assert source.summary()["split"]["present"] == 1


def test_several_clips_of_each_video(tmp_path):
    write_video(tmp_path / "long.mp4", grey_clip(40))
    write_video(tmp_path / "short.mp4", grey_clip(5))
    protocol = load_protocol("native", frames=4, clips_per_video=3)
    source, found = read(tmp_path, protocol, role="reference")
    starts = {name: int(frame_numbers(clip.video)[0, 0]) for name, clip in found.items()}
    assert starts == {"long.mp4#0": 0, "long.mp4#1": 18, "long.mp4#2": 36, "short.mp4#0": 0, "short.mp4#1": 1}
    assert list(reasons(source)) == ["short.mp4#2"] and "clips_per_video" in reasons(source)["short.mp4#2"]
    assert len(read(tmp_path, protocol)[1]) == 2  # samples have a number of their own
    both = load_protocol("native", frames=4, samples_clips_per_video=2, samples_frames="random")
    again = [{name: clip.digest for name, clip in read(tmp_path, both, seed=seed)[1].items()} for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    one = load_protocol("native", frames=4)
    assert protocol.hash() != one.hash() and "clips_per_video=3" in protocol.label
    assert load_protocol("native", frames=4, clips_per_video=1).hash() == one.hash()
    assert sources_of(list(found), clips=3) == [f"source {name}#0" for name in ["long.mp4"] * 3 + ["short.mp4"] * 2]
    with pytest.raises(InputError, match="clips_per_video above 1 needs a number of frames"):
        load_protocol("native", clips_per_video=2)


def test_link_loops_count_nothing_twice(tmp_path):
    write_video(tmp_path / "set" / "c" / "a.mp4", grey_clip(4))
    (tmp_path / "set" / "c" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set" / "c")
    source, found = read(tmp_path / "set")
    assert list(found) == ["c/a.mp4"] and source.summary()["clips"] == 1


def test_copies_are_counted(tmp_path):
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", random_clips(4, 16, 16, 3, seed=name == "c"))
    source, _ = read(tmp_path)
    assert source.summary()["duplicates"] == 1
    os.remove(tmp_path / "a.npy")
    assert "duplicates" not in read(tmp_path)[0].summary()


def test_orientation_of_pictures(tmp_path):
    (tmp_path / "a").mkdir()
    picture = random_clips(16, 24, 3)
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(picture).save(tmp_path / "a" / "1.png", exif=exif)
    assert np.array_equal(read(tmp_path, NATIVE)[1]["a"].video[0], np.rot90(picture, -1))
