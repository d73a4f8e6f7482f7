"""What a noise recipe and an order of windows teach: errors by noise level, by pyramid level and by place of the tile.

A small network of nano's widths trains with the input scales of L (4, 11.3, 32). It is then asked what sampling asks:
to denoise a level's tiles on finished coarser levels that carry the noise of `sigma_context`. Errors are of the clean
pixels, E |D - x|^2, at noise levels that are stated over the level's signal, so that recipes compare.

B clips, L levels.
"""

import tempfile
from collections import defaultdict
from pathlib import Path

import torch

from hpdm.config import Config, load_config, override_config
from hpdm.data.loader import open_clips
from hpdm.data.ranges import to_model_range
from hpdm.diffusion import add_noise, denoise, preconditioning
from hpdm.methods import make_method
from hpdm.pyramid import extract_patches, parent_tiles, tile_starts
from hpdm.sampling.load import load_checkpoint
from hpdm.training.loop import train

RATIOS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)  # noise over signal
BASE = ("diffusion.input_scale_base=4.0", "training.checkpoint_every=100000", "training.sheet_every=0",
        "training.log_every=10", "training.warmup=30", "training.batch=8", "data.num_workers=0")
ABSOLUTE = ("diffusion.p_mean=-1.2", "diffusion.sigma_max=80.0", "sampling.sigma_context=0.05")
SIGNAL = ("diffusion.noise=signal", "diffusion.sigma_max=[320.0, 40.0, 40.0]", "sampling.sigma_context=0.1")
RECIPES = {
    "absolute, -1.2": ABSOLUTE,
    "signal, 0.186": (*SIGNAL, "diffusion.p_mean=0.186"),
    "signal, -0.5": (*SIGNAL, "diffusion.p_mean=-0.5"),
    "signal, 0.186, finest-first": (*SIGNAL, "diffusion.p_mean=0.186", "training.window_order=finest-first"),
}
PLACES = ("inside", "face", "edge", "corner")  # tiles that touch the border of the video on 0, 1, 2 or 3 axes
HELD_OUT = 1_000_000  # number of a clip of the endless set that no short training comes to


def recipe_config(name: str, *, steps: int, seed: int = 0) -> Config:
    """The configuration of one of RECIPES."""
    own = [*RECIPES[name], f"training.steps={steps}", f"training.seed={seed}"]
    return override_config(load_config("nano"), [*BASE, *own])


def study(name: str, *, steps: int, seed: int = 0, clips: int = 16) -> dict:
    """Train a recipe and return {"by_noise": {level: {ratio: error}}, "by_place": {place: error at ratio 0.5}}."""
    config = recipe_config(name, steps=steps, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        if train(config, Path(folder) / "run", device="cpu", quiet=True).interrupted:
            raise KeyboardInterrupt
        network = load_checkpoint(Path(folder) / "run").network
    videos, labels = held_out(config, clips)
    levels = range(config.pyramid.levels)
    by_noise = {
        level: {ratio: error(network, config, videos, labels, level, ratio, _middle(config, level)) for ratio in RATIOS}
        for level in levels
    }
    finest = config.pyramid.levels - 1
    places = defaultdict(list)
    for start in tile_starts(config.pyramid, finest, "none"):
        touching = sum(_touches(config, finest, start))
        places[PLACES[touching]].append(error(network, config, videos[:4], labels[:4], finest, 0.5, start))
    by_place = {place: sum(places[place]) / len(places[place]) for place in PLACES}
    return {"recipe": name, "steps": steps, "seed": seed, "by_noise": by_noise, "by_place": by_place}


def held_out(config, count):
    """(uint8 [B, C, T, H, W], int64 [B]) of clips that were not trained on."""
    frames, height, width = make_method(config).video_size
    clips = open_clips(config.data, frames=frames, height=height, width=width, seed=1, quiet=True)
    videos, labels = zip(*(clips[HELD_OUT + number] for number in range(count)), strict=True)
    return torch.stack(videos), torch.tensor(labels)


@torch.no_grad()
def error(network, config: Config, videos, labels, level: int, ratio: float, start) -> float:
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
    arguments = inputs, torch.stack(c_noise, dim=1), windows[:, :level + 1], labels
    _, latents = network(*arguments)
    outputs, _ = network(*arguments, latents)
    return (denoise(outputs[level], noisy, sigma, s_in) - x).square().mean().item()


def _patches(videos, windows, config, level):
    """Clean patches of levels 0 .. `level`."""
    whole = windows.clone()
    whole[:, level + 1:] = 0  # any window that is in the video will do
    return extract_patches(to_model_range(videos), whole, config.training.shrink, config.pyramid.split)[: level + 1]


def _middle(config, level):
    """A tile of the middle of the video, [3]."""
    starts = tile_starts(config.pyramid, level, "none")
    return starts[len(starts) // 2]


def _touches(config, level, start):
    last = [size - patch for size, patch in zip(config.pyramid.resolution(level), config.pyramid.patch, strict=True)]
    return [place in (0, end) for place, end in zip(start.tolist(), last, strict=True)]
