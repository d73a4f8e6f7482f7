"""What can be set about noise: in training, in sampling, and in the stochastic solver."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from hpdm.support.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

INPUT_SCALES = ("scale-sqrt-frames", "double", "constant")
NOISE_UNITS = ("absolute", "signal")
PER_LEVEL = ("input_scale", "p_mean", "p_std", "sigma_min", "sigma_max")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Noise of training and the range of noise levels that sampling walks through."""

    # How much the clean signal is divided by: a rule, one number for all levels, or one per level.
    # "scale-sqrt-frames": base * 2^(1.5 l), rows times the root of frames; "double": base * 2^l; "constant": base.
    input_scale: str | float | tuple[float, ...] = "scale-sqrt-frames"
    # Scale of level 0 for the rules; 4 is Snap Video's for 16 frames of 64 pixels.
    input_scale_base: float = 4.0
    # What noise levels are stated in, here and in the settings of sampling. "signal": the ratio of the noise to the
    # signal, sigma * s_in, so that one number means the same on every level and for every size. "absolute": sigma. At
    # one sigma the signal of a level is s_in times weaker than the noise, and s_in grows eightfold over three levels.
    noise: str = "absolute"
    # ln(noise level) ~ N(p_mean, p_std^2) in training; one number for all levels, or one per level.
    p_mean: float | tuple[float, ...] = -1.2
    p_std: float | tuple[float, ...] = 1.2
    # Sampling starts at sigma_max; its last step goes from sigma_min to 0; rho bends the steps between. The range is
    # one for all levels, or one number per level: where p_mean differs by level, so do the levels a network has seen.
    sigma_min: float | tuple[float, ...] = 0.002
    sigma_max: float | tuple[float, ...] = 80.0
    rho: float = 7.0

    def __post_init__(self):
        for name in PER_LEVEL:
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.input_scale, str) and self.input_scale not in INPUT_SCALES:
            raise InputError(
                f"Unknown input_scale {self.input_scale!r}; choose {', '.join(INPUT_SCALES)}, or one number per level."
            )
        if self.noise not in NOISE_UNITS:
            raise InputError(f"diffusion.noise must be one of {', '.join(NOISE_UNITS)}; got {self.noise!r}")
        scales = (self.input_scale_base,) if isinstance(self.input_scale, str) else _as_tuple(self.input_scale)
        if min(scales) <= 0 or min(_as_tuple(self.p_std)) <= 0:
            raise InputError("The input scales and p_std must be positive.")
        if not 0 < max(_as_tuple(self.sigma_min)) < min(_as_tuple(self.sigma_max)) or self.rho <= 0:
            raise InputError(
                f"Noise levels need 0 < sigma_min < sigma_max and rho > 0, "
                f"not sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, rho={self.rho}."
            )

    def check_levels(self, levels: int) -> None:
        """Raises InputError where a setting that is given per level does not have one number for each of `levels`."""
        for name in PER_LEVEL:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise InputError(f"{name} has {len(value)} numbers, but the pyramid has {levels} levels.")

    def scale_in(self, level: int) -> float:
        """s_in of a level."""
        if self.input_scale == "scale-sqrt-frames":
            return self.input_scale_base * 2.0 ** (1.5 * level)
        if self.input_scale == "double":
            return self.input_scale_base * 2.0**level
        if self.input_scale == "constant":
            return self.input_scale_base
        return float(_at_level(self.input_scale, level))

    def sigma(self, level: int, stated: float) -> float:
        """sigma on a level of a noise level that is stated in the unit `noise`."""
        return stated / self.scale_in(level) if self.noise == "signal" else stated

    def noise_levels(self, level: int, steps: int) -> "Tensor":
        """sigma in a run of `steps` steps on a level: float64 [steps + 1], ending in 0 (`edm_sigmas`)."""
        last, first = (self.sigma(level, _at_level(value, level)) for value in (self.sigma_min, self.sigma_max))
        return edm_sigmas(steps, last, first, self.rho)

    def log_sigma(self, level: int) -> tuple[float, float]:
        """Mean and standard deviation of ln(sigma) in training on a level."""
        mean = _at_level(self.p_mean, level)
        shift = math.log(self.scale_in(level)) if self.noise == "signal" else 0.0
        return mean - shift, _at_level(self.p_std, level)

    def share_above_noise(self, level: int) -> float:
        """Share of the training draws of a level in which the signal is stronger than the noise: sigma * s_in < 1."""
        mean, std = self.log_sigma(level)
        return NormalDist(mean + math.log(self.scale_in(level)), std).cdf(0.0)


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Stochasticity of `heun_stochastic` (EDM, algorithm 2); S_churn = 0 is the deterministic solver."""

    # Total noise added over a run; each step whose noise level, as `diffusion.noise` states it, is between S_min
    # and S_max gets its share.
    S_churn: float = 40.0
    S_min: float = 0.05
    S_max: float = 50.0
    # Standard deviation of the added noise; slightly above 1 makes up for detail that denoising removes.
    S_noise: float = 1.003

    def __post_init__(self):
        if self.S_churn < 0 or self.S_noise < 0 or not 0 <= self.S_min <= self.S_max:
            raise InputError("The sampler needs S_churn >= 0, S_noise >= 0 and 0 <= S_min <= S_max.")


def _as_tuple(value):
    return tuple(value) if isinstance(value, tuple) else (value,)


def _at_level(value, level):
    return value[level] if isinstance(value, tuple) else value


def edm_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> "Tensor":
    """Noise levels of a run of `steps` steps: float64 [steps + 1], from sigma_max to sigma_min, then 0 (EDM, eq. 5).

    One step goes from sigma_max straight to 0.
    """
    import torch  # here: settings are read without it

    if steps < 1:
        raise InputError(f"Sampling needs at least one step, not {steps}.")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(top + ramp * (bottom - top)) ** rho, torch.zeros(1, dtype=torch.float64)])
