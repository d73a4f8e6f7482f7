"""Sampling a video level by level, each level tile by tile on one canvas (section 4.4 of the paper).

At every step the estimates of all tiles are averaged where they overlap, and the whole canvas takes the step: so tiles
share their noise and agree on what lies between them (MultiDiffusion, arXiv 2302.08113). Level 0 is sampled with EDM's
stochastic second-order solver, later levels with Euler's. A level sees its finished coarser levels through the cache.

What sample i becomes depends on its seed (a function of the run's seed and i), its label and the settings: noise is
drawn per sample, and tiles share calls of the network only in sizes that change no bit (see calls.py).

B samples of a batch, C channels, L levels, T tiles of a call.
"""

import numpy as np
import torch

from hpdm.conditioning import Conditions, guidance_branches
from hpdm.diffusion import PerSampleNoise, dynamic_threshold, euler, heun_stochastic
from hpdm.pyramid import tile_starts
from hpdm.sampling.cache import ContextCache, ContextRecomputation
from hpdm.sampling.calls import CallSizes
from hpdm.sampling.groups import Evaluator, make_groups

START, CHURN, CONTEXT = 0, 1, 2  # streams of random numbers that must not meet


def stream_seed(seed: int, index: int, stream: int, level: int) -> int:
    """Seed of one stream of noise of sample `index` of a run."""
    return int(np.random.SeedSequence([seed, index, stream, level]).generate_state(1, np.uint64)[0] >> 1)


class TiledSampler:
    """Samples batches of videos with a network (`HPDM`, or anything with its per-level interface) in eval mode.

    diffusion, sampling: `DiffusionConfig` and `SamplingConfig`; call_sizes: how tiles are put into calls;
    use_cache=False recomputes all context at every step; offload keeps the cache in host memory (CUDA only);
    on_step(level, evaluations done, evaluations of the level) is called after each evaluation of a canvas.
    `evaluator.block_evaluations` counts the work done.
    """

    def __init__(
        self, network, diffusion, sampling, *, device="cpu", call_sizes=None, use_cache=True, offload=False,
        on_step=None,
    ):
        self.network, self.pyramid = network, network.pyramid
        self.diffusion, self.sampling = diffusion, sampling
        self.device = torch.device(device)
        self.call_sizes = call_sizes or CallSizes(sizes=(1,), threads=1)
        self.use_cache, self.offload = use_cache, offload
        self.on_step = on_step
        self.evaluator = Evaluator(network, diffusion)

    @torch.no_grad()
    def sample(self, indices, labels, seed: int, levels: int | None = None) -> list[torch.Tensor]:
        """Videos of samples `indices` of a run with `seed`: float32 [B, C, T, H, W] per level.

        labels: int64 [B], or `Conditions` [B]; levels: how many levels to sample, all by default; values are about
        [-1, 1], not clipped. Raises InputError where the settings name fewer steps than levels.
        """
        levels = levels or self.pyramid.levels
        steps = self.sampling.level_steps(levels)
        if not isinstance(labels, Conditions):
            labels = torch.as_tensor(labels, dtype=torch.int64)
        branches = guidance_branches(labels, self.network.null_label, self.sampling.guided)
        labels = branches.to(self.device)  # [branches, B]
        if self.use_cache:
            contexts = ContextCache(self.evaluator, self.sampling, self.device, self.offload)
        else:
            contexts = ContextRecomputation(self.evaluator, self.sampling, self.device)

        videos = []
        for level in range(levels):
            shape = (len(indices), self.network.config.channels, *self.pyramid.resolution(level, self.sampling.canvas))
            noise = {
                stream: PerSampleNoise([stream_seed(seed, index, stream, level) for index in indices], self.device)
                for stream in (START, CHURN, CONTEXT)
            }
            starts = tile_starts(self.pyramid, level, self.sampling.overlap, self.sampling.canvas)
            groups = make_groups(level, self.network, starts, labels, self.call_sizes.split)
            contexts.begin(level, groups)
            x = self._solve(level, steps[level], groups, contexts, noise, shape, len(labels))
            last = level + 1 == levels
            contexts.finish(x, None if last else noise[CONTEXT](shape), last)
            videos.append(x)
        return videos

    def _solve(self, level, steps, groups, contexts, noise, shape, branches):
        second_order = level < self.sampling.heun_levels
        evaluations = 2 * steps - 1 if second_order else steps
        weight = self._weight(level)
        done = 0

        def denoiser(y, sigma):
            nonlocal done
            totals = y.new_zeros(branches, *y.shape)
            for index, group in enumerate(groups):
                fixed = contexts.fixed_for(index)
                estimate, out = self.evaluator(
                    level, group.take(y), sigma, group.labels, fixed, group.latents, group.real
                )
                if group.latents is not None:
                    group.latents = out.latents
                group.add(totals, estimate)
            totals *= weight
            estimate = totals[0]
            if branches > 1:
                scale = self.sampling.guidance_at(done // 2 if second_order else done)
                estimate = totals[1] + scale * (totals[0] - totals[1])
            if self.sampling.dynamic_threshold:
                estimate = dynamic_threshold(estimate, self.sampling.dynamic_threshold)
            done += 1
            if self.on_step is not None:
                self.on_step(level, done, evaluations)
            return estimate

        d = self.diffusion
        sigmas = d.noise_levels(level, steps)
        y = sigmas[0].float() * noise[START](shape)
        s_in = d.scale_in(level)
        if not second_order:
            return euler(denoiser, y, sigmas, s_in)
        s = self.sampling
        return heun_stochastic(
            denoiser, y, sigmas, s_in, noise[CHURN], S_churn=s.S_churn, S_min=d.sigma(level, s.S_min),
            S_max=d.sigma(level, s.S_max), S_noise=s.S_noise,
        )

    def _weight(self, level):
        """One over the number of tiles that cover each sample of the canvas, [T, H, W]: exact, they are powers of 2."""
        rf, rh, rw = self.pyramid.patch
        canvas = self.sampling.canvas
        count = torch.zeros(self.pyramid.resolution(level, canvas), device=self.device)
        for f, h, w in tile_starts(self.pyramid, level, self.sampling.overlap, canvas).tolist():
            count[f:f + rf, h:h + rh, w:w + rw] += 1
        return 1 / count
