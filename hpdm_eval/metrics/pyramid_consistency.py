"""Pyramid consistency: how far the shrunken sample of one level is from the coarser sample that it was made from.

A hierarchical sampler finishes level l-1 and then draws level l around it. Averaged over 2x2x2 samples, level l should
be level l-1 again; what differs is the error that the finer level inherits, corrects, or adds.

    T frames, H rows, W columns; clips are uint8 [T,H,W,3]; errors are in grey levels
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpdm.support.errors import InputError

BANDS = (0, 1 / 8, 1 / 4, 1 / 2, np.inf)  # limits in units of the Nyquist frequency, octaves
PEAK = 255.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelError:
    """The difference of one clip's shrunken level and the coarser one, and that one's own spectrum."""

    mse: float  # grey levels squared, over all pixels, frames and channels
    bias: float  # mean of shrunken - coarse
    error_power: np.ndarray  # float64 [bands]: the part of `mse` in each band of spatial frequency; they add up to it
    signal_power: np.ndarray  # the same of the coarse clip about the mean of each frame and channel

    @property
    def psnr(self) -> float:
        """dB; infinite for equal clips."""
        return psnr(self.mse)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error in grey levels."""
    return float(10 * np.log10(PEAK**2 / mse)) if mse > 0 else float("inf")


def shrink(video: np.ndarray, factors: Sequence[int] = (2, 2, 2)) -> np.ndarray:
    """Mean over blocks of `factors` samples: uint8 [T,H,W,3] → float64 [T/f,H/h,W/w,3]. Raises InputError."""
    frames, height, width, channels = video.shape
    f, h, w = factors
    if frames % f or height % h or width % w:
        raise InputError(f"a clip of {frames}x{height}x{width} does not divide by {f}x{h}x{w}")
    blocks = video.reshape(frames // f, f, height // h, h, width // w, w, channels)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float64)


def compare_levels(coarse: np.ndarray, fine: np.ndarray) -> LevelError:
    """Compare a clip [T,H,W,3] with its finer version [2T,2H,2W,3], both uint8: LevelError.

    Where the pyramid does not split an axis, such as time, both have the same size there.

    Bands are rings of spatial frequency, max(|horizontal|, |vertical|) in units of Nyquist: below 1/8, to 1/4, to 1/2,
    and above. Raises InputError for sizes that no pyramid has.
    """
    factors = tuple(2 if larger > size else 1 for larger, size in zip(fine.shape[:3], coarse.shape[:3]))
    if max(factors) == 1 or fine.shape[:3] != tuple(n * size for n, size in zip(factors, coarse.shape[:3])):
        raise InputError(
            f"levels of {_size(coarse)} and {_size(fine)}: the finer must be twice as large on every axis "
            "that the pyramid splits, and as large on the others"
        )
    coarse = coarse.astype(np.float64)
    error = shrink(fine, factors) - coarse
    centred = coarse - coarse.mean(axis=(1, 2), keepdims=True)
    return LevelError(
        mse=float((error**2).mean()),
        bias=float(error.mean()),
        error_power=band_powers(error),
        signal_power=band_powers(centred),
    )


def band_powers(video: np.ndarray) -> np.ndarray:
    """Mean square of [T,H,W,C] split by band of spatial frequency: float64 [bands], summing to the mean square."""
    frames, height, width, channels = video.shape
    vertical = np.abs(np.fft.fftfreq(height)) * 2
    horizontal = np.abs(np.fft.fftfreq(width)) * 2
    ring = np.digitize(np.maximum.outer(vertical, horizontal), BANDS[1:-1])
    power = np.zeros((height, width))
    for frame in video:  # frame by frame: the spectrum of a whole clip would be many times its size
        power += (np.abs(np.fft.fft2(frame, axes=(0, 1))) ** 2).sum(axis=-1)
    power /= frames * channels * (height * width) ** 2
    return np.bincount(ring.ravel(), weights=power.ravel(), minlength=len(BANDS) - 1)


def band_names() -> list[str]:
    """Names of the bands, in units of the Nyquist frequency of the coarser level."""
    limits = ["0", "1/8", "1/4", "1/2", "1"]
    return [f"{low}-{high}" for low, high in zip(limits, limits[1:])]


def _size(clip):
    return "x".join(map(str, clip.shape[:3]))
