import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpdm.config import load_config
from hpdm.diffusion import (
    DiffusionConfig,
    PerSampleNoise,
    SamplerConfig,
    add_noise,
    denoise,
    edm_sigmas,
    euler,
    heun_stochastic,
    multistep,
    preconditioning,
    sample_sigma,
    v_target,
)
from hpdm.support.errors import InputError

SIGMAS = st.floats(0.002, 150)
SCALES = st.floats(0.5, 128)


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


@given(st.lists(SIGMAS, min_size=1, max_size=4), SCALES)
def test_exact_target_denoises_to_the_clean_signal(sigmas, s_in):
    sigma = torch.tensor(sigmas, dtype=torch.float64)
    x, eps = draw(2, len(sigmas), 3, 2, 4, 4)
    estimate = denoise(v_target(x, eps, sigma), add_noise(x, eps, sigma, s_in), sigma, s_in)
    torch.testing.assert_close(estimate, x, rtol=0, atol=1e-12)


@given(SIGMAS, SCALES)
def test_float32_is_accurate_over_the_whole_range_of_noise(sigma, s_in):
    exact = torch.tensor([sigma], dtype=torch.float64)
    single = exact.float()
    for got, want in zip(preconditioning(single, s_in), preconditioning(single.double(), s_in), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
    x, eps = draw(2, 1, 3, 4, 8, 8, dtype=torch.float32)
    estimate = denoise(v_target(x, eps, single), add_noise(x, eps, single, s_in), single, s_in)
    torch.testing.assert_close(estimate, x, rtol=0, atol=2e-5)


@pytest.mark.parametrize("s_in", [1.0, 4.0, 32.0])
@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 150.0])
def test_unit_variance_in_and_out(sigma, s_in):
    n = 200_000
    x, eps = draw(2, 1, n)
    level = torch.tensor([sigma], dtype=torch.float64)
    c_in = preconditioning(level, s_in)[0]
    tolerance = 5 * (2 / n) ** 0.5
    assert (c_in * add_noise(x, eps, level, s_in)).var().item() == pytest.approx(1, abs=tolerance)
    assert v_target(x, eps, level).var().item() == pytest.approx(1, abs=tolerance)


@given(SIGMAS)
def test_without_scaling_it_is_edm(sigma):
    # EDM's table 1 for sigma_data = 1; its network predicts the negative of v.
    c_in, c_skip, c_out, c_noise = (c.item() for c in preconditioning(torch.tensor(sigma, dtype=torch.float64), 1.0))
    assert c_in == pytest.approx(1 / np.sqrt(sigma**2 + 1))
    assert c_skip == pytest.approx(1 / (sigma**2 + 1))
    assert c_out == pytest.approx(-sigma / np.sqrt(sigma**2 + 1))
    assert c_noise == pytest.approx(np.log(sigma) / 4)


def test_each_sample_has_its_own_noise_level():
    x, eps = draw(2, 3, 2, 4, 8, 8)
    sigma = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    y, v = add_noise(x, eps, sigma, 4.0), v_target(x, eps, sigma)
    for i, s in enumerate(sigma.tolist()):
        torch.testing.assert_close(y[i], x[i] / 4 + s * eps[i])
        torch.testing.assert_close(v[i], (eps[i] - s * x[i]) / np.sqrt(1 + s * s))


def test_training_noise_is_log_normal_with_settings_per_level():
    config = DiffusionConfig(p_mean=(-1.2, -3.0), p_std=(1.2, 0.5))
    for level, mean, std in ((0, -1.2, 1.2), (1, -3.0, 0.5)):
        logs = sample_sigma(config, level, 50_000, torch.Generator().manual_seed(3)).double().log()
        assert logs.mean().item() == pytest.approx(mean, abs=5 * std / 50_000**0.5)
        assert logs.std().item() == pytest.approx(std, rel=0.02)
        assert ((logs - mean).abs() < std).double().mean().item() == pytest.approx(0.6827, abs=0.011)
    again = [sample_sigma(DiffusionConfig(), 0, 8, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*again) and again[0].dtype == torch.float32


def test_input_scales():
    by_rule = DiffusionConfig()
    assert [by_rule.scale_in(level) for level in range(3)] == pytest.approx([4, 4 * 2**1.5, 32])
    assert [DiffusionConfig(input_scale="double").scale_in(level) for level in range(3)] == [4, 8, 16]
    assert DiffusionConfig(input_scale="double", input_scale_base=1).scale_in(2) == 4
    assert [DiffusionConfig(input_scale="constant", input_scale_base=3).scale_in(level) for level in range(3)] == [
        3
    ] * 3
    assert [DiffusionConfig(input_scale=[3, 5, 6]).scale_in(level) for level in range(3)] == [3, 5, 6]
    assert DiffusionConfig(input_scale=2.0).scale_in(2) == 2


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"input_scale": "triple"}, "triple"),
        ({"input_scale": (4, -1, 2)}, "positive"),
        ({"input_scale_base": 0}, "positive"),
        ({"p_std": (1.2, 0.0)}, "positive"),
        ({"sigma_min": 90}, "sigma_min"),
        ({"rho": 0}, "rho"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        DiffusionConfig(**settings)


@pytest.mark.parametrize("settings", [{"S_churn": -1}, {"S_min": 2, "S_max": 1}, {"S_noise": -1}])
def test_impossible_stochasticity_is_refused(settings):
    with pytest.raises(InputError, match="S_churn"):
        SamplerConfig(**settings)


@pytest.mark.parametrize("field, value", [("input_scale", (4, 8)), ("p_mean", (-1, -2, -3, -4)), ("p_std", [1.0])])
def test_settings_per_level_must_match_the_levels(field, value):
    with pytest.raises(InputError, match=field):
        DiffusionConfig(**{field: value}).check_levels(3)


def test_settings_that_match_the_levels_pass():
    DiffusionConfig(input_scale=(4, 8, 16), p_mean=(-1, -2, -3)).check_levels(3)
    DiffusionConfig().check_levels(7)


def test_noise_levels_of_sampling():
    sigmas = edm_sigmas(32, 0.002, 80, 7)
    i = np.arange(32)
    want = (80 ** (1 / 7) + i / 31 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigmas[:-1].numpy(), want, rtol=1e-12)
    assert sigmas[-1] == 0 and sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all()
    assert edm_sigmas(1, 0.002, 80, 7).tolist() == pytest.approx([80, 0])
    with pytest.raises(InputError, match="at least one step"):
        edm_sigmas(0, 0.002, 80, 7)


MEAN, STD, S_IN = 0.3, 0.8, 4.0


def gaussian_denoiser(y, sigma):
    """E[x | y] for x ~ N(MEAN, STD^2)."""
    a = STD / S_IN
    return MEAN + STD * a / (a**2 + sigma**2) * (y - MEAN / S_IN)


def exact_end(y, sigma, sigma_end):
    """s_in * y at sigma_end on the ODE's path through y at sigma."""
    a = STD / S_IN
    return MEAN + S_IN * (y - MEAN / S_IN) * ((a**2 + sigma_end**2) / (a**2 + sigma**2)) ** 0.5


def solve_euler(y, sigmas):
    return euler(gaussian_denoiser, y, sigmas, S_IN)


def solve_multistep(y, sigmas):
    return multistep(gaussian_denoiser, y, sigmas, S_IN)


def solve_heun(y, sigmas):
    return heun_stochastic(gaussian_denoiser, y, sigmas, S_IN, noise=None)


@pytest.mark.parametrize("solve, order", [(solve_euler, 1), (solve_multistep, 2), (solve_heun, 2)])
def test_order_of_convergence_to_the_exact_path(solve, order):
    y = 80 * draw(16)
    errors = []
    for steps in (100, 200, 400):
        # The last interval, from sigma_min to 0, does not shrink with the number of steps.
        sigmas = edm_sigmas(steps + 1, 0.002, 80, 7)[:-1]
        errors.append((solve(y, sigmas) - exact_end(y, sigmas[0], sigmas[-1])).abs().max().item())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)
    assert np.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("solve, tolerance", [(solve_euler, 0.1), (solve_multistep, 5e-3), (solve_heun, 5e-3)])
def test_whole_run_ends_at_the_exact_sample(solve, tolerance):
    y = 80 * draw(16)
    result = solve(y, edm_sigmas(128, 0.002, 80, 7))
    torch.testing.assert_close(result, exact_end(y, 80, 0), rtol=0, atol=tolerance)


@pytest.mark.parametrize("solve", [solve_euler, solve_multistep, solve_heun])
def test_step_to_zero_returns_the_estimate(solve):
    y = draw(16)
    torch.testing.assert_close(solve(y, torch.tensor([0.7, 0.0]).double()), gaussian_denoiser(y, 0.7))


def test_multistep_takes_the_coefficients_of_dpm_solver_2m():
    # Algorithm 2 of arXiv 2211.01095 for alpha = 1 (no scaling of the signal), lambda = -ln(sigma), term by term.
    sigmas = torch.tensor([3.0, 1.7, 0.9, 0.2]).double()
    estimates = draw(3, 5)

    def exponent(i):
        return -math.log(sigmas[i])

    x = draw(5)
    expected = x
    for i in range(3):
        h = exponent(i + 1) - exponent(i)
        data = estimates[i]
        if i:
            r = (exponent(i) - exponent(i - 1)) / h
            data = (1 + 1 / (2 * r)) * estimates[i] - 1 / (2 * r) * estimates[i - 1]
        expected = sigmas[i + 1] / sigmas[i] * expected - (math.exp(-h) - 1) * data
    given = iter(estimates)
    torch.testing.assert_close(multistep(lambda y, sigma: next(given) * S_IN, x, sigmas, S_IN), S_IN * expected)


def test_multistep_needs_fewer_steps_than_euler():
    y = 80 * draw(16)
    truth = exact_end(y, 80, 0)
    error = {
        solve: (solve(y, edm_sigmas(steps, 0.002, 80, 7)) - truth).abs().max().item()
        for solve, steps in ((solve_euler, 128), (solve_multistep, 32))
    }
    assert error[solve_multistep] < error[solve_euler]


def test_stochastic_heun_keeps_the_distribution():
    n = 100_000
    sigmas = edm_sigmas(256, 0.002, 80, 7)
    y = MEAN / S_IN + (80**2 + (STD / S_IN) ** 2) ** 0.5 * draw(n)
    result = heun_stochastic(gaussian_denoiser, y, sigmas, S_IN, lambda shape: draw(*shape), S_churn=40)
    assert result.mean().item() == pytest.approx(MEAN, abs=5 * STD / n**0.5)
    # Besides the sampling error, 0.3 % are due to the finite steps.
    assert result.std().item() == pytest.approx(STD, rel=5 / (2 * n) ** 0.5 + 4e-3)
    # The added noise has replaced the noise of the start, which the deterministic solver only rescales.
    assert abs(torch.corrcoef(torch.stack([y, result]))[0, 1]) < 0.03


def test_noise_is_added_only_in_its_range_and_as_much_as_stated():
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0]).double()
    asked = []

    def ones(shape):
        asked.append(tuple(shape))
        return torch.ones(shape, dtype=torch.float64)

    seen = []

    def zero(y, sigma):
        seen.append((y.clone(), sigma.item()))
        return torch.zeros_like(y)

    y = torch.zeros(2, 3, dtype=torch.float64)
    heun_stochastic(zero, y, sigmas, 1.0, ones, S_churn=0.6, S_min=1.5, S_max=3.0, S_noise=2.0)
    assert asked == [(2, 3)]
    assert [s for _, s in seen] == pytest.approx([4.0, 2.0, 2.0 * 1.2, 1.0, 1.0])
    torch.testing.assert_close(seen[2][0], y + 2 * (2.4**2 - 2.0**2) ** 0.5)


def test_churn_of_a_step_is_capped():
    seen = []

    def zero(y, sigma):
        seen.append(sigma.item())
        return torch.zeros_like(y)

    heun_stochastic(zero, draw(1), torch.tensor([1.0, 0.0]).double(), 1.0, lambda shape: draw(*shape), S_churn=1e3)
    assert seen == pytest.approx([2**0.5])


def test_calls_of_a_denoiser_that_carries_state():
    sigmas = edm_sigmas(5, 0.01, 10, 7)
    calls = []

    def denoiser(y, sigma):
        assert sigma.ndim == 0 and y.dtype == torch.float32
        calls.append(sigma.item())
        return y * len(calls)

    start = draw(2, 3, dtype=torch.float32)
    assert euler(denoiser, start, sigmas, 4.0).dtype == torch.float32
    assert calls == sigmas[:-1].tolist()
    calls.clear()
    assert multistep(denoiser, start, sigmas, 4.0).dtype == torch.float32
    assert calls == sigmas[:-1].tolist()
    calls.clear()
    assert heun_stochastic(denoiser, start, sigmas, 4.0, noise=None).dtype == torch.float32
    first, *inner = sigmas[:-1].tolist()
    assert calls == [first, *(s for s in inner for _ in range(2))]


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    shape = (3, 4, 8, 8)
    together, alone = PerSampleNoise([7, 8, 9]), PerSampleNoise([8])
    for _ in range(2):
        batch = together((3, *shape))
        assert torch.equal(batch[1], alone((1, *shape))[0])
        assert not torch.equal(batch[0], batch[1])
    with pytest.raises(ValueError, match="2 samples from 3 seeds"):
        together((2, *shape))


def test_sample_does_not_depend_on_its_batch():
    def sample(seeds):
        noise = PerSampleNoise(seeds)
        y = 80 * noise((len(seeds), 3, 2, 4, 4))
        return heun_stochastic(gaussian_denoiser, y, edm_sigmas(8, 0.002, 80, 7), S_IN, noise, S_churn=40)

    assert torch.equal(sample([1, 2, 3])[2], sample([3])[0])


def test_noise_stated_over_the_signal_is_the_same_on_every_level():
    stated = DiffusionConfig(noise="signal", p_mean=0.3, p_std=0.9, sigma_min=0.01, sigma_max=(100.0, 50.0, 25.0))
    for level, (s_in, highest) in enumerate(zip((4, 4 * 2**1.5, 32), (100, 50, 25), strict=True)):
        ratio = sample_sigma(stated, level, 50_000, torch.Generator().manual_seed(3)).double() * s_in
        assert ratio.log().mean().item() == pytest.approx(0.3, abs=5 * 0.9 / 50_000**0.5)
        assert ratio.log().std().item() == pytest.approx(0.9, rel=0.02)
        share = (ratio < 1).double().mean().item()
        assert stated.share_above_noise(level) == pytest.approx(share, abs=5 * 0.5 / 50_000**0.5)
        sigmas = stated.noise_levels(level, 16) * s_in
        torch.testing.assert_close(sigmas, edm_sigmas(16, 0.01, highest, 7.0))
        assert stated.sigma(level, 0.1) * s_in == pytest.approx(0.1)
    absolute = DiffusionConfig()
    assert absolute.sigma(2, 0.1) == 0.1 and absolute.noise_levels(2, 4)[0] == pytest.approx(80)
    with pytest.raises(InputError, match="diffusion.noise"):
        DiffusionConfig(noise="relative")


@pytest.mark.parametrize("size", ["S", "M", "L", "T2V", "T2V-1K"])
def test_published_sizes_state_noise_by_one_rule(size):
    """Stated absolutely, 44 / 15 / 3 % of L's draws and 55 / 23 / 5.5 / 0.7 % of T2V's had more signal than noise."""
    config = load_config(size)
    d, levels = config.diffusion, range(config.pyramid.levels)
    assert [d.share_above_noise(level) for level in levels] == pytest.approx([0.438] * len(levels), abs=0.001)
    for level in levels[1:]:
        ratios = d.noise_levels(level, 32) * d.scale_in(level)
        assert (ratios > 10).sum() <= 8  # of 32 steps: nothing is left to decide before them
    for level in levels:
        context = d.sigma(level, config.sampling.sigma_context) * d.scale_in(level)
        assert context == pytest.approx(0.1)
        mean, std = d.log_sigma(level)
        assert (math.log(context / d.scale_in(level)) - mean) / std > -2.5  # the network has seen such levels


@pytest.mark.parametrize("size, share", [("nano", 0.68), ("nano-T2V", 0.583)])
def test_the_nano_sizes_state_noise_by_the_same_rule(size, share):
    """Until they did, absolutely: 0.69, 0.68 and 0.67 on nano's levels, 0.72, 0.58, 0.57 and 0.56 on nano-T2V's."""
    config = load_config(size)
    d, levels = config.diffusion, config.pyramid.levels
    assert d.noise == "signal" and config.sampling.sigma_context == 0.1
    assert [d.share_above_noise(level) for level in range(levels)] == pytest.approx([share] * levels, abs=0.002)
