"""Diffusion: noise with an input scale per level, preconditioning of the network, training noise levels, solvers.

The view is that of EDM (Karras et al. 2022, arXiv 2206.00364) with sigma_data = 1, with the scaled input and the
v-prediction of Snap Video (arXiv 2402.14797). With clean x, noise eps ~ N(0, 1) and the level's scale s_in:

    y = x / s_in + sigma * eps                     what is denoised
    v = (eps - sigma * x) / sqrt(1 + sigma^2)      what the network F predicts from c_in * y
    D = c_skip * y + c_out * F                     the estimate of x; D = x where F = v

x in v is not divided by s_in: so v has unit variance at every sigma, and the three coefficients make D exact.

Noise levels `sigma` are [B]; x, y, eps, v and network outputs are [B, C, T, H, W] (any shape that starts with B).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from hpdm.config.diffusion import DiffusionConfig, SamplerConfig, edm_sigmas

__all__ = [
    "DiffusionConfig",
    "PerSampleNoise",
    "SamplerConfig",
    "add_noise",
    "denoise",
    "dynamic_threshold",
    "edm_sigmas",
    "euler",
    "heun_stochastic",
    "multistep",
    "preconditioning",
    "sample_sigma",
    "v_target",
]


def _like(coefficient, x):
    """[B] → [B, 1, ...], of the dtype and device of x, to be multiplied with it."""
    return coefficient.to(x).reshape(-1, *[1] * (x.ndim - 1))


def preconditioning(sigma: torch.Tensor, s_in: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
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


class PerSampleNoise:
    """Standard normal noise of shape [B, ...] from one generator per sample.

    What a sample gets depends on its own seed and on how often it was asked for, never on its neighbours in the batch.
    Numbers are drawn on the CPU in float32, so they are the same whatever `device` they end up on.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
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
# steps, one per step for `euler` and `multistep`, two for `heun_stochastic` but for a last step to 0, which has one.


def euler(denoiser: Callable, y: torch.Tensor, sigmas: torch.Tensor, s_in: float) -> torch.Tensor:
    """First-order deterministic solver.

    y: [B, ...] at noise level sigmas[0], kept in its own dtype; sigmas: float64 [steps + 1] on the CPU, decreasing.
    """
    for sigma, sigma_next in pairwise(sigmas):
        slope = (y - denoiser(y, sigma) / s_in) / sigma
        y = y + (sigma_next - sigma) * slope
    return s_in * y


def multistep(denoiser: Callable, y: torch.Tensor, sigmas: torch.Tensor, s_in: float) -> torch.Tensor:
    """Second-order deterministic solver at the cost of `euler`: it extrapolates from the estimate of the step before.

    DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2) in y and sigma: over a step the estimate is taken
    to change linearly in ln(sigma). The first step, and a step to 0, are Euler's. y and sigmas as for `euler`.

    >>> import torch
    >>> sigmas = torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    >>> multistep(lambda y, sigma: y / (1 + sigma**2), torch.ones(1, 1), sigmas, 1.0).shape
    torch.Size([1, 1])
    """
    before = width_before = None
    for sigma, sigma_next in pairwise(sigmas):
        estimate = denoiser(y, sigma) / s_in
        ahead, width = estimate, (sigma / sigma_next).log()
        if width_before is not None and sigma_next > 0:
            ahead = estimate + width / (2 * width_before) * (estimate - before)
        y = ahead + (sigma_next / sigma) * (y - ahead)
        before, width_before = estimate, width
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
