"""What makes each baseline itself: configuration, patches and coordinates, noise on conditioning, autoencoder, cost."""

import dataclasses

import numpy as np
import pytest
import torch

from baselines.autoencoder import AutoencoderConfig, AutoencoderNetwork
from baselines.budget import fit_budget, training_cost
from baselines.cascade import noise_of_strength, strength_of_noise
from baselines.patch_diffusion import add_coordinates
from hpdm.config import config_from_dict, config_to_dict, load_config, override_config
from hpdm.data.loader import open_clips
from hpdm.methods import make_method, method_class
from hpdm.support.errors import InputError
from hpdm.training import loss
from hpdm.training.plan import count_flops
from tests.support.small_training import SMALL, small_config


def configured(name, *overrides):
    """The small configuration as a baseline's."""
    values = config_to_dict(method_class(name).configure(config_from_dict(SMALL)))
    return override_config(config_from_dict(values), overrides)


def batch_of(method, count):
    """(uint8 [count, 3, T, H, W], labels)."""
    frames, height, width = method.video_size
    clips = open_clips(method.config.data, frames=frames, height=height, width=width, seed=0)
    videos, labels = zip(*(clips[i] for i in range(count)), strict=True)
    return torch.stack(videos), torch.tensor(labels)


class Recorder(torch.nn.Module):
    """A network that remembers the arguments of its calls and whether gradients were on."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, *arguments, **options):
        self.calls.append((arguments, options, torch.is_grad_enabled()))
        return self.network(*arguments, **options)


@pytest.mark.parametrize("name", ["full-resolution", "cascade", "patch-diffusion", "autoencoder", "latent"])
@pytest.mark.parametrize("size", ["nano", "S", "M", "L"])
def test_every_size_has_every_baseline(name, size):
    config = load_config(size, method=name)
    assert config_from_dict(config_to_dict(config)) == config
    method, hpdm = make_method(config), load_config(size)
    assert method.video_size == hpdm.pyramid.resolution(hpdm.pyramid.levels - 1)
    for width in ("token_width", "latent_width", "num_latents", "compute_layers", "token", "num_classes"):
        assert getattr(config.network, width) == getattr(hpdm.network, width)


def test_one_level_learns_the_noise_levels_of_all():
    config = load_config("nano", method="full-resolution")
    assert (config.pyramid.levels, config.pyramid.patch) == (1, (16, 32, 32))
    assert config.diffusion.scale_in(0) == load_config("nano").diffusion.scale_in(2) == 8
    draws = np.random.default_rng(0).normal(
        np.repeat([-0.56 - 1.5 * level * np.log(2) for level in range(3)], 200_000), 1.2
    )
    assert config.diffusion.p_mean == pytest.approx(draws.mean(), abs=0.01)
    assert config.diffusion.p_std == pytest.approx(draws.std(), abs=0.01)
    assert (config.diffusion.sigma_min, config.diffusion.sigma_max) == (pytest.approx(0.006 / 8), 20.0)


def test_one_level_of_a_published_size_keeps_the_levels_sigmas():
    config, pyramid = load_config("L", method="full-resolution"), load_config("L")
    d, before = config.diffusion, pyramid.diffusion
    assert d.noise == "absolute" and d.scale_in(0) == before.scale_in(2)
    means = [before.log_sigma(level)[0] for level in range(3)]
    assert d.p_mean == pytest.approx(np.mean(means)) and d.p_std == pytest.approx(np.sqrt(np.var(means) + 1.2**2))
    assert (d.sigma_min, d.sigma_max) == (pytest.approx(0.008 / 32), pytest.approx(80))
    assert (config.sampling.S_min, config.sampling.S_max) == (pytest.approx(0.05), pytest.approx(50))


def test_coordinates_are_places_in_the_whole_video():
    video = (4, 8, 16)
    whole = add_coordinates(torch.zeros(1, 3, *video), torch.zeros(1, 3, dtype=torch.int64), video)
    assert whole.shape == (1, 6, *video)
    for channel, size in zip((3, 4, 5), video, strict=True):
        values = whole[0, channel].unique()
        expected = (torch.arange(size) + 0.5) / size * 2 - 1
        torch.testing.assert_close(values, expected)
    start = torch.tensor([[1, 2, 3]])
    cut = add_coordinates(torch.zeros(1, 3, 2, 4, 8), start, video)
    torch.testing.assert_close(cut[:, 3:], whole[:, 3:, 1:3, 2:6, 3:11])


def test_patch_sizes_come_as_often_as_the_paper_says():
    method = make_method(load_config("nano", ["training.batch=2"], method="patch-diffusion"))
    sizes, starts = zip(*(method.draw_windows(step, range(2)) for step in range(3000)), strict=True)
    for size, share in (((16, 32, 32), 0.5), ((8, 16, 16), 0.3), ((4, 8, 8), 0.2)):
        assert abs(np.mean([s == size for s in sizes]) - share) < 4 * np.sqrt(share * (1 - share) / 3000)
    for size in ((8, 16, 16), (4, 8, 8)):
        places = torch.cat([start for s, start in zip(sizes, starts, strict=True) if s == size])
        for axis, room in enumerate(np.subtract((16, 32, 32), size)):
            assert places[:, axis].min() == 0 and places[:, axis].max() == room
            assert abs(places[:, axis].double().mean() - room / 2) < 0.1 * room


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_patch_diffusion_shows_pixels_with_their_coordinates(share):
    method = make_method(configured("patch-diffusion", f"method.full_share={share}"))
    network = Recorder(method.make_network())
    video, labels = batch_of(method, 8)
    losses = method.loss(network, video, labels, step=5, positions=range(8))
    assert losses.shape == (8, 1) and losses.isfinite().all()
    (inputs, _, windows, _, _), _, grad = network.calls[-1]
    size, starts = method.draw_windows(5, range(8))
    assert grad and inputs[0].shape == (8, 3, *size) and torch.equal(windows[:, 0], starts)
    assert (size == (4, 8, 8)) == (share == 1.0)
    parts = [
        method.loss(network, video[i : i + 4], labels[i : i + 4], step=5, positions=range(i, i + 4)) for i in (0, 4)
    ]
    torch.testing.assert_close(torch.cat(parts), losses)


def test_patch_diffusion_draws_noise_for_its_crops_alone(monkeypatch):
    method = make_method(configured("patch-diffusion", "method.full_share=0.0", "training.batch=2"))
    shapes, real = [], loss.step_noise
    monkeypatch.setattr(loss, "step_noise", lambda *a, **o: shapes.append(a[3]) or real(*a, **o))
    frames, height, width = method.video_size
    video = torch.zeros(2, 3, frames, height, width, dtype=torch.uint8)
    found = method.loss(method.make_network(), video, torch.zeros(2, dtype=torch.int64), step=0, positions=range(2))
    size = method.draw_windows(0, range(2))[0]
    assert shapes == [(1, 3, *size)] and size != method.video_size and found.shape == (2, 1)


def test_patch_diffusion_of_whole_videos_reads_coordinates():
    """Sampling and training give the same output for the same whole video, and coordinates matter for it."""
    method = make_method(configured("patch-diffusion", "network.dropout=0.0"))
    network = method.make_network().eval()
    torch.nn.init.normal_(network.detokenizer.project.weight)
    patch, c_noise, labels = torch.randn(2, 3, 4, 8, 8), torch.zeros(2), torch.tensor([0, 1])
    windows = torch.zeros(2, 1, 3, dtype=torch.int64)
    trained = network([patch], c_noise[:, None], windows, labels)[0][0]
    sampled = network.forward_level(0, patch, c_noise, labels, network.level_constants(0, windows[:, 0], [])).output
    torch.testing.assert_close(trained, sampled)
    moved = network([patch], c_noise[:, None], windows + 1, labels)[0][0]
    assert not torch.allclose(trained, moved, atol=1e-3)


def test_videos_without_whole_quarters_are_refused():
    with pytest.raises(InputError, match="quarters are whole tokens"):
        make_method(configured("patch-diffusion", "network.token=[2,2,2]"))


def test_strength_of_noise_is_the_cosine_schedule():
    strength = torch.linspace(0, 0.9, 10, dtype=torch.float64)
    for s_in in (1.0, 8.0):
        sigma = noise_of_strength(strength, s_in)
        # signal cos(s pi / 2), noise sin(s pi / 2): their ratio, in units of the scaled signal
        ratio = torch.sin(strength * torch.pi / 2) / torch.cos(strength * torch.pi / 2)
        torch.testing.assert_close(sigma * s_in, ratio)
        assert strength_of_noise(float(sigma[7]), s_in) == pytest.approx(0.7)


def test_cascade_gives_stages_noisy_patches_of_the_level_below():
    method = make_method(configured("cascade", "training.batch=512", "training.micro_batch=null"))
    network = Recorder(method.make_network())
    video, labels = batch_of(method, 8)
    video = video.repeat(64, 1, 1, 1, 1)
    method.loss(network, video, labels.repeat(64), step=0, positions=range(512))
    arguments, options, _ = network.calls[-1]
    strengths, given = options["strengths"][:, 0], options["given"][0]
    assert strengths.min() >= 0 and strengths.max() <= 0.5 and abs(strengths.mean() - 0.25) < 0.03
    clean = torch.nn.functional.avg_pool3d(video.float() / 127.5 - 1, 2)
    # cos * x + sin * eps: what is left of x has the variance of the noise
    noise = given - torch.cos(strengths * torch.pi / 2).view(-1, 1, 1, 1, 1) * clean
    weak, strong = strengths < 0.1, strengths > 0.4
    for chosen in (weak, strong):
        expected = torch.sin(strengths[chosen] * torch.pi / 2).square().mean().sqrt()
        assert noise[chosen].std() == pytest.approx(float(expected), rel=0.05)
    own = arguments[0][0]
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), own.flatten()]))[0, 1]) < 0.05


def test_stages_are_independent():
    """A stage's loss gives no gradient to another, and its own pixels alone decide its output."""
    method = make_method(configured("cascade", "network.dropout=0.0"))
    network = method.make_network()
    for stage in network.stages:
        torch.nn.init.normal_(stage.detokenizer.project.weight)
    video, labels = batch_of(method, 2)
    losses = method.loss(network, video, labels, step=0, positions=range(2))
    losses[:, 1].mean().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.stages[0].parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.stages[1].parameters())
    first, second = (dict(stage.named_parameters()) for stage in network.stages)
    assert not torch.equal(first["latents"], second["latents"])


def test_cascade_stages_are_told_the_strength_and_the_sampler_s_is_that_of_its_noise():
    config = configured("cascade", "network.dropout=0.0", "sampling.steps=[2,2]")
    method = make_method(config)
    network = method.make_network().eval()
    torch.nn.init.normal_(network.stages[1].detokenizer.project.weight)
    sampler = method.sampler(network, config.diffusion, dataclasses.replace(config.sampling, sigma_context=0.2))
    s_in = config.diffusion.scale_in(0)
    assert network.strengths == [0.0, pytest.approx(np.arctan(0.2 * s_in) * 2 / np.pi)]
    relative = dataclasses.replace(config.diffusion, noise="signal")
    method.sampler(network, relative, dataclasses.replace(config.sampling, sigma_context=0.2))
    assert network.strengths == [0.0, pytest.approx(np.arctan(0.2) * 2 / np.pi)]
    network.strengths = [0.0, np.arctan(0.2 * s_in) * 2 / np.pi]
    patch, rgb = torch.randn(1, 3, 2, 4, 4), torch.randn(1, 3, 2, 4, 4)
    arguments = (1, patch, torch.zeros(1), torch.zeros(1, dtype=torch.int64), [None] * 2)
    told = network.forward_level(*arguments, previous_rgb=rgb).output
    network.strengths = [0.0, 0.0]
    assert not torch.allclose(told, network.forward_level(*arguments, previous_rgb=rgb).output, atol=1e-4)
    assert not torch.allclose(told, network.forward_level(*arguments, previous_rgb=rgb + 1).output, atol=1e-3)
    videos = sampler.sample([0], [0], seed=0)
    assert [tuple(video.shape[2:]) for video in videos] == [(2, 4, 4), (4, 8, 8)]


def test_cascade_training_and_sampling_agree():
    """Level 1 of a joint pass equals the stage run alone on the resampled pixels that the sampler would hand over."""
    method = make_method(configured("cascade", "network.dropout=0.0"))
    network = method.make_network().eval()
    for stage in network.stages:
        torch.nn.init.normal_(stage.detokenizer.project.weight)
    patches, given = [torch.randn(2, 3, 2, 4, 4) for _ in range(2)], torch.randn(2, 3, 2, 4, 4)
    windows = torch.tensor([[[0, 0, 0], [1, 3, 2]], [[0, 0, 0], [2, 0, 4]]])
    labels, c_noise = torch.tensor([3, 4]), torch.randn(2, 2)
    outputs, _ = network(patches, c_noise, windows, labels, None, [given], torch.full((2, 1), 0.3))
    network.strengths = [0.0, 0.3]
    rgb = network.shallow_context(1, windows[:, 1], given, windows[:, 0])
    for level, pixels in ((0, None), (1, rgb)):
        alone = network.forward_level(level, patches[level], c_noise[:, level], labels, [None] * 2, previous_rgb=pixels)
        torch.testing.assert_close(outputs[level], alone.output)


@pytest.mark.parametrize("downsampling", [(4, 4, 4), (1, 2, 4), (1, 1, 1)])
def test_autoencoder_shapes(downsampling):
    settings = AutoencoderConfig(
        name="autoencoder", video=(8, 16, 16), downsampling=downsampling, width=4, latent_channels=5, crop=1
    )
    network = AutoencoderNetwork(settings)
    video = torch.rand(2, 3, 8, 16, 16) * 2 - 1
    mean, log_variance = network.encode(video)
    assert mean.shape == log_variance.shape == (2, 5, *settings.latent_size)
    assert settings.latent_size == tuple(n // d for n, d in zip((8, 16, 16), downsampling, strict=True))
    assert network.decode(mean).shape == video.shape


def test_autoencoder_works_on_any_extent_alike():
    """Away from borders, a crop is encoded as it is in the whole video."""
    settings = AutoencoderConfig(name="autoencoder", video=(16, 48, 48), downsampling=(2, 2, 2), width=4)
    network = AutoencoderNetwork(settings)
    video = torch.randn(1, 3, 16, 48, 48)
    whole, crop = network.encode(video)[0], network.encode(video[..., 8:40, 8:40])[0]
    torch.testing.assert_close(whole[..., 10:14, 10:14], crop[..., 6:10, 6:10], atol=1e-5, rtol=1e-5)


def test_autoencoder_loss_is_the_formula():
    method = make_method(configured("autoencoder", "method.kl_weight=0.5", "method.width=4"))
    network = method.make_network()
    video, labels = batch_of(method, 4)
    losses = method.loss(network, video, labels, step=3, positions=range(4))
    (frames, rows, columns), starts = method.draw_crops(3, range(4))
    assert (frames, rows, columns) == (2, 4, 4) and len({tuple(s) for s in starts.tolist()}) > 1
    for i, (f, h, w) in enumerate(starts.tolist()):
        crop = video[i : i + 1, :, f : f + 2, h : h + 4, w : w + 4].float() / 127.5 - 1
        mean, log_variance = network.encode(crop)
        posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum()
        rest = losses[i, 0] - 0.5 * divergence / crop.numel()
        # the reconstruction is from a draw: no farther from that of the mean than draws are
        error = (network.decode(mean) - crop).abs().mean()
        assert abs(rest - error) < 0.2


def test_autoencoder_learns():
    torch.manual_seed(0)
    method = make_method(configured("autoencoder", "method.width=8", "method.latent_channels=16"))
    network = method.make_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    video, labels = batch_of(method, 8)
    losses = []
    for step in range(120):
        loss = method.loss(network, video, labels, step=step, positions=range(8)).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # A single step's loss is that of its crop and noise; the last bits of 120 steps depend on the number of threads.
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]


def test_latents_have_unit_variance_and_are_decoded_as_they_were_encoded(tmp_path):
    from hpdm.training.loop import train

    train(configured("autoencoder", "method.width=4", "training.steps=2"), tmp_path / "run", device="cpu", quiet=True)
    config = configured("latent", "method.width=4", f"method.autoencoder={tmp_path / 'run'}")
    method = make_method(config)
    network = method.make_network()
    frames, height, width = method.video_size
    clips = open_clips(config.data, frames=frames, height=height, width=width, seed=0)
    method.begin(network, clips, "cpu")
    video = torch.stack([clips[i][0] for i in range(64)])
    latents = network.encode(video)
    assert latents.shape == (64, 8, 2, 4, 4)
    by_channel = latents.movedim(1, 0).flatten(1)
    torch.testing.assert_close(by_channel.mean(1), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(by_channel.std(1), torch.ones(8), atol=1e-3, rtol=0)
    plain = network.autoencoder
    torch.testing.assert_close(
        network.decode(latents), plain.decode(plain.encode(video.float() / 127.5 - 1)[0]), atol=1e-4, rtol=1e-4
    )
    assert not any(p.requires_grad for p in plain.parameters())


def test_compute_of_each_is_counted():
    """Against a RIN block's count, and the mixture of patch sizes."""
    base = count_flops(small_config())
    full = count_flops(configured("full-resolution", "training.first_pass=whole"))
    assert full.training == 4 * full.forward and [entry["level"] for entry in full.by_block] == [0, 0]
    cascade = count_flops(configured("cascade"))
    assert [(entry["level"], entry["block"]) for entry in cascade.by_block] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert base.forward < cascade.forward < 2 * base.forward
    sizes = {}
    for share in (0.0, 1.0, 0.5):
        config = configured("patch-diffusion", f"method.full_share={share}", "training.first_pass=whole")
        sizes[share] = count_flops(config)
    whole = full
    coordinates = 2 * (3 * 4) * 16  # of a token: three channels of its four pixels, to a width of 16
    assert sizes[1.0].training == whole.training + 4 * 64 * coordinates
    assert sizes[0.5].training == pytest.approx((sizes[0.0].training + sizes[1.0].training) / 2, rel=1e-6)
    assert sizes[0.0].forward == sizes[1.0].forward
    latent = count_flops(configured("latent", "method.width=4", "training.first_pass=whole"))
    assert latent.training > 4 * latent.forward
    for name in ("full-resolution", "cascade", "patch-diffusion", "latent"):  # a cheaper first pass
        lean, whole = (count_flops(configured(name, f"training.first_pass={which}")) for which in ("chosen", "whole"))
        assert lean.forward == whole.forward and 0.8 * whole.training < lean.training < whole.training


@pytest.mark.parametrize("name", ["full-resolution", "autoencoder", "latent"])
def test_a_budget_buys_steps(name):
    settings = ["training.steps=4000", "training.warmup=400", "training.ema_half_life=200"]
    budget = training_cost(small_config(*settings))
    fitted = fit_budget(configured(name, *settings), budget)
    per_step = count_flops(fitted).training * fitted.training.batch
    assert abs(per_step * fitted.training.steps - budget) <= per_step / 2
    share = fitted.training.steps / 4000
    assert fitted.training.warmup == round(400 * share)
    assert fitted.training.ema_half_life == pytest.approx(200 * share)
    assert fit_budget(fitted, 1.0).training.steps == 1
