"""Diffusion: noise with an input scale per level, preconditioning of the network, training noise levels, solvers.

The view is that of EDM (Karras et al. 2022, arXiv 2206.00364) with sigma_data = 1, with the scaled input and the
v-prediction of Snap Video (arXiv 2402.14797). With clean x, noise eps ~ N(0, 1) and the level's scale s_in:

    y = x / s_in + sigma * eps                     what is denoised
    v = (eps - sigma * x) / sqrt(1 + sigma^2)      what the network F predicts from c_in * y
    D = c_skip * y + c_out * F                     the estimate of x; D = x where F = v

x in v is not divided by s_in: so v has unit variance at every sigma, and the three coefficients make D exact.

Noise levels `sigma` are [B]; x, y, eps, v and network outputs are [B, C, T, H, W] (any shape that starts with B).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import torch

from hpdm.support.errors import InputError

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

    def check_levels(self, levels: int):
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

    def noise_levels(self, level: int, steps: int) -> torch.Tensor:
        """sigma in a run of `steps` steps on a level: float64 [steps + 1], ending in 0 (`edm_sigmas`)."""
        ends = (self.sigma(level, _at_level(value, level)) for value in (self.sigma_min, self.sigma_max))
        return edm_sigmas(steps, *ends, self.rho)

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

    # Total noise added anew over a run; each step whose noise level, as `diffusion.noise` states it, is between S_min
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


def _like(coefficient, x):
    """[B] → [B, 1, ...], of the dtype and device of x, to be multiplied with it."""
    return coefficient.to(x).reshape(-1, *[1] * (x.ndim - 1))


def preconditioning(sigma: torch.Tensor, s_in: float):
    """c_in, c_skip, c_out and c_noise = ln(sigma) / 4 for noise levels sigma > 0; each has the shape of `sigma`.

    c_in gives the network's input unit variance for data of unit variance.
    """
    c_in = (1 / s_in**2 + sigma**2).rsqrt()
    c_skip = s_in / (s_in * sigma**2 + 1)
    c_out = -s_in * sigma * (sigma**2 + 1).sqrt() / (s_in * sigma**2 + 1)
    return c_in, c_skip, c_out, sigma.log() / 4


def add_noise(x: torch.Tensor, eps: torch.Tensor, sigma: torch.Tensor, s_in: float) -> torch.Tensor:
    """y = x / s_in + sigma * eps."""
    return x / s_in + _like(sigma, x) * eps


def v_target(x: torch.Tensor, eps: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """v = (eps - sigma * x) / sqrt(1 + sigma^2)."""
    norm = (1 + sigma**2).rsqrt()
    return _like(norm, x) * eps - _like(norm * sigma, x) * x


def denoise(network_output: torch.Tensor, y: torch.Tensor, sigma: torch.Tensor, s_in: float) -> torch.Tensor:
    """The estimate of x: D = c_skip * y + c_out * F, in the dtype of `y`."""
    _, c_skip, c_out, _ = preconditioning(sigma, s_in)
    return _like(c_skip, y) * y + _like(c_out, y) * network_output


def dynamic_threshold(x: torch.Tensor, percentile: float) -> torch.Tensor:
    """Estimates [B, ...] clipped and divided, each by the given percentile of its absolute values but at least 1.

    Keeps strong guidance from saturating (Imagen, arXiv 2205.11487, section 2.3).
    """
    flat = x.flatten(1).abs()
    place = max(1, round(percentile / 100 * flat.shape[1]))
    limit = _like(flat.kthvalue(place, dim=1).values.clamp(min=1), x)
    return x.clamp(-limit, limit) / limit


def sample_sigma(config: DiffusionConfig, level: int, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Noise levels for training on `level`: float32 [B], log-normal, on the generator's device."""
    normal = torch.randn(batch, generator=generator, device=generator.device)
    mean, std = config.log_sigma(level)
    return (mean + std * normal).exp()


def edm_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """Noise levels of a run of `steps` steps: float64 [steps + 1], from sigma_max to sigma_min, then 0 (EDM, eq. 5).

    One step goes from sigma_max straight to 0.
    """
    if steps < 1:
        raise InputError(f"Sampling needs at least one step, not {steps}.")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(top + ramp * (bottom - top)) ** rho, torch.zeros(1, dtype=torch.float64)])


class PerSampleNoise:
    """Standard normal noise of shape [B, ...] from one generator per sample.

    What a sample gets depends on its own seed and on how often it was asked for, never on its neighbours in the batch.
    Numbers are drawn on the CPU in float32, so they are the same whatever `device` they end up on.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def __call__(self, shape: Sequence[int]) -> torch.Tensor:
        """`shape[0]` must be the number of seeds."""
        if shape[0] != len(self.generators):
            raise ValueError(f"noise for {shape[0]} samples from {len(self.generators)} seeds")
        return torch.stack([torch.randn(*shape[1:], generator=g) for g in self.generators]).to(self.device)


# The solvers integrate dy/dsigma = (y - D(y) / s_in) / sigma from sigmas[0] to sigmas[-1] and return s_in * y: x, where
# sigmas ends in 0. `denoiser(y, sigma)` estimates x from y at one noise level for the whole batch, a float64 scalar
# tensor on the CPU. It may carry state from call to call (latent self-conditioning): calls come in the order of the
# steps, one per step for `euler`, two for `heun_stochastic` but for a last step to 0, which has one.


def euler(denoiser: Callable, y: torch.Tensor, sigmas: torch.Tensor, s_in: float) -> torch.Tensor:
    """First-order deterministic solver.

    y: [B, ...] at noise level sigmas[0], kept in its own dtype; sigmas: float64 [steps + 1] on the CPU, decreasing.
    """
    for sigma, sigma_next in pairwise(sigmas):
        slope = (y - denoiser(y, sigma) / s_in) / sigma
        y = y + (sigma_next - sigma) * slope
    return s_in * y


def heun_stochastic(
    denoiser: Callable,
    y: torch.Tensor,
    sigmas: torch.Tensor,
    s_in: float,
    noise: Callable[[Sequence[int]], torch.Tensor],
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = float("inf"),
    S_noise: float = 1.0,
) -> torch.Tensor:
    """Second-order solver that adds noise before each step (EDM, algorithm 2); deterministic with S_churn = 0.

    y and sigmas as for `euler`; `noise(shape)` gives standard normal noise like y. Each step calls `denoiser` at
    its start (after the added noise) and again at its end, except a step to 0.
    """
    gamma_max = min(S_churn / (len(sigmas) - 1), 2**0.5 - 1)
    for sigma, sigma_next in pairwise(sigmas):
        sigma_hat = sigma
        if gamma_max > 0 and S_min <= sigma <= S_max:
            sigma_hat = sigma * (1 + gamma_max)
            y = y + (sigma_hat**2 - sigma**2).sqrt() * S_noise * noise(y.shape)
        slope = (y - denoiser(y, sigma_hat) / s_in) / sigma_hat
        y_next = y + (sigma_next - sigma_hat) * slope
        if sigma_next > 0:
            slope_next = (y_next - denoiser(y_next, sigma_next) / s_in) / sigma_next
            y_next = y + (sigma_next - sigma_hat) * 0.5 * (slope + slope_next)
        y = y_next
    return s_in * y
