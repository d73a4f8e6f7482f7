"""What clips go through before anybody looks for seams in them: resizes and codecs, forty combinations of both.

A combination is a tuple of steps, each `Resize` or `Encode`; `put_through` applies them to a clip. What a last `Encode`
left is known to a reader from the file, as a `Coding`.

    T frames, H rows, W columns; clips are uint8 [T,H,W,3]
"""

import io
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np

from hpdm_eval.clips.coding import Coding, read_coding
from hpdm_eval.clips.resize import resize

FACTORS = {  # rows and columns of the picture, and of what is kept of its middle, for a source of 240x320
    "256 crop": ((256, 341), (256, 256)),
    "256 squash": ((256, 256), (256, 256)),
    "128 crop": ((128, 171), (128, 128)),
    "192": ((192, 256), (192, 256)),
}
FILTERS = {"bilinear": ("bilinear", False), "bicubic": ("bicubic", True), "lanczos": ("lanczos", True)}
QUALITY_SCALE = 118  # FFmpeg's lambda of one step of its quality scale


@dataclass(frozen=True)
class Resize:
    """To one of FACTORS by one of FILTERS."""

    factor: str
    filter: str

    def __str__(self):
        return f"{self.factor} {self.filter}"


@dataclass(frozen=True)
class Encode:
    """With one of CODECS, a key frame every `gop` frames."""

    codec: str
    gop: int

    def __str__(self):
        return self.codec if self.codec == "MJPEG" else f"{self.codec} g{self.gop}"


CODECS = {  # encoder and its options but the distance of key frames
    "x264": ("libx264", {"crf": "23", "preset": "veryfast"}, "x264-params", "keyint={}:mbtree=0:log-level=error"),
    "HEVC": (
        "libx265",
        {"crf": "28", "preset": "veryfast"},
        "x265-params",
        "keyint={}:log-level=none:pools=none:frame-threads=1",
    ),
    "VP9": (
        "libvpx-vp9",
        {"crf": "33", "b": "0", "deadline": "realtime", "cpu-used": "6", "auto-alt-ref": "1", "lag-in-frames": "16"},
        "g",
        "{}",
    ),
    "AV1": ("libsvtav1", {"crf": "40", "preset": "10", "svtav1-params": "lp=1"}, "g", "{}"),
    "MPEG-4": ("mpeg4", {}, "g", "{}"),
    "MJPEG": ("mjpeg", {}, "g", "{}"),
}


def combinations() -> list[tuple[Resize | Encode, ...]]:
    """The forty, as tuples of steps."""
    resizes = [(Resize(factor, name),) for factor in FACTORS for name in FILTERS]
    codecs = [
        (Encode(codec, gop),)
        for codec, gops in (
            ("x264", (12, 16, 250)),
            ("HEVC", (16, 250)),
            ("VP9", (16, 128)),
            ("AV1", (16, 128)),
            ("MPEG-4", (12, 16)),
            ("MJPEG", (1,)),
        )
        for gop in gops
    ]
    stored = [(Resize("256 crop", "bilinear"), Encode(codec, 1 if codec == "MJPEG" else 16)) for codec in CODECS]
    read = [
        (Encode("x264", 12), Resize("256 crop", "bilinear")),
        (Encode("HEVC", 12), Resize("256 squash", "bicubic")),
        (Encode("VP9", 12), Resize("128 crop", "lanczos")),
        (Encode("AV1", 12), Resize("256 crop", "bicubic")),
        (Encode("MPEG-4", 12), Resize("256 squash", "bilinear")),
        (Encode("MJPEG", 1), Resize("192", "bilinear")),
    ]
    several = [
        (Resize("256 crop", "bicubic"), Encode("x264", 32), Resize("128 crop", "bicubic")),
        (Resize("256 crop", "bilinear"), Encode("AV1", 250), Resize("128 crop", "bilinear")),
        (Resize("256 squash", "bicubic"), Encode("MPEG-4", 12)),
        (Resize("256 squash", "bilinear"), Encode("VP9", 250)),
    ]
    return [*resizes, *codecs, *stored, *read, *several]


def put_through(video: np.ndarray, steps: Sequence[Resize | Encode]) -> tuple[np.ndarray, Coding | None]:
    """(what the steps make of a clip, the Coding of the file it was last written to or None).

    A resize after a codec means that the clip was stored without loss afterwards: there is no Coding.
    """
    coding = None
    for step in steps:
        if isinstance(step, Resize):
            picture, kept = FACTORS[step.factor]
            video, coding = _middle(resize(video, picture, *FILTERS[step.filter]), kept), None
        else:
            file = io.BytesIO(encode_with(video, step.codec, step.gop))
            coding = read_coding(file)
            file.seek(0)
            video = _frames(file)
    return video, coding


def encode_with(video: np.ndarray, codec: str, gop: int) -> bytes:
    """Bytes of a Matroska file of a clip; codec: one of CODECS."""
    encoder, options, key, value = CODECS[codec]
    buffer = io.BytesIO()
    with _own_priority():
        _encode(buffer, video, codec, encoder, {**options, key: value.format(gop)})
    return buffer.getvalue()


@contextmanager
def _own_priority():
    """SVT-AV1, run by root, gives the calling thread real-time priority over everything else and leaves it so."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def _encode(buffer, video, codec, encoder, options):
    with av.open(buffer, mode="w", format="matroska", container_options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(encoder, rate=25, options=options)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "MJPEG" else "yuv420p"
        stream.codec_context.thread_count = 1
        if codec in ("MPEG-4", "MJPEG"):
            stream.codec_context.qscale = True
            stream.codec_context.global_quality = 5 * QUALITY_SCALE
        for frame in video:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        output.mux(stream.encode())


def _frames(file):
    with av.open(file) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _middle(video, kept):
    top, left = ((have - keep) // 2 for have, keep in zip(video.shape[1:3], kept))
    return np.ascontiguousarray(video[:, top : top + kept[0], left : left + kept[1]])
