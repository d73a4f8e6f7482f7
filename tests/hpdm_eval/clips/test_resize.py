import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpdm_eval.clips.resize import axis_taps, center_window, resize

size = st.integers(2, 40)


@settings(max_examples=80)
@given(
    source=st.tuples(size, size),
    target=st.tuples(size, size),
    method=st.sampled_from(["bilinear", "bicubic", "area"]),
    antialias=st.booleans(),
)
def test_equals_torch(source, target, method, antialias):
    video = np.random.default_rng(0).integers(0, 256, (2, *source, 3), dtype=np.uint8)
    options = {} if method == "area" else {"align_corners": False, "antialias": antialias}
    expected = F.interpolate(torch.from_numpy(video).permute(0, 3, 1, 2).double(), target, mode=method, **options)
    expected = expected.clamp(0, 255).permute(0, 2, 3, 1).numpy()
    out = resize(video, target, method, antialias)
    assert out.dtype == np.uint8 and out.flags["C_CONTIGUOUS"]
    assert np.abs(out - expected).max() <= 0.5 + 1e-3


@given(source=st.tuples(size, size), target=st.tuples(size, size))
def test_lanczos_equals_pillow(source, target):
    image = np.random.default_rng(0).integers(0, 256, source, dtype=np.uint8)
    # float images, one axis at a time, since Pillow's 8-bit path rounds in between
    expected = Image.fromarray(image.astype(np.float32)).resize(target[::-1], Image.Resampling.LANCZOS)
    expected = np.clip(np.asarray(expected), 0, 255)
    out = resize(image[None, :, :, None], target, "lanczos", True)[0, :, :, 0]
    assert np.abs(out - expected).max() <= 0.5 + 1e-2


@pytest.mark.parametrize(
    "method, antialias", [("bilinear", False), ("bicubic", True), ("area", False), ("lanczos", True)]
)
def test_weights_sum_to_one_and_the_same_size_is_untouched(method, antialias):
    for source, target in ((240, 256), (320, 64), (5, 40)):
        assert axis_taps(source, target, method, antialias)[1].sum(0) == pytest.approx(1, abs=1e-6)
    video = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    assert np.array_equal(resize(video, (9, 7), method, antialias), video)


def test_ties_round_to_even():
    video = np.array([0, 1, 1, 2, 2, 3], np.uint8).reshape(1, 1, 6, 1)  # pairs average to 0.5, 1.5, 2.5
    assert resize(video, (1, 3), "bilinear", False).ravel().tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    "size, resolution, window",
    [
        ((240, 320), (256, 256), (0, 40, 240, 240)),
        ((320, 240), (64, 64), (40, 0, 240, 240)),
        ((240, 320), (144, 256), (30, 0, 180, 320)),
        ((240, 321), None, (0, 40, 240, 240)),
        ((8, 8), (4, 4), (0, 0, 8, 8)),
    ],
)
def test_center_window(size, resolution, window):
    assert center_window(*size, resolution) == window
