"""Opening video files: how long they are, and some of their frames.

decord where it is installed, PyAV for what decord is not built for or cannot open. A reader lives only inside one
call and has a single thread: one that was made with decord's default threads before a fork hangs in the child.
Nothing here needs torch, so that processes that only look at files start quickly.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import av

    AV_ERRORS = (av.error.FFmpegError, IndexError, ValueError)
except ImportError:  # training on procedural videos, and timing, need no decoder
    av = None
try:
    import decord
    from decord._ffi.base import DECORDError

    decord.logging.set_level(decord.logging.QUIET)
    DECORD_ERRORS = (RuntimeError, IndexError, DECORDError)
except ImportError:  # built for Linux on x86 only
    decord = None


class DecodingError(Exception):
    """A file that no decoder can read; the message says why."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file holds; `fps` is the mean frame rate, 0 where the file states none."""

    frames: int
    fps: float
    height: int
    width: int


def probe_video(path):
    """Return the VideoInfo of a file, having decoded its first frame; raise DecodingError where that fails."""
    return _first_that_works(path, _probe_decord, _probe_av)


def read_frames(path, indices):
    """Decode the frames `indices` (any order, repeats allowed) as uint8 [len(indices), H, W, 3], RGB.

    Raises DecodingError for a file that cannot be read or ends before the last of them.
    """
    indices = np.asarray(indices, dtype=np.int64)
    wanted, back = np.unique(indices, return_inverse=True)
    frames = _first_that_works(path, _read_decord, _read_av, wanted)
    return frames if len(wanted) == len(indices) and np.array_equal(wanted, indices) else frames[back]


def _first_that_works(path, with_decord, with_av, *arguments):
    path = Path(path)
    if not path.is_file():
        raise DecodingError("no such file")
    if path.stat().st_size == 0:
        raise DecodingError("empty file")
    if decord is not None:
        try:
            return with_decord(str(path), *arguments)
        except DECORD_ERRORS:
            pass  # PyAV may still read it, and its reasons are readable
    if av is None:
        raise DecodingError("PyAV is not installed: pip install av")
    try:
        return with_av(str(path), *arguments)
    except AV_ERRORS as error:
        raise DecodingError(getattr(error, "strerror", None) or str(error)) from error


def _probe_decord(path):
    reader = decord.VideoReader(path, num_threads=1)
    height, width, _ = reader[0].shape
    return VideoInfo(frames=len(reader), fps=_rate(reader.get_avg_fps()), height=height, width=width)


def _probe_av(path):
    with _open_av(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise ValueError("no frame in it can be decoded")
        container.seek(0)
        frames = sum(packet.size > 0 for packet in container.demux(stream))
        return VideoInfo(frames=frames, fps=_rate(stream.average_rate), height=frame.height, width=frame.width)


def _read_decord(path, wanted):
    return decord.VideoReader(path, num_threads=1).get_batch(wanted).asnumpy()


def _read_av(path, wanted):
    # From the start, without seeking: exact for every container, and this is the second choice.
    kept, needed = [], set(wanted.tolist())
    with _open_av(path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if index in needed:
                kept.append(frame.to_ndarray(format="rgb24"))
            if len(kept) == len(needed):
                return np.stack(kept)
    raise ValueError(f"ends before frame {int(wanted[-1])}")


class _open_av:
    """Context of (container, its first video stream), decoding in this thread alone."""

    def __init__(self, path):
        # Metadata that is not UTF-8 is common in old archives and none of it matters here.
        self.container = av.open(path, metadata_errors="ignore")

    def __enter__(self):
        if not self.container.streams.video:
            self.container.close()
            raise ValueError("no video stream in it")
        stream = self.container.streams.video[0]
        stream.codec_context.thread_count = 1
        return self.container, stream

    def __exit__(self, *_):
        self.container.close()


def _rate(value):
    value = float(value or 0)
    return value if np.isfinite(value) and value > 0 else 0.0
