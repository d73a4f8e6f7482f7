"""Variants of a configuration that are more than a setting: other numbers of levels, no adaptive computation."""

import dataclasses
import math

from hpdm.config import Config
from hpdm.support.errors import InputError


def without_adaptive_computation(config: Config) -> Config:
    """Every block works on every level."""
    blocks = len(config.network.levels_per_block)
    return _with_blocks(config, (config.pyramid.levels,) * blocks)


def alternatives(base: Config) -> dict[str, Config]:
    """The rows of table 1 for videos of `base`: full resolution, then patches of half and of the base's own size.

    Patches of the base's size are a quarter of the video where it has three levels.
    """
    levels = base.pyramid.levels
    rows = {"full": with_levels(base, 1)}
    for name, count in (("large-patch", levels - 1), ("small-patch", levels)):
        config = with_levels(base, count)
        rows[name] = without_adaptive_computation(config)
        rows[f"{name}-adaptive"] = config
    return rows


def even_levels_per_block(blocks: int, levels: int) -> tuple[int, ...]:
    """How many levels each of `blocks` works on where they take levels on evenly: 1 1 2 2 3 3 for 6 and 3."""
    return (*(1 + block * levels // blocks for block in range(blocks - 1)), levels)


def with_levels(config: Config, levels: int) -> Config:
    """The same videos as a pyramid of another number of levels: with fewer the patches are larger, in full tokens.

    A level keeps the input scale and the noise levels that it has at its resolution; a coarser one than `config` has
    gets those that have the same ratio to its signal as on the coarsest of `config`. Blocks take levels on evenly, as
    in table 8 of the paper. Raises InputError where patches cannot be halved so often.
    """
    pyramid = config.pyramid
    dropped = pyramid.levels - levels
    factors = pyramid.factors(abs(dropped))
    if levels < 1 or (dropped < 0 and any(r % n for r, n in zip(pyramid.patch, factors))):
        raise InputError(f"a pyramid with patches of {'x'.join(map(str, pyramid.patch))} cannot get {levels} levels")
    if dropped == 0:
        return config
    frames, rows, columns = (r * n if dropped > 0 else r // n for r, n in zip(pyramid.patch, factors))
    diffusion = config.diffusion
    if dropped < 0 and not isinstance(diffusion.input_scale, str):
        raise InputError("diffusion.input_scale must be a rule where levels are added, not numbers")
    scales = tuple(diffusion.scale_in(level + dropped) for level in range(levels))
    relative = diffusion.noise == "signal"
    # Signal of the added levels over that of the coarsest.
    added = [1.0 if relative else diffusion.scale_in(0) / scale for scale in scales[: max(0, -dropped)]]

    def per_level(value, new):
        if not isinstance(value, tuple):
            return value
        return tuple([new(value[0], ratio) for ratio in added] + list(value[max(0, dropped) :]))

    sigma_max = per_level(diffusion.sigma_max, lambda value, ratio: value * ratio)
    if relative and isinstance(diffusion.sigma_max, tuple):  # what is the coarsest now has no context either
        sigma_max = (max(sigma_max[0], diffusion.sigma_max[0]), *sigma_max[1:])
    steps = config.sampling.steps
    steps = tuple(steps[min(level, len(steps) - 1)] for level in range(levels))
    return dataclasses.replace(
        _with_blocks(
            config,
            even_levels_per_block(len(config.network.levels_per_block), levels),
            pyramid=dataclasses.replace(pyramid, levels=levels, patch=(frames, rows, columns)),
            diffusion=dataclasses.replace(
                diffusion,
                input_scale=scales,
                p_mean=per_level(diffusion.p_mean, lambda value, ratio: value + math.log(ratio)),
                p_std=per_level(diffusion.p_std, lambda value, ratio: value),
                sigma_min=per_level(diffusion.sigma_min, lambda value, ratio: value * ratio),
                sigma_max=sigma_max,
            ),
        ),
        sampling=dataclasses.replace(config.sampling, steps=steps),
    )


def _with_blocks(config, levels_per_block, **changes):
    network = dataclasses.replace(config.network, levels_per_block=levels_per_block)
    return dataclasses.replace(config, network=network, **changes)
