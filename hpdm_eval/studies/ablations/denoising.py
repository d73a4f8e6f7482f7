"""What a network has learnt to denoise: errors by noise level, by pyramid level and by place of the tile.

The network is asked what sampling asks: to denoise a level's tiles on finished coarser levels that carry the noise of
`sigma_context`. Errors are of the clean pixels, E |D - x|^2, at noise levels that are stated over the level's signal,
so that networks trained with different noise levels compare.

B clips, L levels.
"""

import torch

from hpdm.config import Config
from hpdm.data.loader import open_clips
from hpdm.data.ranges import to_model_range
from hpdm.diffusion import add_noise, denoise, preconditioning
from hpdm.methods import make_method
from hpdm.pyramid import extract_patches, parent_tiles, tile_starts
from hpdm_eval.metrics.positions import tiles_by_position

RATIOS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)  # noise over signal
HELD_OUT = 1_000_000  # number of a clip of the endless set that no short training comes to


def errors_by_noise(network: torch.nn.Module, config: Config, videos: torch.Tensor, labels: torch.Tensor) -> dict:
    """{level: {ratio: mean squared error}} of tiles in the middle; videos, labels: of `held_out`."""
    return {
        level: {ratio: error(network, config, videos, labels, level, ratio, _middle(config, level)) for ratio in RATIOS}
        for level in range(config.pyramid.levels)
    }


def errors_by_position(
    network: torch.nn.Module, config: Config, videos: torch.Tensor, labels: torch.Tensor, ratio: float = 0.5
) -> dict:
    """{position: mean squared error} of all touching tiles of the finest level at one noise `ratio` over the signal."""
    finest = config.pyramid.levels - 1
    tiles = tiles_by_position(config.pyramid.resolution(finest), config.pyramid.patch)
    return {
        position: sum(error(network, config, videos, labels, finest, ratio, torch.tensor(start)) for start in starts)
        / len(starts)
        for position, starts in tiles.items()
    }


def held_out(config: Config, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(uint8 [B, C, T, H, W], int64 [B]) of clips that were not trained on."""
    frames, height, width = make_method(config).video_size
    clips = open_clips(config.data, frames=frames, height=height, width=width, seed=1, quiet=True)
    videos, labels = zip(*(clips[HELD_OUT + number] for number in range(count)), strict=True)
    return torch.stack(videos), torch.tensor(labels)


@torch.no_grad()
def error(
    network: torch.nn.Module,
    config: Config,
    videos: torch.Tensor,
    labels: torch.Tensor,
    level: int,
    ratio: float,
    start: torch.Tensor,
) -> float:
    """Mean squared error of the clean pixels of the tile at `start` [3] of `level`, at noise `ratio` over signal."""
    d, pyramid, batch = config.diffusion, config.pyramid, len(videos)
    starts = start.expand(batch, 3)
    windows = [parent_tiles(pyramid, level, starts, parent, config.sampling.overlap) for parent in range(level)]
    windows = torch.stack([*windows, *[starts] * (pyramid.levels - level)], dim=1)  # finer levels are not asked
    patches = _patches(videos, windows, config, level)
    generator = torch.Generator().manual_seed(level)
    inputs, c_noise = [], []
    for number, x in enumerate(patches):
        s_in = d.scale_in(number)
        stated = ratio / s_in if number == level else d.sigma(number, config.sampling.sigma_context)
        sigma = torch.full((batch,), stated)
        noisy = add_noise(x, torch.randn(x.shape, generator=generator), sigma, s_in)
        c_in, _, _, noise_level = preconditioning(sigma, s_in)
        inputs.append(c_in.view(-1, 1, 1, 1, 1) * noisy)
        c_noise.append(noise_level)
    arguments = inputs, torch.stack(c_noise, dim=1), windows[:, : level + 1], labels
    _, latents = network(*arguments)
    outputs, _ = network(*arguments, latents)
    return (denoise(outputs[level], noisy, sigma, s_in) - x).square().mean().item()


def _patches(videos, windows, config, level):
    """Clean patches of levels 0 .. `level`."""
    whole = windows.clone()
    whole[:, level + 1 :] = 0  # any window that is in the video will do
    return extract_patches(to_model_range(videos), whole, config.training.shrink, config.pyramid.split)[: level + 1]


def _middle(config, level):
    """A tile of the middle of the video, [3]."""
    starts = tile_starts(config.pyramid, level, "none")
    return starts[len(starts) // 2]
