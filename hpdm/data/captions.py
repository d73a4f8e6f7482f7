"""Folders of videos and images with captions: the list of captions, and clips cut from what it names.

The list is a JSON Lines file with an object per line, or a CSV file (RFC 4180) with a header: `path` relative to the
folder, `caption`, and optionally `fps`, the frame rate where the file's own is wrong or missing. Lines of JSON Lines
end at the line feed alone; white space within a caption, line breaks of CSV included, counts as one blank. A file may
come in several rows; each reading takes one of its captions. An image is a video that stands still.

Shapes: C colours (RGB), T frames, H rows, W columns; clips are uint8 in 0..255.
"""

import csv
import hashlib
import io
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hpdm.data.accounts import BROKEN, with_hints
from hpdm.data.config import AUTO
from hpdm.data.index import IndexedVideo, build_index, find_file
from hpdm.data.sources import said
from hpdm.data.videos import RUN, FileJob
from hpdm.errors import InputError
from hpdm.files import parse_json
from hpdm.video import formats

LIST_NAMES = ("captions.jsonl", "captions.csv")
LONGEST_FIELD = 1 << 20  # characters of one field of a CSV file; more is a quote that was never closed
MISSING, EMPTY = "listed, but not there", "empty caption"


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
    for number, values in _read_csv(file) if formats.suffix(file) == ".csv" else _read_jsonl(file):
        path, caption, fps = (values.get(key) for key in ("path", "caption", "fps"))
        fps = None if fps in (None, "") else fps
        try:
            fps = None if fps is None else float(fps)
        except (TypeError, ValueError):
            fps = math.nan
        if not isinstance(path, str) or not path or not isinstance(caption, str) or not (fps is None or 0 < fps < 1e4):
            raise InputError(f"{file}, line {number}: needs path and caption as text, and fps, if any, above 0")
        if not _is_unicode(caption):
            raise InputError(f"{file}, line {number}: the caption is not valid Unicode (half a surrogate pair)")
        rows.append(Row(path=PurePosixPath(path).as_posix(), caption=" ".join(caption.split()), fps=fps))
    if not rows:
        raise InputError(f"{file} lists no captions")
    return rows


class CaptionedClips:
    """One clip per reading from each file that rows of a list caption: videos first, then images.

    `images` counts the images; `dropped` the rows and files left out, by reason.
    """

    class_names = ()
    in_process, function = False, RUN  # decoders crash and hang

    def __init__(self, root, list_file, sampling, quiet=False):
        self.root, self.list_file, self.sampling = Path(root), list_file, sampling
        self.dropped, self.broken = Counter(), []
        read = read_captions(list_file)
        rows = self._usable(read)
        found = {path: find_file(self.root, path) for path in rows}
        if missing := sum(file is None for file in found.values()):
            self.dropped[MISSING] = missing
        found = [file for file in found.values() if file]
        if not found:
            raise InputError(f"{list_file} names no file that is in {root}: {with_hints(self.dropped)}")
        index = build_index(self.root, found=found, quiet=quiet)
        self.broken = list(index.broken)
        videos, images = [], []
        for file in index.videos:
            entry = self._entry(file, rows[file.path])
            if reason := self._refusal(entry):
                self.dropped[reason] += 1
            else:
                (images if entry.still else videos).append(entry)
        self.files, self.images, self.rows = videos + images, len(images), len(read)
        self.found = len(rows)
        if not self.files:
            self.dropped[BROKEN] += len(self.broken)
            raise InputError(f"no file that {list_file} names is usable: {with_hints(self.dropped)}")

    def __len__(self):
        return len(self.files)

    def name(self, item):
        """Path of file `item` below the folder, which is how messages and lists of files call it."""
        return self.files[item].file.path

    def job(self, item, random):
        """FileJob of one clip of file `item`."""
        entry = self.files[item]
        own = next((fps for fps in (entry.fps,) if fps and fps != entry.file.fps), None)
        return FileJob(path=str(self.root / entry.file.path), sampling=self.sampling, random=random, fps=own)

    def captions(self, item):
        """How many captions file `item` has."""
        return len(self.files[item].captions)

    def told(self, item, caption=0):
        """`said` of file `item` with its caption of that number."""
        entry = self.files[item]
        fps = 0 if entry.still else self.sampling.rate(entry.fps)
        return said(entry.captions[caption], fps, entry.file.height, entry.file.width)

    def contents(self):
        """(path, bytes, frames, digest of the captions) of each file used, which makes up the data's fingerprint."""
        return [(entry.file.path, entry.file.size, entry.file.frames, _digest(entry)) for entry in self.files]

    def describe(self):
        """What the list and the folder hold, and what was left out and why; JSON-able."""
        return {
            "path": str(self.root), "layout": "captions", "captions": str(self.list_file),
            "videos_found": self.found, "rows": self.rows,
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
        """path → its rows, without those of which no file can be found or no text taken."""
        usable = {}
        for row in rows:
            suffix, parts = formats.suffix(row.path), PurePosixPath(row.path).parts
            if not row.caption:
                self.dropped[EMPTY] += 1
            elif row.path.startswith("/") or ".." in parts:
                self.dropped["path leads out of the folder"] += 1
            elif not (formats.is_video(row.path) or formats.is_image(row.path)):
                self.dropped[f"neither a video nor an image: {suffix or 'no suffix'}"] += 1
            else:
                usable.setdefault(row.path, []).append(row)
        return usable

    def _entry(self, file, rows):
        still = formats.is_image(file.path)
        fps = next((row.fps for row in rows if row.fps), file.fps)
        captions = tuple(dict.fromkeys(row.caption for row in rows))
        return Captioned(file=file, captions=captions, fps=0.0 if still else fps, still=still)

    def _refusal(self, entry):
        if entry.still:
            return self.sampling.refusal_of_shape(entry.file)
        if reason := self.sampling.refusal(entry.file, entry.fps if entry.fps != entry.file.fps else None):
            return reason
        return None if entry.fps else "no frame rate in the file"


def _read_jsonl(file):
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"{file}, line {number}: expected an object with path and caption")
        yield number, values


def _read_csv(file):
    header = None
    for number, fields in _csv_rows(file):
        if header is None:
            header = fields
            if not {"path", "caption"} <= set(header) or len(set(header)) < len(header):
                raise InputError(f"{file}: the first line must name the columns path, caption and optionally fps, "
                                 "each once")
        elif len(fields) != len(header):
            raise InputError(f"{file}, line {number}: {len(fields)} fields where the header has {len(header)}; a text "
                             'with commas or line breaks in it goes between double quotes')
        else:
            yield number, dict(zip(header, fields, strict=True))
    if header is None:
        raise InputError(f"{file} is empty; its first line must name the columns path, caption and optionally fps")


def _csv_rows(file):
    """(line on which it begins, fields) of every row that is not empty."""
    before, begun = csv.field_size_limit(LONGEST_FIELD), 1
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        for fields in reader:
            if fields:
                yield begun, fields
            begun = reader.line_num + 1
    except csv.Error as error:
        reason = "a quote is never closed" if "unexpected end" in str(error) else str(error)
        if "field larger" in str(error):
            reason = f"a field of more than {LONGEST_FIELD:,} characters; is a quote never closed?"
        raise InputError(f"{file}, line {begun}: {reason}") from error
    finally:
        csv.field_size_limit(before)


def _text(file):
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text: {error}") from error


def _is_unicode(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(entry):
    return hashlib.sha256(json.dumps([entry.fps, *entry.captions]).encode()).hexdigest()[:16]
