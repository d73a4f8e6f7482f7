"""Evaluation while training: every `training.eval_every` steps videos are sampled with the averaged weights and judged.

What judges is none of hpdm's business: an evaluator of the entry-point group `hpdm.evaluators`, such as hpdm_eval's, is
looked up when it is asked for. All processes sample, each its share of the videos, with whole weights also under FSDP
(those are gathered for as long); then the first one judges in a thread while all of them exchange a word every other
second, so that no exchange times out. Nothing of it reaches the training: random states, number of threads, weights and
clocks are as before. A step that is evaluated has a checkpoint, saved before, so an evaluation that is cut short is
made when the run goes on; one that fails is logged as failed and training goes on.
"""

import dataclasses
import random
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import entry_points
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from hpdm.data.loader import default_workers, open_clips
from hpdm.model.rin import set_attention_precision
from hpdm.sampling.calls import find_call_sizes
from hpdm.sampling.memory import fitting_batch, fitting_tile_batch, free_memory
from hpdm.sampling.settings import tiling
from hpdm.sampling.writer import SamplesFolder, to_clips
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm.training.distributed import gathered, whole_bytes
from hpdm.training.log import read_log

if TYPE_CHECKING:
    from hpdm.config import Config
    from hpdm.data.loader import TrainingClips
    from hpdm.methods import Method
    from hpdm.model.text import Conditioner
    from hpdm.training.distributed import Processes
    from hpdm.training.ema import Average
    from hpdm.training.log import RunLog
    from hpdm.training.signals import StopRequest


GROUP = "hpdm.evaluators"
FOLDER = "evaluations"
SECONDS = 2.0  # between exchanges while the first process judges
PATIENCE = 10.0  # seconds for an evaluator to end after it was asked to
GIB = 2**30
FAILED = "evaluation_failed"  # in the log: why, where something could not be computed


class Abandoned(Exception):
    """The run was asked to stop in the middle of an evaluation."""


def find_evaluator() -> Any:
    """The class of the installed evaluator; raises InputError where there is none.

    It is called as `Evaluator(config, folder, device=...)`, raises InputError for settings that cannot be computed, and
    its instances as `(samples, step, draw_reference, stopped)`: the folder of samples; a function that writes reference
    clips into a folder; a function that says whether to give up. They return
    {metric: {"value": ..., "ci95": ...}}, or {metric: {"failed": why}}.
    """
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if not found:
        raise InputError(
            f"training.eval_every needs an evaluator (entry point {GROUP}), and none is installed; "
            "install hpdm again, with hpdm_eval"
        )
    return found[0].load()


def open_evaluations(
    config: "Config", run: str | Path, evaluator: Any, *, process: "Processes", **options: Any
) -> "Evaluations":
    """The `Evaluations` of a run; `evaluator` in place of the installed one. Raises InputError on all processes."""
    made = []
    if config.training.eval_every:
        with untouched(process.device):
            process.agreed(
                lambda: made.append(
                    evaluator or find_evaluator()(config, Path(run) / FOLDER, device=str(process.device))
                )
            )
    return Evaluations(config, run, *(made or [None]), process=process, **options)


class Evaluations:
    """The evaluations of a run: which are due, how they are made and logged.

    evaluator: see `find_evaluator`; None where training.eval_every is 0, and on processes that do not judge. `seconds`
    is what they took so far. Raises InputError for settings with which nothing can be sampled.
    """

    def __init__(
        self,
        config: "Config",
        run: str | Path,
        evaluator: Any,
        *,
        process: "Processes",
        method: "Method",
        stop: "StopRequest",
        quiet: bool,
    ) -> None:
        self.config, self.run, self.evaluator = config, Path(run), evaluator
        self.process, self.method, self.stop, self.quiet = process, method, stop, quiet
        self.seconds, self.levels = 0.0, config.pyramid.levels
        chosen = {name: value for name in ("steps", "overlap") if (value := getattr(config.eval, name)) is not None}
        self.sampling = dataclasses.replace(config.sampling, canvas=(1, 1, 1), **chosen)
        if config.training.eval_every:
            self.sampling.level_steps(self.levels)
            if not method.makes_videos:
                raise InputError(f"training.eval_every: {config.method.name} makes no videos by itself")

    def due(self, step: int) -> bool:
        every = self.config.training.eval_every
        return bool(every) and step % every == 0

    def missing(self, step: int) -> bool:
        """Whether the run ended between the checkpoint after `step` steps and the end of its evaluation."""
        return (
            self.due(step)
            and step > 0
            and self.process.from_first(
                not any(line["step"] == step and is_evaluation(line) for line in read_log(self.run))
            )
        )

    def make(
        self,
        step: int,
        network: nn.Module,
        ema: "Average",
        clips: "TrainingClips",
        conditioner: "Conditioner",
        log: "RunLog | None",
    ) -> bool:
        """Evaluate the average after `step` steps; False where the run was asked to stop before that was done."""
        began = time.monotonic()
        samples = self.run / FOLDER / f".samples-{step:08d}"
        if self.process.first:
            for left in samples.parent.glob(".samples-*"):
                shutil.rmtree(left, ignore_errors=True)
        try:
            with untouched(self.process.device):
                reason = self._sample(samples, network, ema, clips, conditioner)
                figures = {} if reason else self._judge(samples, step)
                if isinstance(figures, str):
                    reason, figures = figures, {}
        except Abandoned:
            note(f"the evaluation of step {step} is given up; it is made when the run goes on", self.quiet)
            return False
        finally:
            if self.process.first:
                shutil.rmtree(samples, ignore_errors=True)
            self.seconds += time.monotonic() - began
        if self.process.first:
            self._log(log, step, figures, reason, time.monotonic() - began)
        return True

    def _sample(self, folder, network, ema, clips, conditioner) -> str | None:
        """Write the samples; returns what is in the way of that, the same on all processes, None if nothing."""
        trouble = None
        room, needed = free_memory(self.process.device), whole_bytes(network)
        if needed > room:
            trouble = f"the whole weights take {needed / GIB:.1f} GiB, {room / GIB:.1f} are free"
        if self.process.any(trouble is not None):
            return trouble or "another process lacks the memory for the whole weights"
        network.eval()
        set_attention_precision(network, "fp32")  # as hpdm-sample does
        try:
            with ema.applied(), gathered(network), torch.no_grad():
                trouble = self._attempt(lambda: self._write_samples(folder, network, clips, conditioner))
        finally:
            set_attention_precision(network, self.config.training.attention_precision)
            network.train()
        if self.process.any(self.stop.requested):
            raise Abandoned
        return next(filter(None, self.process.of_all(trouble)), None)

    def _write_samples(self, folder, network, clips, conditioner):
        process, settings = self.process, self.config.eval
        own = list(range(process.rank, settings.num, process.world_size))
        if process.first:
            self._manifest(folder).write_manifest()
        if not own:
            return
        plan = {"levels": self.levels, "device": process.device}
        batch = min(fitting_batch(network, self.sampling, **plan), len(own))
        tiles = fitting_tile_batch(network, self.sampling, batch=batch, **plan)
        sampler = self.method.sampler(
            network,
            self.config.diffusion,
            self.sampling,
            device=process.device,
            call_sizes=find_call_sizes(network, tiles, process.device),
        )
        sampler.on_step = lambda *progress: self._stop_if_requested()
        for first in range(0, len(own), batch):
            chosen = own[first : first + batch]
            labels, conditions = self._conditions(chosen, clips, conditioner)
            videos = to_clips(sampler.sample(chosen, conditions, settings.seed, self.levels)[-1])
            for index, label, video in zip(chosen, labels, videos, strict=True):
                with atomic_file(folder / f"{index:05d}_c{label:03d}.npy") as file:
                    np.save(file, video, allow_pickle=False)

    def _manifest(self, folder):
        """The SamplesFolder whose `samples.json` says how the videos were tiled."""
        settings = {
            "seed": self.config.eval.seed,
            "format": "npy",
            "levels": self.levels,
            **dataclasses.asdict(self.sampling),
        }
        about = {"resolution": self.method.resolution(self.levels - 1), **tiling(self.method, self.levels - 1)}
        return SamplesFolder(folder, settings, about, names=self.config.trained_on.class_names)

    def _conditions(self, chosen, clips, conditioner):
        """(labels, what the network is told) of samples by number: the trained classes in turn, or clips' captions.

        Captions are those of the run's first clips that are videos, not pictures, for as many samples.
        """
        network = self.config.network
        if network.text_width or network.measures:
            videos = (number for number in count() if clips.item(number) < clips.videos or not clips.videos)
            numbers = list(islice(videos, max(chosen) + 1))
            return [0] * len(chosen), conditioner(default_collate([clips[numbers[index]][1] for index in chosen]))
        classes = self.config.trained_on.classes or range(network.num_classes) or [0]
        labels = [classes[number % len(classes)] for number in chosen]
        return labels, labels

    def _judge(self, samples, step):
        """The evaluator's figures on the first process, {} on the others; a text where it failed."""
        outcome, given_up = [{}], threading.Event()
        judge = threading.Thread(
            daemon=True,
            target=lambda: outcome.append(
                self._attempt(lambda: self.evaluator(samples, step, self._draw_reference, given_up.is_set), keep=True)
            ),
        )
        if self.process.first:
            self._manifest(samples).write_manifest()  # with all samples
            _free_cache(self.process.device)  # for the judge
            judge.start()
        deadline = time.monotonic() + 60 * self.config.eval.minutes
        while self.process.any(judge.is_alive()):
            if self.process.any(self.stop.requested):
                given_up.set()
                if self.process.first:
                    judge.join(PATIENCE)
                raise Abandoned
            if self.process.first and time.monotonic() > deadline:
                given_up.set()
                judge.join(PATIENCE)
                outcome.append(f"not done after eval.minutes={self.config.eval.minutes:g}")
                judge = threading.Thread()
            judge.join(SECONDS) if judge.ident else time.sleep(SECONDS / 10)
        figures = outcome[-1]
        failed = isinstance(figures, str) or any("failed" in figure for figure in figures.values())
        if self.process.any(failed) and self.process.any(self.stop.requested):
            raise Abandoned  # what asks a job to end often asks all of its processes, those of the judge too
        return figures

    def _draw_reference(self, folder):
        """Write the reference's clips, [T, H, W, 3] as the network sees them, as arrays into a folder."""
        config, settings = self.config, self.config.eval
        data = config.data if settings.part is None else dataclasses.replace(config.data, part=settings.part)
        frames, height, width = self.method.video_size
        share = 1.0 if data.image_share == 1 else 0.0  # pictures stand still, and samples are to be videos
        data = dataclasses.replace(data, flip=False, image_share=share)
        clips = open_clips(data, frames=frames, height=height, width=width, seed=config.training.seed, quiet=True)
        workers = default_workers() if data.num_workers is None else data.num_workers
        clips.decode_with(workers if clips.source.in_process else max(workers, 1))
        with closing(clips):
            numbers = iter(range(min(settings.num_reference, clips.videos or clips.images)))
            pending = deque((number, clips.request(number)) for number in islice(numbers, 2 * workers + 1))
            while pending:
                self._stop_if_requested()
                number, clip = pending.popleft()
                pending.extend((number, clips.request(number)) for number in islice(numbers, 1))
                video, _ = clip.result()
                np.save(Path(folder) / f"{number:06d}.npy", video.permute(1, 2, 3, 0).numpy(), allow_pickle=False)

    def _attempt(self, function, keep=False):
        """What `function` returns, if `keep`, or a line on how it failed; only a request to stop gets through."""
        try:
            value = function()
            return value if keep else None
        except Abandoned:
            return None
        except Exception as error:
            return " ".join(f"{'' if isinstance(error, InputError) else type(error).__name__ + ': '}{error}".split())

    def _stop_if_requested(self):
        if self.stop.requested:
            raise Abandoned

    def _log(self, log, step, figures, reason, seconds):
        line, shown, num = {"step": step, "evaluation_seconds": round(seconds, 3)}, [], self.config.eval.num
        failed = {reason: None} if reason else {}
        for name, figure in figures.items():
            if "failed" in figure:
                failed[figure["failed"]] = None
                continue
            line[f"{name}@{num}"] = figure["value"]
            shown.append(f"{name}@{num} {figure['value']:.4g}")
            if figure.get("ci95") is not None:
                line[f"{name}@{num}_ci95"] = list(figure["ci95"])
                shown[-1] += " [{:.4g}, {:.4g}]".format(*figure["ci95"])
        if shown:
            note(f"step {step}: {', '.join(shown)}", self.quiet)
        if failed:
            times = 1 + sum(FAILED in earlier for earlier in read_log(self.run))
            text = "; ".join(failed)
            line |= {FAILED: text[:500], "evaluations_failed": times}
            note(f"step {step}: the evaluation failed, {times} so far: {text}", self.quiet)
        log.write(line)


def is_evaluation(line: dict) -> bool:
    """Whether a line of the log is about an evaluation and not about steps."""
    return "evaluation_seconds" in line


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Random states of Python, NumPy and PyTorch and the number of threads are after the block as before it."""
    legacy = np.random.get_state()  # noqa: NPY002, whoever draws from it must not notice
    states = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    of_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        _free_cache(device)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(states[1])
        torch.set_num_threads(states[2])
        if of_gpu is not None:
            torch.cuda.set_rng_state(of_gpu, device)


def _free_cache(device):
    """Give memory that PyTorch only keeps for later use back to the GPU, where others can have it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
