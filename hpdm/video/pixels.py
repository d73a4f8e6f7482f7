"""From decoded frames and pictures to uint8 [H,W,3], RGB, by one rule.

The rule: 8-bit RGB; of deeper samples the upper eight bits (YUV is converted by libswscale); alpha is dropped, grey
repeated, palettes are looked up. The rotation and mirroring that a file states (display matrix, EXIF) are applied, by
quarter turns. Pixels are taken to be square.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from hpdm.video.errors import UnreadablePicture

# Pixels of one frame; a declared size beyond this is refused before anything is decoded.
MOST_PIXELS = int(os.environ.get("HPDM_MAX_PIXELS") or 1 << 26)
BLOCK_BYTES = 64 << 20  # of decoded frames, held at once where a transform makes them smaller

_FORMATS = {
    ".png": ("PNG",),
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".webp": ("WEBP",),
    ".bmp": ("BMP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}


class FrameConverter:
    """Callable: PyAV's frame → uint8 [H,W,3], upright. Keeps its conversion tables from frame to frame."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter  # here, so that reading pictures needs no decoder

        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        if frame.format.name.startswith("gray") and frame.format.name not in ("gray", "gray8"):
            # libswscale takes deep grey for the limited range of video, unlike grey of eight bits
            deep: np.ndarray = self._reformatter.reformat(frame, format="gray16le", threads=1).to_ndarray()
            picture = _repeated(deep >> 8)
        else:
            picture = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return picture if matrix is None else upright(picture, np.frombuffer(matrix, "<i4"))


def upright(picture: np.ndarray, matrix: Any) -> np.ndarray:
    """Apply a display matrix (nine integers, row by row) to [H,W,...] by the nearest quarter turn and mirroring.

    Column x and row y of the stored picture are shown at (a x + c y, b x + d y), matrix = (a, b, _, c, d, ...), as in
    ISO/IEC 14496-12.
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) > abs(a):
        picture = picture.swapaxes(0, 1)
        rows, columns = b, c
    else:
        rows, columns = d, a
    if rows < 0:
        picture = picture[::-1]
    if columns < 0:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def read_picture(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """uint8 [H,W,3] of a picture file, upright as its EXIF orientation says; raises UnreadablePicture.

    content: the file's bytes, where it is not to be opened; `path` then says what it is called.
    """
    from PIL import Image, ImageOps

    name, formats = os.path.basename(path), _FORMATS[os.path.splitext(path)[1].lower()]
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=formats) as image:
            check_size(image.height, image.width)
            if (count := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise UnreadablePicture(f"{count} pictures in one file")
            if image.mode.startswith("F") or image.mode in ("I", "I;32B", "I;32BS"):
                raise UnreadablePicture(f"{image.mode} pixels, neither 8 nor 16 bits")
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I;16"):
                return _repeated(np.asarray(turned).astype(np.uint16) >> 8)
            return np.asarray(turned.convert("RGB"))
    except UnreadablePicture as error:
        raise UnreadablePicture(f"{name}: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise UnreadablePicture(f"{name} cannot be read ({error.strerror})") from error
        raise UnreadablePicture(f"{name} is not a readable {formats[0]} file") from error
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, ValueError ...
        raise UnreadablePicture(f"{name} is not a readable {formats[0]} file") from error


def check_size(height: int, width: int) -> None:
    """Raise UnreadablePicture for a declared size past MOST_PIXELS."""
    if height * width > MOST_PIXELS:
        raise UnreadablePicture(
            f"{height}x{width} px are more than {MOST_PIXELS >> 20} megapixels; HPDM_MAX_PIXELS raises the limit"
        )


def _repeated(grey):
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
