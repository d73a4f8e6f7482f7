"""Folders of procedural clips, such as studies judge samples against."""

from collections.abc import Sequence
from pathlib import Path

from hpdm.data.procedural import procedural_clip
from hpdm.support.files import atomic_folder
from hpdm.support.progress import progress
from hpdm.video.writer import write_video

REFERENCE_SEED, REAL_SEED = 8_000_000, 8_000_001  # far from the training data's seed


def draw_clips(path: str | Path, seed: int, count: int, size: Sequence[int], quiet: bool = False) -> None:
    """Fill a folder with `count` procedural clips of `size` (frames, rows, columns) as <index>_c<class>.mp4.

    A folder that is there already is left as it is.
    """
    path = Path(path)
    if path.exists():
        return
    with atomic_folder(path) as folder:
        for index in progress(range(count), description=f"drawing {path.name}", unit="clip", quiet=quiet):
            video, label = procedural_clip(seed, index, *size)
            write_video(folder / f"{index:05d}_c{label:03d}.mp4", video)
