"""Pyramid consistency against means, spectra and PSNR computed by other means."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpdm.pyramid import SPLITS, shrink_video
from hpdm.support.errors import InputError
from hpdm_eval.metrics.pyramid_consistency import BANDS, band_names, band_powers, compare_levels, psnr, shrink


def random_clip(seed, shape=(4, 12, 16)):
    return np.random.default_rng(seed).integers(0, 256, size=(*shape, 3)).astype(np.uint8)


def test_shrinking_is_the_samplers_own():
    video = random_clip(0)
    tensor = torch.from_numpy(video).double().permute(3, 0, 1, 2)[None]
    expected = shrink_video(tensor, 2)[0][0].permute(1, 2, 3, 0).numpy()
    assert shrink(video) == pytest.approx(expected, abs=1e-12)


def test_repeated_samples_agree_exactly():
    coarse = random_clip(1)
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    error = compare_levels(coarse, fine)
    assert error.mse == 0 and error.bias == 0 and error.psnr == np.inf and not error.error_power.any()


@given(st.integers(0, 10), st.integers(-20, 20))
def test_a_shift_of_grey_is_in_the_lowest_band(seed, offset):
    coarse = random_clip(seed) // 2 + 40
    fine = (coarse.astype(int) + offset).astype(np.uint8).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    error = compare_levels(coarse, fine)
    assert error.bias == pytest.approx(offset) and error.mse == pytest.approx(offset**2)
    assert error.error_power == pytest.approx([offset**2, 0, 0, 0], abs=1e-9)


@given(st.integers(0, 100), st.integers(2, 9), st.integers(2, 9))
def test_bands_add_up_to_the_mean_square(seed, height, width):
    video = np.random.default_rng(seed).normal(size=(3, height, width, 3))
    assert band_powers(video).sum() == pytest.approx((video**2).mean())


@pytest.mark.parametrize("cycles, band", [(1, 0), (3, 0), (4, 1), (7, 1), (8, 2), (15, 2), (16, 3), (32, 3)])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_wave_is_in_its_band(cycles, band, axis):
    """Cycles per 64 pixels, of which 32 are the Nyquist frequency; limits belong to the upper band."""
    wave = np.cos(2 * np.pi * cycles * np.arange(64) / 64)
    shape = [1, 1, 1, 1]
    shape[axis] = 64
    video = np.broadcast_to(wave.reshape(shape), (2, 64, 64, 3))
    power = band_powers(video)
    assert power[band] == pytest.approx((wave**2).mean()) and np.delete(power, band) == pytest.approx(0, abs=1e-12)
    assert len(power) == len(BANDS) - 1 == len(band_names())


def test_signal_power_is_the_variance_within_frames():
    coarse = random_clip(3)
    error = compare_levels(coarse, random_clip(4, (8, 24, 32)))
    assert error.signal_power.sum() == pytest.approx(coarse.astype(float).var(axis=(1, 2)).mean())
    difference = shrink(random_clip(4, (8, 24, 32))) - coarse
    assert error.mse == pytest.approx((difference**2).mean()) == pytest.approx(error.error_power.sum())
    assert error.psnr == pytest.approx(20 * np.log10(255 / np.sqrt((difference**2).mean())))


def test_psnr_of_known_errors():
    assert psnr(255**2) == 0 and psnr(1) == pytest.approx(48.1308, abs=1e-4) and psnr(0) == np.inf


@pytest.mark.parametrize("shape", [(8, 24, 30), (8, 25, 32), (12, 24, 32), (4, 12, 16), (2, 24, 32)])
def test_levels_that_are_not_twice_as_large_are_refused(shape):
    with pytest.raises(InputError, match="twice as large"):
        compare_levels(random_clip(0), random_clip(0, shape))


def test_odd_sizes_do_not_halve():
    with pytest.raises(InputError, match="does not divide by 2x2x2"):
        shrink(random_clip(0, (3, 12, 16)))


@pytest.mark.parametrize("split", SPLITS)
def test_levels_of_pyramids_that_split_some_axes(split):
    fine = random_clip(0)
    tensor = torch.from_numpy(fine).double().permute(3, 0, 1, 2)[None]
    mean = shrink_video(tensor, 2, split=split)[0][0].permute(1, 2, 3, 0).numpy()
    error = compare_levels(mean.round().astype(np.uint8), fine)
    assert error.mse == pytest.approx(((mean - mean.round()) ** 2).mean())
