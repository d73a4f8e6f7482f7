"""Training steps as `hpdm.training.train` makes them: loss with self-conditioning, gradient, clipping, LAMB, average.

Videos are random and on the device already; data loading is not in it.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch

from hpdm.config import Config, override_config
from hpdm.methods import Method, make_method
from hpdm.model.rin import set_attention_precision
from hpdm.training.ema import EMA
from hpdm.training.loss import seed_dropout
from hpdm.training.optimizer import learning_rate, make_optimizer
from hpdm.training.plan import count_flops
from hpdm_eval.benchmarks.gpu.bench import PRECISIONS, ROUNDS, SECONDS, Bench, Result

# Whose matrix products a precision's share of the roof is of; half-precision attention leaves most products in TF32.
ROOF_OF = {"fp32": "fp32", "attention-bf16": "tf32", "attention-fp16": "tf32"}


class Trainer:
    """A network on the device with its optimizer and average."""

    def __init__(self, config: Config, device: torch.device, *, compile: bool = False) -> None:
        self.config, self.device, settings = config, torch.device(device), config.training
        torch.manual_seed(settings.seed)
        with self.device:  # 700 million starting values take seconds on a processor
            self.network = make_method(config).make_network().train()
        if compile:
            self.network.compile_blocks()
        self.optimizer = make_optimizer(self.network, settings)
        self.ema = EMA(self.network, settings.ema_half_life, settings.ema_ramp_up)
        self.parameters = list(self.network.parameters())
        self.number = 0

    def videos(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(uint8 [batch, 3, T, H, W], labels int64 [batch]), random."""
        size = make_method(self.config).video_size
        video = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, device=self.device)
        return video, torch.zeros(batch, dtype=torch.int64, device=self.device)

    def method(self, batch: int) -> Method:
        """The method of the configuration with `batch` videos a step."""
        training = replace(self.config.training, batch=batch, micro_batch=None)
        return make_method(replace(self.config, training=training))

    def prepare(self, precision: str, checkpointing: bool) -> None:
        self.network.checkpoint_blocks = checkpointing
        set_attention_precision(self.network, PRECISIONS[precision][2])

    def forward_backward(
        self, bench: Bench, method: Method, video: torch.Tensor, labels: torch.Tensor, precision: str
    ) -> torch.Tensor:
        """Loss and gradients of one pass; returns the loss."""
        batch, seed = len(video), self.config.training.seed
        seed_dropout(seed, self.number, range(batch))
        with bench.autocast(precision):
            losses = method.loss(self.network, video, labels, step=self.number, positions=range(batch))
        loss = losses.mean()
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """What follows the gradient in a step."""
        settings = self.config.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.number)
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm or math.inf)
        self.optimizer.step()
        self.number += 1
        self.ema.update(self.number)
        self.optimizer.zero_grad()


def step_times(
    bench: Bench,
    trainer: Trainer,
    *,
    batch: int,
    precision: str,
    checkpointing: bool = False,
    rounds: int = ROUNDS,
    warm_up: int = 1,
    seconds: float = SECONDS,
    typical: Any = statistics.median,
) -> tuple:
    """(median seconds of a pass forward and backward, of the update, loss of the last, peak memory in GiB).

    typical: what is made of the rounds in place of the median.
    """
    bench.collect()  # blocks of another batch's sizes
    trainer.prepare(precision, checkpointing)
    video, labels = trainer.videos(batch)
    method = trainer.method(batch)
    passes, updates, rounds = [], [], 1 if bench.rehearse else rounds
    with bench.tf32(precision):
        for turn in range(warm_up + rounds):
            if turn == warm_up:
                bench.reset_peak()
            began = bench.clock()
            loss = trainer.forward_backward(bench, method, video, labels, precision)
            between = bench.clock()
            trainer.update()
            if turn >= warm_up:
                passes.append(between - began)
                updates.append(bench.clock() - between)
                if sum(passes) > seconds:
                    break
    return typical(passes), typical(updates), loss.item(), bench.peak_gib()


def steps(
    bench: Bench, *, size: str, cases: Sequence[tuple], compile: bool = False, variants: Any = None, **timing: Any
) -> Iterator[Result]:
    """Videos per second of whole steps; `cases` are (precision, micro-batch, activation checkpointing).

    variants: {name: settings to change, or None for the size's own} in place of those; each case then has a fourth
    member, the variant's name. A micro-batch counts clips.
    """
    base = bench.config(size, *(["training.compile=true"] if compile else []))
    for precision, batch, checkpointing, *variant in cases:
        batch = bench.few(batch)
        settings = {
            "size": base.size,
            "precision": precision,
            "micro_batch": batch,
            "checkpointing": checkpointing,
            "compile": compile,
        }
        config = base
        if variant:
            settings["variant"] = variant[0]
            config = override_config(base, variants[variant[0]])
        yield bench.attempt(
            "training step",
            settings,
            partial(_step, bench, base, config, precision, batch, checkpointing, compile, timing),
        )


def _step(bench, base, config, precision, batch, checkpointing, compile, timing):
    if compile:
        torch.compiler.reset()  # other precisions are other graphs, of which there is a limit
    trainer = bench.kept((base, compile), lambda: Trainer(base, bench.device, compile=compile))
    trainer.config, trainer.number = config, 0  # the same steps for all, which draw the same
    began = bench.clock()
    of_pass, of_update, loss, peak = step_times(
        bench,
        trainer,
        batch=batch,
        precision=precision,
        checkpointing=checkpointing,
        warm_up=2 if compile else 1,
        **timing,
    )
    flops = batch * sample_flops(config)
    finest = batch * config.training.windows(config.pyramid.levels)[-1]
    details = {
        "finest windows/s": finest / (of_pass + of_update),
        "pass ms": 1e3 * of_pass,
        "update ms": 1e3 * of_update,
        "videos/s without update": batch / of_pass,
        "TFLOP/s": flops / of_pass / 1e12,
        "peak GiB": peak,
        "loss": loss,
        "seconds with warm-up": bench.clock() - began,
    }
    if roof := bench.facts.get("roof", {}).get(ROOF_OF.get(precision, precision)):
        details["share of the roof"] = flops / of_pass / roof
    return batch / (of_pass + of_update), "videos/s", details


def updates(bench: Bench, *, sizes: Sequence[str]) -> Iterator[Result]:
    """Milliseconds of what follows the gradient: LAMB's step tensor by tensor and by lists of them, and the rest."""
    for size in sizes:
        config = bench.config(size)
        settings = {"size": config.size, "optimizer": config.training.optimizer}
        yield bench.attempt("update", settings, partial(_update, bench, config))


def _update(bench, config):
    trainer = bench.kept((config, False), lambda: Trainer(config, bench.device))
    for parameter in trainer.parameters:
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    before = bench.clock()
    trainer.optimizer.step()
    details = {
        "first ms": 1e3 * (bench.clock() - before),
        "clipping ms": 1e3 * bench.seconds(lambda: torch.nn.utils.clip_grad_norm_(trainer.parameters, 1.0)),
        "average ms": 1e3 * bench.seconds(lambda: trainer.ema.update(1000)),
        "tensors": len(trainer.parameters),
    }
    return 1e3 * bench.seconds(trainer.optimizer.step), "ms", details


@lru_cache(maxsize=32)
def sample_flops(config: Config) -> int:
    """FLOPs of the matrix products of a training sample, what checkpointing computes again left out.

    A forward pass, twice as much backward, and the first pass of self-conditioning.
    """
    training = replace(config.training, activation_checkpointing=False)
    return count_flops(replace(config, training=training)).training
