"""The videos of a folder or of shards as a table: a row each, sorted by path, in memory or in a file of `columns`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hpdm.support.columns import AT_ONCE, DamagedTable, Texts, read_columns, write_columns
from hpdm.video import formats
from hpdm.video.timeline import Timeline, exact_rate

TABLE_VERSION = 3  # 1 and 2 were JSON
NUMBERS = {
    "size": "i8",
    "mtime": "i8",
    "frames": "i8",
    "fps": "f8",
    "seconds": "f8",
    "even": "?",
    "height": "i4",
    "width": "i4",
    "fatal": "?",
    "still": "?",
}
TEXTS = ("path", "reason")
SHOWN = ("frames", "fps", "seconds", "even", "height", "width")  # fields of a VideoInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """A file whose name says video: path relative to the folder (posix), bytes, modification time in ns."""

    path: str
    size: int
    mtime: int

    @property
    def label(self) -> str | None:
        """Name of the class subfolder, the first part of the path; None for a file outside any."""
        parts = PurePosixPath(self.path).parts
        return parts[0] if len(parts) > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedVideo(FoundFile):
    """A readable video, or a picture as a video of one frame without a rate; the rest is as in `VideoInfo`."""

    frames: int
    fps: float
    seconds: float
    even: bool
    height: int
    width: int

    def frames_at(self, fps: float, own: bool | None = None) -> int:
        """How many frames the whole video has at `fps` frames per second; 0 where it has no rate.

        own: frames per second that take the place of the file's times.
        """
        if own or self.even:
            rate = exact_rate(own or self.fps)
            return Timeline.even(self.frames, rate).resampled_length(fps) if rate else 0
        return -(-Fraction(self.seconds).limit_denominator(10**9) * exact_rate(fps) // 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenFile(FoundFile):
    """A file that no decoder opens, and why; `fatal` where it crashed or hung the process."""

    reason: str
    fatal: bool = False


def now() -> str:
    """The time, as tables state when they were made."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


class VideoTable:
    """Columns by name, each [n]; rows are sorted by path.

    path, size, mtime: as in FoundFile. frames ... width: as in VideoInfo, zeros for a broken file. reason: why it is
    broken, "" for others. still: whether it is a picture. With captions: `caption`, all of them, row after row;
    `caption_ends`, how many there are up to each row; `list_fps`, the list's frame rate or 0. In shards: `shard`, the
    number of the name in about["shards"], and `offset`, the member's first byte there; `label`, its class or "", where
    paths do not say it. about: what is JSON-able and of the whole.
    """

    def __init__(self, columns: dict, about: dict) -> None:
        self.columns, self.about = columns, about
        for name in (*NUMBERS, *TEXTS):
            if name not in columns or len(columns[name]) != len(columns["path"]):
                raise DamagedTable(f"a table without its column {name}")

    @classmethod
    def of(cls, entries: "Sequence[IndexedVideo | BrokenFile]", about: dict | None = None) -> "VideoTable":
        """Table of IndexedVideos and BrokenFiles that are sorted by path."""
        columns: dict[str, np.ndarray | Texts] = {
            name: np.fromiter((getattr(entry, name, 0) for entry in entries), dtype, len(entries))
            for name, dtype in NUMBERS.items()
            if name != "still"
        }
        columns["still"] = np.fromiter((formats.is_image(entry.path) for entry in entries), "?", len(entries))
        columns["path"] = Texts.of(entry.path for entry in entries)
        columns["reason"] = Texts.of(getattr(entry, "reason", "") for entry in entries)
        return cls(columns, about or {})

    @classmethod
    def read(cls, path: str | Path) -> "VideoTable":
        """The table in a file, memory-mapped; raises OSError and DamagedTable, also for another version's."""
        columns, about = read_columns(path)
        if not isinstance(about, dict) or about.get("version") != TABLE_VERSION or "path" not in columns:
            raise DamagedTable(f"{path} is no index of videos of this version")
        return cls(columns, about)

    def write(self, path: str | Path) -> None:
        """Write the file, atomically. Raises WriteError."""
        write_columns(path, self.columns, self.about | {"version": TABLE_VERSION})

    def __len__(self) -> int:
        return len(self.columns["path"])

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def broken(self) -> np.ndarray:
        """Whether each row is a broken file, bool [n]."""
        return self.reason.lengths() > 0

    @property
    def in_shards(self) -> bool:
        return "shard" in self.columns

    def captions_of(self, row: int) -> Sequence[str]:
        """The captions of a row, a list."""
        begin = int(self.caption_ends[row - 1]) if row else 0
        return self.caption[begin : int(self.caption_ends[row])]

    def captions_chosen(self, rows: np.ndarray) -> Iterator[list[str]]:
        """Yield the captions of each of `rows`, an ascending array; read in blocks where many are chosen."""
        if 4 * len(rows) < len(self):
            yield from map(self.captions_of, rows.tolist())
            return
        wanted, texts = np.zeros(len(self), bool), iter(self.caption)
        wanted[rows] = True
        for first in range(0, len(self), AT_ONCE):
            block = slice(first, first + AT_ONCE)
            counts = np.diff(self.caption_ends[block], prepend=self.caption_ends[first - 1] if first else 0)
            for chosen, count in zip(wanted[block].tolist(), counts.tolist(), strict=True):
                captions = list(islice(texts, count))
                if chosen:
                    yield captions

    def caption_counts(self) -> np.ndarray:
        """How many captions each row has, int64 [n]; zeros for a table without any."""
        if "caption" not in self.columns:
            return np.zeros(len(self), np.int64)
        return np.diff(self.caption_ends, prepend=0)

    def entry(self, row: int) -> "IndexedVideo | BrokenFile":
        """IndexedVideo or BrokenFile of a row."""
        row = int(row)
        found = {"path": self.path[row], "size": int(self.size[row]), "mtime": int(self.mtime[row])}
        if reason := self.reason[row]:
            return BrokenFile(**found, reason=reason, fatal=bool(self.fatal[row]))
        return IndexedVideo(**found, **{name: self.columns[name][row].item() for name in SHOWN})

    def entries(self) -> "Iterator[IndexedVideo | BrokenFile]":
        """All rows, one after the other."""
        numbers = [name for name in NUMBERS if name != "still"]
        for first in range(0, len(self), 10_000):
            rows = slice(first, first + 10_000)
            values = zip(
                self.path[rows],
                self.reason[rows],
                *(self.columns[name][rows].tolist() for name in numbers),
                strict=True,
            )
            for path, reason, *found_numbers in values:
                row = dict(zip(numbers, found_numbers, strict=True))
                found = {"path": path, "size": row["size"], "mtime": row["mtime"]}
                yield (
                    BrokenFile(**found, reason=reason, fatal=row["fatal"])
                    if reason
                    else IndexedVideo(**found, **{name: row[name] for name in SHOWN})
                )


class Rows(Sequence):
    """Some rows of a table as a sequence of what `make(row)` returns; nothing is kept."""

    def __init__(self, rows: Any, make: Callable[[Any], Any]) -> None:
        self.rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | slice) -> Any:
        if isinstance(item, slice):
            return [self._make(row) for row in self.rows[item]]
        return self._make(self.rows[item])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)
