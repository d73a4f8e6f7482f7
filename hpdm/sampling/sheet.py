"""Pictures for looking at: a sheet of many samples, and one sample at every level of its pyramid, as video and image.

Shapes: clips are uint8 [T, H, W, 3].
"""

from pathlib import Path

import numpy as np

from hpdm.data.decoding import probe_video, read_frames
from hpdm.data.ranges import to_uint8
from hpdm.video.writer import write_video
from hpdm.training.sheets import save_picture

COLUMNS, ROWS = 8, 6
MARGIN = 2
LARGEST_SIDE = 2048  # pixels of a sheet; larger cells are thinned


def write_sheet(stem, folder, *, fps=25) -> list[Path]:
    """Write `stem`.mp4 and `stem`.png from the first samples of a `SamplesFolder`; the image shows the middle frames.

    Returns the files written: none for an empty folder.
    """
    names = [entry["file"] for entry in folder.finished()[: COLUMNS * ROWS]]
    if not names:
        return []
    clips = [_read(folder.folder / name) for name in names]
    columns = min(COLUMNS, len(clips))
    thinning = -(-columns * clips[0].shape[2] // LARGEST_SIDE)
    return _write(stem, _grid([clip[:, ::thinning, ::thinning] for clip in clips], columns), fps)


def write_pyramid(stem, levels, *, fps=25) -> list[Path]:
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
    return read_frames(path, range(probe_video(path).frames))


def _grid(clips, columns):
    """Clips of one shape in rows of `columns`, with white lines between: uint8 [T, height, width, 3] of even size."""
    cells = [np.pad(clip, ((0, 0), (0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255) for clip in clips]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[first:first + columns], axis=2) for first in range(0, len(cells), columns)]
    sheet = np.concatenate(rows, axis=1)
    _, height, width, _ = sheet.shape
    return np.pad(sheet, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)


def _write(stem, clip, fps):
    video, image = Path(f"{stem}.mp4"), Path(f"{stem}.png")
    write_video(video, clip, fps=fps)
    save_picture(image, np.ascontiguousarray(clip[len(clip) // 2]))
    return [video, image]
