"""Samples for the page: some of every class and variant, as bytes of mp4 files, within a limit of size."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError
from hpdm.video.writer import encode_video
from hpdm_eval.clips.source import open_clips
from hpdm_eval.protocols import load_protocol

_CLASS = re.compile(r"_c(\d+)$")
MOST_FRAMES = 128
ALL = "samples"  # the row of clips without a class


@dataclass(frozen=True, kw_only=True)
class Video:
    """A clip of the page."""

    name: str
    data: bytes
    size: tuple[int, int, int]  # frames, rows, columns


Grid = dict[str, dict[str, list[Video]]]  # {class: {variant: clips}}


def parse_videos(texts: Iterable[str], option: str = "--videos") -> dict[str, str]:
    """{name: folder} of NAME=DIR; raises InputError where the form is another or the folder is missing."""
    folders: dict[str, str] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not (separator and name and folder):
            raise InputError(f"{option} {text}: write NAME=DIR")
        if name in folders:
            raise InputError(f"{option}: {name} is given twice")
        if not Path(folder).exists():
            raise InputError(f"{option} {text}: {folder} does not exist")
        folders[name] = folder
    return folders


def choose_videos(folders: Mapping[str, str], *, per_class: int, limit: float) -> tuple[Grid, int]:
    """({class: {variant: [Video, ...]}}, number left out) of folders of clips, {variant: folder}.

    A clip's class is its subfolder or what `hpdm-sample` writes into its name. Of each class and variant the first
    `per_class` clips by name are taken; from `limit` bytes on the rest is left out, the later clips of all classes
    before the first of any.
    """
    chosen = {variant: _first_clips(folder, per_class) for variant, folder in folders.items()}
    classes = sorted({label for own in chosen.values() for label in own}, key=_class_order)
    grid: Grid = {label: {variant: [] for variant in folders} for label in classes}
    used, left_out = 0, 0
    for position in range(per_class):
        for label in classes:
            for variant in folders:
                clips = chosen[variant].get(label, [])
                if position >= len(clips):
                    continue
                video = _encode(clips[position])
                if used + len(video.data) > limit:
                    left_out += 1
                    continue
                used += len(video.data)
                grid[label][variant].append(video)
    return {label: row for label, row in grid.items() if any(row.values())}, left_out


def _first_clips(folder: str, per_class: int) -> dict[str, list[Any]]:
    """{class: first clips} of a folder of videos or arrays; the others are not decoded."""

    def choose(candidates: Iterable[Any]) -> list[Any]:
        counts: Counter[str] = Counter()
        return [
            candidate
            for candidate in candidates
            if counts.update([label := _label(candidate)]) or counts[label] <= per_class
        ]

    clips: dict[str, list[Any]] = {}
    for clip in open_clips(folder, load_protocol("native"), quiet=True, workers=0, choose=choose):
        clips.setdefault(_label(clip), []).append(clip)
    return clips


def _label(clip: Any) -> str:
    match = _CLASS.search(Path(clip.file).stem)
    if match:
        return f"class {int(match[1])}"
    return clip.label or ALL


def _encode(clip: Any) -> Video:
    """The clip as H.264 that browsers play: at most MOST_FRAMES frames, cut to even sides."""
    frames, height, width, _ = clip.video.shape
    height, width = height // 2 * 2, width // 2 * 2
    if not height or not width:
        raise InputError(f"{clip.name}: {clip.video.shape[1]}x{clip.video.shape[2]} pixels are too few to show")
    video = clip.video[: min(frames, MOST_FRAMES), :height, :width]
    return Video(name=clip.name, data=encode_video(video), size=video.shape[:3])


def _class_order(label: str) -> tuple[bool, str, int]:
    number = re.search(r"(\d+)$", label)
    return label != ALL, label.rstrip("0123456789"), int(number[1]) if number else 0
