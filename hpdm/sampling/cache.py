"""What finished levels leave behind for finer ones: block inputs per window, and the constants fused from them.

A finished level enters finer ones at a small fixed noise level, with noise that is frozen per video and with the
latents that its last step left, so its windows' block inputs never change while finer levels are sampled.
`ContextCache` computes them once per window and, from them, each tile's fusion constant once per block;
`ContextRecomputation` recomputes all of it at every step.

T tiles of a call, N data tokens of width d, B samples of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hpdm.diffusion import add_noise, preconditioning
from hpdm.model.fusion import FUSIONS
from hpdm.pyramid import parent_tiles

if TYPE_CHECKING:
    from hpdm.config.sampling import SamplingConfig
    from hpdm.sampling.groups import Evaluator, TileGroup


@dataclass
class FinishedLevel:
    """A sampled level: its canvas at the conditioning noise level, [B, C, T, H, W], and its tiles."""

    noisy: torch.Tensor
    groups: list

    def __post_init__(self) -> None:
        self.place = {key: (i, j) for i, group in enumerate(self.groups) for j, key in enumerate(group.keys)}


class _Contexts:
    def __init__(self, evaluator, sampling, device):
        self.evaluator, self.network = evaluator, evaluator.network
        self.sampling, self.device = sampling, device
        self.pyramid = self.network.pyramid
        self.uses_context = FUSIONS[self.network.config.fusion].uses_context
        self.finished = []

    def _sigma(self, level):
        """Noise that a finished level enters finer ones with."""
        return self.evaluator.diffusion.sigma(level, self.sampling.sigma_context)

    def finish(self, x, eps, windows):
        """Keep the current level's result x [B, C, T, H, W] and its frozen noise eps for finer levels.

        windows: its groups of all overlapping tiles, from which finer tiles take their context.
        """
        level = len(self.finished)
        sigma = torch.tensor([self._sigma(level)], dtype=torch.float64)
        noisy = add_noise(x, eps, sigma.expand(len(x)), self.evaluator.diffusion.scale_in(level))
        self.finished.append(FinishedLevel(noisy, windows))

    def _parents(self, level, starts, parent):
        return parent_tiles(self.pyramid, level, starts, parent, self.sampling.overlap, self.sampling.canvas)

    def _origins(self, level, starts):
        """Starts, on level 0, of the videos that tiles lie in: int64 [T, 3]; zeros unless the canvas is larger.

        The network knows videos of one size. Beyond it each window of level 0 is such a video, and the tiles above it
        get their coordinates there.
        """
        return starts if level == 0 else self._parents(level, starts, 0)

    def _fix(self, level, group, starts, activations):
        """(constants, previous_rgb) of the group's tiles, or of the windows at `starts` on a coarser level.

        activations(k, starts of level k): the block inputs there.
        """
        origins = self._origins(level, starts)
        parents = []
        for k in range(level):
            at = self._parents(level, starts, k)
            inputs = activations(k, at) if self.uses_context else [None] * len(self.network.config.levels_per_block)
            parents.append((self._within(k, at, origins).to(self.device), inputs))
        constants = self.network.level_constants(level, self._within(level, starts, origins).to(self.device), parents)
        return constants, self._previous_rgb(level, group, starts)

    def _within(self, level, starts, origins):
        """Starts on the grid of `level`, counted from the origin of their video."""
        return starts - origins * torch.tensor(self.pyramid.factors(level))

    def _previous_rgb(self, level, group, starts):
        """For shallow fusion: the previous level's noisy pixels, scaled as its own network input was."""
        if not self.network.concatenates_rgb or level == 0:
            return None
        at = self._parents(level, starts, level - 1)
        sigma = torch.tensor([self._sigma(level - 1)], dtype=torch.float64)
        c_in = preconditioning(sigma, self.evaluator.diffusion.scale_in(level - 1))[0]
        pixels = float(c_in) * group.take(self.finished[level - 1].noisy, at)
        return self.network.shallow_context(level, starts.to(self.device), pixels, at.to(self.device))

    def _block_inputs(self, level, group, starts, fixed, latents):
        """Block inputs [T, N, d] of windows of a finished level; None for blocks that no finer level runs."""
        _, out = self.evaluator(
            level,
            group.take(self.finished[level].noisy, starts),
            self._sigma(level),
            group.labels,
            fixed,
            latents,
            group.real,
            keep_activations=True,
        )
        hosted = self.network.config.levels_per_block
        return [tokens if levels > level + 1 else None for tokens, levels in zip(out.activations, hosted, strict=True)]


class ContextCache(_Contexts):
    """Everything that finished levels fix, computed once; with `offload`, tiles' constants wait in host memory."""

    def __init__(
        self, evaluator: "Evaluator", sampling: "SamplingConfig", device: torch.device | str, offload: bool = False
    ) -> None:
        super().__init__(evaluator, sampling, device)
        self.offload = offload
        self.groups = []
        self.block_inputs = []  # per finished level, per group: as `_block_inputs`

    def begin(self, level: int, groups: "list[TileGroup]") -> None:
        """Fix what does not change while `groups` of a level are sampled."""
        self.groups, self.fixed = groups, Parking(self.device, self.offload)
        for group in groups:
            constants, previous_rgb = self._fix_stored(level, group)
            self.fixed.append([*constants, previous_rgb])

    def _fix_stored(self, level, group):
        return self._fix(level, group, group.starts, lambda k, at: self._stored(k, at, group))

    def fixed_for(self, index: int) -> tuple[list, torch.Tensor | None]:
        """(constants, previous_rgb) of the current level's group `index`."""
        *constants, previous_rgb = self.fixed[index]
        return constants, previous_rgb

    def finish(self, x: torch.Tensor, eps: torch.Tensor, windows: "list[TileGroup]") -> None:
        super().finish(x, eps, windows)
        if not self.uses_context:
            return
        level = len(self.finished) - 1
        stored = Parking(self.device, self.offload)
        for index, group in enumerate(windows):
            fixed = self.fixed_for(index) if windows is self.groups else self._fix_stored(level, group)
            stored.append(self._block_inputs(level, group, group.starts, fixed, group.latents))
        self.block_inputs.append(stored)

    def _stored(self, level, starts, group):
        places = [
            self.finished[level].place[sample, branch, tuple(start)]
            for sample, branch, start in zip(group.samples, group.branches, starts.tolist(), strict=True)
        ]
        stored = self.block_inputs[level]
        return [
            None if whole is None else torch.stack([stored.items[i][block][j] for i, j in places]).to(self.device)
            for block, whole in enumerate(stored.items[0])
        ]


class ContextRecomputation(_Contexts):
    """The same numbers with nothing kept: every call runs all coarser levels of its tiles again."""

    groups: "Sequence[TileGroup]" = ()

    def begin(self, level: int, groups: "list[TileGroup]") -> None:
        self.groups = groups

    def fixed_for(self, index: int) -> tuple[list, torch.Tensor | None]:
        group = self.groups[index]
        known = {}  # windows of coarser levels serve several finer ones within a call
        return self._fix(group.level, group, group.starts, lambda k, at: self._recomputed(k, at, group, known))

    def _recomputed(self, level, starts, group, known):
        key = (level, tuple(map(tuple, starts.tolist())))
        if key not in known:
            fixed = self._fix(level, group, starts, lambda k, at: self._recomputed(k, at, group, known))
            finished = self.finished[level]
            places = [
                finished.place[sample, branch, tuple(start)]
                for sample, branch, start in zip(group.samples, group.branches, starts.tolist(), strict=True)
            ]
            latents = None
            if group.latents is not None:
                latents = torch.stack([finished.groups[i].latents[j] for i, j in places])
            known[key] = self._block_inputs(level, group, starts, fixed, latents)
        return known[key]


class Parking:
    """Lists of tensors (or None), read in a circle; if parked in host memory, the next is fetched ahead of its turn."""

    def __init__(self, device: torch.device | str, offload: bool) -> None:
        self.device = torch.device(device)
        self.items = []
        self._offload = offload and self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if self._offload else None
        self._coming = {}

    def append(self, tensors: list[torch.Tensor | None]) -> None:
        if self._offload:
            tensors = [None if t is None else t.to("cpu").pin_memory() for t in tensors]
        self.items.append(tensors)

    def __getitem__(self, index: int) -> Any:
        if not self._offload:
            return self.items[index]
        tensors = self._coming.pop(index, None) or self._fetch(index)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            if tensor is not None:
                tensor.record_stream(current)
        following = (index + 1) % len(self.items)
        self._coming = {following: self._fetch(following)}
        return tensors

    def _fetch(self, index):
        with torch.cuda.stream(self._stream):
            return [None if t is None else t.to(self.device, non_blocking=True) for t in self.items[index]]
