"""Patch Diffusion (Wang et al. 2023, arXiv 2304.12526) on videos.

Taken from the paper: one network denoises patches of the full-resolution signal, cut at random places in random sizes;
each pixel comes with its coordinates in the whole signal as extra channels; half of the steps see whole videos, the
others patches of a half or a quarter of each axis at odds of 3 to 2; sampling denoises the whole video at once.

Simplified: patches shrink along frames as along rows and columns. All samples of a step have one patch size, as in the
paper, but a step with small patches takes no more of them. The learned positions of tokens count from the patch's
corner, in place of what a U-Net's padding tells; where that corner lies only the coordinates say.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from baselines.full_resolution import one_level
from baselines.method import MethodWithSettings
from hpdm.data.ranges import to_model_range
from hpdm.methods import MethodConfig
from hpdm.model.network import HPDM
from hpdm.support.errors import InputError
from hpdm.training.loss import OWN_DRAWS, add_noise_to_levels, draw, known_labels, step_generator, v_losses
from hpdm.training.plan import forward_flops

if TYPE_CHECKING:
    from hpdm.config import Config
    from hpdm.config.network import NetworkConfig
    from hpdm.config.pyramid import Pyramid
    from hpdm.model.conditioning import Labels
    from hpdm.model.network import LevelOutput
    from hpdm.training.plan import Flops


SCALES = (1, 2, 4)  # the whole video, a half and a quarter of each axis
MOST_SEARCHED = 5000  # steps, for one of each patch size


@dataclass(frozen=True, kw_only=True)
class PatchDiffusionConfig(MethodConfig):
    """How often whole videos are seen."""

    full_share: float = 0.5  # share of steps on whole videos; of the others 3 in 5 see halves and 2 in 5 quarters

    def __post_init__(self) -> None:
        if not 0 <= self.full_share <= 1:
            raise InputError(f"method.full_share must lie in [0, 1]; got {self.full_share}")

    @property
    def shares(self) -> dict[int, float]:
        """Share of the steps of each of SCALES."""
        rest = 1 - self.full_share
        return dict(zip(SCALES, (self.full_share, 0.6 * rest, 0.4 * rest), strict=True))


def add_coordinates(patch: torch.Tensor, start: torch.Tensor, video: tuple[int, int, int]) -> torch.Tensor:
    """[B, C, T, H, W] → [B, C + 3, T, H, W]: with each pixel's centre in the video, in [-1, 1].

    The three channels are frame, row and column. start: int64 [B, 3], the patch's first pixel in a video of size
    `video`.
    """
    channels = []
    for axis, (n, size) in enumerate(zip(patch.shape[2:], video, strict=True)):
        centre = start[:, axis, None] + torch.arange(n, device=start.device) + 0.5
        place = (2 * centre / size - 1).to(patch.dtype)
        place = place.view(len(patch), 1, *(n if other == axis else 1 for other in range(3)))
        channels.append(place.expand(-1, -1, *patch.shape[2:]))
    return torch.cat([patch, *channels], dim=1)


class PatchDiffusionNetwork(HPDM):
    """A RIN of one level that takes patches of any of the sizes, with coordinates as extra channels."""

    def __init__(self, config: "NetworkConfig", pyramid: "Pyramid") -> None:
        super().__init__(config, pyramid, extra_channels=3)

    def forward(
        self,
        patches: list[torch.Tensor],
        c_noise: torch.Tensor,
        windows: torch.Tensor,
        labels: "Labels",
        latents: list[torch.Tensor] | None = None,
        branching: Sequence[int] | None = None,
        outputs: bool = True,
    ) -> tuple[list[torch.Tensor] | None, list[torch.Tensor]]:
        """As `HPDM.forward`; `windows` [B, 1, 3] are the patches' places in the whole video."""
        patch = add_coordinates(patches[0], windows[:, 0], self.pyramid.patch)
        return super().forward([patch], c_noise, torch.zeros_like(windows), labels, latents, branching, outputs)

    def forward_level(
        self,
        level: int,
        patch: torch.Tensor,
        c_noise: torch.Tensor,
        labels: "Labels",
        constants: list[torch.Tensor | None],
        latents: torch.Tensor | None = None,
        previous_rgb: torch.Tensor | None = None,
        keep_activations: bool = False,
    ) -> "LevelOutput":
        """As `HPDM.forward_level`, of whole videos."""
        start = torch.zeros(len(patch), 3, dtype=torch.int64, device=patch.device)
        patch = add_coordinates(patch, start, self.pyramid.patch)
        return super().forward_level(level, patch, c_noise, labels, constants, latents, previous_rgb, keep_activations)


class PatchDiffusion(MethodWithSettings[PatchDiffusionConfig]):
    """Random patches of whole videos."""

    settings = PatchDiffusionConfig

    @classmethod
    def configure(cls, config: "Config") -> "Config":
        return dataclasses.replace(one_level(config), method=cls.settings(name="patch-diffusion"))

    def __init__(self, config: "Config") -> None:
        super().__init__(config)
        unit = [SCALES[-1] * token for token in config.network.token]
        if config.pyramid.levels != 1 or any(size % n for size, n in zip(config.pyramid.patch, unit, strict=True)):
            raise InputError(
                f"patch-diffusion needs one level and videos of multiples of {unit}, so that quarters are whole "
                f"tokens; pyramid.levels is {config.pyramid.levels}, pyramid.patch {list(config.pyramid.patch)}"
            )

    def make_network(self) -> "PatchDiffusionNetwork":
        return PatchDiffusionNetwork(self.config.network, self.config.pyramid)

    def size(self, scale: int) -> tuple[int, int, int]:
        """Patch size at one of SCALES."""
        frames, rows, columns = (n // scale for n in self.config.pyramid.patch)
        return frames, rows, columns

    def kinds_of_step(self) -> dict[int, float]:
        """The first step with each patch size; one that thousands of steps do not draw counts for nothing."""
        shares = {self.size(scale): share for scale, share in self.own_settings.shares.items() if share > 0}
        first: dict[tuple[int, int, int], int] = {}
        for step in range(MOST_SEARCHED):
            first.setdefault(self.draw_windows(step, range(1))[0], step)
            if len(first) == len(shares):
                break
        found = sum(shares[size] for size in first)
        return {step: shares[size] / found for size, step in first.items()}

    def draw_windows(self, step: int, positions: range) -> tuple[tuple[int, int, int], torch.Tensor]:
        """(patch size of the step, int64 [b, 3] places of the samples at `positions`), on the CPU."""
        training = self.config.training
        generator = step_generator(training.seed, step, OWN_DRAWS)
        shares = torch.tensor(list(self.own_settings.shares.values()), dtype=torch.float64)
        scale = SCALES[int(torch.multinomial(shares, 1, generator=generator))]
        size = self.size(scale)
        room = torch.tensor(self.config.pyramid.patch) - torch.tensor(size)
        u = torch.rand(training.batch, 3, dtype=torch.float64, generator=generator)
        return size, (u * (room + 1)).long()[positions.start : positions.stop]

    def loss(
        self, model: nn.Module, video: torch.Tensor, labels: "Labels", *, step: int, positions: range
    ) -> torch.Tensor:
        config = self.config
        (frames, rows, columns), starts = self.draw_windows(step, positions)
        draws = draw(config, step=step, positions=positions, device=video.device, size=(frames, rows, columns))
        patch = torch.stack(
            [
                sample[:, f : f + frames, h : h + rows, w : w + columns]
                for sample, (f, h, w) in zip(to_model_range(video), starts.tolist(), strict=True)
            ]
        )
        inputs, c_noise, targets = add_noise_to_levels([patch], draws, config)
        arguments = (inputs, c_noise, starts[:, None].to(video.device), known_labels(labels, config, draws.no_label))
        return v_losses(model, arguments, targets, draws, config)

    def count_flops(self, network: nn.Module) -> "Flops":
        """`forward` is of a whole video, as in sampling; `training` the mean over patch sizes."""
        whole = super().count_flops(network)
        _, c_noise, windows, labels, latents = self.example("meta")
        mean = 0.0
        for scale, share in self.own_settings.shares.items():
            patch = torch.zeros(1, self.config.network.channels, *self.size(scale), device="meta")
            mean += share * forward_flops(network, ([patch], c_noise, windows, labels, latents))
        ratio = mean / whole.forward
        return dataclasses.replace(whole, training=math.floor(whole.training * ratio))
