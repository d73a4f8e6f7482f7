"""Endless, resumable batches: every clip is a function of (seed, number of the clip in the run) alone.

Clip `g` of a run is position `g mod B` of step `g // B`, where B is the global batch. Its video is the g-th of the
shuffled epochs, its start and flip come from a generator seeded by (seed, g). So a run resumes at any step without
saved loader state, and the clips of a step are the same however many processes and workers share them.

Shapes: B clips of the global batch, b of them in one delivery, C colours, T frames, H rows, W columns.
"""

import logging
import os
import signal
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hpdm.batches import BatchPlan
from hpdm.data import ucf101
from hpdm.data.captions import AUTO, CaptionedClips, find_captions
from hpdm.data.decoding import DecodingError
from hpdm.data.index import available_cores, build_index, list_videos
from hpdm.data.procedural import CLASS_NAMES
from hpdm.data.sources import PROCEDURAL, AveragedClips, ProceduralClips
from hpdm.data.videos import CROPS, SHORT, STARTS, ClipSampling, FolderClips
from hpdm.errors import InputError

LAYOUTS = ("auto", "folders", "ucf101")
START_METHODS = (None, "fork", "forkserver", "spawn")
REPLACEMENTS = 16  # damaged videos in a row before a run gives up

ORDER, AUGMENTATION = 0, 1  # streams of random numbers that must not meet

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and how they are cut; their size and number are the model's and the run's."""

    path: str = PROCEDURAL  # a folder of videos, or "procedural" for clips drawn on the fly
    layout: str = "auto"  # "folders": a class per subfolder; "ucf101": split lists; "auto": ucf101 if lists are found
    split_lists: str | None = None  # folder of UCF-101's lists; by default ucfTrainTestlist in or beside the videos
    split: int = 1  # which of UCF-101's three splits
    part: str = "train"  # "train", "test" or "all" of that split
    start: str = "random"  # first frame of a clip: "random", "first", or "center" to cut from the middle
    stride: int = 1  # take every n-th frame
    fps: float | None = None  # resample to this frame rate by nearest frames; None keeps each file's own
    short: str = "drop"  # videos with too few frames: "drop" them, or "loop" them from their first frame
    flip: bool = False  # mirror half of the clips left to right
    crop: str = "center"  # which box of the target's shape: the one in the middle, or one at "random"
    least_kept: float = 0.0  # leave out pictures of which cropping to the target's shape keeps a smaller share
    captions: str | None = None  # deliver captions: a JSONL or CSV file, or "auto" for the one in the folder
    embeddings: str | None = None  # folder of `hpdm-train encode-text`; None encodes captions as they come
    image_share: float = 0.0  # share of images, as videos that stand still, in every batch of captioned data
    shrink: tuple[int, int, int] = (1, 1, 1)  # cut clips so many times larger, (frames, rows, columns), and average
    procedural_videos: int = 1_000_000  # how many different procedural clips there are
    procedural_seed: int = 0  # which endless set of procedural clips they come from
    num_workers: int | None = None  # decoding processes per training process; 0: in-process; None: by cores, 0 for two
    steps_ahead: int = 4  # deliveries prepared in advance by all workers together
    start_method: str | None = None  # how workers start: "fork", "forkserver", "spawn"; None is the platform's way

    def __post_init__(self):
        for name, allowed in (
            ("layout", LAYOUTS), ("split", ucf101.SPLITS), ("part", ucf101.PARTS),
            ("start", STARTS), ("short", SHORT), ("start_method", START_METHODS), ("crop", CROPS),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise InputError(f"data.{name} must be one of {choices}; got {getattr(self, name)!r}")
        for name, least in (("stride", 1), ("procedural_videos", 1), ("procedural_seed", 0), ("steps_ahead", 1)):
            if getattr(self, name) < least:
                raise InputError(f"data.{name} must be at least {least}; got {getattr(self, name)}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise InputError(f"data.fps must be a positive number of frames per second; got {self.fps}")
        for name in ("image_share", "least_kept"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"data.{name} must lie in [0, 1]; got {getattr(self, name)}")
        if self.image_share and self.captions is None:
            raise InputError("data.image_share needs captions: set data.captions=auto, or name their file")
        if min(self.shrink) < 1:
            raise InputError(f"data.shrink must be three whole numbers of at least 1; got {self.shrink}")
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"data.num_workers must be 0 or more; got {self.num_workers}")


class TrainingClips(Dataset):
    """The clips of a run by their number, which has no end.

    `clips[g]` is (uint8 [C,T,H,W], class id; -1 for none), or for data with captions (..., {"label", "caption",
    "measures"}). The last `source.images` items of the source are images; `image_share` of any clips in a row are such.
    """

    def __init__(self, source, *, seed, flip=False, image_share=0.0):
        self.source, self.seed, self.flip = source, seed, flip
        self.share = Fraction(image_share).limit_denominator(1_000_000)
        self.images = getattr(source, "images", 0)  # sources without any need not say so
        self.videos = len(source) - self.images
        if (self.share > 0 and not self.images) or (self.share < 1 and not self.videos):
            raise InputError(f"data.image_share={image_share:g}, but the data have {self.videos} videos and "
                             f"{self.images} images")
        self._epochs = {}

    def item(self, number):
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

    def __getitem__(self, number):
        item = self.item(number)
        for attempt in range(REPLACEMENTS):
            random = np.random.default_rng([self.seed, AUGMENTATION, number, attempt])
            if attempt:
                first, end = (0, self.videos) if item < self.videos else (self.videos, len(self.source))
                item = int(random.integers(first, end))
            try:
                video, label = self.source.read(item, random)
            except DecodingError as error:
                log.warning("skipped a damaged video, another takes its place: %s: %s", self.source.name(item), error)
                continue
            return (video.flip(-1) if self.flip and random.random() < 0.5 else video), label
        raise InputError(
            f"{REPLACEMENTS} videos in a row could not be decoded, the last was {self.source.name(item)}; "
            f"check whether the folder is still there and its files are whole"
        )

    def describe(self):
        """What the clips are made of, for people and logs: number of videos, classes, what was dropped and why."""
        return self.source.describe() | {"flip": self.flip} | ({"image_share": float(self.share)} if self.share else {})


class Loader:
    """Iterator over (video uint8 [b,C,T,H,W], labels int64 [b]) without end; worker processes start at the first batch.

    Data with captions give {"label": int64 [b], "caption": b texts, "measures": float32 [b, 3]} in place of labels.
    `close()` ends the workers; so does letting go of the loader.
    """

    def __init__(self, clips, numbers, *, num_workers, steps_ahead, start_method, pin_memory):
        self.clips, self.num_workers = clips, num_workers
        self._loader = DataLoader(
            clips,
            batch_sampler=numbers,
            num_workers=num_workers,
            prefetch_factor=-(-steps_ahead // num_workers) if num_workers else None,
            multiprocessing_context=start_method if num_workers else None,
            worker_init_fn=_start_worker,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # its own, so that starting workers draws nothing from the caller's
        )
        self._batches = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._batches is None:
            self._batches = iter(self._loader)
        try:
            video, labels = next(self._batches)
        except InputError as error:
            # One that crossed from a worker carries the worker's traceback; its last line is the message.
            raise InputError(str(error).splitlines()[-1].partition("InputError: ")[2] or str(error)) from None
        return video, labels

    def describe(self):
        return self.clips.describe() | {"num_workers": self.num_workers}

    def close(self):
        self._batches = None


class ClipNumbers:
    """The numbers of the clips of each delivery to one process, step after step."""

    def __init__(self, *, batch, rank, world_size, start_step, micro_batch, first=None):
        self.batches = BatchPlan(batch=batch, world_size=world_size, micro_batch=micro_batch)
        self.rank, self.first = rank, start_step * batch if first is None else first

    def __iter__(self):
        first = self.first  # clip of the step's batch
        while True:
            for index in range(self.batches.passes):
                if places := self.batches.positions(self.rank, index):
                    yield range(first + places.start, first + places.stop)
            first += self.batches.batch


def open_clips(config, *, frames, height, width, seed, num_classes=None, quiet=False):
    """Return the TrainingClips that `config` names, [T,H,W] = `frames`, `height`, `width`.

    `num_classes` is what the model can tell apart; None or 0 leaves classes unchecked and allows videos without one.
    Raises InputError for an empty folder, missing class folders or split lists, too many classes, or no video that
    is long enough. A folder is indexed on the first opening; nothing is written before the checks on names pass.
    """
    frames, height, width = (size * times for size, times in zip((frames, height, width), config.shrink, strict=True))
    if config.path == PROCEDURAL:
        if config.captions not in (None, AUTO):
            raise InputError(f"data.captions={config.captions}: procedural clips have captions of their own; use auto")
        if num_classes:
            _check_classes(CLASS_NAMES, num_classes, PROCEDURAL)
        source = ProceduralClips(
            videos=config.procedural_videos, seed=config.procedural_seed, frames=frames, height=height, width=width,
            captions=config.captions is not None,
        )
    elif config.captions is not None:
        captions = find_captions(config.path, config.captions)
        source = CaptionedClips(config.path, captions, _clip_sampling(config, frames, height, width), quiet)
    else:
        source = _open_folder(config, frames, height, width, num_classes or None, quiet)
    if max(config.shrink) > 1:
        source = AveragedClips(source, config.shrink)
    return TrainingClips(source, seed=seed, flip=config.flip, image_share=config.image_share)


def make_loader(config, *, frames, height, width, batch, seed, rank=0, world_size=1, start_step=0, first=None,
                micro_batch=None, num_classes=None, num_workers=None, steps_ahead=None, pin_memory=False, clips=None,
                quiet=False):
    """Return the Loader of process `rank` of `world_size`, beginning at step `start_step`.

    `batch` is the global batch B; every step delivers this process its share of it, contiguous in the global batch, in
    one piece or in pieces of at most `micro_batch`: see `hpdm.batches.BatchPlan`. `first` is the first clip of the
    first step where the steps before it were not all of B clips. Delivered is (uint8 [b,C,T,H,W], int64 [b]); see
    `hpdm.data.ranges.to_model_range`. `num_workers` and `steps_ahead` override the configuration's, `clips` is an
    earlier answer of `open_clips`. Raises InputError where there are more processes than clips in a batch, and what
    `open_clips` raises.
    """
    if batch < world_size:
        raise InputError(f"the global batch of {batch} leaves some of {world_size} processes without a clip")
    if clips is None:
        clips = open_clips(
            config, frames=frames, height=height, width=width, seed=seed, num_classes=num_classes, quiet=quiet
        )
    workers = next((n for n in (num_workers, config.num_workers) if n is not None), None)
    return Loader(
        clips,
        ClipNumbers(batch=batch, rank=rank, world_size=world_size, start_step=start_step, first=first,
                    micro_batch=micro_batch or batch),
        num_workers=default_workers() if workers is None else workers,
        steps_ahead=steps_ahead or config.steps_ahead,
        start_method=config.start_method,
        pin_memory=pin_memory,
    )


def default_workers():
    """Decoding processes per training process: none where two cores or fewer fall to each, else up to eight."""
    cores = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return 0 if cores <= 2 else min(8, cores - 1)


def profile_loader(loader, batches):
    """Clips per second that `loader` delivers to a consumer that does nothing else, over `batches` deliveries.

    One delivery before them is not counted: it includes the start of the workers.
    """
    next(loader)
    begin = time.perf_counter()
    clips = sum(len(next(loader)[0]) for _ in range(batches))
    return clips / (time.perf_counter() - begin)


def _open_folder(config, frames, height, width, num_classes, quiet):
    root = Path(config.path)
    found = list_videos(root)
    lists = Path(config.split_lists) if config.split_lists else ucf101.find_lists(root)
    if config.layout == "ucf101" and lists is None:
        raise InputError(
            f"data.layout=ucf101 needs the folder {ucf101.LISTS_FOLDER} in {root} or beside it, or data.split_lists"
        )
    if config.layout != "folders" and lists is not None:
        split = ucf101.read_split(lists, split=config.split, part=config.part)
        class_names, labels = split.class_names, _split_labels(found, split)
        if not labels:
            raise InputError(
                f"{root} holds none of the videos listed in {lists} ({split.name}); "
                f"data.layout=folders ignores the lists"
            )
        about = {"layout": "ucf101", "split": split.name, "listed": len(split.labels), "listed_present": len(labels)}
    else:
        class_names, labels = _folder_labels(root, found, need_classes=num_classes is not None)
        about = {"layout": "folders"}
    _check_classes(class_names, num_classes, root)
    sampling = _clip_sampling(config, frames, height, width)
    index = build_index(root, found=found, quiet=quiet)
    return FolderClips(index, labels, class_names, sampling, about)


def _clip_sampling(config, frames, height, width):
    return ClipSampling(frames=frames, height=height, width=width, start=config.start, stride=config.stride,
                        fps=config.fps, short=config.short, crop=config.crop, least_kept=config.least_kept)


def _split_labels(found, split):
    """path → class id of the listed videos; of several files with one name, the first."""
    paths = {}
    for file in found:
        paths.setdefault(ucf101.video_key(file.path), file.path)
    return {path: split.labels[key] for key, path in paths.items() if key in split.labels}


def _folder_labels(root, found, need_classes):
    """(class names sorted, path → class id, -1 for a file outside every subfolder)."""
    names = sorted({file.label for file in found} - {None})
    outside = [file.path for file in found if file.label is None]
    if need_classes and outside:
        raise InputError(
            f"{root}: {len(outside)} videos lie in no class subfolder, the first is {outside[0]}; a class-conditional "
            f"model needs one subfolder per class"
        )
    ids = {name: number for number, name in enumerate(names)}
    return tuple(names), {file.path: ids.get(file.label, -1) for file in found}


def _check_classes(names, num_classes, where):
    if num_classes is not None and len(names) > num_classes:
        raise InputError(f"{where} has {len(names)} classes, but the model only {num_classes}; raise its num_classes")


def _start_worker(_):
    torch.set_num_threads(1)
    # A signal meant for the run reaches the whole process group; the run must still get its batches while it
    # finishes its step, and workers end by themselves when their parent is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
