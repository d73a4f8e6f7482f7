"""Folders of small videos, shards, and clips and runs made from them."""

import io
import json
import tarfile

import torch
from click.testing import CliRunner

from hpdm.commands.entry import data, train
from hpdm.data.loader import DataConfig, TrainingClips, make_loader, open_clips
from tests.support.small_training import write_small
from tests.support.video_files import grey_clip, write_video

SIZE = {"frames": 4, "height": 16, "width": 16, "seed": 3}


def run_data(*words):
    """`hpdm-data` with these words; click's result."""
    return CliRunner().invoke(data, [*map(str, words)])


def packed(root, out, *words):
    """Shards of a folder; returns their folder."""
    result = run_data("pack", "--data", root, "--out", out, "--jobs", "1", *words)
    assert result.exit_code == 0, result.output
    return out


def write_classes(root, videos=7, frames=20, suffixes=(".mp4",)):
    """Videos in the classes even and odd; video k starts at grey level 4 * 3k."""
    for k in range(videos):
        write_video(
            root / ("even", "odd")[k % 2] / f"{k}{suffixes[k % len(suffixes)]}", grey_clip(frames, 24, 32, first=3 * k)
        )
    return root


def clips_of(path, numbers=range(12), **settings):
    """Videos uint8 [len(numbers), C, T, H, W] and what is said of them, of data at a path; decoded in this process."""
    clips = in_process(open_clips(DataConfig(path=str(path), flip=True, **settings), **SIZE, quiet=True))
    got = [clips[number] for number in numbers]
    return torch.stack([video for video, _ in got]), [said for _, said in got]


def in_process(clips):
    """The clips, decoded without worker processes, which take seconds to start."""
    clips.source.in_process = True
    return clips


def steps_of(data, first, end, **options):
    """Videos of steps of four clips from a loader, of data at a path or of clips, whose processes stay."""
    if isinstance(data, TrainingClips):
        options |= {"clips": data}
    config = DataConfig(path=str(data), flip=True)
    loader = make_loader(config, **SIZE, batch=4, start_step=first, quiet=True, **{"num_workers": 1} | options)
    try:
        return torch.cat([next(loader)[0] for _ in range(first, end)])
    finally:
        if loader.clips is not data:
            loader.close()


def learn(folder, path, *words, run="run", steps=4):
    """A run of the small network, in `folder` / `run`."""
    size = write_small(folder / "small.yaml")
    return CliRunner().invoke(
        train,
        [
            "--size",
            str(size),
            "--data",
            str(path),
            "--out",
            str(folder / run),
            "--steps",
            str(steps),
            "--batch",
            "4",
            "--device",
            "cpu",
            "--set",
            "data.num_workers=1",
            *map(str, words),
        ],
    )


def write_tar(path, members):
    """A tar file of (name or TarInfo, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def video_bytes(folder, frames=12, first=0, suffix=".mp4"):
    """Content of a small video file."""
    return write_video(folder / f"scratch{suffix}", grey_clip(frames, 24, 32, first=first)).read_bytes()


def sample(key, video, **words):
    """Members of a sample as tools write them: the video as .mp4, and cls, txt and json as they are named."""
    members = [(f"{key}.mp4", video)]
    for suffix, content in words.items():
        content = json.dumps(content) if suffix == "json" else str(content)
        members.append((f"{key}.{suffix}", content.encode()))
    return members
