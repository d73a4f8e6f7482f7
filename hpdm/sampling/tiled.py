"""Sampling a video level by level, each level tile by tile on one canvas (section 4.4 of the paper).

At every step the estimates of all tiles are averaged where they overlap, and the whole canvas takes the step: so tiles
share their noise and agree on what lies between them (MultiDiffusion, arXiv 2302.08113). Level 0 is sampled with EDM's
stochastic second-order solver, later levels with Euler's. A level sees its finished coarser levels through the cache.

Cheaper, where the settings say so: each step takes one of several tilings in turn, so that borders of tiles lie
elsewhere at the next step; a level starts from the one below, enlarged, with noise (steps.py); and later levels take
fewer steps of a second-order multistep solver.

What sample i becomes depends on its seed (a function of the run's seed and i), its label and the settings: noise is
drawn per sample, and tiles share calls of the network only in sizes that change no bit (see calls.py).

B samples of a batch, C channels, L levels, T tiles of a call.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpdm.diffusion import PerSampleNoise, add_noise, dynamic_threshold, euler, heun_stochastic, multistep
from hpdm.model.conditioning import Conditions, as_conditions, guidance_branches
from hpdm.pyramid import enlarge_video, tile_starts
from hpdm.sampling import groups as tile_groups
from hpdm.sampling.cache import ContextCache, ContextRecomputation
from hpdm.sampling.calls import CallSizes
from hpdm.sampling.groups import Evaluator, make_groups, windows_of
from hpdm.sampling.steps import group_starts, plan_level

if TYPE_CHECKING:
    from hpdm.config.diffusion import DiffusionConfig
    from hpdm.config.sampling import SamplingConfig
    from hpdm.model.network import LevelNetwork
    from hpdm.sampling.steps import Tiling


START, CHURN, CONTEXT = 0, 1, 2  # streams of random numbers that must not meet


def stream_seed(seed: int, index: int, stream: int, level: int) -> int:
    """Seed of one stream of noise of sample `index` of a run."""
    return int(np.random.SeedSequence([seed, index, stream, level]).generate_state(1, np.uint64)[0] >> 1)


class TiledSampler:
    """Samples batches of videos with a network (`HPDM`, or anything with its per-level interface) in eval mode.

    diffusion, sampling: `DiffusionConfig` and `SamplingConfig`; call_sizes: how tiles are put into calls;
    use_cache=False recomputes all context at every step; offload keeps the cache in host memory (CUDA only);
    on_step(level, evaluations done, evaluations of the level) is called after each evaluation of a canvas;
    shrink: how the network's training shrank videos, which is undone where a level starts from the one below.
    `evaluator.block_evaluations` counts the work done.
    """

    def __init__(
        self,
        network: "LevelNetwork",
        diffusion: "DiffusionConfig",
        sampling: "SamplingConfig",
        *,
        device: torch.device | str = "cpu",
        call_sizes: CallSizes | None = None,
        use_cache: bool = True,
        offload: bool = False,
        on_step: Callable[[int, int, int], None] | None = None,
        shrink: str = "area",
    ) -> None:
        self.network, self.pyramid = network, network.pyramid
        self.diffusion, self.sampling = diffusion, sampling
        self.device = torch.device(device)
        self.call_sizes = call_sizes or CallSizes(sizes=(1,), threads=1)
        self.use_cache, self.offload = use_cache, offload
        self.on_step, self.shrink = on_step, shrink
        self.evaluator = Evaluator(network, diffusion)

    @torch.no_grad()
    def sample(self, indices: Sequence[int], labels: Any, seed: int, levels: int | None = None) -> list[torch.Tensor]:
        """Videos of samples `indices` of a run with `seed`: float32 [B, C, T, H, W] per level.

        labels: int64 [B], or `Conditions` [B]; levels: how many levels to sample, all by default; values are about
        [-1, 1], not clipped. Raises InputError where the settings name fewer steps than levels.
        """
        levels = levels or self.pyramid.levels
        self.sampling.level_steps(levels)  # which raises, if it does, before any work
        if not isinstance(labels, Conditions):
            labels = torch.as_tensor(labels, dtype=torch.int64)
        branches = guidance_branches(as_conditions(labels), self.network.null_label, self.sampling.guided)
        labels = branches.to(self.device)  # [branches, B]
        contexts: ContextCache | ContextRecomputation
        if self.use_cache:
            contexts = ContextCache(self.evaluator, self.sampling, self.device, self.offload)
        else:
            contexts = ContextRecomputation(self.evaluator, self.sampling, self.device)

        videos = []
        for level in range(levels):
            plan = plan_level(self.pyramid, self.diffusion, self.sampling, level)
            shape = (len(indices), self.network.config.channels, *self.pyramid.resolution(level, self.sampling.canvas))
            noise = {
                stream: PerSampleNoise([stream_seed(seed, index, stream, level) for index in indices], self.device)
                for stream in (START, CHURN, CONTEXT)
            }
            groups, tilings = [], []
            for members, starts in group_starts(plan.tilings):
                made = make_groups(level, self.network, starts, labels, self.call_sizes.split)
                groups += made
                tilings += [members] * len(made)
            contexts.begin(level, groups)
            canvas = _Canvas(self, plan, groups, tilings, contexts, (len(labels), *shape))
            x = self._solve(level, plan, canvas, noise, shape, videos[-1] if videos else None)
            if level + 1 < levels:
                windows = groups
                if len(plan.tilings) > 1:
                    grid = tile_starts(self.pyramid, level, self.sampling.overlap, self.sampling.canvas)
                    windows = windows_of(groups, level, self.network, grid, labels, self.call_sizes.split)
                contexts.finish(x, noise[CONTEXT](shape), windows)
            videos.append(x)
        return videos

    def _solve(self, level, plan, canvas, noise, shape, parent):
        """The level's video from noise or, where the plan says so, from the level below."""
        d = self.diffusion
        s_in, start = d.scale_in(level), noise[START](shape)
        if plan.from_parent:
            enlarged = enlarge_video(parent, self.shrink, self.pyramid.split)
            y = add_noise(enlarged, start, plan.sigmas[:1].expand(len(start)), s_in)
        else:
            y = plan.sigmas[0].float() * start
        if not plan.second_order:
            solve = multistep if self.sampling.solver == "multistep" else euler
            return solve(canvas, y, plan.sigmas, s_in)
        s = self.sampling
        return heun_stochastic(
            canvas,
            y,
            plan.sigmas,
            s_in,
            noise[CHURN],
            S_churn=s.S_churn,
            S_min=d.sigma(level, s.S_min),
            S_max=d.sigma(level, s.S_max),
            S_noise=s.S_noise,
        )


class _Canvas:
    """The denoiser of a level's whole canvas, as the solvers call it: `canvas(y, sigma)` estimates x.

    groups: all tiles of the plan's tilings; tilings: for each group the set of tilings that it belongs to; shape:
    [branches, B, C, T, H, W].
    """

    def __init__(self, sampler, plan, groups, tilings, contexts, shape):
        self.sampler, self.plan, self.contexts = sampler, plan, contexts
        self.groups, self.tilings, self.branches = groups, tilings, shape[0]
        self.done = 0  # evaluations
        self.estimates = None  # of the latest evaluation, [branches, B, C, T, H, W]
        device, sampling = sampler.device, sampler.sampling
        self.weights, self.scales = [], []  # per tiling: of each tile in a sum, and of the sum
        for tiling in plan.tilings:
            weighted = sampling.tile_weights == "feathered" and not tiling.touching
            self.weights.append(_on(device, tiling.feathered_weights()) if weighted else None)
            self.scales.append(None if weighted or tiling.touching else tile_scale(tiling, shape[3:], device))

    def __call__(self, y, sigma):
        sampler, step = self.sampler, self.plan.step_of(self.done)
        sampling, turn = sampler.sampling, self.plan.turns[step]
        totals = self._begin(y, turn)
        for index, group in enumerate(self.groups):
            if turn not in self.tilings[index]:
                continue
            fixed = self.contexts.fixed_for(index)
            estimate, out = sampler.evaluator(
                group.level, group.take(y), sigma, group.labels, fixed, group.latents, group.real
            )
            if group.latents is not None:
                group.latents = out.latents
            if self.plan.tilings[turn].touching and tile_groups.by_index(y):
                group.put(totals, estimate)
            else:
                group.add(totals, estimate, self.weights[turn])
        if self.scales[turn] is not None:
            totals *= self.scales[turn]
        self.estimates = totals
        estimate = totals[0]
        if len(totals) > 1:
            estimate = totals[1] + sampling.guidance_at(step) * (totals[0] - totals[1])
        if sampling.dynamic_threshold:
            estimate = dynamic_threshold(estimate, sampling.dynamic_threshold)
        self.done += 1
        if sampler.on_step is not None:
            sampler.on_step(self.groups[0].level, self.done, self.plan.evaluations)
        return estimate

    def _begin(self, y, turn):
        """Sums [branches, B, C, T, H, W] to add this step's tiles to: zeros where they are, the last estimates
        elsewhere."""
        box = self.plan.tilings[turn].box
        if self.estimates is None or all(s.start == 0 and s.stop == n for s, n in zip(box, y.shape[2:])):
            return y.new_zeros(self.branches, *y.shape)
        totals = self.estimates.clone()
        totals[(..., *box)] = 0
        return totals


def _on(device, weights):
    return [{start: values.to(device) for start, values in axis.items()} for axis in weights]


def tile_scale(tiling: "Tiling", size: tuple[int, int, int], device: torch.device | str = "cpu") -> torch.Tensor:
    """One over the number of tiles that cover each sample of a canvas of `size`, [T, H, W]; 1 where none does.

    Exact: the numbers are powers of 2.
    """
    rf, rh, rw = tiling.patch
    count = torch.zeros(size, device=device)
    for f, h, w in tiling.starts.tolist():
        count[f : f + rf, h : h + rh, w : w + rw] += 1
    return 1 / count.clamp(min=1)
