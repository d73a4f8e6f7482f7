from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm.video.timeline import Timeline
from hpdm_eval.clips.arrays import array_layout, to_uint8, value_range
from hpdm_eval.clips.frames import FrameRule, Grid, NoVideo, Rejected, natural_key, parse_grid

small = st.integers(1, 5)


@given(rows=small, columns=small, padding=st.integers(0, 3), height=small, width=small, frames=small)
def test_grid_cutting_undoes_tiling(rows, columns, padding, height, width, frames):
    clips = np.random.default_rng(0).integers(0, 256, (rows * columns, frames, height, width, 3), dtype=np.uint8)
    size = padding + rows * (height + padding), padding + columns * (width + padding)
    sheet = np.full((frames, *size, 3), 99, np.uint8)
    for k, clip in enumerate(clips):
        top = padding + k // columns * (height + padding)
        left = padding + k % columns * (width + padding)
        sheet[:, top : top + height, left : left + width] = clip
    grid = parse_grid(f"{rows}x{columns}" + (f"+{padding}" if padding else ""))
    assert len(grid) == len(clips)
    for k, clip in enumerate(clips):
        assert np.array_equal(grid.cut(sheet, k), clip)


@pytest.mark.parametrize("grid, size, cell", [("1x8", (256, 2048), (256, 256)), ("1x8+2", (260, 2066), (256, 256))])
def test_grid_of_published_contact_sheets(grid, size, cell):
    assert parse_grid(grid).cell_size(*size) == cell


@pytest.mark.parametrize("size", [(256, 2047), (255, 2048), (1, 4)])
def test_grid_that_does_not_divide(size):
    with pytest.raises(Rejected, match="do not divide into a grid of 2x8.*give --grid"):
        Grid(rows=2, columns=8).cell_size(*size)


@pytest.mark.parametrize("text", ["", "8", "0x8", "1x8+", "1x8-2", "1.5x2", "axb"])
def test_grid_that_cannot_be_read(text):
    with pytest.raises(InputError, match="rows x columns"):
        parse_grid(text)


@given(st.lists(st.integers(0, 10**12), min_size=1, unique=True))
def test_natural_order_is_the_order_of_numbers(numbers):
    names = [f"class9/frame{number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"class9/frame{number}.png" for number in sorted(numbers)]


@given(st.lists(st.text()))
def test_natural_order_takes_any_names(names):
    assert sorted(sorted(names, key=natural_key)) == sorted(names)


def still(count):
    """Timeline of `count` frames whose rate is not known."""
    return Timeline.even(count, None)


@given(steps=st.lists(st.integers(1, 40), min_size=1, max_size=60), fps=st.sampled_from([8.0, 12.5, 25.0, 29.97]))
def test_resampling_takes_the_frame_nearest_in_time(steps, fps):
    """Of frames shown at any times, here in hundredths of a second, of two equally near the earlier."""
    ticks = np.cumsum([0, *steps])
    timeline = Timeline.of(ticks, Fraction(1, 100))
    chosen = FrameRule(frames=None, fps=fps).indices(timeline, 0, "a")
    exact = Fraction(fps).limit_denominator(1001)
    shown = [int(tick) * Fraction(1, 100) for tick in ticks]
    if timeline.is_even:  # times are those of a constant rate, which may round them
        shown = [i / timeline.rate for i in range(timeline.frames)]
    for k, index in enumerate(chosen):
        distances = [abs(time - k / exact) for time in shown]
        assert index == distances.index(min(distances))
    assert k / exact < shown[-1] + Fraction(40, 100)


def test_resampling_without_a_rate_changes_nothing():
    assert np.array_equal(FrameRule(frames=None, fps=25.0).indices(still(5), 0, "a"), np.arange(5))
    uneven = Timeline.of([0, 1, 5, 6], Fraction(1, 100))
    assert np.array_equal(FrameRule(frames=None).indices(uneven, 0, "a"), np.arange(4))


@given(
    spare=st.integers(0, 60),
    clips=st.integers(2, 8),
    start=st.sampled_from(["first", "center", "random"]),
    seed=st.integers(0, 9),
)
def test_several_clips_of_a_video_are_different_and_spread(spare, clips, start, seed):
    rule = FrameRule(frames=3, start=start, stride=2, clips=clips)
    starts = []
    for number in range(clips):
        if number > spare:
            with pytest.raises(Rejected, match=f"too short for {clips} different clips: it holds {spare + 1}"):
                rule.indices(still(5 + spare), seed, f"a#{number}", number)
            continue
        indices = rule.indices(still(5 + spare), seed, f"a#{number}", number)
        assert set(np.diff(indices)) == {2} and indices[-1] < 5 + spare
        starts.append(int(indices[0]))
    assert starts == sorted(set(starts)) and starts[0] >= 0 and starts[-1] <= spare
    parts = min(clips, spare + 1)
    if start == "first":
        assert starts[0] == 0 and starts[-1] == spare
        assert max(np.diff([*starts, starts[-1]])) - min(np.diff(starts), default=0) <= 1 or parts == 1
    else:
        for number, first in enumerate(starts):  # one in each of equal parts
            assert number * (spare + 1) // parts <= first < (number + 1) * (spare + 1) // parts


def test_several_clips_do_not_move_the_single_one():
    for start in ("first", "center", "random"):
        one = FrameRule(frames=3, start=start).indices(still(40), 0, "a")
        assert np.array_equal(one, FrameRule(frames=3, start=start, clips=1).indices(still(40), 0, "a", 0))


@given(
    count=st.integers(1, 100),
    frames=st.integers(1, 20),
    stride=st.integers(1, 4),
    start=st.sampled_from(["first", "center", "random", "subsampled"]),
    short=st.sampled_from(["reject", "loop"]),
)
def test_frame_rules(count, frames, stride, start, short):
    rule = FrameRule(frames=frames, start=start, stride=stride, short=short)
    step = max(count // frames, 1) if start == "subsampled" else stride
    span = (frames - 1) * step + 1
    if count < span and short == "reject":
        with pytest.raises(Rejected, match=f"{count} frames, {span} needed; --short loop"):
            rule.indices(still(count), 0, "a")
        return
    indices = rule.indices(still(count), 0, "a")
    assert len(indices) == frames and indices.min() >= 0 and indices.max() < count
    if count < span:
        assert indices.tolist() == [k * step % count for k in range(frames)]
        return
    assert set(np.diff(indices)) <= {step}
    if start in ("first", "subsampled"):
        assert indices[0] == 0
    if start == "center":
        assert 0 <= (count - 1 - indices[-1]) - indices[0] <= 1


def test_all_frames_and_stride():
    assert FrameRule(frames=None, stride=3).indices(still(8), 0, "a").tolist() == [0, 3, 6]


def test_random_starts_are_uniform_and_depend_on_seed_and_name_alone():
    rule = FrameRule(frames=4, start="random")
    starts = [rule.indices(still(8), 0, f"clip{k}")[0] for k in range(2000)]
    counts = np.bincount(starts, minlength=5)
    assert counts.sum() == 2000 and (abs(counts - 400) < 90).all()  # five standard deviations
    assert starts[7] == rule.indices(still(8), 0, "clip7")[0]
    assert starts != [rule.indices(still(8), 1, f"clip{k}")[0] for k in range(2000)]


@given(
    n=small,
    t=small,
    h=st.integers(4, 7),
    w=st.integers(4, 7),
    c=st.sampled_from([1, 3]),
    order=st.sampled_from(["NTHWC", "NCTHW", "THWC", "CTHW"]),
)
def test_array_layouts(n, t, h, w, c, order):
    sizes = dict(zip("NTHWC", (n, t, h, w, c)))
    standard = order.replace("C", "") + "C"
    values = np.arange(np.prod([sizes[axis] for axis in order])).reshape([sizes[axis] for axis in standard])
    array = values.transpose([standard.index(axis) for axis in order])
    if order in ("NCTHW", "CTHW") and t in (1, 3):  # frames could be channels too
        with pytest.raises(Rejected, match="channels last"):
            array_layout(array.shape, np.uint8)
        return
    layout = array_layout(array.shape, np.uint8)
    assert layout.clips == (n if "N" in order else None)
    index = n - 1 if "N" in order else None
    expected = values[index] if "N" in order else values
    assert np.array_equal(layout.clip(array, index), expected)


def test_grey_arrays_without_an_axis_of_channels():
    values = np.arange(2 * 4 * 16 * 20).reshape(2, 4, 16, 20)
    layout = array_layout(values.shape, np.uint8)
    assert layout.clips == 2 and np.array_equal(layout.clip(values, 1)[..., 0], values[1])
    assert layout.clip(values, 1).shape == (4, 16, 20, 1)
    with pytest.raises(NoVideo, match="no axis of 1 or 3"):  # beside videos it is rather something else
        array_layout(values.shape, np.uint8, grey=False)
    with pytest.raises(NoVideo, match="no axis of 1 or 3"):  # frames as small as features
        array_layout((4, 5, 8, 8), np.uint8)
    with pytest.raises(Rejected, match="Moving MNIST"):
        array_layout((20, 10000, 64, 64), np.uint8)
    with pytest.raises(NoVideo, match=r"a single grey clip \[T,H,W\] needs an axis"):
        array_layout((20, 64, 64), np.uint8)


@pytest.mark.parametrize(
    "shape, dtype, reason",
    [
        ((8, 8, 3), "u1", "shape"),
        ((2, 16, 8, 8, 4), "u1", "no axis"),
        ((0, 16, 8, 8, 3), "u1", "empty"),
        ((16, 8, 8, 3), "c8", "uint8 or float"),
        ((16, 8, 8, 3), "U3", "uint8 or float"),
        ((16, 8, 8, 3), "?", "uint8"),
    ],
)
def test_arrays_that_are_no_videos(shape, dtype, reason):
    with pytest.raises(Rejected, match=reason):
        array_layout(shape, np.dtype(dtype))


@pytest.mark.parametrize(
    "low, high, name",
    [
        (0, 1, "0..1"),
        (0, 0, "0..1"),
        (0.2, 0.9, "0..1"),
        (-1e-6, 1 + 1e-6, "0..1"),
        (-1, 1, "-1..1"),
        (-1, -1, "-1..1"),
        (-0.7, -0.2, "-1..1"),
        (0, 255, "0..255"),
        (3, 100, "0..255"),
    ],
)
def test_value_ranges(low, high, name):
    assert value_range(low, high, np.float32) == name


@pytest.mark.parametrize("low, high", [(-0.05, 1), (0, 1.3), (-1, 2), (-1, 255), (0, 300), (-2, 1), (-0.5, 1.1)])
def test_ambiguous_ranges_are_rejected(low, high):
    with pytest.raises(Rejected, match="--range"):
        value_range(low, high, np.float32)


def test_other_ranges_are_rejected():
    with pytest.raises(Rejected, match="not finite"):
        value_range(np.nan, 1, np.float32)
    with pytest.raises(Rejected, match="outside 0..255"):
        value_range(-1, 255, np.int64)
    with pytest.raises(Rejected, match="declared range 0..1"):
        value_range(-1, 1, np.float32, declared="0..1")
    assert value_range(-0.05, 1.05, np.float32, declared="0..1") == "0..1"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_come_back_as_the_bytes_they_were(dtype):
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = grey.astype(np.float64)
    for name, values in (("0..1", x / 255), ("-1..1", x / 127.5 - 1), ("0..255", x)):
        video = to_uint8(values.astype(dtype), name)
        assert video.dtype == np.uint8 and video.shape == (1, 16, 16, 3)
        assert np.array_equal(video, np.repeat(grey, 3, -1))


def test_rounding_is_half_to_even_and_clips():
    values = np.array([0.5, 1.5, 2.5, 254.5, 255.4, -3], np.float32).reshape(1, 2, 3, 1)
    assert to_uint8(values, "0..255")[..., 0].ravel().tolist() == [0, 2, 2, 254, 255, 0]
