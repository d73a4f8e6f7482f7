"""Folders of videos and images with captions: the list of captions, and clips cut from what it names.

The list is a JSON Lines file with an object per line, or a CSV file (RFC 4180) with a header: `path` relative to the
folder, `caption`, and optionally `fps`, the frame rate where the file's own is wrong or missing. Lines of JSON Lines
end at the line feed alone; white space within a caption, line breaks of CSV included, counts as one blank. A file may
come in several rows; each reading takes one of its captions. An image is a video that stands still.

The captions of an index lie in a file (`hpdm.data.table`): training holds none of them in memory.

Shapes: C colours (RGB), T frames, H rows, W columns; clips are uint8 in 0..255.
"""

import csv
import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from hpdm.config.data import AUTO
from hpdm.data.accounts import BROKEN, with_hints
from hpdm.data.folders import open_table
from hpdm.data.index import build_index, check_limit, find_file
from hpdm.data.sources import captioned
from hpdm.data.table import BrokenFile, IndexedVideo, Rows
from hpdm.data.videos import BROKEN_CODE, RUN, USABLE, file_job
from hpdm.support.columns import Texts
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm.video import formats

if TYPE_CHECKING:
    from hpdm.config.data import DataConfig
    from hpdm.data.table import VideoTable
    from hpdm.data.videos import ClipSampling, FileJob


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


def find_captions(root: str | Path, captions: str) -> Path:
    """The list of captions of the folder `root`: the file that `captions` names, or with "auto" the one in it."""
    root = Path(root)
    places = [root / name for name in LIST_NAMES] if captions == AUTO else [Path(captions)]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"no list of captions: looked for {' and '.join(map(str, places))}; it is a JSON Lines or CSV "
        "file with path, caption and optionally fps, named by data.captions"
    )


def read_captions(file: str | Path) -> list[Row]:
    """All rows of a list; raises InputError with the line of one that is not as it should be."""
    rows = list(iterate_captions(file))
    if not rows:
        raise InputError(f"{file} lists no captions")
    return rows


def iterate_captions(file: str | Path) -> "Iterator[Row]":
    """Yield the rows of a list one by one; as `read_captions`, but for a list without any."""
    file = Path(file)
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
        yield Row(path=PurePosixPath(path).as_posix(), caption=" ".join(caption.split()), fps=fps)


class CaptionList:
    """What a list says of the files that can be used: captions one after the other, as bytes, and rates.

    `number` is path → number of the path, in the order of the list. `dropped` counts rows that cannot be used, by
    reason; `rows` all of them.
    """

    def __init__(self, list_file: str | Path) -> None:
        self.file, self.number, self.dropped, self.rows = Path(list_file), {}, Counter(), 0
        self._owner, self._rates = array("q"), array("d")
        self._captions = Texts.of(self._usable())
        if not self.rows:
            raise InputError(f"{list_file} lists no captions")

    def attach(self, table: "VideoTable") -> "VideoTable":
        """Add the captions to the VideoTable of the files, and how many paths of the list have no row there."""
        rank = np.full(len(self.number), -1)
        for row, path in enumerate(table.path):
            if (number := self.number.get(path)) is not None:
                rank[number] = row
        rows = rank[np.asarray(self._owner, np.int64)] if len(self._owner) else np.zeros(0, np.int64)
        order = np.argsort(rows, kind="stable")
        order = order[rows[order] >= 0]
        counts, rates = np.zeros(len(table), np.int64), np.zeros(len(table))
        rates[rank[rank >= 0]] = np.asarray(self._rates)[rank >= 0]

        def distinct():
            row, seen = -1, set()
            for place in order.tolist():
                if rows[place] != row:
                    row, seen = rows[place], set()
                if (caption := self._captions[place]) not in seen:
                    seen.add(caption)
                    counts[row] += 1
                    yield caption

        table.columns["caption"] = Texts.of(distinct())
        table.columns["caption_ends"] = np.cumsum(counts)
        table.columns["list_fps"] = rates
        dropped = self.dropped | Counter({MISSING: int((rank < 0).sum())})
        table.about["captions"] = {
            "file": str(self.file),
            "stamp": stamp_of(self.file),
            "rows": self.rows,
            "named": len(self.number),
            "dropped": {reason: count for reason, count in dropped.items() if count},
        }
        return table

    def _usable(self):
        for row in iterate_captions(self.file):
            self.rows += 1
            suffix, parts = formats.suffix(row.path), PurePosixPath(row.path).parts
            if not row.caption:
                self.dropped[EMPTY] += 1
            elif row.path.startswith("/") or ".." in parts:
                self.dropped["path leads out of the folder"] += 1
            elif not (formats.is_video(row.path) or formats.is_image(row.path)):
                self.dropped[f"neither a video nor an image: {suffix or 'no suffix'}"] += 1
            else:
                number = self.number.setdefault(row.path, len(self.number))
                if number == len(self._rates):
                    self._rates.append(0.0)
                self._rates[number] = self._rates[number] or row.fps or 0.0
                self._owner.append(number)
                yield row.caption


def stamp_of(file: str | Path) -> list[int]:
    """Size and time of a list of captions, by which an index knows it again."""
    about = Path(file).stat()
    return [about.st_size, about.st_mtime_ns]


def open_captioned(config: "DataConfig", sampling: "ClipSampling", quiet: bool = False) -> "CaptionedClips":
    """CaptionedClips of the folder or shards `config.path` with `config.captions`.

    Raises InputError where there are no captions, or no file that they name can be used.
    """
    table = open_table(config)
    if table is not None and table.in_shards:
        if config.captions != AUTO:
            raise InputError(f"data.captions={config.captions}: shards bring their captions along; use auto")
        if "caption" not in table.columns:
            raise InputError(f"the shards in {config.path} hold no captions: neither .txt nor .json with a caption")
        return CaptionedClips(config.path, table, sampling)
    assert config.captions is not None
    list_file = find_captions(config.path, config.captions)
    if table is not None and table.about.get("captions", {}).get("stamp") == stamp_of(list_file):
        return CaptionedClips(config.path, table, sampling)
    if not Path(config.path).is_dir():
        raise InputError(
            f"{config.path} is not a folder; --data takes a folder of videos or of shards, an address of "
            "shards, or the word procedural"
        )
    listed = CaptionList(list_file)
    if table is not None:
        check_limit(config.path, len(listed.number), config.index_limit)
    found = [file for file in (find_file(config.path, path) for path in listed.number) if file]
    if not found:
        dropped = listed.dropped | Counter({MISSING: len(listed.number)})
        raise InputError(f"{list_file} names no file that is in {config.path}: {with_hints(dropped)}")
    index = build_index(config.path, found=found, quiet=quiet, limit=config.index_limit)
    return CaptionedClips(config.path, listed.attach(index.table), sampling)


class CaptionedClips:
    """One clip per reading from each file of a table that has captions: videos first, then images, each by path.

    `images` counts the images; `dropped` the rows of the list and the files left out, by reason.
    """

    class_names = ()
    in_process, function = False, RUN  # decoders crash and hang

    def __init__(self, root: str | Path, table: "VideoTable", sampling: "ClipSampling") -> None:
        self.root, self.table, self.sampling = root, table, sampling
        about = table.about["captions"]
        self.list_file, self.rows, self.found = about["file"], about["rows"], about["named"]
        self.dropped = Counter(about["dropped"])
        listed = table.caption_counts().nonzero()[0]
        still = table.still[listed]
        # The list's rate counts where it is another than the file's.
        own = np.where(table.list_fps[listed] == table.fps[listed], 0.0, table.list_fps[listed])
        codes, reasons = sampling.refusals(table, listed, fps=own, still=still)
        rates = np.where(still, 0.0, np.where(own > 0, own, table.fps[listed]))
        if (missing := (codes == USABLE) & ~still & (rates == 0)).any():
            codes[missing] = len(reasons)
            reasons.append("no frame rate in the file")
        for code in codes[codes > USABLE].tolist():
            self.dropped[reasons[code]] += 1
        entries = (table.entry(row) for row in listed[codes == BROKEN_CODE])
        self.broken = [entry for entry in entries if isinstance(entry, BrokenFile)]
        order = np.concatenate([((codes == USABLE) & (still == kind)).nonzero()[0] for kind in (False, True)])
        self.used, self.rates, self.images = listed[order], rates[order], int(still[order].sum())
        if not len(self.used):
            self.dropped[BROKEN] += len(self.broken)
            raise InputError(f"no file that {self.list_file} names is usable: {with_hints(self.dropped)}")

    def __len__(self) -> int:
        return len(self.used)

    @property
    def files(self) -> Rows:
        """The files used, as Captioned."""
        return Rows(range(len(self)), self._captioned)

    def name(self, item: int) -> str:
        """Path of file `item` below the folder, which is how messages and lists of files call it."""
        return self.table.path[int(self.used[item])]

    def job(self, item: int, random: np.random.Generator) -> "FileJob":
        """FileJob of one clip of file `item`."""
        row = int(self.used[item])
        rate = float(self.rates[item])
        own = rate if rate and rate != self.table.fps[row] else None
        return file_job(self.root, self.table, row, self.sampling, random, fps=own)

    def captions(self, item: int) -> int:
        """How many captions file `item` has."""
        row = int(self.used[item])
        return int(self.table.caption_ends[row]) - (int(self.table.caption_ends[row - 1]) if row else 0)

    def conditions(self, item: int, caption: int = 0) -> dict:
        """`said` of file `item` with its caption of that number."""
        row = int(self.used[item])
        first = int(self.table.caption_ends[row - 1]) if row else 0
        fps = 0 if self.table.still[row] else self.sampling.rate(float(self.rates[item]))
        times, rows, columns = self.table.about.get("shrunk", (1, 1, 1))  # what is said is of the video before it
        return captioned(
            self.table.caption[first + caption],
            fps * times,
            int(self.table.height[row]) * rows,
            int(self.table.width[row]) * columns,
        )

    def contents(self) -> Iterator[tuple]:
        """Yield (path, bytes, frames, digest of the captions) of each file used, by path: the data's fingerprint."""
        order = np.argsort(self.used)
        rows, rates, table = self.used[order], self.rates[order].tolist(), self.table
        sizes, frames = table.size[rows].tolist(), table.frames[rows].tolist()
        for path, size, count, rate, captions in zip(
            table.path.chosen(rows), sizes, frames, rates, table.captions_chosen(rows), strict=True
        ):
            yield path, size, count, _digest(rate, captions)

    def describe(self) -> dict:
        """What the list and the folder hold, and what was left out and why; JSON-able."""
        return {
            "path": str(self.root),
            "layout": "captions",
            "captions": self.list_file,
            "videos_found": self.found,
            "rows": self.rows,
            "videos": len(self.used) - self.images,
            "images": self.images,
            "captions_in_total": int(self.table.caption_counts()[self.used].sum()),
            "frames_in_total": int(self.table.frames[self.used].sum()),
            "dropped": {reason: count for reason, count in self.dropped.items() if count},
            "broken": [{"path": file.path, "reason": file.reason} for file in self.broken],
        }

    def _captioned(self, item):
        row = int(self.used[item])
        return Captioned(
            file=self.table.entry(row),
            captions=tuple(self.table.captions_of(row)),
            fps=float(self.rates[item]),
            still=bool(self.table.still[row]),
        )


def _read_jsonl(file):
    for number, line in enumerate(_lines(file, "\n"), 1):
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
                raise InputError(
                    f"{file}: the first line must name the columns path, caption and optionally fps, each once"
                )
        elif len(fields) != len(header):
            raise InputError(
                f"{file}, line {number}: {len(fields)} fields where the header has {len(header)}; a text "
                "with commas or line breaks in it goes between double quotes"
            )
        else:
            yield number, dict(zip(header, fields, strict=True))
    if header is None:
        raise InputError(f"{file} is empty; its first line must name the columns path, caption and optionally fps")


def _csv_rows(file):
    """(line on which it begins, fields) of every row that is not empty."""
    before, begun = csv.field_size_limit(LONGEST_FIELD), 1
    reader = csv.reader(_lines(file, ""), strict=True)
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


def _lines(file, newline):
    """The lines of a file, with their ends, which `newline` defines as for `open`."""
    try:
        with open(file, encoding="utf-8-sig", newline=newline) as opened:
            yield from opened
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text: {error}") from error


def _is_unicode(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(fps, captions):
    return hashlib.sha256(json.dumps([fps, *captions]).encode()).hexdigest()[:16]
