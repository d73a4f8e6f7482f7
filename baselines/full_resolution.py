"""Diffusion on whole videos at full resolution: the upper row of the paper's table 1.

Taken from HPDM's paper: the same RIN with one level whose patch is the whole video. Nothing but the configuration
differs, so nothing is simplified; the noise levels of training cover those of all levels of the pyramid it replaces.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

from hpdm.config import Config
from hpdm.hierarchical import Hierarchical

if TYPE_CHECKING:
    from hpdm.config.diffusion import DiffusionConfig


class FullResolution(Hierarchical):
    """One level: the whole video."""

    @classmethod
    def configure(cls, config: Config) -> Config:
        return dataclasses.replace(one_level(config), method=cls.settings(name="full-resolution"))


def one_level(config: Config) -> Config:
    """`config` for whole videos in one piece: every block works on the one level, and nothing is fused."""
    video = config.pyramid.resolution(config.pyramid.levels - 1)
    network = config.network
    return dataclasses.replace(
        config,
        pyramid=dataclasses.replace(config.pyramid, levels=1, patch=video),
        network=dataclasses.replace(network, levels_per_block=(1,) * len(network.levels_per_block), fusion="none"),
        diffusion=merge_levels(config.diffusion, config.pyramid.levels),
        training=dataclasses.replace(config.training, branching=None),
        sampling=dataclasses.replace(
            config.sampling,
            steps=config.sampling.steps[:1],
            overlap="none",
            S_min=config.diffusion.sigma(0, config.sampling.S_min),
            S_max=config.diffusion.sigma(0, config.sampling.S_max),
        ),
    )


def merge_levels(diffusion: "DiffusionConfig", levels: int) -> "DiffusionConfig":
    """Noise for one level that has to learn what `levels` learnt.

    The input scale is that of the finest level: with the usual rule, structure that is 2^l times coarser than a pixel
    is then hidden by the same noise levels as on the level that shows it. ln(sigma) has the mean and the variance of
    the levels' draws together; sampling walks from the highest noise level to the lowest. All are stated absolutely.
    """

    def each(name):
        value = getattr(diffusion, name)
        return value if isinstance(value, tuple) else (value,) * levels

    means, deviations = zip(*(diffusion.log_sigma(level) for level in range(levels)), strict=True)
    lowest, highest = (
        [diffusion.sigma(level, value) for level, value in enumerate(each(name))] for name in ("sigma_min", "sigma_max")
    )
    mean = sum(means) / levels
    variance = sum((m - mean) ** 2 + s**2 for m, s in zip(means, deviations, strict=True)) / levels
    return dataclasses.replace(
        diffusion,
        input_scale=diffusion.scale_in(levels - 1),
        p_mean=mean,
        p_std=math.sqrt(variance),
        sigma_min=min(lowest),
        sigma_max=max(highest),
        noise="absolute",
    )
