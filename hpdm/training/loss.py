"""The training loss: v-prediction on all levels of a patch pyramid at once, with latent self-conditioning.

Random draws belong to places in the global batch, not to processes: the same (seed, step, position) gives the same
windows, noise levels, noise and masks however the batch is split.

B samples of the global batch, b of them here, L levels, C channels, patches of rf x rh x rw, M latents of width D. With
`training.branching` a sample has W windows, several on a level, which share the coarser ones; else W is L.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from hpdm.data.ranges import to_model_range
from hpdm.diffusion import add_noise, preconditioning, sample_sigma, v_target
from hpdm.model.conditioning import Conditions, as_conditions, drop_conditions
from hpdm.model.rin import chosen_samples, seed_samples
from hpdm.pyramid import extract_patches, sample_windows, window_levels

if TYPE_CHECKING:
    from hpdm.config import Config
    from hpdm.config.training import TrainingConfig
    from hpdm.model.conditioning import Labels


# Streams of random numbers that must not meet.
SMALL_DRAWS, NOISE, DROPOUT, OWN_DRAWS, OWN_NOISE, STARTING_VALUES = range(6)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Everything random about b training samples but their clips."""

    windows: torch.Tensor  # int64 [b, W, 3] on the CPU
    sigma: torch.Tensor  # float32 [b, W]
    eps: torch.Tensor  # float32 [b, W, C, rf, rh, rw]
    no_label: torch.Tensor  # bool [b]: trained without its class and text
    self_condition: torch.Tensor  # bool [b] on the CPU: latents start from a first estimate


def draw(
    config: "Config",
    *,
    step: int,
    positions: range,
    device: torch.device | str = "cpu",
    size: tuple[int, int, int] | None = None,
) -> Draws:
    """The draws of the samples at `positions` of the global batch of `step`; `config` is a whole `Config`.

    size: (frames, rows, columns) of the noise, by default the pyramid's patch. Noise comes from `device`'s generator:
    CPU and GPU runs differ, runs on one kind of device agree.
    """
    training, pyramid = config.training, config.pyramid
    chosen = slice(positions.start, positions.stop)
    branching = training.windows(pyramid.levels)
    levels = window_levels(branching)
    generator = step_generator(training.seed, step)
    windows = sample_windows(pyramid, training.batch, generator, training.window_order, branching)[chosen]
    sigma = torch.stack([sample_sigma(config.diffusion, level, training.batch, generator) for level in levels], dim=1)
    chances = torch.rand(2, training.batch, generator=generator)[:, chosen]

    shape = (len(levels), config.network.channels, *(size or pyramid.patch))
    return Draws(
        windows=windows,
        sigma=sigma[chosen].to(device),
        eps=step_noise(training, step, positions, shape, device),
        no_label=(chances[0] < training.label_dropout).to(device),
        self_condition=chances[1] < training.self_conditioning_rate,
    )


def step_generator(seed: int, step: int, stream: int = SMALL_DRAWS) -> torch.Generator:
    """What the small draws of a step come from; a method's own come from the stream OWN_DRAWS."""
    return torch.Generator().manual_seed(_seeds(seed, step, stream)[0])


def step_noise(
    training: "TrainingConfig",
    step: int,
    positions: range,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    stream: int = NOISE,
) -> torch.Tensor:
    """Standard normal noise [b, *shape] of the samples at `positions`; a method's own comes from OWN_NOISE."""
    generator = torch.Generator(device)
    noise = torch.empty(len(positions), *shape, device=device)
    seeds = _seeds(training.seed, step, stream, count=training.batch)[positions.start : positions.stop]
    for sample, seed in zip(noise, seeds, strict=True):
        torch.randn(sample.shape, generator=generator.manual_seed(seed), device=device, out=sample)
    return noise


def seed_dropout(seed: int, step: int, positions: range, network: nn.Module | None = None) -> None:
    """Have the dropout masks of a pass of `network` over `positions` follow from each sample's place alone.

    Seeds torch's global generators too, for what else a method may draw in a pass.
    """
    torch.manual_seed(_seeds(seed, step, DROPOUT, positions.start)[0])
    if network is not None:
        seed_samples(network, _seeds(seed, step, DROPOUT, count=positions.stop)[positions.start :])


def seed_starting_values(seed: int) -> None:
    """Seed torch's global generators for starting values that are drawn after a network's own."""
    torch.manual_seed(_seeds(seed, STARTING_VALUES)[0])


def joint_loss(
    network: nn.Module, video: torch.Tensor, labels: "Labels", draws: Draws, config: "Config"
) -> torch.Tensor:
    """v-MSE of every sample and level: float32 [b, L]; the loss to minimise is its mean.

    video: uint8 [b, C, T, H, W] at the resolution of the last level; labels: int64 [b], -1 for none, or `Conditions`.
    `network` is an HPDM or its DDP wrapper. Where the network is self-conditioned, a first pass without gradient makes
    latents; the samples that go without start from zeros instead, and so does the first pass.

    A level with several windows has their mean: levels keep their weights, and the expected gradient is that of one
    window per level, whose distribution each path through the tree has.
    """
    branching = config.training.windows(config.pyramid.levels)
    several = {"branching": branching} if max(branching) > 1 else {}
    shrink, split = config.training.shrink, config.pyramid.split
    patches = extract_patches(to_model_range(video), draws.windows, shrink, split, branching)
    inputs, c_noise, targets = add_noise_to_levels(patches, draws, config)
    arguments = (inputs, c_noise, draws.windows.to(video.device), known_labels(labels, config, draws.no_label))
    losses = v_losses(network, arguments, targets, draws, config, **several)
    return torch.stack([own.mean(1) for own in losses.split(list(branching), dim=1)], dim=1) if several else losses


def add_noise_to_levels(
    patches: list[torch.Tensor], draws: Draws, config: "Config"
) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    """Clean patches of every window, W tensors [b, C, T, H, W] → (network inputs, c_noise [b, W], targets v)."""
    inputs, targets, c_noise = [], [], []
    levels = window_levels(config.training.windows(config.pyramid.levels))
    for index, (level, patch) in enumerate(zip(levels, patches, strict=True)):
        s_in, sigma, eps = config.diffusion.scale_in(level), draws.sigma[:, index], draws.eps[:, index]
        c_in, _, _, noise_level = preconditioning(sigma, s_in)
        inputs.append(c_in.view(-1, 1, 1, 1, 1) * add_noise(patch, eps, sigma, s_in))
        targets.append(v_target(patch, eps, sigma))
        c_noise.append(noise_level)
    return inputs, torch.stack(c_noise, dim=1), targets


def known_labels(labels: "Labels", config: "Config", dropped: torch.Tensor | bool = False) -> Conditions:
    """`Conditions` as the network takes them, of those or of labels int64 [b].

    "No class" stands for -1, and, with no text, where `dropped`.

    dropped: bool [b], or one for all.
    """
    return drop_conditions(as_conditions(labels), dropped, config.network.num_classes)


def v_losses(
    network: nn.Module, arguments: tuple, targets: list[torch.Tensor], draws: Draws, config: "Config", **options: Any
) -> torch.Tensor:
    """Mean squared error of v of every sample and window, float32 [b, W], with latent self-conditioning.

    The network is called with `arguments`, then the latents, then `options`; it returns W outputs and W latents. With
    `outputs=False` it may leave out what only outputs need.
    """
    count = draws.sigma.shape[1]
    latents = zero_latents(config, len(draws.sigma), draws.sigma.device, count)
    if latents is not None and config.training.self_conditioning_rate > 0:
        latents = _first_estimate(network, arguments, latents, draws, config, options)

    outputs, _ = network(*arguments, latents, **options)
    losses = [(F.float() - v).square().flatten(1).mean(1) for F, v in zip(outputs, targets, strict=True)]
    return torch.stack(losses, dim=1)


@torch.no_grad()
def _first_estimate(network, arguments, zeros, draws, config, options):
    """Latents of a first pass for the samples that use them, zeros for the others: W tensors [b, M, D].

    The pass is of those samples alone, but for compiled blocks, which would be compiled for every number of them.
    Without any there is no pass, unless weights are sharded: then all processes make one, for each needs the others'.
    """
    chosen = draws.self_condition.nonzero()[:, 0]
    device, whole = draws.sigma.device, config.training.first_pass == "whole"
    if whole or is_compiled(network) or len(chosen) == len(draws.self_condition):
        _, estimate = network(*arguments, zeros, **options, **({} if whole else {"outputs": False}))
        used = draws.self_condition.to(device).view(-1, 1, 1)
        return [torch.where(used, z.float(), 0.0) for z in estimate]
    if not len(chosen) and not isinstance(network, FSDPModule):
        return zeros
    rows = chosen if len(chosen) else torch.zeros(1, dtype=torch.int64)
    at = rows.to(device)
    with chosen_samples(network, rows):
        _, estimate = network(*_take((*arguments, zeros), at), **_take(options, at), outputs=False)
    if not len(chosen):
        return zeros
    return [
        torch.zeros(whole.shape, device=device).index_copy(0, at, z.float())
        for whole, z in zip(zeros, estimate, strict=True)
    ]


def is_compiled(network: nn.Module) -> bool:
    """Whether parts of a network run compiled code, which is made anew for other numbers of samples."""
    return any(module._compiled_call_impl is not None for module in network.modules())


def _take(value, rows):
    """Samples `rows` of all tensors and `Conditions` in nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor | Conditions):
        return value[rows]
    if isinstance(value, dict):
        return {name: _take(own, rows) for name, own in value.items()}
    return type(value)(_take(own, rows) for own in value) if isinstance(value, list | tuple) else value


def zero_latents(
    config: "Config", batch: int, device: torch.device | str, count: int | None = None
) -> list[torch.Tensor] | None:
    """What a self-conditioned network takes for "no earlier estimate"; else None.

    `count` zero tensors [B, M, D], by default one per level.
    """
    if not config.network.self_conditioning:
        return None
    zeros = torch.zeros((), device=device).expand(batch, config.network.num_latents, config.network.latent_width)
    return [zeros] * (count or config.pyramid.levels)


def _seeds(*path, count=1):
    """Independent seeds that follow from a path of whole numbers."""
    return (np.random.SeedSequence(path).generate_state(count, np.uint64) >> 1).tolist()
