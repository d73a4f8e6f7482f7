"""Latent diffusion (LDM, Rombach et al. 2022, arXiv 2112.10752) with a RIN.

Taken from the paper: an autoencoder is trained first and frozen, and diffusion works on its latents, scaled to unit
variance; sampling decodes what diffusion makes. The latent grid is that of HPDM's patch, so the network is level 0 of
HPDM but for its channels.

Simplified: latents are the posterior's means, not draws from it; each channel is shifted and scaled by its own mean and
deviation over the first clips of the run.

    hpdm-train --baseline autoencoder --size nano --out runs/autoencoder
    hpdm-train --baseline latent --size nano --out runs/latent --set method.autoencoder=runs/autoencoder

The autoencoder's averaged weights become part of the latent network's checkpoints, which are enough to sample from.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from baselines.autoencoder import AutoencoderConfig, AutoencoderNetwork, fit_autoencoder
from baselines.full_resolution import one_level
from baselines.method import MethodWithSettings
from hpdm.checkpoint.load import load_checkpoint
from hpdm.data.ranges import to_model_range
from hpdm.diffusion import DiffusionConfig
from hpdm.model.network import HPDM
from hpdm.sampling.tiled import TiledSampler
from hpdm.support.errors import InputError
from hpdm.training.loss import add_noise_to_levels, draw, known_labels, v_losses, zero_latents
from hpdm.training.plan import forward_flops
from hpdm.training.sheets import draw_sheet

if TYPE_CHECKING:
    import numpy as np

    from hpdm.config import Config
    from hpdm.config.network import NetworkConfig
    from hpdm.config.pyramid import Pyramid
    from hpdm.config.sampling import SamplingConfig
    from hpdm.data.loader import TrainingClips
    from hpdm.model.conditioning import Labels
    from hpdm.training.plan import Flops


CLIPS = 64  # clips of the run whose latents set shift and scale
SHAPE = ("video", "downsampling", "latent_channels", "width")  # settings that two autoencoders must share


@dataclass(frozen=True, kw_only=True)
class LatentConfig(AutoencoderConfig):
    """The autoencoder's shape and where its weights come from."""

    autoencoder: str = ""  # run or checkpoint of a trained autoencoder; read when a run begins, never again


class LatentNetwork(HPDM):
    """A RIN on latents, with the frozen autoencoder."""

    def __init__(self, config: "NetworkConfig", pyramid: "Pyramid", settings: LatentConfig) -> None:
        super().__init__(config, pyramid)
        self.autoencoder = AutoencoderNetwork(settings).requires_grad_(False)
        channels = settings.latent_channels
        self.latent_mean = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.latent_deviation = nn.Parameter(torch.ones(channels), requires_grad=False)

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Videos uint8 [B, 3, T, H, W] → latents float32 [B, c, t, h, w] of about unit variance."""
        mean = self.autoencoder.encode(to_model_range(video))[0].float()
        return (mean - _channels(self.latent_mean)) / _channels(self.latent_deviation)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents → videos [B, 3, T, H, W] in about [-1, 1], each decoded alone: no bit depends on the others."""
        latents = latents * _channels(self.latent_deviation) + _channels(self.latent_mean)
        return torch.cat([self.autoencoder.decode(one[None]) for one in latents])


def _channels(values):
    return values[:, None, None, None]


class LatentSampler(TiledSampler):
    """Samples latents and decodes them."""

    network: LatentNetwork

    def sample(self, indices: Sequence[int], labels: Any, seed: int, levels: int | None = None) -> list[torch.Tensor]:
        """As `TiledSampler.sample`."""
        return [self.network.decode(latents) for latents in super().sample(indices, labels, seed, levels)]


class Latent(MethodWithSettings[LatentConfig]):
    """Diffusion on the latents of a frozen autoencoder."""

    settings = LatentConfig

    @classmethod
    def configure(cls, config: "Config") -> "Config":
        settings = fit_autoencoder(config, cls.settings, name="latent")
        whole = one_level(config)
        return dataclasses.replace(
            whole,
            pyramid=dataclasses.replace(whole.pyramid, patch=settings.latent_size),
            network=dataclasses.replace(whole.network, channels=settings.latent_channels),
            diffusion=DiffusionConfig(input_scale=1.0),  # EDM's: latents have no redundancy to make up for
            method=settings,
        )

    def __init__(self, config: "Config") -> None:
        super().__init__(config)
        settings, pyramid = self.own_settings, config.pyramid
        if (pyramid.levels, pyramid.patch, config.network.channels) != (
            1,
            settings.latent_size,
            settings.latent_channels,
        ):
            raise InputError(
                f"latent needs pyramid.levels=1, pyramid.patch={list(settings.latent_size)} and network.channels="
                f"{settings.latent_channels}, which is what method.video, downsampling and latent_channels make"
            )

    def resolution(self, level: int, canvas: tuple[int, int, int] = (1, 1, 1)) -> tuple[int, int, int]:
        frames, rows, columns = (size * times for size, times in zip(self.own_settings.video, canvas, strict=True))
        return frames, rows, columns

    def make_network(self) -> "LatentNetwork":
        return LatentNetwork(self.config.network, self.config.pyramid, self.own_settings)

    def begin(self, network: nn.Module, clips: "TrainingClips", device: torch.device | str) -> None:
        """Take over the autoencoder's averaged weights and set the scale of the latents."""
        settings = self.own_settings
        if not settings.autoencoder:
            raise InputError(
                "latent needs a trained autoencoder: hpdm-train --baseline autoencoder --size ... --out RUN, "
                "then --set method.autoencoder=RUN here"
            )
        loaded = load_checkpoint(settings.autoencoder)
        if not isinstance(loaded.network, AutoencoderNetwork):
            raise InputError(f"method.autoencoder={settings.autoencoder} is a run of {loaded.config.method.name}")
        found = loaded.config.method
        if different := [name for name in SHAPE if getattr(found, name) != getattr(settings, name)]:
            wanted = " ".join(f"--set method.{name}={_written(getattr(found, name))}" for name in different)
            raise InputError(f"the autoencoder of {settings.autoencoder} has another shape; it fits with {wanted}")
        network.autoencoder.load_state_dict(loaded.network.state_dict())
        network.autoencoder.to(device)
        with torch.no_grad():
            latents = [
                network.autoencoder.encode(to_model_range(clips[number][0][None].to(device)))[0].cpu().double()
                for number in range(CLIPS)
            ]
            latents = torch.cat(latents).movedim(1, 0).flatten(1)
            network.latent_mean.copy_(latents.mean(1))
            network.latent_deviation.copy_(latents.std(1))

    def loss(
        self, model: nn.Module, video: torch.Tensor, labels: "Labels", *, step: int, positions: range
    ) -> torch.Tensor:
        config = self.config
        network = model.module if isinstance(model, DistributedDataParallel) else model
        draws = draw(config, step=step, positions=positions, device=video.device)
        inputs, c_noise, targets = add_noise_to_levels([network.encode(video)], draws, config)
        arguments = (inputs, c_noise, draws.windows.to(video.device), known_labels(labels, config, draws.no_label))
        return v_losses(model, arguments, targets, draws, config)

    @torch.no_grad()
    def sheet(self, network: nn.Module, video: torch.Tensor, labels: "Labels") -> "np.ndarray":
        config = self.config
        windows = torch.zeros(len(video), 1, 3, dtype=torch.int64, device=video.device)
        known = windows, known_labels(labels, config), zero_latents(config, len(video), video.device)
        return draw_sheet(
            [network.encode(video)],
            config,
            lambda inputs, c_noise: network(inputs, c_noise, *known)[0],
            show=network.decode,
        )

    def sampler(
        self, network: nn.Module, diffusion: DiffusionConfig, sampling: "SamplingConfig", **options: Any
    ) -> "LatentSampler":
        return LatentSampler(network, diffusion, sampling, **options)

    def count_flops(self, network: nn.Module) -> "Flops":
        """Training includes encoding the videos; `forward` is the RIN's alone."""
        flops = super().count_flops(network)
        video = torch.zeros(1, network.autoencoder.channels, *self.own_settings.video, device="meta")
        return dataclasses.replace(flops, training=flops.training + forward_flops(network.autoencoder.encode, (video,)))


def _written(value):
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, tuple) else value
