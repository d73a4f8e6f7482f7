"""From a file to uint8 clips: the part that runs in worker processes, so it does not import torch.

    T frames, H and W rows and columns: videos are uint8 [T,H,W,3]

Frames are cropped and resized block by block as they are read, so a long or large video costs no more memory than its
clip. A file is opened anew for every job and with one thread.
"""

import hashlib
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpdm.video.errors import DecodingError, UnreadablePicture
from hpdm.video.formats import is_image
from hpdm.video.pixels import BLOCK_BYTES, check_size, read_picture
from hpdm.video.timeline import Timeline
from hpdm.video.walk import natural_key, visible
from hpdm_eval.clips import arrays, resize
from hpdm_eval.clips.frames import FrameRule, Grid, Rejected
from hpdm_eval.support.limits import in_words, limit

EMPTY_CELL = "an empty cell of the contact sheet"
BLANK = 3  # grey levels that a codec may leave in an empty cell of a contact sheet


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """All that a worker needs to know of a protocol: which frames, which pixels, which seed."""

    rule: FrameRule
    crop: str = "none"
    resolution: tuple[int, int] | None = None
    resize: str = "bilinear"
    antialias: bool = False
    value_range: str = "auto"
    grid: Grid | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One clip of a job: its name, which random choices depend on, its cell of a grid, and which of several clips."""

    name: str
    cell: int | None = None
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One opening of one file, for one or several clips.

    kind: "video", "frames" (a folder) or "array" (.npy). index: which clip of an array of clips. value_range: an
    array's range where the whole file has been looked at, else None. allowance: bytes that the clips may take together.
    """

    path: str
    kind: str
    parts: tuple[Part, ...]
    index: int | None = None
    value_range: str | None = None
    allowance: int | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A worker's answer for one part: a clip with its digest, or the reason why there is none.

    Of a clip that is remembered there is no video, but its length in frames and what is known of it.
    """

    video: np.ndarray | None = None
    digest: str | None = None
    value_range: str | None = None
    reason: str | None = None
    length: int | None = None
    known: tuple | None = None  # (features, probabilities)

    @property
    def frames(self) -> int | None:
        return self.length if self.video is None else len(self.video)


@dataclass(frozen=True, kw_only=True)
class TooLarge:
    """A worker's answer in place of clips that take `size` bytes, more than the job's allowance."""

    size: int


def decode(job: Job, settings: DecodeSettings) -> list[Decoded] | TooLarge:
    """Decode all parts of a job; returns a list of Decoded, one per part, or TooLarge."""
    try:
        with _open(job, settings) as reader:
            return _cut_parts(reader, job, settings)
    except _AboveAllowance as above:
        return TooLarge(size=above.size)
    except (Rejected, DecodingError, UnreadablePicture) as rejection:
        reason = str(rejection)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or first_line(error)})"
    except MemoryError:
        reason = "does not fit into memory"
    return [Decoded(reason=reason)] * len(job.parts)


def clip_digest(video: np.ndarray) -> str:
    """Hex SHA-256 over the shape (four little-endian int64) and the bytes of a clip."""
    digest = hashlib.sha256(np.array(video.shape, "<i8").tobytes())
    digest.update(np.ascontiguousarray(video).data)
    return digest.hexdigest()


def too_large(frames: int, size: int, most: int) -> str:
    """Why a clip of `frames` frames and `size` bytes is rejected where `most` are allowed."""
    return (
        f"{frames} frames of this size take {in_words(size)}, more than {in_words(most)}; set --frames or "
        "--resolution, or HPDM_EVAL_MAX_CLIP"
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


class _AboveAllowance(Exception):
    def __init__(self, size):
        super().__init__(size)
        self.size = size


def _cut_parts(reader, job, settings):
    cutter = _Cutter(job, settings)
    reader.read_chosen(cutter.choose, cutter.take)
    results = []
    for part, video in zip(job.parts, cutter.clips()):
        if part.cell is not None and _is_blank(video):
            results.append(Decoded(reason=EMPTY_CELL))
        else:
            results.append(
                Decoded(video=video, digest=clip_digest(video), value_range=getattr(reader, "value_range", None))
            )
    return results


class _Cutter:
    """Chooses the frames of all parts of a job, and puts each part's share of every block that is read into one array.

    `choose` may be called again before all is read: it begins anew.
    """

    def __init__(self, job, settings):
        self._job, self._settings = job, settings

    def choose(self, timeline):
        """Numbers of all frames that any part wants, int64, ascending."""
        rule, seed = self._settings.rule, self._settings.seed
        chosen = [rule.indices(timeline, seed, part.name, part.repeat) for part in self._job.parts]
        self._unique, self._inverse = zip(*(np.unique(indices, return_inverse=True) for indices in chosen))
        self._wanted = np.unique(np.concatenate(self._unique))
        self._read, self._size, self._videos = 0, None, [None] * len(self._job.parts)
        self._cells = None
        self._filled = [0] * len(self._job.parts)
        return self._wanted

    def take(self, block):
        """The next frames uint8 [k,H,W,3] of those chosen; returns [k, 0], since nothing is to be kept of them."""
        numbers = self._wanted[self._read : self._read + len(block)]
        self._read += len(block)
        self._size = self._size or block.shape[1:3]
        if block.shape[1:3] != self._size:
            raise Rejected("its frames change size from {}x{} to {}x{} px".format(*self._size, *block.shape[1:3]))
        if self._cells is None and self._job.parts[0].cell is not None:
            self._cells = self._settings.grid.locate(block)  # once: all of a clip is cut in one way
        for index, part in enumerate(self._job.parts):
            mine = np.isin(numbers, self._unique[index])
            if not mine.any():
                continue
            window = None if part.cell is None else self._cells[part.cell]
            frames = _transform(block if mine.all() else block[mine], window, self._settings)
            if self._videos[index] is None:
                self._check(frames[0].nbytes)
                self._videos[index] = np.empty((len(self._unique[index]), *frames.shape[1:]), np.uint8)
            self._videos[index][self._filled[index] : self._filled[index] + len(frames)] = frames
            self._filled[index] += len(frames)
        return np.empty((len(block), 0), np.uint8)

    def clips(self):
        """The clip uint8 [T,h,w,3] of each part."""
        for index, inverse in enumerate(self._inverse):
            video, self._videos[index] = self._videos[index], None
            yield video if np.array_equal(inverse, np.arange(len(video))) else video[inverse]

    def _check(self, frame_bytes):
        sizes = [frame_bytes * len(inverse) for inverse in self._inverse]
        if max(sizes) > (most := limit("HPDM_EVAL_MAX_CLIP")):
            raise Rejected(too_large(len(self._inverse[0]), max(sizes), most))
        if self._job.allowance is not None and sum(sizes) > self._job.allowance:
            raise _AboveAllowance(sum(sizes))


def _is_blank(video):
    """Whether a cell was left empty; codecs carry a little of its neighbours across its borders, not to its middle."""
    top, left = video.shape[1] // 4, video.shape[2] // 4
    middle = video[:, top : video.shape[1] - top, left : video.shape[2] - left]
    return int(middle.max()) - int(middle.min()) <= BLANK


def _transform(frames, window, settings):
    if window is not None:
        top, left, height, width = window
        frames = frames[:, top : top + height, left : left + width]
    if settings.crop == "center":
        top, left, height, width = resize.center_window(*frames.shape[1:3], settings.resolution)
        frames = frames[:, top : top + height, left : left + width]
    if settings.resolution is not None:
        return resize.resize(frames, settings.resolution, settings.resize, settings.antialias)
    return frames


def _open(job, settings):
    if job.kind == "array":
        return nullcontext(_ArrayReader(job, settings))
    if job.kind == "frames":
        return nullcontext(_FolderReader(job.path))
    try:
        from hpdm.video.reader import VideoReader  # here, so that other inputs need no decoder
    except ImportError as error:
        raise Rejected(f"{error.name} is not installed, which reads videos: pip install av") from error
    return VideoReader(job.path)


class _ArrayReader:
    """One clip of a .npy file, read as `VideoReader` is."""

    def __init__(self, job, settings):
        array = arrays.open_npy(job.path)
        layout = arrays.array_layout(array.shape, array.dtype)
        self._clip = layout.clip(array, job.index)
        check_size(*self._clip.shape[1:3])
        self.value_range = job.value_range
        if array.dtype != np.uint8 and job.value_range is None:
            self.value_range = arrays.scan_npy(job.path).value_range(settings.value_range)

    def read_chosen(self, choose, transform):
        numbers = choose(Timeline.even(len(self._clip), None))
        step = max(BLOCK_BYTES // (8 * self._clip[0].size), 1)  # pixels become float64 at most on their way
        for start in range(0, len(numbers), step):
            transform(arrays.to_uint8(self._clip[numbers[start : start + step]], self.value_range))


class _FolderReader:
    """The pictures of a folder in natural order, read as `VideoReader` is."""

    def __init__(self, path):
        names = [name for name in os.listdir(path) if is_image(name) and visible(name)]
        self._files = [Path(path, name) for name in sorted(names, key=natural_key)]

    def read_chosen(self, choose, transform):
        size = None
        for number in choose(Timeline.even(len(self._files), None)):
            frame = read_picture(self._files[number])
            size = size or frame.shape[:2]
            if frame.shape[:2] != size:
                raise Rejected(
                    "{} is {}x{} px, earlier frames are {}x{} px".format(
                        self._files[number].name, *frame.shape[:2], *size
                    )
                )
            transform(frame[None])
