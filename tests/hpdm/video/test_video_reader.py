"""The reader of videos: every frame the right frame, whatever the file, wherever reading starts."""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpdm.video.packets
from hpdm.video.formats import container
from hpdm.video.reader import DecodingError, VideoReader, probe_video, read_frames
from hpdm.video.timeline import Timeline, exact_rate
from hpdm_eval.benchmarks.numbered_videos import all_cases, number_of, numbered_picture, write_case

CASES = {case.name: case for case in all_cases()}
# One of each way to open a file again: with an index, with cues, with packets' times alone, without any.
REREAD = ("h264-g12-b3-open.mp4", "hevc-open.mkv", "mpeg2.ts", "mpeg4-b2.avi", "cut-b3.mp4", "variable.webm", "raw.y4m")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Function of a case's name: (path, numbers that the file shows); each file is made once."""
    folder, made = tmp_path_factory.mktemp("numbered"), {}

    def make(name):
        if name not in made:
            made[name] = write_case(CASES[name], folder)
        return made[name]

    return make


def numbers(frames):
    return [number_of(frame) for frame in frames]


def selections(count, random):
    """Frame numbers as users of a reader ask for them: the last, all, strides from anywhere, any order with repeats."""
    yield [count - 1]
    yield np.arange(count)
    for stride in (1, 2, 3, 7):
        start = int(random.integers(count))
        yield np.arange(start, count, stride)[:16]
    yield random.integers(count, size=9)


def test_the_matrix_is_large_enough():
    assert len(CASES) >= 100 and len({case.kind for case in CASES.values()}) >= 40


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_that_a_player_shows(numbered, name):
    case, (path, shown) = CASES[name], numbered(name)
    with VideoReader(path) as reader:
        timeline = reader.timeline
        assert timeline.frames == len(shown)
        for indices in selections(len(shown), np.random.default_rng(len(name))):
            frames = reader.read(indices)
            assert frames.dtype == np.uint8 and frames.shape[1:] == (case.height, case.width, 3)
            assert numbers(frames) == [shown[index] for index in indices]
    if case.times:
        assert timeline.times() == pytest.approx(case.times, abs=0.0051 if name.endswith(".gif") else 0.0011)
    elif case.edit != "broken-off":
        assert timeline.is_even and timeline.rate == case.fps


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_those_of_decoding_from_the_beginning(numbered, name):
    if CASES[name].rotation or CASES[name].mirrored or CASES[name].edit == "broken-off" or "grey" in name:
        pytest.skip("compared by its numbers alone: FFmpeg's plain decoding does not turn, or ends with an error")
    path, shown = numbered(name)
    with av.open(str(path)) as file:
        plain = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    chosen = sorted({0, len(plain) // 3, len(plain) - 1})
    for index in chosen:
        assert np.array_equal(read_frames(path, [index])[0], plain[index])


@pytest.mark.parametrize("name", REREAD)
def test_packets_of_large_files_are_read_again_from_the_disk(numbered, name, monkeypatch):
    monkeypatch.setattr(hpdm.video.packets, "KEPT_BYTES", 0)
    path, shown = numbered(name)
    with VideoReader(path) as reader:
        for indices in selections(len(shown), np.random.default_rng(1)):
            assert numbers(reader.read(indices)) == [shown[index] for index in indices]


def test_the_content_decides_and_not_the_name(numbered, tmp_path):
    for name in ("vp9.webm", "mpeg2.mpg", "ffv1.avi"):
        path, shown = numbered(name)
        renamed = shutil.copy(path, tmp_path / "renamed.mp4")
        assert numbers(read_frames(renamed, [3, 50])) == [shown[3], shown[50]]
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile {numbered('vp9.webm')[0]}\n")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(DecodingError, match="not a video"):
            read_frames(tmp_path / name, [0])


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mp4", "a #1 100%&,.mp4", "%03d.mp4", "a'b\n.mp4", "ä\udcff.mp4"])
def test_any_name_is_a_name(numbered, tmp_path, monkeypatch, name):
    shutil.copy(numbered("h264-g12-b3.mp4")[0], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(read_frames(name, [7])) == [7]


def test_files_without_frames_say_why(tmp_path, numbered):
    (tmp_path / "empty.mp4").touch()
    whole = numbered("h264-g12-b0.mp4")[0].read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at its end
    for name, reason in (
        ("empty.mp4", "the file is empty"),
        ("none.mp4", "no such file"),
        ("head.mp4", r"cannot be decoded \("),
    ):
        with pytest.raises(DecodingError, match=reason):
            probe_video(tmp_path / name)
    path, shown = numbered("mpeg4-b2.mkv")
    with pytest.raises(DecodingError, match=f"ends before frame 300, it shows {len(shown)}"):
        read_frames(path, [0, 300])
    with pytest.raises(IndexError):
        read_frames(path, [-1])


def test_a_frame_that_does_not_come_is_counted_anew(numbered, tmp_path):
    """A packet in the middle that holds nothing: what was announced is not what is shown."""
    path, _ = numbered("mjpeg.avi")
    data, place = bytearray(path.read_bytes()), -1
    for _ in range(20):
        place = data.index(b"\xff\xd8\xff", place + 1)
    end = data.index(b"\xff\xd9", place)
    data[place:end] = bytes(end - place)
    (tmp_path / "hole.avi").write_bytes(data)
    with VideoReader(tmp_path / "hole.avi") as reader:
        calls = []

        def choose(timeline):
            calls.append(timeline.frames)
            return [timeline.frames - 1, 5]

        try:
            frames, indices = reader.read_chosen(choose)
        except DecodingError:
            return  # a decoder may refuse the packet instead: the file is rejected, not read wrongly
        assert numbers(frames) == [59, 5] and indices == [calls[-1] - 1, 5]


def test_transforms_see_blocks_of_bounded_size(numbered, monkeypatch):
    monkeypatch.setattr("hpdm.video.reader.BLOCK_BYTES", 10 * 72 * 96 * 3)
    path, shown = numbered("h264-g12-b3.mkv")
    sizes = []

    def transform(block):
        sizes.append(len(block))
        return block[:, ::2, ::2]

    frames = read_frames(path, [40, 3, *range(30), 3], transform)
    assert max(sizes) == 10 and sum(sizes) == 31
    assert numbers(frames) == [40, 3, *range(30), 3] and frames.shape == (33, 36, 48, 3)


def test_info_of_a_turned_video(numbered):
    info = probe_video(numbered("turned-90.mp4")[0])
    assert (info.frames, info.fps, info.height, info.width, info.even) == (60, 25.0, 72, 96, True)
    assert info.seconds == pytest.approx(59.5 / 25)


def test_depth_alpha_and_grey_come_out_as_eight_bits(numbered):
    """The same pictures in every kind of samples differ by what chroma and rounding cost, and not in brightness."""
    wanted = np.stack([numbered_picture(number, 72, 96) for number in (0, 41)]).astype(int)
    for name, most in (
        ("deep-grey.mkv", 1),
        ("deep-rgb.mkv", 1),
        ("alpha.mov", 0),
        ("alpha.mkv", 3),
        ("png.mov", 0),
        ("deep-h264.mp4", 12),
        ("deep-hevc.mkv", 12),
    ):
        got = read_frames(numbered(name)[0], [0, 41]).astype(int)
        assert np.abs(got - wanted)[:, 4:20, 4:20].max() <= most, name


# --- timelines

rates = st.sampled_from(
    [Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(10), Fraction(50), Fraction(15, 2)]
)


@given(count=st.integers(1, 60), rate=rates, fps=rates)
def test_resampling_takes_the_frame_nearest_in_time(count, rate, fps):
    chosen = Timeline.even(count, rate).resampled(fps)
    for k, index in enumerate(chosen):
        distances = [abs(i / rate - k / fps) for i in range(count)]
        assert index == distances.index(min(distances))  # the earlier of two equally near
    assert len(chosen) == Timeline.even(count, rate).resampled_length(fps)
    assert abs(len(chosen) - count * fps / rate) <= 1 + fps / rate  # all of the video's time is used


@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    fps=rates,
    start=st.integers(0, 39),
    stride=st.integers(1, 3),
    count=st.integers(1, 30),
)
def test_resampling_of_uneven_frames(gaps, fps, start, stride, count):
    ticks = np.cumsum([0, *gaps])
    timeline, start = Timeline(len(ticks), Fraction(1, 1000), ticks), start % len(ticks)
    chosen = timeline.resampled(fps, count, start=start, stride=stride)
    for k, index in enumerate(chosen):
        distances = [abs(Fraction(int(tick - ticks[start]), 1000) - k * stride / fps) for tick in ticks]
        assert index == distances.index(min(distances))


@given(count=st.integers(1, 2000), rate=rates, tick=st.sampled_from([1000, 12800, 90000, 16000]))
def test_rounded_times_are_those_of_the_rate(count, rate, tick):
    ticks = [round(i / rate * tick) for i in range(count)]
    timeline = Timeline.of(ticks, Fraction(1, tick), (rate,))
    assert timeline.is_even and timeline.rate == rate
    if count > 2:  # a rate that nobody states is found as well as the rounded times tell it
        guessed = Timeline.of(ticks, Fraction(1, tick))
        assert guessed.is_even and abs(guessed.rate / rate - 1) * (count - 1) / rate <= Fraction(2, tick)


def test_dropped_frames_are_gaps_in_coarse_ticks():
    timeline = Timeline.of([0, 1, 3, 4], Fraction(1, 25), (25,))
    assert not timeline.is_even and timeline.times().tolist() == [0, 0.04, 0.12, 0.16]


def test_without_times_frames_stay_as_they_are():
    assert Timeline.even(5, None).resampled(25).tolist() == [0, 1, 2, 3, 4]
    assert Timeline.even(5, 30).resampled(None, stride=2).tolist() == [0, 2, 4]
    assert Timeline.even(5, 0).rate == 0 and exact_rate(float("nan")) == 0 and exact_rate(float("inf")) == 0


def test_long_videos_do_not_overflow():
    timeline = Timeline.even(10**7, Fraction(60000, 1001))
    chosen = timeline.resampled(Fraction(24000, 1001), 3, start=9_000_000)
    assert chosen.tolist() == [9_000_000, 9_000_002, 9_000_005]
    nanoseconds = Timeline(3, Fraction(1, 10**9), np.array([0, 10**13, 2 * 10**13 + 1]))
    assert nanoseconds.resampled(Fraction(1, 10_000)).tolist() == [0, 1, 2]


# --- real files


@pytest.fixture
def case_files(shared):
    return lambda folder: sorted(path for path in (shared / "cases" / folder).rglob("*") if path.is_file())


def test_real_avi_and_its_lossless_copy_are_equal(case_files):
    for lossy, lossless in zip(case_files("seek/h264avi"), case_files("seek/h264ffv1"), strict=True):
        with VideoReader(lossy) as one, VideoReader(lossless) as two:
            assert one.timeline.frames == two.timeline.frames and one.timeline.rate == two.timeline.rate
            for indices in selections(one.timeline.frames, np.random.default_rng(0)):
                assert np.array_equal(one.read(indices), two.read(indices))


def test_real_stream_copies_show_a_hundred_frames(case_files):
    for path in case_files("stream-copy-hang"):
        frames = read_frames(path, np.arange(100))
        assert probe_video(path).frames == 100
        assert len({frame.tobytes() for frame in frames}) == 100


def test_real_variable_frame_rate(case_files):
    with VideoReader(case_files("variable-frame-rate")[0]) as reader:
        assert reader.timeline.resampled(10)[:12].tolist() == [0, 5, 10, 15, 20, 21, 22, 24, 25, 26, 27, 29]


def test_real_suffixes_are_read(case_files):
    files = case_files("suffixes")
    assert len(files) == 12
    for path in files:
        assert probe_video(path).frames == 16 and container(path)
    with pytest.raises(DecodingError, match="codec"):
        probe_video(next(path for path in case_files("unknown-codec") if path.name == "bad.mp4"))
