"""Clips as tensors against the same clips as arrays: the same bits, and one line for what cannot be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm_eval.clips import arrays, resize, tensors
from hpdm_eval.clips.choices import METHODS

size = st.integers(1, 40)


@settings(max_examples=100)
@given(
    source=st.tuples(size, size),
    target=st.tuples(size, size),
    method=st.sampled_from(METHODS),
    antialias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_resizes_to_the_same_bits(source, target, method, antialias, seed):
    video = np.random.default_rng(seed).integers(0, 256, (2, *source, 3), dtype=np.uint8)
    options = (target, method, antialias or method == "lanczos")
    out = tensors.resize(torch.from_numpy(video), *options)
    assert out.dtype == torch.uint8 and out.is_contiguous()
    np.testing.assert_array_equal(out.numpy(), resize.resize(video, *options))


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(arrays.SPANS)),
    dtype=st.sampled_from(["f2", "f4", "f8", "u1", "i8"]),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
)
def test_becomes_the_same_uint8(name, dtype, channels, seed):
    low, high = (0, 255) if np.dtype(dtype).kind in "ui" else arrays.SPANS[name]
    name = "0..255" if np.dtype(dtype).kind in "ui" else name
    values = np.random.default_rng(seed).uniform(low, high, (2, 3, 4, channels)).astype(dtype)
    np.testing.assert_array_equal(
        tensors.to_uint8(torch.from_numpy(values), name).numpy(), arrays.to_uint8(values, name)
    )


@pytest.mark.parametrize("shape", [(2, 4, 8, 9, 3), (2, 3, 4, 8, 9), (2, 4, 3, 8, 9), (2, 3, 3, 8, 9), (2, 1, 4, 8, 9)])
def test_tells_axes_apart(shape):
    clips = tensors.as_clips(torch.zeros(shape))
    assert clips.shape == (2, 3 if shape == (2, 3, 3, 8, 9) else 4, 8, 9, 1 if 1 in shape else 3)


def test_takes_one_clip_no_clips_and_views():
    assert tensors.as_clips(np.zeros((4, 8, 9, 3), np.uint8)).shape == (1, 4, 8, 9, 3)
    assert tensors.as_clips(torch.zeros(0, 3, 4, 8, 9)).shape == (0, 4, 8, 9, 3)
    video = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(tensors.as_clips(video[::-1])[0].numpy(), video[::-1])
    frozen = video.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(tensors.as_clips(frozen)[0].numpy(), video)


@pytest.mark.parametrize(
    "videos, message",
    [
        (torch.zeros(3, 4), r"shape \[3, 4\]"),
        (torch.zeros(2, 4, 8, 9, 5), "give uint8"),
        (torch.zeros(2, 0, 8, 9, 3), "give uint8"),
        (torch.zeros(2, 4, 8, 9, 3, dtype=torch.bool), "bool"),
        (torch.zeros(2, 4, 8, 9, 3, dtype=torch.complex64), "complex64"),
        (np.array(["a"]), "array of <U1"),
        ("clips/", "str"),
        (None, "NoneType"),
    ],
)
def test_refuses_what_is_no_video(videos, message):
    with pytest.raises(InputError, match=message) as error:
        tensors.as_clips(videos)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values, declared, message",
    [
        ([0.0, float("nan")], "auto", "not finite"),
        ([0.0, float("inf")], "0..1", "not finite"),
        ([-1.3, 0.0], "auto", "outside of -1..1"),
        ([0.0, 200.0], "auto", 'value_range="0..255"'),
        ([-1.0, 1.0], "0..1", 'value_range="-1..1"'),
        ([0, 256], "auto", "whole numbers from 0 to 256"),
        ([-1, 5], "auto", "whole numbers"),
    ],
)
def test_refuses_values_of_no_range(values, declared, message):
    with pytest.raises(InputError, match=message):
        tensors.check_range(torch.tensor(values), declared)
