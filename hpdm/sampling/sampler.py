"""The sampler behind `hpdm-sample` and `hpdm.HPDM.sample`: a checkpoint, a request, and videos by their numbers.

B samples of a batch, C channels, T frames, H rows, W columns.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from hpdm.checkpoint.load import Checkpoint
from hpdm.config import Config, override_config
from hpdm.config.sampling import SamplingConfig
from hpdm.diffusion import DiffusionConfig
from hpdm.methods import VideoSampler
from hpdm.model.threads import product_size, threads, threads_by_work
from hpdm.sampling.calls import CallSizes, call_rates, find_call_sizes, largest_calls, reference_size
from hpdm.sampling.memory import MemorySettings, check_memory, fitting_batch, fitting_tile_batch
from hpdm.sampling.precision import network_precision
from hpdm.sampling.prompts import choose_conditions
from hpdm.sampling.request import SampleRequest
from hpdm.sampling.settings import apply_request, check_levels, describe_plan, fit_canvas
from hpdm.sampling.steps import count_block_evaluations
from hpdm.sampling.writer import to_clips
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.progress import note


class HasCheckpoint(Protocol):
    """A loaded model, such as `hpdm.HPDM`."""

    checkpoint: Checkpoint


class Sampler:
    """Samples of one checkpoint under one `SampleRequest`.

    Making one settles what decides the samples, and raises InputError for what the model cannot make; `prepare` settles
    how they are computed. Sample i depends on the seed, i, what it shows and the settings, not on batch sizes, memory
    or the number of processes (but for its last bits with `calls="fastest"`).

    >>> import hpdm
    >>> request = hpdm.SampleRequest(num=2, classes=[0, 3], settings={"steps": (2, 1, 1), "overlap": "w"})
    >>> sampler = hpdm.Sampler(hpdm.load("nano"), request)
    >>> [clips[-1].shape for numbers, clips in sampler.iterate([0, 1])]
    [(2, 16, 32, 32, 3)]
    >>> sampler.sampling.steps, sampler.levels
    ((2, 1, 1), 3)
    """

    sampling: SamplingConfig
    diffusion: DiffusionConfig
    levels: int
    batch: int | None = None  # of `prepare`
    tile_batch: int | None = None

    def __init__(
        self,
        model: Checkpoint | HasCheckpoint,
        request: SampleRequest,
        *,
        device: torch.device | str | None = None,
        quiet: bool = True,
    ) -> None:
        """device: None for where the network is, or a name as PyTorch's, or auto; quiet: no notes on stderr."""
        checkpoint = model if isinstance(model, Checkpoint) else model.checkpoint
        self.checkpoint, self.request, self.quiet = checkpoint, request, quiet
        self.network, self.method = checkpoint.network, checkpoint.method
        if request.num < 1:
            raise InputError(f"num must be at least 1; got {request.num}")
        if not self.method.makes_videos:
            raise InputError(f"{checkpoint.config.method.name} makes no videos by itself")
        self.device = next(self.network.parameters()).device if device is None else choose_device(device)
        self.config = _with_encoder(checkpoint.config, request.text_encoder)
        sampling, self.diffusion = apply_request(self.config, request)
        self.levels = check_levels(self.config, sampling, request.levels)
        self.sampling = fit_canvas(self.method, sampling, self.levels, request.size, request.beyond_training)
        self.conditions = choose_conditions(self.config, request, self.device)
        self.network.to(self.device)  # only now: a text encoder was there before it
        self.exact_sizes: CallSizes | None = None
        self.call_sizes: CallSizes | None = None
        self.rates: dict[str, float] = {}
        self._sampler: VideoSampler | None = None

    @property
    def resolutions(self) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of the videos of each level that is sampled."""
        return [self.method.resolution(level, self.sampling.canvas) for level in range(self.levels)]

    @property
    def blocks_per_video(self) -> int:
        """Block evaluations that a video takes."""
        return count_block_evaluations(
            self.config.network,
            self.config.pyramid,
            self.diffusion,
            self.sampling,
            self.levels,
            use_cache=self.request.use_cache,
        )

    @property
    def block_evaluations(self) -> int:
        """Block evaluations made so far."""
        return 0 if self._sampler is None else self._sampler.evaluator.block_evaluations

    def settings(self) -> dict[str, Any]:
        """Everything that decides a sample's content, flat and JSON-able, without levels and steps of a level."""
        request, diffusion = self.request, self.diffusion
        return {
            "checkpoint": self.checkpoint.sha256,
            "seed": request.seed,
            **self.conditions.settings,
            **dataclasses.asdict(self.sampling),
            "sigma_min": diffusion.sigma_min,
            "sigma_max": diffusion.sigma_max,
            "rho": diffusion.rho,
            **({"noise": diffusion.noise} if diffusion.noise != "absolute" else {}),
            "precision": request.precision if self.device.type == "cuda" else "fp32",
            "calls": request.calls,
        }

    def describe(self) -> str:
        """What sampling would do and take, for people."""
        num, blocks = self.request.num, self.blocks_per_video
        return describe_plan(self.config, self.diffusion, self.sampling, self.resolutions, blocks, num)

    def prepare(self) -> None:
        """Choose how many videos and tiles go through the network at once; `iterate` calls it where nobody has.

        Raises InputError, with what would help, where memory would not do.
        """
        if self._sampler is not None:
            return
        request, device = self.request, self.device
        plan: MemorySettings = {"levels": self.levels, "use_cache": request.use_cache, "offload": request.offload}
        self.batch = min(
            request.batch or fitting_batch(self.network, self.sampling, device=device, **plan), request.num
        )
        self.tile_batch = request.tile_batch or fitting_tile_batch(
            self.network, self.sampling, batch=self.batch, device=device, **plan
        )
        check_memory(self.network, self.sampling, self.batch, self.tile_batch, device, quiet=self.quiet, **plan)
        work = product_size(self.config, reference_size(math.prod(self.network.token_grid)))
        with network_precision(request.precision, device), threads_by_work(work, device):
            exact = find_call_sizes(self.network, self.tile_batch, device)
            self.call_sizes = self.exact_sizes = exact
            if request.calls == "fastest":
                self._take_fastest(exact, largest_calls(self.tile_batch))
        self._sampler = self.method.sampler(
            self.network,
            self.diffusion,
            self.sampling,
            device=device,
            call_sizes=self.call_sizes,
            use_cache=request.use_cache,
            offload=request.offload,
        )

    def _take_fastest(self, exact: CallSizes, fastest: CallSizes) -> None:
        """The largest calls; what exact ones would cost is measured and printed."""
        self.rates = call_rates(self.network, {"exact": exact, "fastest": fastest}, self.device)
        note(
            f"calls of up to {fastest.sizes[-1]} tiles, {self.rates['fastest']:.4g} tiles/s; exact ones, of up to "
            f"{exact.sizes[-1]}, {self.rates['exact']:.4g} tiles/s",
            self.quiet,
        )
        self.call_sizes = fastest

    def videos(
        self, indices: Sequence[int], on_step: Callable[[int, int, int], None] | None = None
    ) -> list[torch.Tensor]:
        """All levels of the samples `indices`, sampled at once: float32 [B, C, T, H, W] each, about [-1, 1].

        on_step(level, evaluations done, evaluations of the level) is called after each evaluation of a level.
        """
        self.prepare()
        assert self._sampler is not None and self.call_sizes is not None, "`prepare` makes them"
        self._sampler.on_step = on_step
        conditions = self.conditions.of([self.conditions.label(index) for index in indices])
        with network_precision(self.request.precision, self.device), threads(self.call_sizes.threads):
            return self._sampler.sample(indices, conditions, self.request.seed, self.levels)

    def iterate(
        self, indices: Sequence[int] | None = None, on_step: Callable[[int, int, int], None] | None = None
    ) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Yield (numbers, clips of each level, uint8 [B, T, H, W, 3]) of samples, a batch at a time; all by default."""
        self.prepare()
        assert self.batch is not None, "`prepare` chooses it"
        indices = range(self.request.num) if indices is None else indices
        for first in range(0, len(indices), self.batch):
            chosen = list(indices[first : first + self.batch])
            yield chosen, [to_clips(videos) for videos in self.videos(chosen, on_step)]


def _with_encoder(config: Config, encoder: str | None) -> Config:
    return override_config(config, [f"text.encoder={json.dumps(encoder)}"]) if encoder else config
