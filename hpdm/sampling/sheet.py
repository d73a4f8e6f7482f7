"""Pictures for looking at: a sheet of many samples, and one sample at every level of its pyramid, as video and image.

A sheet of samples whose classes have names says them below the samples.

Shapes: clips are uint8 [T, H, W, 3].
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpdm.data.ranges import to_uint8
from hpdm.video.reader import VideoReader
from hpdm.video.writer import save_picture, write_video

if TYPE_CHECKING:
    import torch

    from hpdm.sampling.writer import SamplesFolder


COLUMNS, ROWS = 8, 6
MARGIN = 2
LARGEST_SIDE = 2048  # pixels of a sheet; larger cells are thinned
NAMED_WIDTH = 96  # pixels that a cell with a name has at least, by repeating its pixels


def write_sheet(stem: str | Path, folder: "SamplesFolder", *, fps: float = 25) -> list[Path]:
    """Write `stem`.mp4 and `stem`.png from the first samples of a `SamplesFolder`; the image shows the middle frames.

    Returns the files written: none for an empty folder.
    """
    samples = folder.finished()[: COLUMNS * ROWS]
    if not samples:
        return []
    clips = [_read(folder.folder / sample["file"]) for sample in samples]
    columns = min(COLUMNS, len(clips))
    thinning = -(-columns * clips[0].shape[2] // LARGEST_SIDE)
    clips = [clip[:, ::thinning, ::thinning] for clip in clips]
    if any("class" in sample for sample in samples):
        clips = [_named(clip, sample.get("class", "")) for clip, sample in zip(clips, samples, strict=True)]
    return _write(stem, _grid(clips, columns), fps)


def write_pyramid(stem: str | Path, levels: "list[torch.Tensor]", *, fps: float = 25) -> list[Path]:
    """Write `stem`.mp4 and `stem`.png: the first sample of each level's videos [B, C, T, H, W], side by side.

    Coarse levels are enlarged to the size and the length of the finest by repeating pixels and frames.
    """
    finest = levels[-1].shape[2:]
    clips = []
    for level in levels:
        clip = to_uint8(level[0]).permute(1, 2, 3, 0).cpu().numpy()
        for axis, size in enumerate(finest):
            clip = clip.repeat(size // clip.shape[axis], axis=axis)
        clips.append(clip)
    return _write(stem, _grid(clips, len(clips)), fps)


def _read(path):
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with VideoReader(path) as video:
        return video.read(range(video.timeline.frames))


def _named(clip, name):
    """A clip, enlarged to a width at which names can be read, with its name in a line below."""
    times = max(1, -(-NAMED_WIDTH // clip.shape[2]))
    clip = clip.repeat(times, axis=1).repeat(times, axis=2)
    font = ImageFont.load_default()
    scalable = isinstance(font, ImageFont.FreeTypeFont)  # Pillow may be built without FreeType
    name = name.encode("utf-8" if scalable else "latin-1", "replace").decode("utf-8" if scalable else "latin-1")
    kept, printable = len(name), name
    while kept and font.getlength(printable) > clip.shape[2] - 2 * MARGIN:
        kept -= 1
        printable = name[:kept] + ".."
    height = 2 * MARGIN + (sum(font.getmetrics()) if scalable else 12)
    line = Image.new("RGB", (clip.shape[2], height), "white")
    ImageDraw.Draw(line).text((MARGIN, MARGIN), printable, fill="black", font=font)
    lines = np.broadcast_to(np.asarray(line), (len(clip), *np.asarray(line).shape))
    return np.concatenate([clip, lines], axis=1)


def _grid(clips, columns):
    """Clips of one shape in rows of `columns`, with white lines between: uint8 [T, height, width, 3] of even size."""
    cells = [np.pad(clip, ((0, 0), (0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255) for clip in clips]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[first : first + columns], axis=2) for first in range(0, len(cells), columns)]
    sheet = np.concatenate(rows, axis=1)
    _, height, width, _ = sheet.shape
    return np.pad(sheet, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)


def _write(stem, clip, fps):
    video, image = Path(f"{stem}.mp4"), Path(f"{stem}.png")
    write_video(video, clip, fps=fps)
    save_picture(image, np.ascontiguousarray(clip[len(clip) // 2]))
    return [video, image]
