"""From a file to uint8 clips: the part that runs in worker processes, so it does not import torch.

    T frames, H and W rows and columns: videos are uint8 [T,H,W,3]

Video files are decoded by decord where it is installed and can read the file, else by PyAV (the same FFmpeg codecs, the
same pixels); frames are decoded in blocks, cropped and resized at once, so a long video costs no more memory than a
short one. A file is opened anew for every job and with one thread.
"""

import hashlib
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpdm_eval import arrays, resize
from hpdm_eval.frames import FrameRule, Grid, Rejected, natural_key

VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
BLOCK_FRAMES = 16
LARGEST_CLIP = 4 << 30
BLANK = 3  # grey levels that a codec may leave in an empty cell of a contact sheet

_IMAGE_FORMATS = {".png": ("PNG",), ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO")}
_CONTAINERS = {".mp4": "MP4/MOV", ".mov": "MP4/MOV", ".avi": "AVI", ".webm": "Matroska/WebM", ".mkv": "Matroska/WebM",
               ".gif": "GIF"}
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid")


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
class Job:
    """One opening of one file: `parts` are (clip name, cell of the grid or None) pairs.

    kind: "video", "frames" (a folder) or "array" (.npy). index: which clip of an array of clips.
    value_range: an array's range where the whole file has been looked at, else None.
    """

    path: str
    kind: str
    parts: tuple
    index: int | None = None
    value_range: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A worker's answer for one part: a clip with its digest, or the reason why there is none."""

    video: np.ndarray | None = None
    digest: str | None = None
    value_range: str | None = None
    reason: str | None = None


def decode(job, settings):
    """Decode all parts of a job; returns a list of Decoded, one per part."""
    try:
        with _open(job, settings) as reader:
            return _cut_parts(reader, job, settings)
    except Rejected as rejection:
        reason = str(rejection)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or _first_line(error)})"
    except MemoryError:
        reason = "does not fit into memory"
    return [Decoded(reason=reason)] * len(job.parts)


def clip_digest(video):
    """Hex SHA-256 over the shape (four little-endian int64) and the bytes of a clip."""
    digest = hashlib.sha256(np.array(video.shape, "<i8").tobytes())
    digest.update(np.ascontiguousarray(video))
    return digest.hexdigest()


def container(path):
    """Name of the video container that a file's first bytes announce, or None."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head[4:8] in _ISO_BOXES:
        return "MP4/MOV"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "Matroska/WebM"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    return None


def _cut_parts(reader, job, settings):
    results, wanted, parts = {}, set(), []
    for position, (name, cell) in enumerate(job.parts):
        try:
            indices = settings.rule.indices(reader.count, reader.rate, settings.seed, name)
        except Rejected as rejection:
            results[position] = Decoded(reason=str(rejection))
            continue
        unique, inverse = np.unique(indices, return_inverse=True)
        wanted.update(unique.tolist())
        parts.append((position, cell, unique, inverse, []))
    wanted = sorted(wanted)
    for start in range(0, len(wanted), BLOCK_FRAMES):
        numbers = np.array(wanted[start:start + BLOCK_FRAMES])
        block = reader.read(numbers)
        for _, cell, unique, inverse, done in parts:
            mine = block[np.isin(numbers, unique)]
            if len(mine):
                done.append(_transform(mine, cell, settings))
                if done[0][0].nbytes * len(inverse) > LARGEST_CLIP:
                    raise Rejected(f"{len(inverse)} frames of this size exceed {LARGEST_CLIP >> 30} GiB; "
                                   "set --frames or --resolution")
    for position, _, _, inverse, done in parts:
        video = np.concatenate(done)
        if not np.array_equal(inverse, np.arange(len(video))):
            video = video[inverse]
        if job.parts[position][1] is not None and _is_blank(video):
            results[position] = Decoded(reason="an empty cell of the contact sheet")
            continue
        results[position] = Decoded(video=video, digest=clip_digest(video), value_range=reader.value_range)
    return [results[position] for position in range(len(job.parts))]


def _is_blank(video):
    """Whether a cell was left empty; codecs carry a little of its neighbours across its borders, not to its middle."""
    top, left = video.shape[1] // 4, video.shape[2] // 4
    middle = video[:, top:video.shape[1] - top, left:video.shape[2] - left]
    return int(middle.max()) - int(middle.min()) <= BLANK


def _transform(frames, cell, settings):
    if cell is not None:
        frames = settings.grid.cut(frames, cell)
    if settings.crop == "center":
        top, left, height, width = resize.center_window(*frames.shape[1:3], settings.resolution)
        frames = frames[:, top:top + height, left:left + width]
    if settings.resolution is not None:
        return resize.resize(frames, settings.resolution, settings.resize, settings.antialias)
    return np.ascontiguousarray(frames)


def _open(job, settings):
    if job.kind == "array":
        return _ArrayReader(job, settings)
    if job.kind == "frames":
        return _FolderReader(job.path)
    return _VideoReader(job.path)


class _Reader:
    """Frames of one file: `count`, `rate` (frames per second or None), `read(ascending numbers)` → uint8 [n,H,W,3]."""

    rate = None
    value_range = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class _ArrayReader(_Reader):
    def __init__(self, job, settings):
        try:
            array = np.lib.format.open_memmap(job.path, mode="r")
        except Exception as error:  # numpy reports damaged headers by many types of exception
            raise Rejected(f"not a readable array ({_first_line(error)})") from error
        layout = arrays.array_layout(array.shape, array.dtype)
        self._clip = layout.clip(array, job.index)
        self.count = len(self._clip)
        self.value_range = job.value_range
        if array.dtype != np.uint8 and job.value_range is None:
            self.value_range = arrays.value_range(*arrays.scan_npy(job.path), array.dtype, settings.value_range)

    def read(self, numbers):
        return arrays.to_uint8(self._clip[numbers], self.value_range)


class _FolderReader(_Reader):
    def __init__(self, path):
        names = (name for name in os.listdir(path) if name.lower().endswith(IMAGE_SUFFIXES))
        self._files = [Path(path, name) for name in sorted(names, key=natural_key) if not name.startswith(".")]
        self.count = len(self._files)
        self._size = None

    def read(self, numbers):
        return np.stack([self._frame(self._files[number]) for number in numbers])

    def _frame(self, path):
        from PIL import Image

        formats = _IMAGE_FORMATS[path.suffix.lower()]
        try:
            with Image.open(path, formats=formats) as image:
                if image.mode.startswith(("I", "F")):
                    raise Rejected(f"{path.name}: {image.mode} pixels have more than 8 bits")
                frame = np.asarray(image.convert("RGB"))
        except Rejected:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError ...
            raise Rejected(f"{path.name} is not a readable {formats[0]} file") from error
        self._size = self._size or frame.shape
        if frame.shape != self._size:
            raise Rejected(f"{path.name} is {_pixels(frame.shape)}, earlier frames are {_pixels(self._size)}")
        return frame


class _VideoReader(_Reader):
    """decord first, PyAV for what it cannot read; messages are PyAV's, since decord's hold the time of day."""

    def __init__(self, path):
        _check_container(path)
        self._path = path
        self._decord = _open_decord(path)
        if self._decord is not None:
            self.count, self.rate = len(self._decord), _positive(self._decord.get_avg_fps())
        else:
            with _pyav_stream(path) as stream:
                self.rate = _positive(float(stream.average_rate or 0))
                self.count = sum(1 for _ in stream.container.decode(stream))

    def read(self, numbers):
        if self._decord is not None:
            try:
                return self._decord.get_batch(numbers).asnumpy()
            except Exception:  # DECORDError, RuntimeError or IndexError: damaged past what was read so far
                self._decord = None
        return _read_pyav(self._path, numbers)


def _check_container(path):
    if os.path.getsize(path) == 0:
        raise Rejected("the file is empty")
    suffix = Path(path).suffix.lower()
    expected, found = _CONTAINERS[suffix], container(path)
    if found is None:
        raise Rejected(f"not a {expected} video, whatever its name says")
    if found != expected:
        raise Rejected(f"named {suffix} but the content is {found}; rename it")


def _open_decord(path):
    try:
        import decord
    except ImportError:
        return None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        return reader if len(reader) else None
    except Exception:  # RuntimeError or DECORDError; PyAV will read the file or say why not
        return None


def _read_pyav(path, numbers):
    wanted, frames, number = set(numbers.tolist()), [], -1
    with _pyav_stream(path) as stream:
        for number, frame in enumerate(stream.container.decode(stream)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == len(wanted):
                return np.stack(frames)
    raise Rejected(f"only {number + 1} frames can be decoded, the file announces more")


@contextmanager
def _pyav_stream(path):
    """The first video stream of a file, opened by PyAV; its errors become reasons."""
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        # UCF-101 and HMDB51 files carry metadata that is not UTF-8
        with av.open(path, **({} if av.__version__ >= "19" else {"metadata_errors": "ignore"})) as file:
            if not file.streams.video:
                raise Rejected("holds no video stream")
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1
            yield stream
    except Rejected:
        raise
    except Exception as error:  # av.error.*, ValueError and UnicodeDecodeError were all seen on damaged files
        raise Rejected(f"cannot be decoded ({getattr(error, 'strerror', None) or _first_line(error)})") from error


def _positive(rate):
    return rate if math.isfinite(rate) and rate > 0 else None


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _pixels(shape):
    return f"{shape[0]}x{shape[1]} px"
