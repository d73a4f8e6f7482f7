"""Context fusion: how a level of the pyramid learns what the coarser levels have worked out.

Deep context fusion (Eq. 7-9 of the paper) resamples the block inputs of all coarser levels at the places of a level's
tokens, averages them and puts them through a linear layer together with the tokens and their position in the video.
Windows are axis-aligned, so trilinear resampling is three products with small matrices, one per axis, on the part of
the coarse window that the fine one covers: the same numbers as `F.grid_sample(align_corners=False,
padding_mode="border")` for a fraction of the work.

The linear layer on the concatenation is written as a sum, W_a a + (W_ctx ctx + W_c coords + bias). The bracket depends
on coarser levels alone: `constant` computes it, so that sampling needs it once per tile and not once per step.

B batch, L levels, N = F*H*W tokens of a patch, d token width.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from hpdm.model.rin import full_precision
from hpdm.model.sharding import fill
from hpdm.pyramid import AXES, Pyramid, parent_coordinates, token_centres


def interpolation_matrix(u: torch.Tensor, size: int, band: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear interpolation along an axis as a matrix: [B, n] places in [0, 1] → (first [B], matrix [B, n, band]).

    Sample `i` of the axis lies at (i + 0.5) / size; places nearer to the border than half a sample take the border's
    value. The matrix's columns are the samples from `first` on; `band` must be enough for all of a row's places (None:
    all samples). Rows sum to 1.
    """
    position = (u * size - 0.5).clamp(0, size - 1)
    band = size if band is None else min(band, size)
    first = position[:, :1].floor().clamp(max=size - band)
    grid = torch.arange(band, dtype=u.dtype, device=u.device)
    return first[:, 0].long(), (1 - (position - first)[..., None].sub(grid).abs()).clamp(min=0)


def band_width(places: int, size: int, gap: int) -> int:
    """Samples of an axis of `size` that interpolation at `places` can touch, where they span 2^-gap of the axis."""
    return math.ceil((places - 1) / places * size / 2**gap) + 2


def resample(tokens: torch.Tensor, axes: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Trilinear resampling of [B, F, H, W, d]: [B, F', H', W', d].

    `axes` are three pairs of `interpolation_matrix`, for frames, rows and columns.
    """
    b, *size, d = tokens.shape
    (_, frames), (_, rows), (_, columns) = axes
    if [matrix.shape[2] for _, matrix in axes] != size:
        tokens = _cut(tokens, [(first, matrix.shape[2]) for first, matrix in axes])
    f, h, w = tokens.shape[1:4]
    tokens = torch.bmm(frames, tokens.reshape(b, f, h * w * d))  # [B, F', H W d]
    f = frames.shape[1]
    tokens = torch.matmul(rows[:, None], tokens.view(b, f, h, w * d))  # [B, F', H', W d]
    h = rows.shape[1]
    tokens = torch.matmul(columns[:, None], tokens.view(b, f * h, w, d))  # [B, F' H', W', d]
    return tokens.view(b, f, h, columns.shape[1], d)


def _cut(tokens, ranges):
    """[B, F, H, W, d] → the block of each sample that starts at `first` [B] and is `count` long, per axis.

    By index rather than slices, whose bounds would have to come back from the device first.
    """
    b, *size, d = tokens.shape
    index = torch.arange(b, device=tokens.device)[:, None, None, None]
    for axis, ((first, count), n) in enumerate(zip(ranges, size, strict=True)):
        place = first[:, None] + torch.arange(count, device=tokens.device)
        index = index * n + place.view(b, *[-1 if other == axis else 1 for other in range(3)])
    return _DistinctRows.apply(tokens.reshape(-1, d), index.flatten()).view(*index.shape, d)


class _DistinctRows(torch.autograd.Function):
    """Rows [n, d] of [N, d], each taken once: the backward pass copies where `index_select`'s has to add."""

    @staticmethod
    def forward(ctx, rows, index):
        ctx.save_for_backward(index)
        ctx.count = len(rows)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient):
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.count, gradient.shape[1]).index_copy_(0, index, gradient), None


class Geometry:
    """Where the tokens of a batch of pyramids lie, and how each level's tokens are read out of the coarser levels'.

    `starts` are the windows, int64 [B, 3] for each level given, on the grid of that level; `levels` says which levels
    they are (by default 0, 1, 2, ...). Made once for a forward pass and used by every block.

    A level may have several windows per sample: int64 [n * B, 3], window by window; then `batch` says B. n is a
    multiple of that of each coarser level, and of a level that has m, window i holds n / m * i .. n / m * (i + 1) - 1.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        starts: Sequence[torch.Tensor],
        tokens: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
        levels: Sequence[int] | None = None,
        batch: int | None = None,
    ) -> None:
        levels = range(len(starts)) if levels is None else levels
        self.tokens, self._batch = tokens, batch
        self._start = dict(zip(levels, starts, strict=True))
        self._pyramid, self._dtype = pyramid, dtype
        self._axes = {}

    @property
    def levels(self) -> list[int]:
        return sorted(self._start)

    def rows(self, levels: int) -> list[int]:
        """How many windows, n * B, each of the `levels` coarsest levels has, or fewer where there are not as many."""
        return [len(self._start[level]) for level in self.levels[:levels]]

    def coordinates(self, level: int) -> torch.Tensor:
        """Position of each token's centre in the video, scaled to [-1, 1]: [B, N, 3] as (frame, row, column).

        Never in less than float32: bf16 tells 256 places of an axis apart, half a pixel of a video of 256.
        """
        axes = token_centres(self._start[level], level, self._pyramid, self.tokens)
        f, h, w = (2 * axis - 1 for axis in axes)
        shape = (len(f), *self.tokens)
        grid = (f[:, :, None, None].expand(shape), h[:, None, :, None].expand(shape), w[:, None, None, :].expand(shape))
        return torch.stack(grid, dim=-1).flatten(1, 3).to(torch.promote_types(self._dtype, torch.float32))

    def resample(self, tokens: torch.Tensor, level: int, parent: int) -> torch.Tensor:
        """Tokens [B, N, d] of the window of level `parent` at the places of the tokens of `level`: [B, N, d]."""
        return self.resample_grid(tokens.unflatten(1, self.tokens), level, parent, self.tokens).flatten(1, 3)

    def resample_grid(self, grid: torch.Tensor, level: int, parent: int, size: tuple[int, int, int]) -> torch.Tensor:
        """A grid [B, F, H, W, d] that fills the window of level `parent`, at `size` places in the window of `level`."""
        siblings = len(self._start[level]) // len(self._start[parent])
        if siblings == 1:
            return resample(grid, self._matrices(level, parent, tuple(grid.shape[1:4]), size))
        # One child of every parent at a time: no parent is copied, and its gradients add up in a fixed order.
        each = [
            resample(grid, self._matrices(level, parent, tuple(grid.shape[1:4]), size, (number, siblings)))
            for number in range(siblings)
        ]
        assert self._batch is not None, "levels with several windows need the batch"
        parents = len(grid) // self._batch
        return torch.stack([one.unflatten(0, (parents, -1)) for one in each], dim=1).flatten(0, 2)

    def _matrices(self, level, parent, have, size, child=None):
        """`interpolation_matrix` per axis; `child`: of the child of that number of so many in each parent."""
        key = (level, parent, have, size, child)
        if key not in self._axes:
            start = self._start[level]
            if child is not None:
                number, siblings = child
                start = start.unflatten(0, (-1, siblings, self._batch))[:, number].flatten(0, 1)
            places = parent_coordinates(start, level, self._start[parent], parent, self._pyramid, size)
            gaps = (level - parent if axis in self._pyramid.split else 0 for axis in AXES)
            self._axes[key] = [
                (first, matrix.to(self._dtype))
                for first, matrix in (
                    interpolation_matrix(u, n, band_width(u.shape[1], n, gap))
                    for u, n, gap in zip(places, have, gaps, strict=True)
                )
            ]
        return self._axes[key]


def resample_pixels(patch: torch.Tensor, level: int, geometry: Geometry) -> torch.Tensor:
    """A patch [B, C, rf, rh, rw] of the level below, at the places of the pixels in the window of `level`."""
    grid = geometry.resample_grid(patch.movedim(1, -1), level, level - 1, tuple(patch.shape[2:]))
    return grid.movedim(-1, 1)


class DeepFusion(nn.Module):
    """Deep context fusion: every coarser level's block inputs, and coordinates; gradients flow into the context."""

    uses_context = True
    uses_coordinates = True
    detaches_context = False
    concatenates_rgb = False  # whether the tokenizer also sees the previous level's pixels

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(width, width)
        self.context = nn.Linear(width, width, bias=False) if self.uses_context else None
        self.coordinates = nn.Linear(3, width, bias=False) if self.uses_coordinates else None

    def reset(self) -> None:
        """Start as the identity on tokens, so that adding the layer changes no level that has no context."""
        fill(self.tokens.weight, nn.init.eye_)
        nn.init.zeros_(self.tokens.bias)
        if self.context is not None:
            fill(self.context.weight, nn.init.xavier_uniform_)
        if self.coordinates is not None:
            nn.init.zeros_(self.coordinates.weight)

    def gather(self, parents: list[torch.Tensor], level: int, geometry: Geometry) -> torch.Tensor | None:
        """Context of a level: the mean over coarser levels 0, 1, ... of their block inputs [B, N, d], resampled."""
        if not parents or not self.uses_context:
            return None
        if self.detaches_context:
            parents = [tokens.detach() for tokens in parents]
        return sum(geometry.resample(tokens, level, parent) for parent, tokens in enumerate(parents)) / len(parents)

    def constant(self, context: torch.Tensor | None, coordinates: torch.Tensor) -> torch.Tensor:
        """W_ctx ctx + W_c coords + bias for one level, [B, N, d] ([d] where there is neither)."""
        total = self.tokens.bias
        if self.coordinates is not None:
            with full_precision(coordinates):
                placed = nn.functional.linear(coordinates, self.coordinates.weight.to(coordinates.dtype))
            total = total + placed.to(total.dtype)
        if self.context is not None and context is not None:
            total = total + self.context(context)
        return total

    def forward(self, tokens: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
        """[..., N, d] tokens and their `constant` → fused tokens of the same shape."""
        return nn.functional.linear(tokens, self.tokens.weight) + constant


class DetachedFusion(DeepFusion):
    """Deep fusion whose context carries no gradient: a fine level's loss does not teach the coarse ones."""

    detaches_context = True


class FusionWithoutCoordinates(DeepFusion):
    """Deep fusion without the places of tokens in the video."""

    uses_coordinates = False


class ShallowFusion(DeepFusion):
    """The previous level's pixels, resampled and concatenated to the network's input; blocks get coordinates only."""

    uses_context = False
    concatenates_rgb = True


class NoFusion(nn.Module):
    """Levels know nothing of each other, nor where they are: for single-level networks and as a lower bound."""

    uses_context = False
    uses_coordinates = False
    detaches_context = False
    concatenates_rgb = False

    def __init__(self, width: int) -> None:
        super().__init__()

    def reset(self) -> None:
        """Nothing to draw."""

    def gather(self, parents: list, level: int, geometry: "Geometry") -> None:
        return None

    def constant(self, context: torch.Tensor | None, coordinates: torch.Tensor) -> torch.Tensor:
        return coordinates.new_zeros(())

    def forward(self, tokens: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
        return tokens


FUSIONS: dict[str, type[DeepFusion] | type[NoFusion]] = {
    "deep": DeepFusion,
    "shallow": ShallowFusion,
    "detached": DetachedFusion,
    "no-coordinates": FusionWithoutCoordinates,
    "none": NoFusion,
}
