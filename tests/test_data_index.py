"""The index of a folder of videos, the decoders behind it, and the cutting of clips."""

import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from video_files import frame_numbers, grey_clip, write_video

import hpdm.data.decoding as decoding
import hpdm.data.index as index
from hpdm.data.decoding import DecodingError, probe_video, read_frames
from hpdm.data.index import INDEX_NAME, build_index, cache_files, list_videos
from hpdm.data.ranges import to_model_range, to_uint8
from hpdm.data.videos import SHORT, STARTS, ClipSampling, fit
from hpdm.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    write_video(root / "Run" / "b.mp4", grey_clip(20, 48, 64), fps=25)
    write_video(root / "Jump" / "deeper" / "a.avi", grey_clip(9, 32, 32), fps=30, codec="mpeg4")
    (root / "Jump" / "empty.mp4").touch()
    (root / "Jump" / "text.mp4").write_text("not a video")
    (root / "Jump" / "notes.txt").write_text("no video's suffix")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "c.mp4").write_text("passed over")
    return root


def test_index_holds_what_was_written(folder):
    found = build_index(folder, quiet=True)
    rows = [(v.path, v.label, v.frames, round(v.fps, 3), v.height, v.width) for v in found.videos]
    assert rows == [("Jump/deeper/a.avi", "Jump", 9, 30.0, 32, 32), ("Run/b.mp4", "Run", 20, 25.0, 48, 64)]
    assert [(file.path, file.reason) for file in found.broken][0] == ("Jump/empty.mp4", "empty file")
    assert found.broken[1].path == "Jump/text.mp4" and "Invalid data" in found.broken[1].reason
    assert (folder / INDEX_NAME).exists()


def probed_files(monkeypatch):
    """Names of the files that `build_index` opens from now on."""
    opened = []
    scan = index._scan
    monkeypatch.setattr(index, "_scan", lambda root, files, *rest: opened.extend(files) or scan(root, files, *rest))
    return opened


def test_only_changed_files_are_opened_again(folder, monkeypatch):
    first = build_index(folder, quiet=True)
    opened = probed_files(monkeypatch)
    written = (folder / INDEX_NAME).stat().st_mtime_ns
    assert build_index(folder, quiet=True) == first
    assert not opened and (folder / INDEX_NAME).stat().st_mtime_ns == written

    write_video(folder / "Jump" / "text.mp4", grey_clip(5))
    (folder / "Run" / "b.mp4").rename(folder / "Run" / "c.mp4")
    second = build_index(folder, quiet=True)
    assert [file.path for file in opened] == ["Jump/text.mp4", "Run/c.mp4"]
    assert [video.path for video in second.videos] == ["Jump/deeper/a.avi", "Jump/text.mp4", "Run/c.mp4"]

    (folder / "Run" / "c.mp4").unlink()
    opened.clear()
    assert len(build_index(folder, quiet=True).videos) == 2 and not opened


def test_changed_time_alone_is_a_change(folder, monkeypatch):
    build_index(folder, quiet=True)
    opened = probed_files(monkeypatch)
    os.utime(folder / "Run" / "b.mp4", ns=(1, 1))
    build_index(folder, quiet=True)
    assert [file.path for file in opened] == ["Run/b.mp4"]


def test_index_goes_to_the_cache_where_the_folder_is_read_only(folder, own_cache, monkeypatch):
    write = index.write_json

    def read_only(path, value):
        if path.parent == folder:
            raise PermissionError("read-only")
        write(path, value)

    monkeypatch.setattr(index, "write_json", read_only)
    first = build_index(folder, quiet=True)
    assert not (folder / INDEX_NAME).exists() and cache_files(folder)[1].is_relative_to(own_cache)
    opened = probed_files(monkeypatch)
    assert build_index(folder, quiet=True) == first and not opened


def test_unreadable_index_is_made_anew(folder):
    first = build_index(folder, quiet=True)
    (folder / INDEX_NAME).write_text('{"version": 1, "videos": [{"path": "x"}]}')
    assert build_index(folder, quiet=True) == first


def test_workers_do_not_change_the_index(folder):
    one = build_index(folder, workers=1, quiet=True)
    (folder / INDEX_NAME).unlink()
    assert build_index(folder, workers=3, quiet=True) == one


def test_folders_without_videos_are_refused_and_stay_untouched(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        list_videos(tmp_path / "absent")
    with pytest.raises(InputError, match="no video files"):
        build_index(tmp_path, quiet=True)
    (tmp_path / "a.mp4").write_text("broken")
    with pytest.raises(InputError, match="none of the 1 video files"):
        build_index(tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def crash_on_text(path):
    if path.endswith("text.mp4"):
        os._exit(139)
    return probe_video(path), None


def test_a_decoder_that_dies_costs_one_file(folder, monkeypatch):
    (folder / "Jump" / "empty.mp4").unlink()
    for copy in range(4):
        shutil.copy(folder / "Run" / "b.mp4", folder / "Run" / f"copy{copy}.mp4")
    monkeypatch.setattr(index, "_probe", crash_on_text)
    found = build_index(folder, workers=2, quiet=True)
    assert [(file.path, file.reason) for file in found.broken] == [("Jump/text.mp4", "the decoder crashed on it")]
    assert len(found.videos) == 6


@pytest.mark.parametrize("with_decord", [True, False])
def test_frames_are_read_by_number(tmp_path, monkeypatch, with_decord):
    if not with_decord:
        monkeypatch.setattr(decoding, "decord", None)
    elif decoding.decord is None:
        pytest.skip("decord is not built for this platform")
    path = write_video(tmp_path / "a.mp4", grey_clip(40))
    info = probe_video(path)
    assert (info.frames, info.fps, info.height, info.width) == (40, 25.0, 48, 64)
    wanted = [30, 3, 3, 39, 0]
    frames = read_frames(path, wanted)
    assert frames.dtype == np.uint8 and frames.shape == (5, 48, 64, 3)
    assert frame_numbers(np.moveaxis(frames, -1, 0))[0].tolist() == wanted
    with pytest.raises(DecodingError):
        read_frames(path, [40])
    with pytest.raises(DecodingError, match="no such file"):
        read_frames(tmp_path / "b.mp4", [0])


def test_real_clips_have_their_known_lengths(shared, tmp_path):
    shutil.copytree(shared / "data" / "odd-files", tmp_path / "odd")
    (tmp_path / "odd" / "Diving").symlink_to(shared / "data" / "ucf101-mini" / "videos" / "Diving")
    found = build_index(tmp_path / "odd", quiet=True)
    assert not found.broken and len(found.videos) == 6  # one of them with metadata that is not UTF-8
    for video in found.videos[:5]:
        assert (video.height, video.width) == (240, 320) and video.fps in (25.0, pytest.approx(29.97, abs=1e-2))
        assert 29 <= video.frames <= 329


def test_decord_and_av_agree_on_a_real_clip(shared, monkeypatch):
    if decoding.decord is None:
        pytest.skip("decord is not built for this platform")
    path = shared / "data" / "ucf101-mini" / "videos" / "Punch" / "v_Punch_g08_c02.avi"
    info, frames = probe_video(path), read_frames(path, [0, 17, 28])
    monkeypatch.setattr(decoding, "decord", None)
    assert probe_video(path) == info
    assert np.array_equal(read_frames(path, [0, 17, 28]), frames)


@given(
    frames=st.integers(1, 40), stride=st.integers(1, 4), length=st.integers(1, 200),
    start=st.sampled_from(STARTS), short=st.sampled_from(SHORT), seed=st.integers(0, 99),
)
def test_clip_frames_follow_the_rule(frames, stride, length, start, short, seed):
    sampling = ClipSampling(frames=frames, height=8, width=8, start=start, stride=stride, short=short)
    span = (frames - 1) * stride + 1
    refusal = sampling.refusal(length, 25.0)
    assert (refusal is not None) == (short == "drop" and span > length)
    if refusal:
        return
    indices = sampling.indices(length, 25.0, np.random.default_rng(seed))
    if span > length:
        assert indices.tolist() == [i * stride % length for i in range(frames)]
        return
    assert indices[0] >= 0 and indices[-1] < length and set(np.diff(indices)) <= {stride}
    if start != "random":
        assert indices[0] == {"first": 0, "center": (length - span) // 2}[start]


def test_random_starts_reach_both_ends():
    sampling = ClipSampling(frames=4, height=8, width=8)
    starts = {int(sampling.indices(7, 25.0, np.random.default_rng(seed))[0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3}


def test_frame_rate_is_resampled_to_nearest_frames():
    sampling = ClipSampling(frames=6, height=8, width=8, start="first", fps=10)
    times = sampling.indices(100, 25.0, np.random.default_rng(0)) / 25.0
    assert np.abs(times - np.arange(6) / 10).max() <= 0.5 / 25 + 1e-12
    assert sampling.refusal(13, 25.0) == "too short for 6 frames of 10 fps" and sampling.refusal(14, 25.0) is None
    assert sampling.refusal(100, 0.0) == "no frame rate in the file"
    slower = ClipSampling(frames=4, height=8, width=8, start="first", fps=50)
    assert slower.indices(100, 25.0, np.random.default_rng(0)).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("size, target, box", [
    ((240, 320), (64, 64), (slice(None), slice(40, 280))),
    ((320, 240), (64, 64), (slice(40, 280), slice(None))),
    ((48, 64), (36, 64), (slice(6, 42), slice(None))),
    ((48, 48), (64, 64), (slice(None), slice(None))),
])
def test_picture_is_cropped_in_the_middle_and_resized(size, target, box):
    frames = torch.randint(0, 256, (2, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clip = fit(frames.numpy(), *target)
    assert clip.dtype == torch.uint8 and clip.shape == (3, 2, *target) and clip.is_contiguous()
    cut = frames[:, box[0], box[1]].permute(0, 3, 1, 2).double()
    exact = F.interpolate(cut, size=target, mode="bilinear", align_corners=False, antialias=True).transpose(0, 1)
    assert (clip.double() - exact).abs().max() <= 1.01


def test_ranges_are_inverse_and_exact_at_the_ends():
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_model_range(values)
    assert floats.dtype == torch.float32 and floats[0] == -1 and floats[-1] == 1
    assert torch.equal(to_uint8(floats), values)
    assert to_uint8(torch.tensor([-3.0, 3.0, 0.0])).tolist() == [0, 255, 128]
    with pytest.raises(TypeError):
        to_model_range(floats)
