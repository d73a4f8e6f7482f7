"""What a method offers to training, planning and sampling; HPDM is one, others come from packages that register them.

A method turns a configuration into a network, a loss and a sampler. `hpdm.hierarchical.Hierarchical` is HPDM, from
which others derive; the registry of names is `hpdm.config.method`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hpdm.config import Config
from hpdm.config.diffusion import DiffusionConfig
from hpdm.config.method import MethodConfig, is_installed, method_class, method_names, settings_class
from hpdm.config.sampling import SamplingConfig
from hpdm.model.conditioning import Labels

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Labels",
    "Method",
    "MethodConfig",
    "VideoSampler",
    "is_installed",
    "make_method",
    "method_class",
    "method_names",
    "settings_class",
]


class VideoSampler(Protocol):
    """What `Method.sampler` returns, such as `hpdm.sampling.tiled.TiledSampler`."""

    on_step: Callable[[int, int, int], None] | None  # (level, evaluations done, evaluations of the level)
    evaluator: Any  # whose `block_evaluations` counts the work done

    def sample(self, indices: Sequence[int], labels: Any, seed: int, levels: int | None = None) -> list[torch.Tensor]:
        """Videos of the samples `indices` of a run with `seed`: float32 [B, C, T, H, W] per level, about [-1, 1]."""


class Method(Protocol):
    """What training, planning and sampling ask of a configuration.

    B videos of a pass, C channels, T frames, H rows, W columns.
    """

    settings: type[MethodConfig]  # the dataclass of the section `method` of a configuration
    makes_videos: bool  # whether there is anything to sample
    config: Config

    def __init__(self, config: Config) -> None: ...

    @classmethod
    def configure(cls, config: Config) -> Config:
        """The configuration that this method takes in place of `config`, a size's for HPDM."""

    @property
    def losses(self) -> int:
        """How many losses a sample has; their mean is what is minimised."""

    @property
    def video_size(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the videos to train on."""

    @property
    def builds_on_meta(self) -> bool:
        """Whether `make_network` may run without data, all starting values being those of `reset_parameters`."""

    def resolution(self, level: int, canvas: tuple[int, int, int] = (1, 1, 1)) -> tuple[int, int, int]:
        """Frames, rows and columns of the videos of a level, `canvas` times as large as in training."""

    def make_network(self) -> torch.nn.Module:
        """A network with starting values from torch's global generator."""

    def begin(self, network: torch.nn.Module, clips: Any, device: torch.device) -> None:
        """Called once before the first step of a run; clips: its `TrainingClips`."""

    def loss(
        self, model: torch.nn.Module, video: torch.Tensor, labels: Labels, *, step: int, positions: range
    ) -> torch.Tensor:
        """Losses [B, losses] of videos uint8 [B, C, T, H, W] at these positions of the step's global batch."""

    def kinds_of_step(self) -> dict[int, float]:
        """{a step: share of the steps that cost as much}: what has to be timed to know the speed of training."""

    def sheet(self, network: torch.nn.Module, video: torch.Tensor, labels: Labels) -> "np.ndarray":
        """A picture, uint8 [height, width, 3], of what the network makes of videos under fixed noise."""

    def sampler(
        self, network: torch.nn.Module, diffusion: DiffusionConfig, sampling: SamplingConfig, **options: Any
    ) -> VideoSampler:
        """What samples videos with a network of this method; options as of `TiledSampler`."""

    def example(self, device: torch.device | str, batch: int = 1) -> tuple:
        """Arguments, zeros, of a forward pass of the network in training."""

    def describe_levels(self, network: torch.nn.Module) -> list[dict]:
        """What `hpdm-info` shows of each level; empty for a network without a pyramid."""

    def count_flops(self, network: torch.nn.Module) -> Any:
        """`hpdm.training.plan.Flops` of one sample, of a network on the meta device."""


def make_method(config: Config) -> Method:
    """The method of a configuration."""
    return method_class(config.method.name)(config)
