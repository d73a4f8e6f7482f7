"""Small files that ask for much: refused by what they declare. Large clips: decoded within a stated bound."""

import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
import zlib
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from hpdm.support.errors import InputError
from hpdm_eval.clips import ahead
from hpdm_eval.clips.frames import FrameRule
from hpdm_eval.clips.jobs import DecodeSettings, Job, Part, decode
from hpdm_eval.clips.source import open_clips
from hpdm_eval.protocols import load_protocol
from hpdm_eval.support.limits import DEFAULTS, check_growth, limit
from hpdm_eval.support.npz import read_npz
from tests.support.paths import ROOT
from tests.support.reading import NATIVE, random_clips, read, reasons
from tests.support.video_files import grey_clip, write_video


def black_png(path, height, width):
    """A black picture of any size in a few kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deflate, rows = zlib.compressobj(), []
    for _ in range(height):
        rows.append(deflate.compress(bytes(1 + width)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"".join(rows) + deflate.flush())
        + chunk(b"IEND", b"")
    )


def test_pictures_of_huge_sizes(tmp_path):
    black_png(tmp_path / "a" / "1.png", 13300, 13300)
    with pytest.raises(InputError, match="13300x13300 px are more than 64 megapixels; HPDM_MAX_PIXELS"):
        read(tmp_path)


ZERO_STRIDES = {
    "expanded": lambda: torch.zeros(1, dtype=torch.uint8).expand(2000, 16, 512, 512, 3),
    "one axis": lambda: torch.zeros(1, 16, 8, 8, 3, dtype=torch.uint8).expand(1 << 20, -1, -1, -1, -1),
    "dict": lambda: {"a": torch.zeros(1).expand(500, 16, 256, 256, 3), "b": torch.zeros(3)},
    "list": lambda: [torch.zeros(1).expand(16, 512, 512, 3)] * 50,
    "sliding": lambda: torch.zeros(200_000).as_strided((100_000, 16, 64, 64, 3), (1, 1, 1, 1, 1)),
}


@pytest.mark.parametrize("kind", ZERO_STRIDES)
def test_tensors_that_expand_are_refused_before_they_do(tmp_path, kind, monkeypatch):
    torch.save(ZERO_STRIDES[kind](), tmp_path / "a.pt")
    monkeypatch.setattr("hpdm_eval.clips.unpacking._write_npy", lambda *_: pytest.fail("was expanded"))
    with pytest.raises(InputError, match="refused as a decompression bomb; HPDM_EVAL_MAX_UNPACKED"):
        read(tmp_path)


def test_a_compressed_file_of_tensors_is_not_unpacked(tmp_path, monkeypatch):
    torch.save(torch.zeros(8, 16, 64, 64, 3, dtype=torch.uint8), tmp_path / "plain.pt")
    packed = zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, packed:
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info))
    (tmp_path / "plain.pt").unlink()
    monkeypatch.setenv("HPDM_EVAL_MAX_UNPACKED", "1M")
    monkeypatch.setattr("hpdm_eval.clips.unpacking._load_tensors", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(InputError, match="a.pt: its content takes 1.5 MiB.*bomb"):
        read(tmp_path)


def test_modest_expansion_is_no_bomb(tmp_path):
    clips = random_clips(2, 4, 16, 16, 1)
    torch.save(torch.from_numpy(clips).expand(-1, -1, -1, -1, 3), tmp_path / "a.pt")
    found = read(tmp_path)[1]
    assert np.array_equal(found["a.pt#1"].video, np.repeat(clips[1], 3, -1))


def test_the_case_of_a_real_bomb(shared):
    source = shared / "cases" / "pt-bomb"
    if not source.is_dir():
        pytest.skip("these cases are not at hand")
    with pytest.raises(InputError, match="expand.pt: its content takes 23.4 GiB"):
        read(source)


def test_statistics_and_arrays_that_unpack_to_much(tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_MAX_UNPACKED", "1M")
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(2000), sigma=np.zeros((2000, 2000)), n=9)
    with pytest.raises(InputError, match="a.npz: its content takes 30.5 MiB, .* times the file: refused"):
        read_npz(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", np.zeros((10, 16, 64, 64, 3), np.uint8))
    (tmp_path / "a.npz").unlink()
    with pytest.raises(InputError, match="b.npz: its content takes"):
        read(tmp_path)
    monkeypatch.setenv("HPDM_EVAL_MAX_UNPACKED", "1G")
    assert len(read(tmp_path)[1]) == 10
    monkeypatch.setenv("HPDM_EVAL_MAX_STATISTICS", "100K")
    with pytest.raises(InputError, match="takes 1.9 MiB of memory, more than 100.0 KiB; HPDM_EVAL_MAX_STATISTICS"):
        read_npz(tmp_path / "b.npz")


def test_a_header_that_claims_more_than_there_is(tmp_path):
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000000,), }"
    data = b"\x93NUMPY\x01\x00v\x00" + text.ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mu.npy", data + bytes(800))
    with pytest.raises(InputError, match="not a readable"):
        read_npz(tmp_path / "a.npz")


def test_limits_are_read_from_the_environment(monkeypatch):
    assert limit("HPDM_EVAL_AHEAD") == DEFAULTS["HPDM_EVAL_AHEAD"] == 1 << 30
    for text, size in (("512M", 512 << 20), ("3g", 3 << 30), ("7", 7), ("", 1 << 30)):
        monkeypatch.setenv("HPDM_EVAL_AHEAD", text)
        assert limit("HPDM_EVAL_AHEAD") == size
    for text in ("much", "-1", "0", "1T"):
        monkeypatch.setenv("HPDM_EVAL_AHEAD", text)
        with pytest.raises(InputError, match="HPDM_EVAL_AHEAD=.*write bytes"):
            limit("HPDM_EVAL_AHEAD")
    assert check_growth(200 << 20, 1) is None and check_growth(300 << 20, 2 << 20) is None
    assert "bomb" in check_growth(300 << 20, 1 << 20)


def test_a_clip_beyond_the_limit_names_the_way(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", grey_clip(20))
    monkeypatch.setenv("HPDM_EVAL_MAX_CLIP", "100K")
    with pytest.raises(InputError, match="20 frames of this size take 180.0 KiB, more than 100.0 KiB; set --frames"):
        read(tmp_path)
    assert len(read(tmp_path, load_protocol("native", frames=5))[1]) == 1


class Counting:
    """A pool that decodes at once and watches how much waits to be taken."""

    def __init__(self, settings):
        self.settings, self.waiting, self.most = settings, [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, job):
        answers = decode(job, self.settings)
        size = sum(answer.video.nbytes for answer in answers) if isinstance(answers, list) else 0
        self.waiting.append(size)
        self.most = max(self.most, sum(self.waiting))
        return Answer(self, size, answers)


class Answer(Future):
    def __init__(self, pool, size, answers):
        super().__init__()
        self.pool, self.size = pool, size
        self.set_result(answers)

    def result(self, timeout=None):
        self.pool.waiting.remove(self.size)
        return super().result(timeout)


@pytest.mark.parametrize("sizes", [[64] * 12, [16] * 6 + [64] * 6, [64] + [16] * 8, [16, 64] * 6, [128, 16, 64]])
@pytest.mark.parametrize("budget", ["1", "200K", "1M", "64M"])
def test_what_waits_stays_within_the_bound(tmp_path, monkeypatch, sizes, budget):
    monkeypatch.setenv("HPDM_EVAL_AHEAD", budget)
    jobs = []
    for number, size in enumerate(sizes):
        np.save(tmp_path / f"{number}.npy", random_clips(4, size, size, 3, seed=number))
        jobs.append((number, Job(path=str(tmp_path / f"{number}.npy"), kind="array", parts=(Part(name=str(number)),))))
    settings = DecodeSettings(rule=FrameRule(frames=None))
    pool = Counting(settings)
    monkeypatch.setattr(ahead, "Workers", lambda *_, **__: pool)
    answers = list(ahead.decode_ahead(jobs, settings, 4, quiet=True))
    assert [what for what, _ in answers] == list(range(len(sizes)))
    assert [decoded.video.shape[1] for _, (decoded,) in answers] == sizes
    largest = 12 * max(sizes) ** 2
    assert pool.most <= limit("HPDM_EVAL_AHEAD") + largest  # the one that is wanted next always comes
    if budget == "64M":
        assert pool.most > largest  # and a large bound is made use of


def test_the_bound_is_said(tmp_path, monkeypatch, capfd):
    for name in "abcdef":
        np.save(tmp_path / f"{name}.npy", random_clips(4, 64, 64, 3))
    monkeypatch.setenv("HPDM_EVAL_AHEAD", "200K")
    assert len(list(open_clips(tmp_path, NATIVE, workers=2))) == 6
    (line,) = capfd.readouterr().err.splitlines()
    assert "clips of 48.0 KiB: 2 decoded at a time, within 200.0 KiB" in line and "HPDM_EVAL_AHEAD" in line
    monkeypatch.delenv("HPDM_EVAL_AHEAD")
    list(open_clips(tmp_path, NATIVE, workers=2))
    assert capfd.readouterr().err == ""


def test_interrupting_a_hung_decoder_ends_at_once(tmp_path):
    (tmp_path / "set").mkdir()
    for name in "abc":
        np.save(tmp_path / "set" / f"{name}.npy", random_clips(4, 16, 16, 3))
    (tmp_path / "hanging.py").write_text("import time\n\ndef decode(job, settings):\n    time.sleep(1000)\n")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[2])
        from hpdm_eval.clips import ahead
        from hpdm_eval.clips.source import open_clips
        from hpdm_eval.protocols import load_protocol
        ahead.DECODE = "hanging:decode"
        print("begun", flush=True)
        list(open_clips(sys.argv[1], load_protocol("native"), workers=2))
    """)
    )
    root = str(ROOT)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "set", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": root},
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(found := _children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(found) == 2, children
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert process.wait(timeout=30) != 0
    assert time.monotonic() - start < 20
    assert not any(Path(f"/proc/{child}").exists() and "Z" not in _state(child) for child in found)


def _children(pid):
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_damaged_float_arrays_cost_themselves(tmp_path):
    """Inserted, cut, overwritten and flipped: each is named, and those that are whole are judged."""
    whole = grey_clip(8, 32, 32).astype(np.float32) / 255
    for number in range(4):
        np.save(tmp_path / f"whole{number}.npy", whole)
    content = (tmp_path / "whole0.npy").read_bytes()
    header, numbers = content[:128], np.frombuffer(content[128:], "<f4")
    flipped, negative = numbers.copy(), numbers.copy()
    flipped[1000] = 8.09
    negative[1000] = -0.5
    damaged = {
        "inserted": content[:1176] + b"\0\0\0A" + content[1176:],
        "inserted byte": content[:1176] + b"\1" + content[1176:],
        "cut": content[:-7],
        "shifted": header + content[129:] + b"\0",
        "flipped": header + flipped.tobytes(),
        "negative": header + negative.tobytes(),
        "nan": header + np.where(np.arange(len(numbers)) == 7, np.nan, numbers).astype("<f4").tobytes(),
    }
    for name, bytes_ in damaged.items():
        (tmp_path / f"a {name}.npy").write_bytes(bytes_)  # first in order: none may set the range of the others
    source, found = read(tmp_path)
    assert list(found) == [f"whole{number}.npy" for number in range(4)]
    assert set(reasons(source)) == {f"a {name}.npy" for name in damaged}
    assert "4 bytes more" in reasons(source)["a inserted.npy"]
    assert "only 1 of 24576 values speak for 0..255" in reasons(source)["a flipped.npy"]


def test_the_case_of_a_misread_array(shared, tmp_path):
    case = shared / "cases" / "misread-array" / "1176_insert_f.npy"
    if not case.is_file():
        pytest.skip("these cases are not at hand")
    (tmp_path / case.name).write_bytes(case.read_bytes())
    np.save(tmp_path / "good.npy", grey_clip(8, 32, 32).astype(np.float32) / 255)
    source, found = read(tmp_path)
    assert list(found) == ["good.npy"] and list(reasons(source)) == [case.name]
