"""Tiles that go through the network together, and the network behind its preconditioning with a count of its work.

T tiles of a call, B samples of a batch, C channels; a branch is a run of the network with the label or without.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hpdm.diffusion import denoise, preconditioning

if TYPE_CHECKING:
    from hpdm.config.diffusion import DiffusionConfig
    from hpdm.model.conditioning import Conditions
    from hpdm.model.network import LevelNetwork, LevelOutput


@dataclass
class TileGroup:
    """T tiles of one level, of one or several samples; those from `real` on repeat the last one to fill the call."""

    level: int
    patch: tuple[int, int, int]
    samples: list[int]  # place in the batch, per tile
    branches: list[int]
    starts: torch.Tensor  # int64 [T, 3] on the CPU, on the grid of the level
    conditions: "Conditions"  # [branches, B]
    real: int
    latents: torch.Tensor | None = None  # [T, M, D] after the latest step; None without self-conditioning

    @property
    def labels(self) -> "Conditions":
        """`Conditions` [T] of the tiles; gathered at each call, for texts are large."""
        return self.conditions[self.branches, self.samples]

    @property
    def keys(self) -> list[tuple]:
        """(sample, branch, start) of each tile."""
        return list(zip(self.samples, self.branches, map(tuple, self.starts.tolist()), strict=True))

    def take(self, canvas: torch.Tensor, starts: torch.Tensor | None = None) -> torch.Tensor:
        """Patches [T, C, rf, rh, rw] of a canvas [B, C, ...] at the tiles' places, or at other starts [T, 3]."""
        if by_index(canvas):
            return gather_patches(canvas, self.samples, self.starts if starts is None else starts, self.patch)
        rf, rh, rw = self.patch
        places = (self.starts if starts is None else starts).tolist()
        return torch.stack(
            [
                canvas[sample, :, f : f + rf, h : h + rh, w : w + rw]
                for sample, (f, h, w) in zip(self.samples, places, strict=True)
            ]
        )

    def add(
        self, totals: torch.Tensor, patches: torch.Tensor, weights: list[dict[int, torch.Tensor]] | None = None
    ) -> None:
        """Add patches [T, C, rf, rh, rw] to canvases [branches, B, C, ...] at the tiles' places.

        weights: of `Tiling.feathered_weights` on the device, or None where every tile counts 1.
        """
        rf, rh, rw = self.patch
        for sample, branch, (f, h, w), patch in zip(*self._real(), patches, strict=False):
            if weights is not None:
                frames, rows, columns = weights
                patch = patch * (frames[f][:, None, None] * rows[h][:, None] * columns[w])
            totals[branch, sample, :, f : f + rf, h : h + rh, w : w + rw] += patch

    def put(self, canvases: torch.Tensor, patches: torch.Tensor) -> None:
        """Write patches [T, C, rf, rh, rw] of tiles that do not overlap to canvases [branches, B, C, ...]."""
        samples, branches, _ = self._real()
        rows = [branch * canvases.shape[1] + sample for branch, sample in zip(branches, samples, strict=True)]
        scatter_patches(canvases.view(-1, *canvases.shape[2:]), rows, self.starts[: self.real], patches[: self.real])

    def _real(self):
        return self.samples[: self.real], self.branches[: self.real], self.starts[: self.real].tolist()


def by_index(canvas: torch.Tensor) -> bool:
    """Whether patches are read and written by index: one kernel of a GPU instead of one for each tile."""
    return canvas.is_cuda


def _places(rows, starts, patch, device):
    """Index of patches [T, rf, rh, rw] in canvases [B, :, T, H, W]."""
    starts = starts.to(device)
    f, h, w = (starts[:, axis, None] + torch.arange(r, device=device) for axis, r in enumerate(patch))
    rows = torch.tensor(rows, device=device)[:, None, None, None]
    return rows, slice(None), f[:, :, None, None], h[:, None, :, None], w[:, None, None, :]


def gather_patches(
    canvas: torch.Tensor, rows: Sequence[int], starts: torch.Tensor, patch: tuple[int, int, int]
) -> torch.Tensor:
    """Patches [T, C, rf, rh, rw] of canvases [B, C, T, H, W] number `rows` at `starts` int64 [T, 3]."""
    return canvas[_places(rows, starts, patch, canvas.device)].movedim(-1, 1).contiguous()


def scatter_patches(canvas: torch.Tensor, rows: Sequence[int], starts: torch.Tensor, patches: torch.Tensor) -> None:
    """The inverse of `gather_patches`, into `canvas`; patches that overlap give no certain result."""
    canvas[_places(rows, starts, patches.shape[2:], canvas.device)] = patches.movedim(1, -1).to(canvas.dtype)


def make_groups(
    level: int,
    network: "LevelNetwork",
    starts: torch.Tensor,
    labels: "Conditions",
    split: Callable[[int], list[tuple[int, int]]],
) -> "list[TileGroup]":
    """All tiles of a level in groups: for every sample, every branch and every start, in this order.

    starts: int64 [N, 3]; labels: `Conditions` [branches, B]; split: how many tiles → (size, real) per group.
    A self-conditioned network starts from zeros, which is what it takes for "no earlier estimate" in training.
    """
    config = network.config
    nothing = torch.zeros(1, config.num_latents, config.latent_width, device=labels.device)
    branches, batch = labels.shape
    tiles = [(sample, branch, n) for sample in range(batch) for branch in range(branches) for n in range(len(starts))]
    groups, first = [], 0
    for size, real in split(len(tiles)):
        chosen = tiles[first : first + real]
        chosen += chosen[-1:] * (size - real)
        first += real
        samples, of_branch, order = map(list, zip(*chosen, strict=True))
        latents = nothing.expand(size, -1, -1) if config.self_conditioning else None
        groups.append(TileGroup(level, network.pyramid.patch, samples, of_branch, starts[order], labels, real, latents))
    return groups


def windows_of(
    groups: "list[TileGroup]",
    level: int,
    network: "LevelNetwork",
    starts: torch.Tensor,
    labels: "Conditions",
    split: Callable[[int], list[tuple[int, int]]],
) -> "list[TileGroup]":
    """Groups of the windows at `starts` [N, 3] of a level that `groups` have sampled, as `make_groups` makes them.

    Each has the latents that its tile was left with; those that were no tile start without.
    """
    windows = make_groups(level, network, starts, labels, split)
    left = {
        key: latents
        for group in groups
        if group.latents is not None
        for key, latents in zip(group.keys[: group.real], group.latents)
    }
    for window in windows:
        if window.latents is not None:
            window.latents = torch.stack(
                [left.get(key, own) for key, own in zip(window.keys, window.latents, strict=True)]
            )
    return windows


class Evaluator:
    """Runs one level of the network on noisy patches and counts block evaluations: tiles times blocks."""

    def __init__(self, network: "LevelNetwork", diffusion: "DiffusionConfig") -> None:
        self.network, self.diffusion = network, diffusion
        levels_per_block = network.config.levels_per_block
        self.blocks = [sum(hosted > level for hosted in levels_per_block) for level in range(network.pyramid.levels)]
        self.block_evaluations = 0
        self.padding = 0  # block evaluations of tiles that only fill a call

    def __call__(
        self,
        level: int,
        noisy: torch.Tensor,
        sigma: Any,
        labels: "Conditions",
        fixed: tuple,
        latents: torch.Tensor | None,
        real: int,
        keep_activations: bool = False,
    ) -> "tuple[torch.Tensor, LevelOutput]":
        """Estimates of x for noisy patches y [T, C, rf, rh, rw] at noise level `sigma`, and the network's LevelOutput.

        fixed: the tiles' (constants, previous_rgb).
        """
        sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(len(noisy))
        s_in = self.diffusion.scale_in(level)
        c_in, _, _, c_noise = preconditioning(sigma, s_in)
        constants, previous_rgb = fixed
        out = self.network.forward_level(
            level,
            c_in.to(noisy)[:, None, None, None, None] * noisy,
            c_noise.to(noisy),
            labels,
            constants,
            latents=latents,
            previous_rgb=previous_rgb,
            keep_activations=keep_activations,
        )
        self.block_evaluations += real * self.blocks[level]
        self.padding += (len(noisy) - real) * self.blocks[level]
        return denoise(out.output, noisy, sigma, s_in), out
