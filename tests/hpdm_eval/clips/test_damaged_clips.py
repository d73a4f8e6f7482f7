import io
import random
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm_eval.clips import ahead
from hpdm_eval.clips.listing import SUFFIXES
from hpdm_eval.protocols import load_protocol
from tests.support.reading import CODECS, random_clips, read, reasons
from tests.support.video_files import grey_clip, write_video


def test_pickles_are_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"a": Bomb()}, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.array([Bomb()]), allow_pickle=True)
    np.savez(tmp_path / "c.npz", a=np.array([[[[Bomb()]]]]))
    np.save(tmp_path / "fine.npy", random_clips(2, 4, 4, 3))
    source, found = read(tmp_path)
    assert list(found) == ["fine.npy"] and set(reasons(source)) == {"a.pt", "b.npy", "c.npz"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../evil.npy", "/evil.npy", "a/../../evil.npy", "C:evil.npy", "..\\evil.npy"])
def test_archives_cannot_write_outside(tmp_path, name):
    data = io.BytesIO()
    np.save(data, random_clips(2, 4, 4, 3))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, data.getvalue())
    with pytest.raises(InputError, match="outside the archive"):
        read(tmp_path / "a.zip")
    assert not list(tmp_path.parent.glob("**/evil.npy"))


def test_archives_with_damage_bombs_and_archives_in_them(tmp_path, monkeypatch):
    data = io.BytesIO()
    np.save(data, random_clips(2, 4, 4, 3))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("good.npy", "bad.npy", "inner.zip"):
            archive.writestr(name, data.getvalue())
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"bad.npy") + 150] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    source, found = read(tmp_path / "a.zip")
    assert list(found) == ["good.npy"]
    assert "Bad CRC" in reasons(source)["bad.npy"] and "inside an archive" in reasons(source)["inner.zip"]
    monkeypatch.setenv("HPDM_EVAL_MAX_UNPACKED", "64K")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 22))
    with pytest.raises(InputError, match="decompression bomb"):
        read(tmp_path / "bomb.zip")


def test_rejections_have_reasons_and_the_run_goes_on(tmp_path):
    write_video(tmp_path / "a.mp4", grey_clip(20))
    write_video(tmp_path / "short.mp4", grey_clip(7))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:600])
    write_video(tmp_path / "clip.avi", grey_clip(20), codec="mpeg4").rename(tmp_path / "renamed.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "notes.txt").write_text("passed over")
    protocol = load_protocol("native", frames=16)
    source, found = read(tmp_path, protocol, workers=2)
    assert list(found) == ["a.mp4", "renamed.mp4"]  # content counts, not the name
    assert source.summary()["passed_over"] == {".txt": 1}
    expected = {
        "short.mp4": "too short: 7 frames, 16 needed; --short loop repeats it",
        "empty.mp4": "the file is empty",
        "text.mp4": "not a video, whatever its name says",
        "gone.mp4": "a broken link, or not a regular file",
    }
    got = reasons(source)
    assert got.pop("cut.mp4").startswith("cannot be decoded (")
    assert got == expected
    assert source.summary()["rejected"] == source.rejected
    with pytest.raises(InputError, match="--strict"):
        read(tmp_path, protocol, strict=True)


def test_nothing_readable_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "set")
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match="no readable clip in .*set: looked for"):
        read(tmp_path / "set")
    (tmp_path / "set" / "a.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match="no readable clip in .*set: 1 rejected, the first is a.mp4: not a video"):
        read(tmp_path / "set")
    for name, message in (
        ("notes.doc", "nor one of .*.mp4.* nor a list of files"),
        ("stats.pkl", "is a pickle.*savez"),
    ):
        (tmp_path / name).write_text("x")
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from(SUFFIXES + (".png", ".jpg")), data=st.data())
def test_damaged_files_never_crash(tmp_path, suffix, data):
    head = {
        ".mp4": b"\0\0\0\x20ftypisom",
        ".mov": b"\0\0\0\x14ftypqt  ",
        ".avi": b"RIFF\x20\0\0\0AVI LIST",
        ".webm": b"\x1aE\xdf\xa3",
        ".mkv": b"\x1aE\xdf\xa3\xa3B\x86\x81\x01",
        ".gif": b"GIF89a\x08\0\x08\0",
        ".npy": b"\x93NUMPY\x01\0v\0",
        ".png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        ".jpg": b"\xff\xd8\xff\xe0",
    }
    start = data.draw(st.sampled_from([b"", head.get(suffix, b"PK\x03\x04")]))
    folder = tmp_path / "clip"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"a{suffix}").write_bytes(start + data.draw(st.binary(max_size=200)))
    with pytest.raises(InputError, match="no readable clip"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm", ".gif", ".npy", ".npz", ".pt", ".zip"])
def test_files_with_flipped_bytes_never_crash(tmp_path, suffix):
    clips = random_clips(2, 6, 16, 16, 3)
    if suffix in CODECS:
        write_video(tmp_path / f"a{suffix}", clips[0], **CODECS[suffix])
    elif suffix == ".pt":
        torch.save(torch.from_numpy(clips), tmp_path / "a.pt")
    elif suffix == ".npz":
        np.savez(tmp_path / "a.npz", clips)
    else:
        np.save(tmp_path / "a.npy", clips)
        if suffix == ".zip":
            with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(tmp_path / "a.npy", "a.npy")
            (tmp_path / "a.npy").unlink()
    content, dice = (tmp_path / f"a{suffix}").read_bytes(), random.Random(0)
    for k in range(12):
        damaged = bytearray(content)
        for _ in range(dice.choice([1, 8, 64])):
            damaged[dice.randrange(len(damaged) if k % 2 else min(300, len(damaged)))] = dice.randrange(256)
        (tmp_path / f"a{suffix}").unlink()
        (tmp_path / f"{k}{suffix}").write_bytes(damaged)
        content and (tmp_path / f"a{suffix}").write_bytes(content)
    source, found = read(tmp_path, workers=2)
    files = {name.split("#")[0].split("/")[0] for name in found} | {name.split("/")[0] for name in reasons(source)}
    assert files == {f"{k}{suffix}" for k in range(12)} | {f"a{suffix}"}
    assert all(reasons(source).values())


def test_a_decoder_that_dies_costs_one_file(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(
        "import ctypes\nfrom hpdm_eval.clips.jobs import decode as real\n\n"
        "def decode(job, settings):\n    'bad' in job.path and ctypes.string_at(0)\n    return real(job, settings)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ahead, "DECODE", "deadly:decode")
    for name in ("a", "bad", "c"):
        np.save(tmp_path / f"{name}.npy", random_clips(4, 4, 4, 3))
    source, found = read(tmp_path, workers=2)
    assert list(found) == ["a.npy", "c.npy"]
    assert reasons(source) == {"bad.npy": "decoding it killed the process (SIGSEGV)"}
