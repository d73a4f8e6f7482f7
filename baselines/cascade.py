"""Cascaded diffusion (CDM, Ho et al. 2021, arXiv 2106.15282) on the levels of HPDM's pyramid.

Taken from the paper: a chain of networks that share nothing, the first for small videos, each later one for the next
resolution given the video before it; while training, that video gets Gaussian noise of a random strength, which the
network is told, and while sampling a small fixed one. Training of the stages is independent: each step gives every
stage a patch of its own noise level, and no gradient passes from one to another. Stages that upsample are trained on
patches and sample tile by tile, as HPDM's levels do.

Simplified: the strength of the noise reaches a stage as a constant channel, not through an embedding. The patches of
one step are nested windows of one video, and the stages share an optimizer, whose limit on the gradient norm is over
all of them. Conditioning is that of the patch alone: a stage sees no more of the coarse video than its window.

B batch, L levels, S stages (one per level), C channels.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from baselines.method import MethodWithSettings
from hpdm.data.ranges import to_model_range
from hpdm.diffusion import add_noise, preconditioning
from hpdm.methods import MethodConfig
from hpdm.model.fusion import Geometry, resample_pixels
from hpdm.model.network import HPDM
from hpdm.pyramid import extract_patches, sample_windows
from hpdm.support.errors import InputError
from hpdm.training.loss import (
    OWN_DRAWS,
    OWN_NOISE,
    add_noise_to_levels,
    draw,
    known_labels,
    step_generator,
    step_noise,
    v_losses,
    zero_latents,
)
from hpdm.training.plan import network_flops, training_flops
from hpdm.training.sheets import draw_sheet

if TYPE_CHECKING:
    import numpy as np

    from hpdm.config import Config
    from hpdm.config.diffusion import DiffusionConfig
    from hpdm.config.network import NetworkConfig
    from hpdm.config.pyramid import Pyramid
    from hpdm.config.sampling import SamplingConfig
    from hpdm.model.conditioning import Labels
    from hpdm.model.network import LevelOutput
    from hpdm.sampling.tiled import TiledSampler
    from hpdm.training.plan import Flops


@dataclass(frozen=True, kw_only=True)
class CascadeConfig(MethodConfig):
    """Noise on what a stage is given; while sampling it is `sampling.sigma_context`."""

    # Strongest noise in training, as a share of the cosine schedule: at s the noise has tan(s * pi / 2) times the
    # signal's scale. Strengths are uniform between 0 and this.
    augmentation: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.augmentation < 1:
            raise InputError(f"method.augmentation must lie in [0, 1); got {self.augmentation}")


def noise_of_strength(strength: torch.Tensor, s_in: float) -> torch.Tensor:
    """sigma in y = x / s_in + sigma * eps of noise of a strength s in [0, 1)."""
    return torch.tan(strength * (math.pi / 2)) / s_in


def strength_of_noise(sigma: float, s_in: float) -> float:
    """The inverse of `noise_of_strength`."""
    return math.atan(sigma * s_in) * 2 / math.pi


class CascadeNetwork(nn.Module):
    """One RIN per level. For the sampler it looks like a network of L levels with shallow fusion."""

    concatenates_rgb = True  # the sampler hands over the previous level's pixels, noise included

    def __init__(self, config: "NetworkConfig", pyramid: "Pyramid") -> None:
        super().__init__()
        self.config, self.pyramid = config, pyramid
        alone = dataclasses.replace(config, levels_per_block=(1,) * len(config.levels_per_block), fusion="none")
        patch = dataclasses.replace(pyramid, levels=1)
        # The first stage gets zeros for the pixels of a previous level, so that all stages have one shape.
        self.stages = nn.ModuleList(
            HPDM(alone, patch, extra_channels=config.channels + 1) for _ in range(pyramid.levels)
        )
        self.strengths = [0.0] * pyramid.levels  # of the noise on what each stage is given, while sampling

    @property
    def token_grid(self) -> tuple[int, int, int]:
        return self.stages[0].token_grid

    @property
    def null_label(self) -> int:
        return self.stages[0].null_label

    @property
    def condition_tokens(self) -> int:
        return self.stages[0].condition_tokens

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all stages."""
        return [block for stage in self.stages for block in stage.blocks]

    @property
    def checkpoint_blocks(self) -> bool:
        return self.stages[0].checkpoint_blocks

    @checkpoint_blocks.setter
    def checkpoint_blocks(self, enabled: bool) -> None:
        for stage in self.stages:
            stage.checkpoint_blocks = enabled

    def compile_blocks(self, **options: Any) -> None:
        for stage in self.stages:
            stage.compile_blocks(**options)

    def parameters_by_part(self) -> dict[str, int]:
        return {f"stage {level}": sum(p.numel() for p in stage.parameters()) for level, stage in enumerate(self.stages)}

    def no_decay_parameters(self) -> set[str]:
        return {
            f"stages.{level}.{name}" for level, stage in enumerate(self.stages) for name in stage.no_decay_parameters()
        }

    def forward(
        self,
        patches: list[torch.Tensor],
        c_noise: torch.Tensor,
        windows: torch.Tensor,
        labels: "Labels",
        latents: list[torch.Tensor] | None = None,
        given: list[torch.Tensor] | None = None,
        strengths: torch.Tensor | None = None,
        outputs: bool = True,
    ) -> tuple[list[torch.Tensor] | None, list[torch.Tensor]]:
        """Denoise every level's patch by its own stage; arguments and result as of `HPDM.forward`.

        given: for levels 1 .. L-1 the previous level's patch [B, C, rf, rh, rw] with its noise, at its own window,
        scaled to unit variance; strengths: float [B, L - 1] of that noise.
        """
        geometry = Geometry(self.pyramid, windows.unbind(1), self.token_grid, patches[0].dtype)
        whole = torch.zeros_like(windows[:, :1])
        found, states = [], []
        for level, (stage, patch) in enumerate(zip(self.stages, patches, strict=True)):
            pixels, strength = None, c_noise.new_zeros(len(patch))
            if level:
                assert given is not None and strengths is not None
                pixels, strength = resample_pixels(given[level - 1], level, geometry), strengths[:, level - 1]
            state = None if latents is None else latents[level : level + 1]
            output, left = stage(
                [_stack(patch, pixels, strength)], c_noise[:, level : level + 1], whole, labels, state, outputs=outputs
            )
            found += output or []
            states += left
        return found if outputs else None, states

    def level_constants(self, level: int, start: torch.Tensor, parents: list) -> list[None]:
        """No stage fuses anything."""
        return [None] * len(self.config.levels_per_block)

    def forward_level(
        self,
        level: int,
        patch: torch.Tensor,
        c_noise: torch.Tensor,
        labels: "Labels",
        constants: list,
        latents: torch.Tensor | None = None,
        previous_rgb: torch.Tensor | None = None,
        keep_activations: bool = False,
    ) -> "LevelOutput":
        """As `HPDM.forward_level`; the noise on `previous_rgb` has the strength `strengths[level]`."""
        strength = patch.new_full((len(patch),), self.strengths[level])
        return self.stages[level].forward_level(
            0,
            _stack(patch, previous_rgb, strength),
            c_noise,
            labels,
            constants,
            latents=latents,
            keep_activations=keep_activations,
        )

    def shallow_context(
        self, level: int, start: torch.Tensor, parent_patch: torch.Tensor, parent_start: torch.Tensor
    ) -> torch.Tensor:
        """As `HPDM.shallow_context`."""
        geometry = Geometry(
            self.pyramid, [parent_start, start], self.token_grid, parent_patch.dtype, levels=[level - 1, level]
        )
        return resample_pixels(parent_patch, level, geometry)


def _stack(patch, pixels, strength):
    """A stage's input channels: noisy patch, what it is given (zeros for None), the strength of the noise on that."""
    pixels = torch.zeros_like(patch) if pixels is None else pixels
    strength = strength.to(patch).view(-1, 1, 1, 1, 1).expand(-1, 1, *patch.shape[2:])
    return torch.cat([patch, pixels, strength], dim=1)


class Cascade(MethodWithSettings[CascadeConfig]):
    """Independent stages with noise on what each is given."""

    settings = CascadeConfig

    @classmethod
    def configure(cls, config: "Config") -> "Config":
        network, levels = config.network, config.pyramid.levels
        blocks = (levels,) * len(network.levels_per_block)
        network = dataclasses.replace(network, levels_per_block=blocks, fusion="shallow")
        return dataclasses.replace(config, network=network, method=cls.settings(name="cascade"))

    def make_network(self) -> "CascadeNetwork":
        return CascadeNetwork(self.config.network, self.config.pyramid)

    def draw_strengths(self, step: int, positions: range) -> torch.Tensor:
        """Strengths of the noise on what stages are given, float32 [b, L - 1] on the CPU."""
        training, levels = self.config.training, self.config.pyramid.levels
        u = torch.rand(training.batch, levels - 1, generator=step_generator(training.seed, step, OWN_DRAWS))
        return self.own_settings.augmentation * u[positions.start : positions.stop]

    def loss(
        self, model: nn.Module, video: torch.Tensor, labels: "Labels", *, step: int, positions: range
    ) -> torch.Tensor:
        config = self.config
        draws = draw(config, step=step, positions=positions, device=video.device)
        patches = extract_patches(to_model_range(video), draws.windows, config.training.shrink, config.pyramid.split)
        inputs, c_noise, targets = add_noise_to_levels(patches, draws, config)
        arguments = (inputs, c_noise, draws.windows.to(video.device), known_labels(labels, config, draws.no_label))
        strengths = self.draw_strengths(step, positions).to(video.device)
        shape = (config.pyramid.levels - 1, *patches[0].shape[1:])
        eps = step_noise(config.training, step, positions, shape, video.device, OWN_NOISE)
        given = [self._give(level, patches[level], eps[:, level], strengths[:, level]) for level in range(shape[0])]
        return v_losses(model, arguments, targets, draws, config, given=given, strengths=strengths)

    def _give(self, level, patch, eps, strength):
        """A patch of `level` as the next stage is given it."""
        s_in = self.config.diffusion.scale_in(level)
        sigma = noise_of_strength(strength, s_in)
        c_in = preconditioning(sigma, s_in)[0]
        return c_in.view(-1, 1, 1, 1, 1).to(patch) * add_noise(patch, eps, sigma, s_in)

    def sheet(self, network: nn.Module, video: torch.Tensor, labels: "Labels") -> "np.ndarray":
        config = self.config
        windows = sample_windows(config.pyramid, len(video), torch.Generator().manual_seed(0))
        clean = extract_patches(to_model_range(video), windows, config.training.shrink, config.pyramid.split)
        strengths = torch.zeros(len(video), config.pyramid.levels - 1, device=video.device)
        given = [self._give(level, patch, 0 * patch, strengths[:, level]) for level, patch in enumerate(clean[:-1])]
        known = (
            windows.to(video.device),
            known_labels(labels, config),
            zero_latents(config, len(video), video.device),
            given,
            strengths,
        )
        return draw_sheet(clean, config, lambda inputs, c_noise: network(inputs, c_noise, *known)[0])

    def sampler(
        self, network: nn.Module, diffusion: "DiffusionConfig", sampling: "SamplingConfig", **options: Any
    ) -> "TiledSampler":
        """Sets the strength that the network is told for the noise that the sampler adds."""
        network.strengths = [0.0] + [
            strength_of_noise(diffusion.sigma(level, sampling.sigma_context), diffusion.scale_in(level))
            for level in range(self.config.pyramid.levels - 1)
        ]
        return super().sampler(network, diffusion, sampling, **options)

    def example(self, device: torch.device | str, batch: int = 1) -> tuple:
        patches, *rest = super().example(device, batch)
        given = patches[:-1]
        return patches, *rest, given, torch.zeros(batch, len(given), device=device)

    def count_flops(self, network: nn.Module) -> "Flops":
        """All stages cost the same; what is given to them is resampled beside that."""
        _, c_noise, windows, labels, latents = super().example("meta")
        patch = torch.zeros(1, self.config.network.channels * 2 + 1, *self.config.pyramid.patch, device="meta")
        example = [patch], c_noise[:, :1], windows[:, :1], labels, None if latents is None else latents[:1]
        of_stage = network_flops(network.stages[0], example, self.config).by_block
        by_block = [entry | {"level": level} for level in range(self.config.pyramid.levels) for entry in of_stage]
        return training_flops(network, self.example("meta"), by_block, self.config)
