"""HPDM as a method: what training, planning and sampling ask of a configuration. Other methods derive from it.

B videos of a pass, L levels, C channels, T frames, H rows, W columns.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hpdm.data.ranges import to_model_range
from hpdm.methods import MethodConfig
from hpdm.model.conditioning import no_conditions
from hpdm.model.network import HPDM
from hpdm.pyramid import extract_patches, sample_windows
from hpdm.sampling.tiled import TiledSampler
from hpdm.support.errors import InputError
from hpdm.training.loss import draw, joint_loss, known_labels, zero_latents
from hpdm.training.plan import hierarchy_levels, network_flops
from hpdm.training.sheets import draw_sheet

if TYPE_CHECKING:
    import numpy as np

    from hpdm.config import Config
    from hpdm.config.diffusion import DiffusionConfig
    from hpdm.config.sampling import SamplingConfig
    from hpdm.data.loader import TrainingClips
    from hpdm.model.conditioning import Labels
    from hpdm.training.plan import Flops


class Hierarchical:
    """HPDM. A method that differs replaces what differs, and names the dataclass of its settings in `settings`."""

    settings = MethodConfig
    makes_videos = True  # whether there is anything to sample

    def __init__(self, config: "Config") -> None:
        self.config = config
        if max(self._branching) > 1 and type(self).loss is not Hierarchical.loss:
            raise InputError(
                f"training.branching={list(self._branching)} is for HPDM; {config.method.name} draws one "
                f"window per level"
            )

    @classmethod
    def configure(cls, config: "Config") -> "Config":
        """The configuration that this method takes in place of `config`, a size's for HPDM."""
        return config

    @property
    def _branching(self) -> tuple[int, ...]:
        return self.config.training.windows(self.config.pyramid.levels)

    @property
    def losses(self) -> int:
        """How many losses a sample has; their mean is what is minimised."""
        return self.config.pyramid.levels

    def resolution(self, level: int, canvas: tuple[int, int, int] = (1, 1, 1)) -> tuple[int, int, int]:
        """Size (frames, rows, columns) of the videos of a level; those of the last are the ones to train on."""
        return self.config.pyramid.resolution(level, canvas)

    @property
    def video_size(self) -> tuple[int, int, int]:
        return self.resolution(self.config.pyramid.levels - 1)

    def make_network(self) -> torch.nn.Module:
        """A network with starting values from torch's global generator."""
        return HPDM(self.config.network, self.config.pyramid)

    @property
    def builds_on_meta(self) -> bool:
        """Whether `make_network` may run without data, all starting values being those of `reset_parameters`."""
        return type(self).make_network is Hierarchical.make_network

    def begin(self, network: nn.Module, clips: "TrainingClips", device: torch.device | str) -> None:
        """Called once before the first step of a run: `clips` are those of the run (`TrainingClips`)."""

    def loss(
        self, model: nn.Module, video: torch.Tensor, labels: "Labels", *, step: int, positions: range
    ) -> torch.Tensor:
        """Losses [B, losses] of videos uint8 [B, C, T, H, W] with labels int64 [B] (-1: none) or `Conditions`.

        `model` is the network or its DDP wrapper. Everything random follows from the seed, the step and the samples'
        positions in the global batch.
        """
        draws = draw(self.config, step=step, positions=positions, device=video.device)
        return joint_loss(model, video, labels, draws, self.config)

    def kinds_of_step(self) -> dict[int, float]:
        """{a step: share of the steps that cost as much}: what has to be timed to know the speed of training."""
        return {0: 1.0}

    def sheet(self, network: nn.Module, video: torch.Tensor, labels: "Labels") -> "np.ndarray":
        """A picture, uint8 [height, width, 3], of what the network makes of videos under fixed noise."""
        config = self.config
        windows = sample_windows(config.pyramid, len(video), torch.Generator().manual_seed(0))
        clean = extract_patches(to_model_range(video), windows, config.training.shrink, config.pyramid.split)
        known = windows.to(video.device), known_labels(labels, config), zero_latents(config, len(video), video.device)
        return draw_sheet(clean, config, lambda inputs, c_noise: network(inputs, c_noise, *known)[0])

    def sampler(
        self, network: nn.Module, diffusion: "DiffusionConfig", sampling: "SamplingConfig", **options: Any
    ) -> TiledSampler:
        """An object like `TiledSampler` that samples with a network of this method."""
        return TiledSampler(network, diffusion, sampling, shrink=self.config.training.shrink, **options)

    def example(self, device: torch.device | str, batch: int = 1) -> tuple:
        """Arguments, zeros, of a forward pass of the network in training."""
        config, count = self.config, sum(self._branching)
        patch = torch.zeros(batch, config.network.channels, *config.pyramid.patch, device=device)
        return (
            [patch] * count,
            torch.zeros(batch, count, device=device),
            torch.zeros(batch, count, 3, dtype=torch.int64, device=device),
            no_conditions(config.network, batch, device),
            zero_latents(config, batch, device, count),
            *([self._branching] if count > config.pyramid.levels else []),
        )

    def describe_levels(self, network: nn.Module) -> list[dict]:
        """What `hpdm-info` shows of each level; empty for a network without a pyramid."""
        return hierarchy_levels(network, self.config)

    def count_flops(self, network: nn.Module) -> "Flops":
        """`Flops` of one sample, of a network on the meta device."""
        return network_flops(network, self.example("meta"), self.config)
