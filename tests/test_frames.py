from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpdm.errors import InputError
from hpdm_eval.arrays import array_layout, to_uint8, value_range
from hpdm_eval.frames import FrameRule, Grid, Rejected, natural_key, parse_grid, resampled_frames

small = st.integers(1, 5)


@given(rows=small, columns=small, padding=st.integers(0, 3), height=small, width=small, frames=small)
def test_grid_cutting_undoes_tiling(rows, columns, padding, height, width, frames):
    clips = np.random.default_rng(0).integers(0, 256, (rows * columns, frames, height, width, 3), dtype=np.uint8)
    size = padding + rows * (height + padding), padding + columns * (width + padding)
    sheet = np.full((frames, *size, 3), 99, np.uint8)
    for k, clip in enumerate(clips):
        top = padding + k // columns * (height + padding)
        left = padding + k % columns * (width + padding)
        sheet[:, top:top + height, left:left + width] = clip
    grid = parse_grid(f"{rows}x{columns}" + (f"+{padding}" if padding else ""))
    assert len(grid) == len(clips)
    for k, clip in enumerate(clips):
        assert np.array_equal(grid.cut(sheet, k), clip)


@pytest.mark.parametrize("grid, size, cell", [("1x8", (256, 2048), (256, 256)), ("1x8+2", (260, 2066), (256, 256))])
def test_grid_of_published_contact_sheets(grid, size, cell):
    assert parse_grid(grid).cell_size(*size) == cell


@pytest.mark.parametrize("size", [(256, 2047), (255, 2048), (1, 4)])
def test_grid_that_does_not_divide(size):
    with pytest.raises(Rejected, match="do not divide into a grid of 2x8"):
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


@given(count=st.integers(1, 200), rate=st.sampled_from([10.0, 24.0, 25.0, 29.97002997, 30.0, 60.0]),
       fps=st.sampled_from([8.0, 12.5, 25.0, 29.97, 50.0]))
def test_resampling_takes_the_nearest_frame(count, rate, fps):
    chosen = resampled_frames(count, rate, fps)
    exact_rate, exact_fps = Fraction(rate).limit_denominator(1001), Fraction(fps).limit_denominator(1001)
    for k, index in enumerate(chosen):
        distances = [abs(i / exact_rate - k / exact_fps) for i in range(count)]
        nearest = min(distances)
        assert distances[index] == nearest
        assert index == max(i for i, distance in enumerate(distances) if distance == nearest)
    assert abs(len(chosen) - count * fps / rate) <= 1 + fps / rate  # all of the video's time is used


def test_resampling_without_a_rate_changes_nothing():
    assert np.array_equal(resampled_frames(5, None, 25.0), np.arange(5))
    assert np.array_equal(resampled_frames(5, 30.0, None), np.arange(5))


@given(count=st.integers(1, 100), frames=st.integers(1, 20), stride=st.integers(1, 4),
       start=st.sampled_from(["first", "center", "random", "subsampled"]), short=st.sampled_from(["reject", "loop"]))
def test_frame_rules(count, frames, stride, start, short):
    rule = FrameRule(frames=frames, start=start, stride=stride, short=short)
    step = max(count // frames, 1) if start == "subsampled" else stride
    span = (frames - 1) * step + 1
    if count < span and short == "reject":
        with pytest.raises(Rejected, match=f"{count} frames, {span} needed"):
            rule.indices(count, None, 0, "a")
        return
    indices = rule.indices(count, None, 0, "a")
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
    assert FrameRule(frames=None, stride=3).indices(8, None, 0, "a").tolist() == [0, 3, 6]


def test_random_starts_are_uniform_and_depend_on_seed_and_name_alone():
    rule = FrameRule(frames=4, start="random")
    starts = [rule.indices(8, None, 0, f"clip{k}")[0] for k in range(2000)]
    counts = np.bincount(starts, minlength=5)
    assert counts.sum() == 2000 and (abs(counts - 400) < 90).all()  # five standard deviations
    assert starts[7] == rule.indices(8, None, 0, "clip7")[0]
    assert starts != [rule.indices(8, None, 1, f"clip{k}")[0] for k in range(2000)]


@given(n=small, t=small, h=st.integers(4, 7), w=st.integers(4, 7), c=st.sampled_from([1, 3]),
       order=st.sampled_from(["NTHWC", "NCTHW", "THWC", "CTHW"]))
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


@pytest.mark.parametrize("shape, dtype, reason", [
    ((8, 8, 3), "u1", "shape"), ((2, 16, 8, 8, 4), "u1", "no axis"), ((0, 16, 8, 8, 3), "u1", "empty"),
    ((16, 8, 8, 3), "c8", "uint8 or float"), ((16, 8, 8, 3), "U3", "uint8 or float"), ((16, 8, 8, 3), "?", "uint8"),
])
def test_arrays_that_are_no_videos(shape, dtype, reason):
    with pytest.raises(Rejected, match=reason):
        array_layout(shape, np.dtype(dtype))


@pytest.mark.parametrize("low, high, name", [
    (0, 1, "0..1"), (0, 0, "0..1"), (0.2, 0.9, "0..1"), (-1e-6, 1 + 1e-6, "0..1"), (-1, 1, "-1..1"), (-1, -1, "-1..1"),
    (-0.7, -0.2, "-1..1"), (0, 255, "0..255"), (3, 100, "0..255"),
])
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
