"""A small 3-D convolutional autoencoder, the first stage of `latent`; it trains in the same loop as the rest.

Taken from latent diffusion (LDM, Rombach et al. 2022, arXiv 2112.10752): a convolutional encoder and decoder with
residual blocks, a Gaussian posterior with a faint pull towards the standard normal, absolute error of the
reconstruction. From Video LDM and its like: three dimensions throughout.

Simplified: no perceptual loss and no discriminator, so reconstructions are blurrier than LDM's at the same rate; no
attention. Norms work on the channels of one place, not on groups over all places, so that crops in training and whole
videos afterwards are treated alike.

B batch, C channels, T frames, H rows, W columns; lower case on the latent grid.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from baselines.method import MethodWithSettings
from hpdm.data.ranges import to_model_range
from hpdm.methods import MethodConfig
from hpdm.support.errors import InputError
from hpdm.training.loss import OWN_DRAWS, OWN_NOISE, step_generator, step_noise
from hpdm.training.plan import Flops, forward_flops
from hpdm.training.sheets import grid

if TYPE_CHECKING:
    import numpy as np

    from hpdm.config import Config
    from hpdm.model.conditioning import Labels


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(MethodConfig):
    """Shape of the autoencoder and what it is trained for."""

    video: tuple[int, int, int] = (64, 256, 256)  # size of the videos, (frames, rows, columns)
    downsampling: tuple[int, int, int] = (4, 4, 4)  # how many times smaller the latent grid is; powers of 2
    latent_channels: int = 8
    width: int = 64  # channels at full resolution; twice and four times as many below
    kl_weight: float = 1e-6  # of the pull towards the standard normal, both terms summed over a video
    crop: int = 2  # trained on windows so many times smaller than the videos along each axis

    def __post_init__(self) -> None:
        if any(n < 1 or n & (n - 1) for n in (*self.downsampling, self.crop)):
            raise InputError(
                f"method.downsampling and method.crop must be powers of 2; got {list(self.downsampling)}, {self.crop}"
            )
        if any(size % (n * self.crop) for size, n in zip(self.video, self.downsampling, strict=True)):
            raise InputError(f"videos of {self.video} have no whole crops of latents: see method.downsampling, crop")
        if min(self.latent_channels, self.width) < 1 or self.kl_weight < 0:
            raise InputError("method.latent_channels and method.width must be at least 1, method.kl_weight 0 or more")

    @property
    def latent_size(self) -> tuple[int, int, int]:
        frames, rows, columns = (size // n for size, n in zip(self.video, self.downsampling, strict=True))
        return frames, rows, columns

    @property
    def strides(self) -> list[tuple[int, int, int]]:
        """Strides of the convolutions between resolutions, fine to coarse."""
        f, h, w = (int(math.log2(n)) for n in self.downsampling)
        return [(2 if step < f else 1, 2 if step < h else 1, 2 if step < w else 1) for step in range(max(f, h, w))]


def fit_autoencoder(config: "Config", kind: "type[AutoencoderConfig]", **changes: Any) -> "AutoencoderConfig":
    """Settings `kind` for a size: latents have the grid of the pyramid's patch, channels grow with the RIN's."""
    pyramid = config.pyramid
    video = pyramid.resolution(pyramid.levels - 1)
    frames, rows, columns = (size // r for size, r in zip(video, pyramid.patch, strict=True))
    width = max(16, config.network.token_width // 16)
    return kind(video=video, downsampling=(frames, rows, columns), width=width, **changes)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, T, H, W] → the same shape."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions behind norms, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ChannelNorm(channels), ChannelNorm(channels)])
        self.convolutions = nn.ModuleList([nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, T, H, W] → the same shape."""
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(F.silu(norm(y)))
        return x + y


class AutoencoderNetwork(nn.Module):
    """Encoder and decoder; what it takes and gives is videos in [-1, 1]."""

    def __init__(self, config: AutoencoderConfig, channels: int = 3) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.checkpoint_blocks = False  # as every network of a method has; nothing is recomputed here
        strides = config.strides
        widths = [config.width * min(2**step, 4) for step in range(len(strides) + 1)]
        encoder, decoder = [nn.Conv3d(channels, widths[0], 3, padding=1)], []
        for stride, narrow, wide in zip(strides, widths, widths[1:]):
            encoder += [ResidualBlock(narrow), nn.Conv3d(narrow, wide, 3, stride=stride, padding=1)]
            decoder = [
                nn.Upsample(scale_factor=stride, mode="nearest"),
                nn.Conv3d(wide, narrow, 3, padding=1),
                ResidualBlock(narrow),
                *decoder,
            ]
        wide, latents = widths[-1], config.latent_channels
        self.encoder = nn.Sequential(
            *encoder, ResidualBlock(wide), ChannelNorm(wide), nn.SiLU(), nn.Conv3d(wide, 2 * latents, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.Conv3d(latents, wide, 3, padding=1),
            ResidualBlock(wide),
            *decoder,
            ChannelNorm(widths[0]),
            nn.SiLU(),
            nn.Conv3d(widths[0], channels, 3, padding=1),
        )

    @property
    def blocks(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, ResidualBlock)]

    def compile_blocks(self, **options: Any) -> None:
        for block in self.blocks:
            block.compile(**options)

    def parameters_by_part(self) -> dict[str, int]:
        return {name: sum(p.numel() for p in part.parameters()) for name, part in self.named_children()}

    def no_decay_parameters(self) -> set[str]:
        return {name for name, p in self.named_parameters() if p.ndim < 2}

    def encode(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 3, T, H, W] → mean and logarithm of the variance of the posterior, [B, c, t, h, w] each."""
        mean, log_variance = self.encoder(video).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, c, t, h, w] → [B, 3, T, H, W]."""
        return self.decoder(latents)

    def forward(self, video: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(reconstruction from a draw of the posterior, mean, log variance); eps: standard normal like the latents."""
        mean, log_variance = self.encode(video)
        return self.decode(mean + (0.5 * log_variance).exp() * eps), mean, log_variance


class Autoencoder(MethodWithSettings[AutoencoderConfig]):
    """The autoencoder as a method: it trains and resumes as the others do, and makes no videos by itself."""

    settings = AutoencoderConfig
    makes_videos = False
    losses = 1

    @classmethod
    def configure(cls, config: "Config") -> "Config":
        training = dataclasses.replace(
            config.training, optimizer="adamw", lr=min(config.training.lr, 1e-3), activation_checkpointing=False
        )
        return dataclasses.replace(
            config, training=training, method=fit_autoencoder(config, cls.settings, name="autoencoder")
        )

    def __init__(self, config: "Config") -> None:
        super().__init__(config)
        if config.training.recomputes:
            raise InputError(
                "autoencoder recomputes nothing: set training.activation_checkpointing=false, and a "
                "larger method.crop where memory is short"
            )

    def resolution(self, level: int, canvas: tuple[int, int, int] = (1, 1, 1)) -> tuple[int, int, int]:
        return self.own_settings.video

    def make_network(self) -> "AutoencoderNetwork":
        return AutoencoderNetwork(self.own_settings, self.config.network.channels)

    def draw_crops(self, step: int, positions: range) -> tuple[tuple[int, int, int], torch.Tensor]:
        """(crop size, int64 [b, 3] places of the samples at `positions`), on the CPU."""
        settings, training = self.own_settings, self.config.training
        frames, rows, columns = (n // settings.crop for n in settings.video)
        room = torch.tensor(settings.video) - torch.tensor((frames, rows, columns))
        generator = step_generator(training.seed, step, OWN_DRAWS)
        u = torch.rand(training.batch, 3, dtype=torch.float64, generator=generator)
        return (frames, rows, columns), (u * (room + 1)).long()[positions.start : positions.stop]

    def loss(
        self, model: nn.Module, video: torch.Tensor, labels: "Labels", *, step: int, positions: range
    ) -> torch.Tensor:
        """Absolute error plus the divergence from the standard normal, per value of the video: [B, 1]."""
        settings = self.own_settings
        (frames, rows, columns), starts = self.draw_crops(step, positions)
        crop = torch.stack(
            [
                sample[:, f : f + frames, h : h + rows, w : w + columns]
                for sample, (f, h, w) in zip(to_model_range(video), starts.tolist(), strict=True)
            ]
        )
        shape = (settings.latent_channels, *(n // settings.crop for n in settings.latent_size))
        eps = step_noise(self.config.training, step, positions, shape, video.device, OWN_NOISE)
        reconstruction, mean, log_variance = model(crop, eps)
        error = (reconstruction.float() - crop).abs().flatten(1).mean(1)
        mean, log_variance = mean.float(), log_variance.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
        return (error + settings.kl_weight * divergence / crop[0].numel())[:, None]

    @torch.no_grad()
    def sheet(self, network: nn.Module, video: torch.Tensor, labels: "Labels") -> "np.ndarray":
        """Middle frames of videos and, beside them, of their reconstructions."""
        clean = to_model_range(video)
        return grid([[clean], [network.decode(network.encode(clean)[0])]])

    def example(self, device: torch.device | str, batch: int = 1) -> tuple:
        settings = self.own_settings
        crop = [n // settings.crop for n in settings.video]
        latents = [n // settings.crop for n in settings.latent_size]
        channels = self.config.network.channels
        return (
            torch.zeros(batch, channels, *crop, device=device),
            torch.zeros(batch, settings.latent_channels, *latents, device=device),
        )

    def describe_levels(self, network: nn.Module) -> list[dict]:
        return []

    def count_flops(self, network: nn.Module) -> Flops:
        """Of a training window."""
        forward = forward_flops(network, self.example("meta"))
        return Flops(by_block=[], forward=forward, training=3 * forward)
