"""Endless, resumable batches: every clip is a function of (seed, the clip's number in the run) and the quarantine.

Clip `g` of a run is position `g mod B` of step `g // B`, where B is the global batch. Its video is the g-th of the
shuffled epochs, its start and flip come from a generator seeded by (seed, g). So a run resumes at any step without
saved loader state, and the clips of a step are the same however many processes and workers share them.

This process draws, and chooses another file where one fails; worker processes decode. A file that crashes or hangs its
decoder is given up after a time that depends on its size.

Shapes: B clips of the global batch, b of them in one delivery, C colours, T frames, H rows, W columns.
"""

import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from hpdm.batches import BatchPlan
from hpdm.config.data import AUTO, PROCEDURAL, DataConfig, check_classes, need_decoder
from hpdm.data.jobs import ClipJob, seconds_of
from hpdm.data.procedural import CLASS_NAMES
from hpdm.data.quarantine import Quarantine
from hpdm.data.sources import AveragedClips, ProceduralClips
from hpdm.support.errors import InputError
from hpdm.video.workers import JobFailed, Workers, available_cores

__all__ = ["DataConfig", "LoadingStopped", "Loader", "TrainingClips", "make_loader", "open_clips", "profile_loader"]

REPLACEMENTS = 16  # damaged videos in a row before a run gives up
STOP_SECONDS = 5.0  # how long a run that was asked to stop still waits for a clip
POLL_SECONDS = 0.25

ORDER, AUGMENTATION = 0, 1  # streams of random numbers that must not meet


class LoadingStopped(Exception):
    """The run was asked to stop while it waited for a clip that does not come."""


class TrainingClips:
    """The clips of a run by their number, which has no end.

    `clips[g]` is (uint8 [C,T,H,W], class id; -1 for none), or for data with captions (..., {"label", "caption",
    "measures"}). The last `source.images` items of the source are images; `image_share` of any clips in a row are such.
    Files are decoded in processes, which start with the first clip; `close()` ends them, so does letting go of the
    clips.
    """

    def __init__(self, source: Any, *, seed: int, flip: bool = False, image_share: float = 0.0) -> None:
        self.source, self.seed, self.flip = source, seed, flip
        self.share = Fraction(image_share).limit_denominator(1_000_000)
        self.images = getattr(source, "images", 0)  # sources without any need not say so
        self.videos = len(source) - self.images
        if (self.share > 0 and not self.images) or (self.share < 1 and not self.videos):
            raise InputError(
                f"data.image_share={image_share:g}, but the data have {self.videos} videos and {self.images} images"
            )
        self.quarantine = Quarantine()
        self.fingerprint: str | None = None  # see hpdm.training.data.fingerprint_of
        self._epochs, self._workers = {}, 0
        self._pool: Workers | None = None

    def item(self, number: int) -> int:
        """Which item of the source clip `number` shows: a new permutation of all videos, or images, in every epoch."""
        images_before = number * self.share.numerator // self.share.denominator
        of_images = (number + 1) * self.share.numerator // self.share.denominator > images_before
        count = self.images if of_images else self.videos
        epoch, place = divmod(images_before if of_images else number - images_before, count)
        key = of_images, epoch
        if key not in self._epochs:
            kept = {(of_images, epoch - 1)} | {other for other in self._epochs if other[0] != of_images}
            self._epochs = {other: order for other, order in self._epochs.items() if other in kept}
            path = [self.seed, ORDER, epoch, *([1] if of_images else [])]
            self._epochs[key] = np.random.default_rng(path).permutation(count)
        return int(self._epochs[key][place]) + (self.videos if of_images else 0)

    def __getitem__(self, number: int) -> Any:
        return self.request(number).result()

    def request(self, number: int) -> "PendingClip":
        """The PendingClip of that number, which workers begin to make."""
        return PendingClip(self, number)

    def read(self, item: int, random: np.random.Generator) -> tuple[torch.Tensor, Any]:
        """(uint8 [C,T,H,W], what is delivered with it) of one clip of an item, whatever its number.

        random: NumPy Generator of what the configuration leaves to chance. Raises DecodingError for a damaged file.
        """
        from hpdm.video.reader import DecodingError

        job = ClipJob(source=self.source.job(item, random), random=random, captions=self.source.captions(item))
        try:
            made, reason = self.submit(job).result()
        except JobFailed as failure:
            made, reason = None, str(failure)
        if reason:
            raise DecodingError(reason)
        return torch.from_numpy(made[0]), self.source.conditions(item, made[1])

    def submit(self, job: ClipJob) -> Future:
        """Future of ((array, caption), None) of a ClipJob, or of (None, reason)."""
        if self._pool is None and (self._workers or not self.source.in_process):
            self._pool = Workers(self.source.function, None, self._workers or 1, seconds_of, ClipJob.fetched)
            self._end = weakref.finalize(self, self._pool.close)
        if self._pool is not None:
            return self._pool.submit(job)
        future = Future()
        future.set_result((job.fetched().run(), None))
        return future

    def decode_with(self, workers: int) -> None:
        """Have clips made by that many processes; 0: none where the source needs none, else one."""
        if workers != self._workers:
            self.close()
            self._workers = workers

    def close(self) -> None:
        """End the processes; the next clip starts them again."""
        if self._pool is not None:
            self._end()
            self._pool = None

    def describe(self) -> dict:
        """What the clips are made of, for people and logs: number of videos, classes, what was dropped and why."""
        return self.source.describe() | {"flip": self.flip} | ({"image_share": float(self.share)} if self.share else {})


class PendingClip:
    """A clip that is being made; where a file fails, one that follows from (seed, number, attempt) takes its place."""

    def __init__(self, clips: "TrainingClips", number: int) -> None:
        self.clips, self.number, self.attempt, self.failed = clips, number, 0, []
        self._begin()

    def _begin(self):
        """Ask for the clip of the next attempt whose file is not quarantined."""
        clips, source = self.clips, self.clips.source
        while True:
            random = np.random.default_rng([clips.seed, AUGMENTATION, self.number, self.attempt])
            if self.attempt == 0:
                self.item = clips.item(self.number)
            else:
                first, end = (0, clips.videos) if self.item < clips.videos else (clips.videos, len(source))
                self.item = int(random.integers(first, end))
            name = source.name(self.item)
            reason = clips.quarantine.reason(name, self.number) or dict(self.failed).get(name)
            if reason is None:
                break
            self._next(reason)
        job = ClipJob(
            source=source.job(self.item, random), random=random, captions=source.captions(self.item), flip=clips.flip
        )
        self.future = clips.submit(job)

    def _next(self, reason):
        self.attempt += 1
        if self.attempt == REPLACEMENTS:
            raise InputError(
                f"{REPLACEMENTS} videos in a row cannot be decoded, the last is {self.clips.source.name(self.item)} "
                f"({reason}); check whether the folder is still there and its files are whole"
            )

    def result(
        self, stopped: Callable[[], bool] = lambda: False, first_without: Any = None
    ) -> tuple[torch.Tensor, Any]:
        """(uint8 [C,T,H,W], class id or what is said), waiting for it.

        Files that failed go into the quarantine once another has taken their place, for clips from number
        `first_without` on. Raises InputError where REPLACEMENTS in a row fail, and LoadingStopped where the clip does
        not come within STOP_SECONDS of `stopped()`.
        """
        while True:
            try:
                made, reason = self._wait(stopped)
            except JobFailed as failure:
                made, reason = None, str(failure)
            if made is not None:
                break
            self.failed.append((self.clips.source.name(self.item), reason))
            self._next(reason)
            self._begin()
        for name, reason in self.failed:
            self.clips.quarantine.add(name, reason, self.number, first_without)
        video, caption = made
        return torch.from_numpy(video), self.clips.source.conditions(self.item, caption)

    def _wait(self, stopped):
        deadline = None
        while True:
            try:
                return self.future.result(timeout=POLL_SECONDS)
            except NotYet:
                if self.future.done():  # the job's own, not the wait's
                    raise
            if deadline is None and stopped():
                deadline = time.monotonic() + STOP_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                raise LoadingStopped(f"gave up waiting for {self.clips.source.name(self.item)}")


class Loader:
    """Iterator over (video uint8 [b,C,T,H,W], labels int64 [b]) without end; workers start at the first batch.

    Data with captions give {"label": int64 [b], "caption": b texts, "measures": float32 [b, 3]} in place of labels.
    `stopped()` says whether the run was asked to stop; waiting then ends with LoadingStopped. `close()` ends the
    workers; so does letting go of the loader and its clips.
    """

    def __init__(
        self,
        clips: "TrainingClips",
        numbers: Any,
        *,
        num_workers: int,
        steps_ahead: int,
        pin_memory: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.clips, self.numbers, self.num_workers, self.stopped = clips, numbers, num_workers, stopped
        self.pin_memory = pin_memory
        in_process = not num_workers and clips.source.in_process
        self.ahead = 0 if in_process else steps_ahead
        # What any process of the run has asked for when a file fails lies fewer steps ahead, whatever their number.
        self.margin = steps_ahead + 2
        self._numbers, self._pending = iter(numbers), deque()
        clips.decode_with(num_workers)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Any:
        while len(self._pending) <= self.ahead:
            self.clips.quarantine.refresh()
            self._pending.append([self.clips.request(number) for number in next(self._numbers)])
        pending = self._pending[0]
        first_without = self.numbers.begin(pending[0].number) + self.margin * self.numbers.batch
        clips = [clip.result(self.stopped, first_without) for clip in pending]
        self._pending.popleft()
        videos, conditions = zip(*clips, strict=True)
        video = torch.empty(len(videos), *videos[0].shape, dtype=torch.uint8, pin_memory=self.pin_memory)
        for row, clip in zip(video, videos, strict=True):
            row.copy_(clip)
        conditions = default_collate(list(conditions))
        if self.pin_memory:
            conditions = _pinned(conditions)
        return video, conditions

    def describe(self) -> dict:
        return self.clips.describe() | {"num_workers": self.num_workers}

    def close(self) -> None:
        self._pending.clear()
        self.clips.close()


class ClipNumbers:
    """The numbers of the clips of each delivery to one process, step after step."""

    def __init__(
        self, *, batch: int, rank: int, world_size: int, start_step: int, micro_batch: int, first: int | None = None
    ) -> None:
        self.batches = BatchPlan(batch=batch, world_size=world_size, micro_batch=micro_batch)
        self.batch, self.rank, self.first = batch, rank, start_step * batch if first is None else first

    def begin(self, number: int) -> int:
        """Number of the first clip of the step that clip `number` belongs to."""
        return number - (number - self.first) % self.batch

    def __iter__(self) -> Iterator[range]:
        first = self.first  # clip of the step's batch
        while True:
            for index in range(self.batches.passes):
                if places := self.batches.positions(self.rank, index):
                    yield range(first + places.start, first + places.stop)
            first += self.batch


def open_clips(
    config: DataConfig,
    *,
    frames: int,
    height: int,
    width: int,
    seed: int,
    num_classes: int | None = None,
    quiet: bool = False,
) -> "TrainingClips":
    """Return the TrainingClips that `config` names, [T,H,W] = `frames`, `height`, `width`.

    `num_classes` is what the model can tell apart; None or 0 leaves classes unchecked and allows videos without one.
    Raises InputError for an empty folder, missing class folders or split lists, too many classes, or no video that
    is long enough. A folder is indexed on the first opening; nothing is written before the checks on names pass.
    """
    if config.path != PROCEDURAL:
        config = _already_shrunk(config)
    frames, height, width = (size * times for size, times in zip((frames, height, width), config.shrink, strict=True))
    if config.path == PROCEDURAL:
        if config.captions not in (None, AUTO):
            raise InputError(f"data.captions={config.captions}: procedural clips have captions of their own; use auto")
        check_classes(CLASS_NAMES, num_classes or None, PROCEDURAL)
        source = ProceduralClips(
            videos=config.procedural_videos,
            seed=config.procedural_seed,
            frames=frames,
            height=height,
            width=width,
            captions=config.captions is not None,
        )
    else:
        source = _open_files(config, frames, height, width, num_classes or None, quiet)
    shrunk = AveragedClips(source, config.shrink) if max(config.shrink) > 1 else source
    return TrainingClips(shrunk, seed=seed, flip=config.flip, image_share=config.image_share)


def make_loader(
    config: DataConfig,
    *,
    frames: int,
    height: int,
    width: int,
    batch: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    first: int | None = None,
    micro_batch: int | None = None,
    num_classes: int | None = None,
    num_workers: int | None = None,
    steps_ahead: int | None = None,
    pin_memory: bool = False,
    clips: "TrainingClips | None" = None,
    quiet: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> "Loader":
    """Return the Loader of process `rank` of `world_size`, beginning at step `start_step`.

    `batch` is the global batch B; every step delivers this process its share of it, contiguous in the global batch, in
    one piece or in pieces of at most `micro_batch`: see `hpdm.batches.BatchPlan`. `first` is the first clip of the
    first step where the steps before it were not all of B clips. Delivered is (uint8 [b,C,T,H,W], int64 [b]); see
    `hpdm.data.ranges.to_model_range`. `num_workers` and `steps_ahead` override the configuration's, `clips` is an
    earlier answer of `open_clips`, `stopped` as in `Loader`. Raises InputError where there are more processes than
    clips in a batch, and what
    `open_clips` raises.
    """
    if batch < world_size:
        raise InputError(f"the global batch of {batch} leaves some of {world_size} processes without a clip")
    if clips is None:
        clips = open_clips(
            config, frames=frames, height=height, width=width, seed=seed, num_classes=num_classes, quiet=quiet
        )
    workers = next((n for n in (num_workers, config.num_workers) if n is not None), None)
    workers = default_workers() if workers is None else workers
    return Loader(
        clips,
        ClipNumbers(
            batch=batch,
            rank=rank,
            world_size=world_size,
            start_step=start_step,
            first=first,
            micro_batch=micro_batch or batch,
        ),
        num_workers=workers if clips.source.in_process else max(workers, 1),
        steps_ahead=steps_ahead or config.steps_ahead,
        pin_memory=pin_memory,
        stopped=stopped,
    )


def default_workers() -> int:
    """Worker processes per training process: none where two cores or fewer fall to each, else up to eight."""
    cores = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return 0 if cores <= 2 else min(8, cores - 1)


def profile_loader(loader: "Loader", batches: int) -> float:
    """Clips per second that `loader` delivers to a consumer that does nothing else, over `batches` deliveries.

    One delivery before them is not counted: it includes the start of the workers.
    """
    next(loader)
    begin = time.perf_counter()
    clips = sum(len(next(loader)[0]) for _ in range(batches))
    return clips / (time.perf_counter() - begin)


def _already_shrunk(config):
    """The configuration for shards whose videos `hpdm-data pack --shrink` has averaged: less is left to average.

    Raises InputError where they were averaged over other blocks than can be made up for.
    """
    need_decoder()
    from hpdm.data.shards import open_shards

    table = open_shards(config)
    done = tuple(table.about.get("shrunk", ())) if table is not None else ()
    if not done:
        return config
    if any(requested % own for requested, own in zip(config.shrink, done, strict=True)):
        raise InputError(
            f"the shards in {config.path} were packed with --shrink {'x'.join(map(str, done))}, and this "
            f"run averages over {'x'.join(map(str, config.shrink))} (--levels and data.shrink decide): "
            "pack the folder again"
        )
    shrink = tuple(requested // own for requested, own in zip(config.shrink, done, strict=True))
    return replace(config, shrink=shrink, fps=config.fps and config.fps / done[0])


def _open_files(config, frames, height, width, num_classes, quiet):
    need_decoder()
    from hpdm.data.captions import open_captioned
    from hpdm.data.folders import open_folder
    from hpdm.data.videos import ClipSampling

    sampling = ClipSampling(
        frames=frames,
        height=height,
        width=width,
        start=config.start,
        stride=config.stride,
        fps=config.fps,
        short=config.short,
        crop=config.crop,
        least_kept=config.least_kept,
    )
    if config.captions is not None:
        return open_captioned(config, sampling, quiet)
    return open_folder(config, sampling, num_classes, quiet)


def _pinned(conditions):
    if isinstance(conditions, dict):
        return {
            key: value.pin_memory() if isinstance(value, torch.Tensor) else value for key, value in conditions.items()
        }
    return conditions.pin_memory()
