"""Folders of videos and images with captions: the list of captions, and clips cut from what it names.

The list is a JSON Lines file with an object per line, or a CSV file with a header: `path` relative to the folder,
`caption`, and optionally `fps`, the frame rate where the file's own is wrong or missing. A file may come in several
rows; each reading takes one of its captions. An image is a video that stands still.

Shapes: C colours (RGB), T frames, H rows, W columns; clips are uint8 in 0..255.
"""

import csv
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from hpdm.data.decoding import read_frames
from hpdm.data.index import VIDEO_SUFFIXES, FoundFile, IndexedVideo, build_index
from hpdm.data.videos import fit
from hpdm.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
LIST_NAMES = ("captions.jsonl", "captions.csv")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a list of captions."""

    path: str
    caption: str
    fps: float | None


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A usable file with all its captions; `fps` is the list's or the file's, 0 for an image."""

    file: IndexedVideo
    captions: tuple[str, ...]
    fps: float
    still: bool


def find_captions(root, captions: str) -> Path:
    """The list of captions of the folder `root`: the file that `captions` names, or with "auto" the one in it."""
    root = Path(root)
    places = [root / name for name in LIST_NAMES] if captions == AUTO else [Path(captions)]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"no list of captions: looked for {' and '.join(map(str, places))}; it is a JSON Lines or CSV "
                     "file with path, caption and optionally fps, named by data.captions")


def read_captions(file) -> list[Row]:
    """All rows of a list; raises InputError with the line of one that is not as it should be."""
    file = Path(file)
    rows = []
    for number, values in _read_csv(file) if file.suffix == ".csv" else _read_jsonl(file):
        path, caption, fps = (values.get(key) for key in ("path", "caption", "fps"))
        fps = None if fps in (None, "") else fps
        try:
            fps = None if fps is None else float(fps)
        except (TypeError, ValueError):
            fps = math.nan
        if not isinstance(path, str) or not path or not isinstance(caption, str) or not (fps is None or 0 < fps < 1e4):
            raise InputError(f"{file}, line {number}: needs path and caption as text, and fps, if any, above 0")
        rows.append(Row(path=PurePosixPath(path).as_posix(), caption=" ".join(caption.split()), fps=fps))
    if not rows:
        raise InputError(f"{file} lists no captions")
    return rows


class CaptionedClips:
    """One clip per reading from each file that rows of a list caption: videos first, then images.

    `images` counts the images; `dropped` the rows and files left out, by reason.
    """

    class_names = ()

    def __init__(self, root, list_file, sampling, quiet=False):
        self.root, self.list_file, self.sampling = Path(root), list_file, sampling
        self.dropped, self.broken = Counter(), []
        rows = self._usable(read_captions(list_file))
        found = {path: self._find(path) for path in rows}
        self.dropped["listed, but not there"] += sum(file is None for file in found.values())
        found = [file for file in found.values() if file]
        if not found:
            raise InputError(f"{list_file} names no file that is in {root}: {dict(self.dropped)}")
        index = build_index(self.root, found=found, quiet=quiet)
        self.broken = list(index.broken)
        videos, images = [], []
        for file in index.videos:
            entry = self._entry(file, rows[file.path])
            if reason := self._refusal(entry):
                self.dropped[reason] += 1
            else:
                (images if entry.still else videos).append(entry)
        self.files, self.images = videos + images, len(images)
        if not self.files:
            raise InputError(f"no file that {list_file} names is usable: {dict(self.dropped)}")

    def __len__(self):
        return len(self.files)

    def name(self, item):
        """Path of file `item`, for messages."""
        return str(self.root / self.files[item].file.path)

    def read(self, item, random):
        """(uint8 [C,T,H,W], what is said of it) of one clip of file `item`; raises DecodingError for a damaged file.

        The second is {"label": -1, "caption": text, "measures": float32 [3] as `hpdm.config.MEASURES`}.
        """
        entry, sampling = self.files[item], self.sampling
        path = self.root / entry.file.path
        if entry.still:
            frames = read_frames(path, [0])
        else:
            frames = read_frames(path, sampling.indices(entry.file.frames, entry.fps, random))
        video = fit(frames, sampling.height, sampling.width, random if sampling.crop == "random" else None)
        caption = entry.captions[int(random.integers(len(entry.captions))) if len(entry.captions) > 1 else 0]
        told = said(caption, 0 if entry.still else sampling.rate(entry.fps), entry.file.height, entry.file.width)
        return video.expand(-1, sampling.frames, -1, -1), told

    def describe(self):
        """What the list and the folder hold, and what was left out and why; JSON-able."""
        return {
            "path": str(self.root), "layout": "captions", "captions": str(self.list_file),
            "videos": len(self.files) - self.images, "images": self.images,
            "captions_in_total": sum(len(entry.captions) for entry in self.files),
            "frames_in_total": sum(entry.file.frames for entry in self.files),
            "dropped": {reason: count for reason, count in self.dropped.items() if count},
            "broken": [{"path": file.path, "reason": file.reason} for file in self.broken],
        }

    def texts(self):
        """Every caption once, sorted."""
        return sorted({caption for entry in self.files for caption in entry.captions})

    def _usable(self, rows):
        """path → its rows, without those that no file can be found or told for."""
        usable = {}
        for row in rows:
            suffix, parts = PurePosixPath(row.path).suffix.lower(), PurePosixPath(row.path).parts
            if not row.caption:
                self.dropped["empty caption"] += 1
            elif row.path.startswith("/") or ".." in parts:
                self.dropped["path leads out of the folder"] += 1
            elif suffix not in VIDEO_SUFFIXES + IMAGE_SUFFIXES:
                self.dropped[f"neither a video nor an image: {suffix or 'no suffix'}"] += 1
            else:
                usable.setdefault(row.path, []).append(row)
        return usable

    def _find(self, path):
        try:
            stat = (self.root / path).stat()
        except OSError:
            return None
        return FoundFile(path=path, size=stat.st_size, mtime=stat.st_mtime_ns)

    def _entry(self, file, rows):
        still = PurePosixPath(file.path).suffix.lower() in IMAGE_SUFFIXES
        fps = next((row.fps for row in rows if row.fps), file.fps)
        captions = tuple(dict.fromkeys(row.caption for row in rows))
        return Captioned(file=file, captions=captions, fps=0.0 if still else fps, still=still)

    def _refusal(self, entry):
        if reason := self.sampling.refusal_of_shape(entry.file.height, entry.file.width):
            return reason
        if entry.still:
            return None
        if reason := self.sampling.refusal(entry.file.frames, entry.fps):
            return reason
        return None if entry.fps else "no frame rate in the file"


def said(caption: str, fps: float, height: int, width: int) -> dict:
    """What data with captions deliver beside a clip."""
    return {"label": -1, "caption": caption, "measures": torch.tensor([fps, height, width], dtype=torch.float32)}


def _read_jsonl(file):
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"{file}, line {number}: expected an object with path and caption")
        yield number, values


def _read_csv(file):
    reader = csv.DictReader(_text(file).splitlines())
    if not {"path", "caption"} <= set(reader.fieldnames or ()):
        raise InputError(f"{file}: the first line must name the columns path, caption and optionally fps")
    for values in reader:
        yield reader.line_num, values


def _text(file):
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text: {error}") from error
