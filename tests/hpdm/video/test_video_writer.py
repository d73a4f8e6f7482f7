"""The H.264 writer: what is written can be read, byte for byte the same each time."""

import av
import numpy as np
import pytest

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm.video.writer import encode_video, write_video


def read_back(path):
    with av.open(str(path)) as file:
        rate = file.streams.video[0].average_rate
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]), rate


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov"])
def test_lossless_is_exact_at_any_size(tmp_path, extension):
    video = np.random.default_rng(0).integers(0, 256, (5, 17, 23, 3), np.uint8)
    write_video(tmp_path / f"v.{extension}", video, fps=30, lossless=True)
    read, rate = read_back(tmp_path / f"v.{extension}")
    np.testing.assert_array_equal(read, video)
    assert rate == 30


def test_lossy_is_close_and_smaller_with_a_larger_crf(tmp_path):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    video = np.broadcast_to(ramp[None, None, :, None], (16, 48, 64, 3)).copy()
    write_video(tmp_path / "v.mp4", video, fps=29.97)
    read, rate = read_back(tmp_path / "v.mp4")
    assert read.shape == video.shape
    assert np.abs(read.astype(int) - video).mean() < 2
    assert float(rate) == pytest.approx(29.97, abs=1e-3)
    clip = procedural_clip(0, 0, 16, 64, 64)[0]
    assert len(encode_video(clip, crf=40)) < len(encode_video(clip, crf=20))


@pytest.mark.parametrize("container", ["mp4", "matroska", "mov"])
def test_same_bytes_every_time(container):
    """Memory is filled with varying rubbish in between: an encoder that reads what it did not write shows it."""
    clip = procedural_clip(0, 3, 24, 64, 64)[0]
    rng = np.random.default_rng(0)
    written = set()
    for _ in range(12):
        rubbish = [np.full(size, size % 251, np.uint8) for size in rng.integers(1_000, 200_000, 40)]
        del rubbish[::2]
        written.add(encode_video(clip, container=container))
    assert len(written) == 1


def test_an_existing_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "v.mp4"
    clip = procedural_clip(0, 0, 8, 32, 32)[0]
    write_video(path, clip)
    before = path.read_bytes()
    with pytest.raises(InputError):
        write_video(path, clip[:, :31])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name, video, message",
    [
        ("v.mp4", np.zeros((2, 8, 8, 3), np.float32), "uint8"),
        ("v.mp4", np.zeros((2, 8, 8), np.uint8), r"\[2, 8, 8\]"),
        ("v.mp4", np.zeros((0, 8, 8, 3), np.uint8), r"\[0, 8, 8, 3\]"),
        ("v.mp4", np.zeros((2, 7, 8, 3), np.uint8), "even"),
        ("v.webm", np.zeros((2, 8, 8, 3), np.uint8), "webm"),
    ],
)
def test_bad_input(tmp_path, name, video, message):
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / name, video)
