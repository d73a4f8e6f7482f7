"""Writing clips as H.264 files that every player opens and that come out the same byte for byte each time.

Shapes: T frames, H rows, W columns; clips are uint8 [T, H, W, 3] in RGB.
"""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np

from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm.video.formats import DEFAULT_CRF


def write_video(
    path: str | Path, video: np.ndarray, *, fps: float | Fraction = 25, crf: int = DEFAULT_CRF, lossless: bool = False
) -> None:
    """Write `video`, uint8 [T, H, W, 3], to `path` (.mp4, .mkv or .mov), atomically.

    fps: frames per second, a number or Fraction. crf: quality, 0 (best) to 51. The usual form is yuv420p, which halves
    the colour resolution and needs even H and W. `lossless` stores the exact RGB values (libx264rgb, crf ignored):
    any size, but few browsers play it. The same input gives the same bytes on one kind of processor.
    Raises InputError for another dtype or shape, an odd size, or an unknown extension.
    """
    encoded = encode_video(video, fps=fps, crf=crf, lossless=lossless, container=_container(path))
    with atomic_file(path) as file:
        file.write(encoded)


def encode_video(
    video: np.ndarray,
    *,
    fps: float | Fraction = 25,
    crf: int = DEFAULT_CRF,
    lossless: bool = False,
    container: str = "mp4",
) -> bytes:
    """Bytes of the file that `write_video` writes."""
    import av  # here, so that what writes no video needs no PyAV

    video = np.asarray(video)
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise InputError(f"a video must be uint8 [frames, height, width, 3], got {video.dtype} {list(video.shape)}")
    frames, height, width, _ = video.shape
    if not lossless and (height % 2 or width % 2):
        raise InputError(
            f"H.264 in yuv420p needs an even height and width, got {height}x{width}; "
            "crop or pad the frames, or write them lossless"
        )
    buffer = io.BytesIO()
    # bitexact: Matroska otherwise draws a random identifier for each file
    with av.open(buffer, mode="w", format=container, container_options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream("libx264rgb" if lossless else "libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        # One thread: libx264 divides the work, and so the bits, by the number of threads.
        stream.codec_context.thread_count = 1
        # With x264's macroblock-tree rate control the bytes vary from run to run on processors with AVX-512.
        stream.options = {"crf": "0" if lossless else str(crf), "x264-params": "mbtree=0"}
        for frame in video:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def _container(path):
    containers = {"mp4": "mp4", "mkv": "matroska", "mov": "mov"}
    extension = str(path).rsplit(".", 1)[-1].lower()
    if extension not in containers:
        raise InputError(f"{path}: cannot write .{extension}; name the file .mp4, .mkv or .mov")
    return containers[extension]


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG, atomically."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="png")
    with atomic_file(path) as file:
        file.write(buffer.getvalue())
