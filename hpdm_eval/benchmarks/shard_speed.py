"""Clips per second from a folder of many small files and from shards of them, in one run."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpdm.config.data import DataConfig
from hpdm.data.loader import make_loader, open_clips
from hpdm.data.pack import Smaller, pack
from hpdm.data.procedural import procedural_clip
from hpdm.support.files import scratch_folder
from hpdm.support.progress import note
from hpdm.video.writer import write_video
from hpdm_eval.support.timing import rates_by_round

DIFFERENT = 8  # videos that are encoded; the others are copies of them, which cost as much to read
MEMORY = "hpdm-bench-shards"


def measure(
    videos: int,
    *,
    frames: int = 64,
    size: int = 64,
    clip: int = 16,
    rounds: int = 3,
    workers: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """For videos "as they are" and "averaged 8x8x8": {"clips_per_second", "ratio", "equal"}, each by source.

    Medians over rounds; ratio: of the folder's clips per second; equal: whether the clips are the folder's.
    Sources: the folder; its shards on the same disk; those in fsspec's file system in memory, which costs what any
    address costs besides its network; and shards averaged over 8x8x8 for clips of which the folder's are averaged.
    """
    with scratch_folder("hpdm-shards") as folder:
        root, shards, low = (Path(folder) / name for name in ("videos", "shards", "low"))
        _write(root, videos, frames, size)
        pack(root, shards, shard_bytes=8 << 20, quiet=True)
        pack(root, low, shard_bytes=8 << 20, smaller=Smaller(shrink=(8, 8, 8)), workers=workers, quiet=True)
        note("videos are written and packed", quiet)
        figures = _compare(
            {"folder": str(root), "shards": str(shards), "shards in memory": _in_memory(shards)},
            (1, 1, 1),
            clip,
            size,
            rounds,
            workers,
            quiet,
        )
        averaged = _compare(
            {"folder": str(root), "packed smaller": str(low)}, (8, 8, 8), frames // 8, size // 8, rounds, workers, quiet
        )
    return {"as they are": figures, "averaged 8x8x8": averaged}


def _compare(places, shrink, clip, size, rounds, workers, quiet):
    deliveries, batch, stages, loaders, first = 8, 8, {}, [], {}
    for name, path in places.items():
        config = DataConfig(path=path, shrink=shrink, steps_ahead=2)
        clips = open_clips(config, frames=clip, height=size, width=size, seed=0, quiet=True)
        loader = make_loader(
            config, frames=clip, height=size, width=size, batch=batch, seed=0, clips=clips, num_workers=workers
        )
        first[name] = next(loader)[0]
        loaders.append(loader)
        stages[name] = batch * deliveries, lambda loader=loader: [next(loader) for _ in range(deliveries)]
    try:
        rates = rates_by_round(stages, rounds, quiet)
    finally:
        for loader in loaders:
            loader.close()
    base, *others = places
    return {
        "clips_per_second": {name: float(np.median(own)) for name, own in rates.items()},
        "ratio": {name: float(np.median(np.array(rates[name]) / rates[base])) for name in others},
        "equal": {name: bool(torch.equal(first[name], first[base])) for name in others},
    }


def _write(root, videos, frames, size):
    for number in range(videos):
        path = root / f"class{number % 10}" / f"{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < DIFFERENT:
            write_video(path, procedural_clip(0, number, frames, size, size)[0])
        else:
            other = number % DIFFERENT
            shutil.copyfile(root / f"class{other % 10}" / f"{other:06d}.mp4", path)


def _in_memory(shards):
    import fsspec

    system = fsspec.filesystem("memory")
    for path in shards.iterdir():
        if not path.name.startswith("."):
            with closing(open(path, "rb")) as file:
                system.pipe_file(f"/{MEMORY}/{path.name}", file.read())
    return f"memory://{MEMORY}"
