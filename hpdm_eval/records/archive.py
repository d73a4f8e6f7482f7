"""Archives: all records of a study in one file that reviews well, a line each, with their names and exact JSON.

The first line says what the file is, how many records follow, and the SHA-256 of all bytes after it, so that a cut-off
file and a figure changed by hand are both noticed. A line holds `{"name": "fvd-....json", "record": {...}}`, sorted by
name. A record file in the project's own layout (`write_json`) is restored from its values to the last byte; any other
is kept as text, `{"name": ..., "text": "..."}`. Equal records give equal bytes. `records.jsonl.gz` is the same through
gzip.
"""

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json
from hpdm_eval.support.limits import check_growth, in_words

FORMAT = "hpdm-eval-records"
VERSION = 1
SUFFIXES = (".jsonl", ".jsonl.gz")
LONGEST_HEADER = 4096  # bytes of the first line
LONGEST_LINE = 64 << 20  # bytes of one record
MOST_LISTED = 5
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A record of an archive: its file name, below the packed folder, and the parsed JSON."""

    name: str
    values: Any
    text: str | None = None  # of a file whose layout is not that of `write_json`

    @property
    def content(self) -> bytes:
        """The bytes of the file that was packed."""
        return layout(self.values) if self.text is None else self.text.encode("utf-8")


def layout(values: Any) -> bytes:
    """JSON as `write_json` lays it out."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def has_archive_suffix(path: str | os.PathLike) -> bool:
    """Whether a file's name is one that an archive may have."""
    return str(path).lower().endswith(SUFFIXES)


def is_archive(path: str | os.PathLike) -> bool:
    """Whether a file begins as an archive does. Raises OSError or ValueError for one that cannot be read that far."""
    with _opened(path) as file:
        try:
            first = file.readline(LONGEST_HEADER)
        except (EOFError, zlib.error) as error:
            raise ValueError(f"damaged gzip data: {error}") from error
    if not first.startswith(b"{"):
        return False
    return _is_header(parse_json(first)) if first.endswith(b"\n") else FORMAT.encode() in first


def write_archive(path: str | os.PathLike, files: Mapping[str, bytes]) -> None:
    """Write an archive of record files, {name below their folder: content}, atomically; gzip where `path` ends in .gz.

    Raises InputError for a name that would leave the folder it is unpacked into, and for content that is no JSON.
    """
    body = "".join(_line(name, files[name]) for name in sorted(files)).encode("utf-8", "backslashreplace")
    header = {"format": FORMAT, "version": VERSION, "records": len(files), "sha256": sha256(body).hexdigest()}
    data = (json.dumps(header) + "\n").encode() + body
    if str(path).lower().endswith(".gz"):
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
            file.write(data)
        data = packed.getvalue()
    with atomic_file(path) as file:
        file.write(data)


def read_archive(path: str | os.PathLike) -> list[Entry]:
    """The entries of an archive, sorted by name.

    Raises InputError, one line that names the file, for one that is missing, damaged, cut off, changed since it was
    written, or larger than its size lets expect (HPDM_EVAL_MAX_UNPACKED).
    """
    try:
        with _opened(path) as file:
            return _entries(path, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"its gzip data end early or are wrong ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def find_entry(path: str | os.PathLike, name: str | None = None, metric: str | None = None) -> Entry:
    """The one entry of that name, its .json optional, and of that metric; raises InputError for none or several."""
    entries = read_archive(path)
    chosen = [entry for entry in entries if _is_asked_for(entry, name, metric)]
    if len(chosen) == 1:
        return chosen[0]
    named = chosen or entries
    some = ", ".join(entry.name for entry in named[:MOST_LISTED]) + (", ..." if len(named) > MOST_LISTED else "")
    wanted = " ".join([*([name] if name else []), *([f"of {metric}"] if metric else [])])
    problem = f"{len(chosen)} records {wanted}".rstrip() if chosen else f"no record {wanted} among {len(entries)}"
    raise InputError(f"{path}: {problem}; name one as {path}#NAME: {some or 'there is none'}")


def _is_asked_for(entry: Entry, name: str | None, metric: str | None) -> bool:
    own = entry.values.get("metric") if isinstance(entry.values, dict) else None
    return (name is None or entry.name in (name, f"{name}.json")) and (metric is None or own == metric)


def split_place(place: str | os.PathLike) -> tuple[Path, str | None]:
    """(file, record's name or None) of `FILE` or `ARCHIVE#NAME`; a file whose own name has a # is that file."""
    path = Path(place)
    if not path.exists():
        file, mark, name = str(place).rpartition("#")
        if mark and file and name:
            return Path(file), name
    return path, None


def check_name(name: Any) -> str | None:
    """What is wrong with a record's name in an archive, or None: it is a path of a .json file below some folder."""
    if not isinstance(name, str) or not name.endswith(".json") or len(name) > 1000:
        return "is not the name of a .json file"
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or not parts[-1].removesuffix(".json"):
        return "is not a relative path"
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\x00-\x1f\x7f]", name):
        return "leads out of its folder or is not printable"
    return None


def record_files(folder: str | os.PathLike) -> Iterator[tuple[str, bytes]]:
    """(name below `folder`, content) of every loose record in it, sorted by name; other JSON files are passed over."""
    for path in sorted(Path(folder).rglob("*.json")):
        if path.is_file():
            content = path.read_bytes()
            try:
                values = parse_json(content)
            except ValueError:
                continue
            if is_record(values):
                yield path.relative_to(folder).as_posix(), content


def is_record(values: Any) -> bool:
    """Whether JSON means to be a record: others in the same folders are manifests and results of benchmarks."""
    return isinstance(values, dict) and {"schema", "metric", "value"} <= set(values)


def _line(name: str, content: bytes) -> str:
    if problem := check_name(name):
        raise InputError(f"{name}: {problem}; rename it")
    try:
        values = parse_json(content)
        entry = {"name": name, "record": values}
        if layout(values) != content:
            entry = {"name": name, "text": content.decode("utf-8")}
    except ValueError as error:
        raise InputError(f"{name}: not a readable record ({error})") from error
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """The bytes of an archive, unpacked where it is packed, and bounded by `check_growth`."""
    with open(path, "rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as file, io.BufferedReader(_Bounded(path, file), _CHUNK) as bounded:
            yield bounded


class _Bounded(io.RawIOBase):
    """Unpacked bytes, up to what a file of that size may hold."""

    def __init__(self, path: str | os.PathLike, file: gzip.GzipFile) -> None:
        self._path, self._file, self._stored, self._read = path, file, os.path.getsize(path), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), _CHUNK))
        self._read += len(data)
        if problem := check_growth(self._read, self._stored):
            raise InputError(f"{self._path}: {problem}")
        buffer[: len(data)] = data
        return len(data)


def _entries(path: str | os.PathLike, file: BinaryIO) -> list[Entry]:
    try:
        header = parse_json(file.readline(LONGEST_HEADER))
    except ValueError as error:
        raise InputError(f"{path}: not an archive of records; `hpdm-eval records pack` makes them") from error
    if not _is_header(header):
        raise InputError(f"{path}: not an archive of records; `hpdm-eval records pack` makes them")
    if header.get("version") != VERSION:
        raise InputError(f"{path}: an archive of version {header.get('version')!r}; this program reads {VERSION}")
    digest, entries = sha256(), {}
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 2):
        if not line.endswith(b"\n"):
            long = len(line) >= LONGEST_LINE
            raise _damaged(path, f"line {number} " + (f"is over {in_words(LONGEST_LINE)}" if long else "is cut off"))
        digest.update(line)
        entry = _parse_line(path, number, line)
        if entry.name in entries:
            raise _damaged(path, f"line {number}: {entry.name} is there twice")
        entries[entry.name] = entry
    if len(entries) != header.get("records"):
        raise _damaged(path, f"it holds {len(entries)} of {header.get('records')} records")
    if digest.hexdigest() != header.get("sha256"):
        raise _damaged(path, "its records have another SHA-256 than when they were packed")
    return [entries[name] for name in sorted(entries)]


def _parse_line(path: str | os.PathLike, number: int, line: bytes) -> Entry:
    try:
        values = parse_json(line)
        if not isinstance(values, dict) or values.keys() not in ({"name", "record"}, {"name", "text"}):
            raise ValueError("not a name with a record")
        if problem := check_name(values["name"]):
            raise ValueError(f"the name {values['name']!r:.200} {problem}")
        if "text" not in values:
            return Entry(name=values["name"], values=values["record"])
        if not isinstance(values["text"], str):
            raise ValueError("the text of a record is none")
        return Entry(name=values["name"], values=parse_json(values["text"]), text=values["text"])
    except ValueError as error:
        raise _damaged(path, f"line {number}: {error}") from error


def _is_header(values: Any) -> bool:
    return isinstance(values, dict) and values.get("format") == FORMAT


def _damaged(path: str | os.PathLike, what: str) -> InputError:
    return InputError(f"{path}: a damaged archive of records: {what}; restore it, or pack the records again")
