"""Reading videos: exactly the frames that a player shows, in order of presentation, by number.

    n frames, T of them asked for, H and W rows and columns: frames are uint8 [T,H,W,3], RGB

What a container announces is not trusted: it counts frames that an edit list hides, packets that show nothing, and
times that were never stored. Files are of two kinds:

- timed: every packet has its own presentation time and shows one frame. The frames are then the packets that are not
  marked as hidden, in order of time; decoding starts at the last key packet before the first frame wanted, and every
  decoded frame is identified by its time. A frame that does not come, or comes out of order, makes the file counted.
- counted: all others (B frames in AVI, elementary streams, damaged files). Frames are counted from the first one that
  the decoder puts out.

So a frame has the same number wherever reading starts. Nothing here imports torch, and decoding has a single thread.

The rule for pixels: colours are converted to 8-bit RGB, deeper samples by their upper bits (libswscale), alpha is dropped,
grey repeated; the file's rotation and mirroring are applied; the shape of pixels is not.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from hpdm.video import formats
from hpdm.video.errors import DecodingError, UnreadablePicture
from hpdm.video.packets import NoVideo, Packets
from hpdm.video.pixels import BLOCK_BYTES, FrameConverter, check_size
from hpdm.video.timeline import Timeline, exact_rate

NOTHING = "no frame in it can be decoded"
# ValueError and UnicodeDecodeError were seen on damaged headers, OSError for a file that goes away.
DECODER_ERRORS = (av.error.FFmpegError, ValueError, OverflowError, OSError)


class _NotAsIndexed(Exception):
    """Decoding has shown other frames than the packets announced."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file shows.

    frames: how many. fps: mean frames per second, 0 where the file states no times. seconds: as `Timeline.seconds`.
    even: whether frames are evenly spaced. height, width: pixels after rotation.
    """

    frames: int
    fps: float
    seconds: float
    even: bool
    height: int
    width: int


def probe_video(path: Any) -> "VideoInfo":
    """VideoInfo of a file, having decoded its first frame; raises DecodingError where that fails."""
    with VideoReader(path) as reader:
        return reader.info()


def read_frames(
    path: Any, indices: Sequence[int], transform: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Frames `indices` (any order, repeats allowed) of a file as uint8 [T,H,W,3].

    transform: applied to blocks of frames in ascending order, so that a large picture that is cut or shrunk does not
    stay in memory; uint8 [k,H,W,3] → array [k,...]. Raises DecodingError for a file that cannot be read or ends before
    the last of them.
    """
    with VideoReader(path) as reader:
        return reader.read(indices, transform)


class VideoReader:
    """One file, by its path or as its content in bytes, opened for reading; a context manager.

    `timeline` says how many frames there are and when they are shown. Raises DecodingError where the file is missing,
    is no video, or cannot be decoded.

    >>> with VideoReader(path) as video:  # doctest: +SKIP
    ...     middle = video.read(video.timeline.resampled(10, 16, start=video.timeline.frames // 2))
    """

    def __init__(self, path: Any) -> None:
        self.path = path if isinstance(path, bytes) else str(path)
        demuxer = _demuxer(self.path)
        self._convert = FrameConverter()
        try:
            self._packets = Packets(self.path, demuxer)
        except NoVideo as error:
            raise DecodingError(str(error)) from error
        except DECODER_ERRORS as error:
            raise DecodingError(_reason(error)) from error
        try:
            check_size(*self._packets.size)
            self._scan = self._packets.scan()
        except UnreadablePicture as error:
            self.close()
            raise DecodingError(str(error)) from error
        except DECODER_ERRORS as error:
            self.close()
            raise DecodingError(_reason(error)) from error
        self._timed = self._scan.timed and len(self._scan.shown) > 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._packets.close()

    @property
    def is_timed(self) -> bool:
        """Whether frames are found by their times rather than by counting from the first (see the module)."""
        return self._timed

    @property
    def timeline(self) -> Timeline:
        """Timeline of all frames; for a counted file this decodes it once."""
        if self._timed:
            return self._timed_timeline
        return self._counted_timeline

    @cached_property
    def _timed_timeline(self):
        return Timeline.of(self._scan.shown, self._scan.time_base, self._scan.rates)

    @cached_property
    def _counted_timeline(self):
        pts = [frame.pts for frame in _readable(self._packets.decoded())]
        if not pts:
            raise DecodingError(NOTHING)
        known = None not in pts and all(a < b for a, b in zip(pts, pts[1:]))
        if known and self._scan.has_times:
            return Timeline.of(pts, self._scan.time_base, self._scan.rates)
        return Timeline.even(len(pts), next(filter(None, map(exact_rate, self._scan.rates)), 0))

    def info(self) -> "VideoInfo":
        """VideoInfo, having decoded the first frame."""
        height, width, _ = self.read([0])[0].shape
        timeline = self.timeline
        return VideoInfo(
            frames=timeline.frames,
            fps=float(timeline.rate),
            seconds=timeline.seconds,
            even=timeline.is_even,
            height=height,
            width=width,
        )

    def read_chosen(self, choose: Callable[[Timeline], Any], transform: Any = None) -> tuple[Any, Any]:
        """(frames, indices): the frames whose numbers `choose(timeline)` names, as `read` returns them.

        Choosing again is left to the reader: where a damaged file shows other frames than its packets announce,
        `choose` is called a second time, with the timeline of what is shown.
        """
        if self._timed:
            indices = choose(self.timeline)
            try:
                return self._read_timed(indices, transform), indices
            except _NotAsIndexed:
                self._timed = False
        indices = choose(self.timeline)
        return self._read_counted(indices, transform), indices

    def read(self, indices: Any, transform: Any = None) -> Any:
        """Frames `indices` as `read_frames`; raises DecodingError and, for a negative number, IndexError."""
        if self._timed:
            try:
                return self._read_timed(indices, transform)
            except _NotAsIndexed:
                self._timed = False
        return self._read_counted(indices, transform)

    def _read_timed(self, indices, transform):
        wanted, back = _ascending(indices)
        if wanted[-1] >= len(self._scan.shown):
            raise _NotAsIndexed  # counting may know better, and says how many there are
        return self._collect(self._timed_frames(self._scan.shown[wanted].tolist()), len(wanted), back, transform)

    def _read_counted(self, indices, transform):
        wanted, back = _ascending(indices)
        return self._collect(self._counted_frames(wanted.tolist()), len(wanted), back, transform)

    def _collect(self, frames, count, back, transform):
        """Convert, transform by blocks, and put into the order asked for."""
        blocks, block, size = [], [], 0
        for frame in frames:
            picture = self._convert(frame)
            if block and picture.shape != block[0].shape:
                raise DecodingError(
                    "its frames change size from {}x{} to {}x{} px".format(*block[0].shape[:2], *picture.shape[:2])
                )
            block.append(picture)
            size += picture.nbytes
            if transform and size >= BLOCK_BYTES:
                blocks.append(transform(np.stack(block)))
                block, size = block[:0], 0
        if block:
            stacked = np.stack(block)
            blocks.append(transform(stacked) if transform else stacked)
        frames = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return frames if np.array_equal(back, np.arange(count)) else frames[back]

    def _timed_frames(self, wanted):
        """Decoded frames with the presentation times `wanted` (ascending); raises _NotAsIndexed."""
        done = 0
        while done < len(wanted):
            for frame in self._frames_from(self._scan.key_before(wanted[done]), wanted, done):
                yield frame
                done += 1

    def _frames_from(self, key, wanted, done):
        """Those of `wanted[done:]` that are reached from the key packet at position `key` before a later key's are."""
        begin, last = self._scan.pts_of_key(key), None
        decoding = self._packets.decoded(key)
        try:
            for frame in decoding:
                if frame.pts is None or (last is not None and frame.pts <= last):
                    raise _NotAsIndexed
                last = frame.pts
                if frame.pts < begin:
                    continue  # led by frames from before the key packet, which are missing here
                if frame.pts == begin and not (frame.key_frame or frame.pict_type == PictureType.I):
                    raise _NotAsIndexed  # it is no key, whatever the container says
                if frame.pts > wanted[done] or (key and frame.is_corrupt):
                    raise _NotAsIndexed
                if frame.pts < wanted[done]:
                    continue
                yield frame
                done += 1
                if done == len(wanted) or self._scan.key_before(wanted[done]) >= decoding.position:
                    return
        except av.error.FFmpegError as error:
            raise _NotAsIndexed from error
        raise _NotAsIndexed  # the file ends before a frame that it announces

    def _counted_frames(self, wanted):
        needed, count = iter(wanted), 0
        following = next(needed)
        for frame in _readable(self._packets.decoded()):
            if count == following:
                yield frame
                following = next(needed, None)
                if following is None:
                    return
            count += 1
        raise DecodingError(f"ends before frame {wanted[-1]}, it shows {count}" if count else NOTHING)


def _ascending(indices):
    """Distinct frame numbers in ascending order, and where each of `indices` is among them."""
    indices = np.asarray(indices, np.int64)
    if not indices.size:
        raise ValueError("no frame numbers")
    wanted, back = np.unique(indices, return_inverse=True)
    if wanted[0] < 0:
        raise IndexError(f"frame {wanted[0]}: frames are numbered from 0")
    return wanted, back


def _demuxer(path):
    """FFmpeg's name of the format that a file's content announces."""
    if not isinstance(path, bytes) and not os.path.isfile(path):
        raise DecodingError("no such file")
    if (len(path) if isinstance(path, bytes) else os.path.getsize(path)) == 0:
        raise DecodingError("the file is empty")
    kind = formats.container(path)
    if kind is None:
        raise DecodingError("not a video, whatever its name says")
    return kind[0]


def _readable(frames):
    """Iterate over `frames`; the decoder's errors become a DecodingError."""
    try:
        yield from frames
    except DECODER_ERRORS as error:
        raise DecodingError(_reason(error)) from error


def _reason(error):
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0][:160]
    return f"cannot be decoded ({text})"
