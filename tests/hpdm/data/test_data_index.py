"""The index of a folder of videos, the decoders behind it, and the cutting of clips."""

import os
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import hpdm.data.index as index
from hpdm.config.data import SHORT, STARTS
from hpdm.data.index import INDEX_NAME, IndexedVideo, build_index, cache_files, list_videos
from hpdm.data.ranges import to_model_range, to_uint8
from hpdm.data.table import VideoTable
from hpdm.data.videos import ClipSampling, FileJob, fit
from hpdm.support.errors import InputError
from hpdm.video.reader import DecodingError, VideoReader
from hpdm.video.timeline import Timeline
from tests.support.video_files import grey_clip, write_video


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
    assert [(file.path, file.reason) for file in found.broken][0] == ("Jump/empty.mp4", "the file is empty")
    assert found.broken[1].path == "Jump/text.mp4" and "not a video" in found.broken[1].reason
    assert [(v.seconds, v.even) for v in found.videos] == [(8.5 / 30, True), (19.5 / 25, True)]
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
    write = VideoTable.write

    def read_only(table, path):
        if path.parent == folder:
            raise PermissionError("read-only")
        write(table, path)

    monkeypatch.setattr(VideoTable, "write", read_only)
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


def test_a_decoder_that_dies_or_hangs_costs_one_file(folder, bad_decoder, monkeypatch):
    (folder / "Jump" / "empty.mp4").unlink()
    for copy in range(2):
        shutil.copy(folder / "Run" / "b.mp4", folder / "Run" / f"copy{copy}.mp4")
    for kind in ("crash", "hang", "binding"):
        shutil.copy(folder / "Run" / "b.mp4", folder / "Run" / f"{kind}-open.mp4")
    monkeypatch.setattr(index, "seconds_for", lambda path: 20 if "hang" not in path else 3)
    found = build_index(folder, workers=2, quiet=True)
    reasons = {file.path: file.reason for file in found.broken}
    assert reasons["Run/crash-open.mp4"] == "decoding it killed the process (SIGSEGV)"
    assert reasons["Run/hang-open.mp4"] == "decoding it stood still for 3 s and was stopped"
    assert reasons["Run/binding-open.mp4"] == "cannot be decoded (AttributeError: no such attribute)"
    assert len(reasons) == 4 and len(found.videos) == 4


def test_a_subset_leaves_what_is_known_of_the_rest(folder, monkeypatch):
    everything = build_index(folder, quiet=True)
    write_video(folder / "Run" / "new.mp4", grey_clip(5))
    part = [file for file in list_videos(folder).files if file.path.startswith("Run")]
    assert [video.path for video in build_index(folder, found=part, quiet=True).videos] == ["Run/b.mp4", "Run/new.mp4"]
    opened = probed_files(monkeypatch)
    assert len(build_index(folder, quiet=True).videos) == len(everything.videos) + 1 and not opened


def test_what_is_passed_over_is_counted_and_links_end(folder):
    (folder / "Jump" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "Run" / "again").symlink_to(folder / "Jump", target_is_directory=True)
    (folder / "Run" / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "Run" / "README").touch()
    (folder / "Run" / "x.TXT").touch()
    listing = list_videos(folder)
    assert [file.path for file in listing.files] == [
        "Jump/deeper/a.avi",
        "Jump/empty.mp4",
        "Jump/text.mp4",
        "Run/b.mp4",
    ]
    assert listing.passed_over == {
        ".txt": 2,
        "without suffix": 1,
        "broken link or special file": 1,
        "link to a folder that is listed elsewhere": 2,
    }


def test_real_clips_have_their_known_lengths(shared, tmp_path):
    shutil.copytree(shared / "data" / "odd-files", tmp_path / "odd")
    (tmp_path / "odd" / "Diving").symlink_to(shared / "data" / "ucf101-mini" / "videos" / "Diving")
    found = build_index(tmp_path / "odd", quiet=True)
    assert not found.broken and len(found.videos) == 6  # one of them with metadata that is not UTF-8
    for video in found.videos[:5]:
        assert (video.height, video.width) == (240, 320) and video.fps in (25.0, pytest.approx(29.97, abs=1e-2))
        assert 29 <= video.frames <= 329


def indexed(timeline, size=8):
    """The index's entry of a video with that timeline."""
    return IndexedVideo(
        path="a.mp4",
        size=1,
        mtime=1,
        frames=timeline.frames,
        fps=float(timeline.rate),
        seconds=timeline.seconds,
        even=timeline.is_even,
        height=size,
        width=size,
    )


def nearest(times, wanted):
    """Numbers of the frames nearest to the times; of two equally near the earlier."""
    return [min(range(len(times)), key=lambda i: (abs(times[i] - time), i)) for time in wanted]


@given(
    frames=st.integers(1, 40),
    stride=st.integers(1, 4),
    length=st.integers(1, 200),
    start=st.sampled_from(STARTS),
    short=st.sampled_from(SHORT),
    seed=st.integers(0, 99),
)
def test_clip_frames_follow_the_rule(frames, stride, length, start, short, seed):
    sampling = ClipSampling(frames=frames, height=8, width=8, start=start, stride=stride, short=short)
    span, timeline = (frames - 1) * stride + 1, Timeline.even(length, 25)
    refusal = sampling.refusal(indexed(timeline))
    assert (refusal is not None) == (short == "drop" and span > length)
    if refusal:
        with pytest.raises(DecodingError, match="too short"):
            sampling.indices(timeline, np.random.default_rng(seed))
        return
    indices = sampling.indices(timeline, np.random.default_rng(seed))
    if span > length:
        assert indices.tolist() == [i * stride % length for i in range(frames)]
        return
    assert indices[0] >= 0 and indices[-1] < length and set(np.diff(indices)) <= {stride}
    if start != "random":
        assert indices[0] == {"first": 0, "center": (length - span) // 2}[start]


def test_random_starts_reach_both_ends():
    sampling = ClipSampling(frames=4, height=8, width=8)
    starts = {int(sampling.indices(Timeline.even(7, 25), np.random.default_rng(seed))[0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3}


def test_frame_rate_is_resampled_to_nearest_frames():
    sampling = ClipSampling(frames=6, height=8, width=8, start="first", fps=10)
    times = sampling.indices(Timeline.even(100, 25), np.random.default_rng(0)) / 25.0
    assert np.abs(times - np.arange(6) / 10).max() <= 0.5 / 25 + 1e-12
    refusals = {n: sampling.refusal(indexed(Timeline.even(n, 25))) for n in (13, 14)}
    assert refusals == {13: "too short for 6 frames of 10 fps", 14: None}
    assert sampling.refusal(indexed(Timeline.even(100, 0))) == "no frame rate in the file"
    slower = ClipSampling(frames=4, height=8, width=8, start="first", fps=50)
    assert slower.indices(Timeline.even(100, 25), np.random.default_rng(0)).tolist() == [0, 0, 1, 1]


@given(
    gaps=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    frames=st.integers(1, 8),
    stride=st.integers(1, 3),
    fps=st.sampled_from([5, 10, 12.5, 30]),
    seed=st.integers(0, 20),
    short=st.sampled_from(SHORT),
)
def test_uneven_frames_are_resampled_by_their_times(gaps, frames, stride, fps, seed, short):
    """Against a search over all times, in ticks of 1/500 s: so fine that no spacing passes for a rounded even one."""
    times = [0, *np.cumsum(10 * np.array(gaps)).tolist()]
    timeline = Timeline.of(times, Fraction(1, 500))
    sampling = ClipSampling(frames=frames, height=8, width=8, stride=stride, fps=fps, short=short)
    steps = [stride * k * 500 / Fraction(fps) for k in range(frames)]
    whole = 2 * times[-1] - times[-2]
    end = Fraction(times[-1] + whole, 2)  # the time up to which a video lasts
    starts = [i for i, time in enumerate(times) if time + steps[-1] < end]
    video, random = indexed(timeline), np.random.default_rng(seed)
    assert (sampling.refusal(video) is None) == (bool(starts) or short == "loop")
    assert max(sampling.last_start(timeline), -1) == (starts[-1] if starts else -1)
    if starts:
        indices = sampling.indices(timeline, random).tolist()
        assert indices[0] in starts and indices == nearest(times, [times[indices[0]] + step for step in steps])
    elif short == "loop":
        repeated = [time + whole * turn for turn in range(3 + int(steps[-1] / whole)) for time in times]
        expected = [i % len(times) for i in nearest(repeated, steps)]
        assert sampling.indices(timeline, random).tolist() == expected


def test_a_variable_frame_rate_comes_out_right(shared):
    path = shared / "cases" / "variable-frame-rate" / "vfr2.mp4"
    if not path.exists():
        pytest.skip("needs the case variable-frame-rate")
    with VideoReader(path) as video:
        timeline = video.timeline
    entry = indexed(timeline)
    sampling = ClipSampling(frames=16, height=8, width=8, start="first", fps=10)
    assert not entry.even and sampling.refusal(entry) is None
    right = [0, 5, 10, 15, 20, 21, 22, 24, 25, 26, 27, 29]
    assert sampling.indices(timeline, np.random.default_rng(0))[:12].tolist() == right
    with VideoReader(path) as video:
        frames = video.read(right)
    job = FileJob(
        path=str(path),
        sampling=ClipSampling(frames=12, height=frames.shape[1], width=frames.shape[2], start="first", fps=10),
        random=np.random.default_rng(0),
    )
    assert np.array_equal(job.run(), frames.transpose(3, 0, 1, 2))


@pytest.mark.parametrize(
    "size, target, box",
    [
        ((240, 320), (64, 64), (slice(None), slice(40, 280))),
        ((320, 240), (64, 64), (slice(40, 280), slice(None))),
        ((48, 64), (36, 64), (slice(6, 42), slice(None))),
        ((48, 48), (64, 64), (slice(None), slice(None))),
    ],
)
def test_picture_is_cropped_in_the_middle_and_resized(size, target, box):
    frames = torch.randint(0, 256, (2, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clip = torch.from_numpy(fit(frames.numpy(), *target))
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
