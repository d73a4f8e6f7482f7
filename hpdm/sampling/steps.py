"""The plan of a level: its noise levels, the tiles of each step, and how many block evaluations all of it takes.

T tiles, F frames, H rows, W columns of a level's canvas.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hpdm.diffusion import edm_sigmas
from hpdm.model.fusion import FUSIONS
from hpdm.pyramid import parent_tiles, rotating_starts, tile_starts
from hpdm.support.errors import InputError

if TYPE_CHECKING:
    from hpdm.config.diffusion import DiffusionConfig
    from hpdm.config.network import NetworkConfig
    from hpdm.config.pyramid import Pyramid
    from hpdm.config.sampling import SamplingConfig


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles that a step evaluates: all combinations of their starts along three axes, frames slowest."""

    axes: tuple[tuple[int, ...], ...]  # starts along frames, rows and columns, ascending
    patch: tuple[int, int, int]

    @property
    def starts(self) -> torch.Tensor:
        """int64 [T, 3]."""
        return torch.cartesian_prod(*(torch.tensor(starts) for starts in self.axes))

    def __len__(self) -> int:
        return math.prod(map(len, self.axes))

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """What the tiles cover of the canvas."""
        f, h, w = (slice(starts[0], starts[-1] + r) for starts, r in zip(self.axes, self.patch, strict=True))
        return f, h, w

    @property
    def touching(self) -> bool:
        """Whether no two tiles overlap."""
        return all(b - a >= r for starts, r in zip(self.axes, self.patch) for a, b in zip(starts, starts[1:]))

    def feathered_weights(self) -> list[dict[int, torch.Tensor]]:
        """What a tile counts, {its start: float32 [r]} along each axis; over all tiles the products add up to 1.

        It falls linearly towards the tile's border, wherever another tile overlaps it.
        """
        found = []
        for starts, r in zip(self.axes, self.patch, strict=True):
            place = torch.arange(r, dtype=torch.float64)
            own = torch.minimum(2 * place + 1, 2 * (r - place) - 1) / r
            total = torch.zeros(starts[-1] + r, dtype=torch.float64)
            for start in starts:
                total[start : start + r] += own
            found.append({start: (own / total[start : start + r]).float() for start in starts})
        return found


@dataclass(frozen=True, eq=False)
class LevelPlan:
    """How a level is sampled: `sigmas` as the solvers take them, and for each step which of the `tilings`."""

    sigmas: torch.Tensor  # float64 [steps + 1], ending in 0
    tilings: list[Tiling]
    turns: list[int]  # per step
    second_order: bool
    from_parent: bool  # whether it starts from the level below instead of pure noise

    @property
    def steps(self) -> int:
        return len(self.turns)

    @property
    def evaluations(self) -> int:
        """Of the canvas; a second-order step has two, but for the last."""
        return 2 * self.steps - 1 if self.second_order else self.steps

    def step_of(self, evaluation: int) -> int:
        """The step that evaluation 0, 1, ... belongs to."""
        return evaluation // 2 if self.second_order else evaluation

    @property
    def tile_evaluations(self) -> int:
        """Of the whole level, of one video without guidance."""
        return sum(len(self.tilings[self.turns[self.step_of(number)]]) for number in range(self.evaluations))


def plan_level(pyramid: "Pyramid", diffusion: "DiffusionConfig", sampling: "SamplingConfig", level: int) -> LevelPlan:
    """The plan of a level under a `Pyramid`, `DiffusionConfig` and `SamplingConfig`.

    Raises InputError where fewer steps than levels are named, or a start below the last noise level.
    """
    steps = sampling.level_steps(level + 1)[level]
    sigmas = diffusion.noise_levels(level, steps)
    start = sampling.start_of(level)
    start = None if start is None else start / diffusion.scale_in(level)
    from_parent = start is not None and start < (1 - 1e-9) * float(sigmas[0])
    if from_parent:
        sigmas = _cut(sigmas, start, diffusion.rho, level)
    tilings, turns = level_tilings(pyramid, sampling, level, len(sigmas) - 1)
    return LevelPlan(sigmas, tilings, turns, level < sampling.heun_levels, from_parent)


def _cut(sigmas, start, rho, level):
    """Noise levels from `start` down, spaced as closely as `sigmas` are, to the nearest whole number of steps."""
    first, last = (float(sigmas[i]) for i in (0, -2))
    if start <= last:
        raise InputError(f"sampling.start_noise is at or below the last noise level of level {level} (sigma_min)")
    top, at, bottom = (value ** (1 / rho) for value in (first, start, last))
    kept = round((len(sigmas) - 2) * (at - bottom) / (top - bottom)) if len(sigmas) > 2 else 0
    return edm_sigmas(1 + kept, last, start, rho)


def level_tilings(
    pyramid: "Pyramid", sampling: "SamplingConfig", level: int, steps: int
) -> tuple[list[Tiling], list[int]]:
    """The tilings of a level of `steps` steps, and which of them each step takes."""

    def all_tiles():
        grid = tile_starts(pyramid, level, sampling.overlap, sampling.canvas)
        return Tiling(tuple(tuple(axis.unique().tolist()) for axis in grid.unbind(1)), pyramid.patch)

    if sampling.tilings == 1:
        return [all_tiles()], [0] * steps
    rotating = rotating_starts(
        pyramid, level, sampling.overlap, sampling.tilings, sampling.tiling_borders, sampling.canvas
    )
    tilings = [Tiling(tuple(tuple(axis.tolist()) for axis in axes), pyramid.patch) for axes in rotating]
    turns = [step % len(tilings) for step in range(steps)]
    averaged = min(sampling.averaged_steps, steps)
    if averaged and len(tilings) > 1:
        turns[steps - averaged :] = [len(tilings)] * averaged
        tilings.append(all_tiles())
    return tilings, turns


def count_block_evaluations(
    network: "NetworkConfig",
    pyramid: "Pyramid",
    diffusion: "DiffusionConfig",
    sampling: "SamplingConfig",
    levels: int | None = None,
    *,
    use_cache: bool = True,
    split: Callable[[int], list[tuple[int, int]]] | None = None,
) -> int:
    """Block evaluations (tiles times blocks) that a video takes, as `Evaluator.block_evaluations` counts them.

    network: a `NetworkConfig`; levels: how many are sampled, all by default; split: how many tiles → (size, real) per
    call, of one video; it matters without a cache alone, where windows are shared within a call.
    """
    levels = levels or pyramid.levels
    blocks = [sum(hosted > level for hosted in network.levels_per_block) for level in range(pyramid.levels)]
    uses_context = FUSIONS[network.fusion].uses_context
    branches = 2 if sampling.guided else 1
    total = 0
    for level in range(levels):
        plan = plan_level(pyramid, diffusion, sampling, level)
        total += branches * plan.tile_evaluations * blocks[level]
        if use_cache and uses_context and level + 1 < levels:
            total += branches * blocks[level] * len(tile_starts(pyramid, level, sampling.overlap, sampling.canvas))
        if not use_cache and uses_context and level:
            total += _recomputed(pyramid, sampling, plan, level, branches, blocks, split)
    return total


def _recomputed(pyramid, sampling, plan, level, branches, blocks, split):
    """Block evaluations of coarser levels that the evaluations of a level's canvas take without a cache."""
    each = {}  # tiling → of one evaluation of the canvas
    for turn in set(plan.turns):
        each[turn] = sum(
            _of_call(pyramid, sampling, level, starts, blocks) for starts in _calls(plan.tilings, turn, branches, split)
        )
    return sum(each[plan.turns[plan.step_of(number)]] for number in range(plan.evaluations))


def _calls(tilings, turn, branches, split):
    """Starts [T, 3] of each call that a step with tiling `turn` makes, with the number of tiles that are real."""
    for members, starts in group_starts(tilings):
        if turn not in members:
            continue
        every, first = starts.repeat(branches, 1), 0
        for size, real in (split or _alone)(len(every)):
            chosen = every[first : first + real]
            yield torch.cat([chosen, chosen[-1:].expand(size - real, -1)]), real
            first += real


def _alone(count):
    return [(1, 1)] * count


def _of_call(pyramid, sampling, level, call, blocks):
    starts, real = call
    known = set()

    def run(level, starts):
        total = 0
        for parent in range(level):
            at = parent_tiles(pyramid, level, starts, parent, sampling.overlap, sampling.canvas)
            key = (parent, tuple(map(tuple, at.tolist())))
            if key not in known:
                total += run(parent, at) + real * blocks[parent]
                known.add(key)
        return total

    return run(level, starts)


def group_starts(tilings: list[Tiling]) -> list[tuple[frozenset[int], torch.Tensor]]:
    """Every tile of `tilings` once, those of the same tilings together: [(which tilings, starts [T, 3]), ...]."""
    members = {}
    for number, tiling in enumerate(tilings):
        for start in tiling.starts.tolist():
            members.setdefault(tuple(start), set()).add(number)
    grouped = {}
    for start, numbers in members.items():
        grouped.setdefault(frozenset(numbers), []).append(start)
    return [(numbers, torch.tensor(starts)) for numbers, starts in grouped.items()]
