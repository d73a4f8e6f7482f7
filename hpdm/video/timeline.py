"""When the frames of a video are shown, and which of them to take for another frame rate.

    n frames; tick: the unit in which a file states times; output frame k of a resampled video is shown at k / fps

Times are whole numbers of ticks and comparisons exact, so neither long videos nor rates like 30000/1001 drift.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

LARGEST_DENOMINATOR = 1001  # of frame rates: 29.97 is read as 30000/1001
FINE_STEP = 4  # ticks between frames from which on a time may be a rounded one


def exact_rate(rate: Any) -> Fraction:
    """A frame rate as a Fraction with the denominators that rates have; 0 where it is unknown or none."""
    try:
        rate = Fraction(rate or 0)
    except (OverflowError, ValueError):  # infinity, nan
        return Fraction(0)
    return max(rate.limit_denominator(LARGEST_DENOMINATOR) or rate, Fraction(0))


@dataclass(frozen=True, eq=False)
class Timeline:
    """Presentation times of `frames` frames, the first at 0: frame i is shown at `ticks[i] * tick` seconds.

    ticks: int64 [n], strictly increasing from 0, None for evenly spaced frames, where frame i is shown at i * tick.
    tick: seconds, 0 where a file states no times. `Timeline.even` and `Timeline.of` make one.
    """

    frames: int
    tick: Fraction
    ticks: np.ndarray | None = None

    @classmethod
    def even(cls, frames: int, rate: Any) -> "Timeline":
        """Timeline of frames at a constant rate per second (None or 0: unknown)."""
        rate = exact_rate(rate)
        return cls(frames, 1 / rate if rate else Fraction(0))

    @classmethod
    def of(cls, pts: np.ndarray, tick: Fraction, rates: Any = ()) -> "Timeline":
        """Timeline of presentation times `pts` (int64 [n], strictly increasing) in units of `tick` seconds.

        Containers round times (Matroska to milliseconds): where all times are those of one constant rate within a tick,
        they are taken to be exactly that, so that a video has the same timeline in every container. `rates` are the
        rates to try first, as a file states them.
        """
        ticks, tick = np.asarray(pts, np.int64), Fraction(tick)
        ticks = ticks - ticks[0]
        if len(ticks) == 1:
            return cls.even(1, next((rate for rate in map(exact_rate, rates) if rate), 0))
        mean = (len(ticks) - 1) / (int(ticks[-1]) * tick)
        for rate in (*map(exact_rate, rates), exact_rate(mean), exact_rate(round(mean))):
            if rate and _is_even(ticks, float(1 / (rate * tick))):
                return cls.even(len(ticks), rate)
        return cls(len(ticks), tick, ticks)

    @property
    def is_even(self) -> bool:
        """Whether the frames are evenly spaced in time."""
        return self.ticks is None

    @cached_property
    def rate(self) -> Fraction:
        """Mean frames per second as a Fraction, 0 where unknown."""
        if not self.tick:
            return Fraction(0)
        return 1 / self.tick if self.ticks is None else (self.frames - 1) / (int(self.ticks[-1]) * self.tick)

    @property
    def end(self) -> Fraction:
        """Ticks up to which output frames are drawn: half the last frame's distance after its beginning (Fraction)."""
        if self.ticks is None:
            return self.frames - Fraction(1, 2)
        return int(self.ticks[-1]) + Fraction(int(self.ticks[-1] - self.ticks[-2]), 2)

    @property
    def seconds(self) -> float:
        """Time over which `resampled` draws frames, 0 where a file states no times (float)."""
        return float(self.end * self.tick)

    def times(self) -> np.ndarray:
        """Seconds at which the frames are shown, float64 [n]; all 0 where unknown."""
        ticks = np.arange(self.frames) if self.ticks is None else self.ticks
        return ticks * float(self.tick)

    def resampled_length(self, fps: Any) -> int:
        """How many frames the whole video has at `fps` frames per second."""
        if not self.tick:
            return self.frames
        return max(1, _ceil(self.end * self.tick * exact_rate(fps)))

    def resampled(self, fps: Any, count: int | None = None, *, start: int = 0, stride: int = 1) -> np.ndarray:
        """Frame numbers int64 [count] that show the video at `fps` frames per second, from frame `start` on.

        Output frame k is the one nearest in time to that of frame `start` plus stride * k / fps, of two equally near
        the earlier. count: by default as many as there are until the end (exact: `end`). Without a rate, or with `fps`
        None, frames count as evenly spaced at the wanted rate.
        """
        step = Fraction(stride)
        if fps and self.tick:
            step = step / exact_rate(fps) / self.tick  # ticks per output frame
        first = Fraction(start) if self.ticks is None else Fraction(int(self.ticks[start]))
        if count is None:
            count = max(1, _ceil((self.end - first) / step))
        if not (fps and self.tick):
            return start + stride * np.arange(count, dtype=np.int64)
        return self._nearest(first, step, count)

    def _nearest(self, first, step, count):
        """Frames nearest to the times first + k * step, in ticks; beyond the last frame, the last."""
        denominator = step.denominator  # `first` is whole
        top = first.numerator * denominator + count * step.numerator
        dtype = np.int64 if 4 * max(top, denominator * self._last) < 2**62 else object
        times = first.numerator * denominator + np.arange(count).astype(dtype) * step.numerator
        if self.ticks is None:
            # ceil(t - 1/2): of two equally near, the earlier
            nearest = -((denominator - 2 * times) // (2 * denominator))
            return np.clip(nearest, 0, self.frames - 1).astype(np.int64)
        ticks = self.ticks.astype(dtype) * denominator
        after = np.minimum(np.searchsorted(ticks, times), self.frames - 1)
        before = np.maximum(after - 1, 0)
        return np.where(times - ticks[before] <= ticks[after] - times, before, after).astype(np.int64)

    @property
    def _last(self):
        return self.frames if self.ticks is None else int(self.ticks[-1])


def _is_even(ticks, step):
    """Whether ticks[i] is i * step within the rounding of ticks; coarse ticks (AVI counts frames) are not rounded."""
    rounding = 1.0 if step >= FINE_STEP else 0.0
    return bool(np.abs(ticks - np.arange(len(ticks)) * step).max() <= rounding + 1e-6)


def _ceil(value):
    return -((-value.numerator) // value.denominator)
