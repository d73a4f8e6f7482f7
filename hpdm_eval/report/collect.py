"""Finding records: loose files in folders, and archives of them."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm.support.progress import note
from hpdm_eval.records.archive import SUFFIXES, has_archive_suffix, is_archive, is_record, read_archive
from hpdm_eval.records.record import Record, load_record, parse_record


@dataclass(frozen=True, kw_only=True)
class NamedRecord:
    """A record and the name of its file below the folder that was searched."""

    name: str
    record: Record

    def get(self, key: str) -> Any:
        """A value of the record by name, of the schema or of its further keys; None where it has none."""
        return getattr(self.record, key) if hasattr(self.record, key) else self.record.extra.get(key)


def collect_records(places: Iterable[str | os.PathLike]) -> list[NamedRecord]:
    """All records of folders, archives and single files, sorted by name; a file reached twice counts once.

    Folders are searched with all that lies below. A record of an archive is named as its file was when it was packed:
    `study/records.jsonl` holds `records/NAME`. Of a loose file and a packed one of the same name the newer counts, with
    a note where they differ. Other JSON files are passed over, those that cannot be read with a note. With several
    places names begin with that of the place, with as many parents as tell the places apart. Raises InputError for a
    missing place, a record or an archive that cannot be read, and where there is none.
    """
    paths = [Path(place) for place in places]
    seen: set[Path] = set()
    collected: dict[str, Record] = {}
    for place, prefix in zip(paths, _prefixes(paths), strict=True):
        own: dict[str, Record] = {}
        for name, record in _records_of(place, seen):
            _add(own, prefix + name, record)
        collected |= own
    if not collected:
        raise InputError(f"no record in {', '.join(map(str, paths))}; metric commands save them with --record DIR")
    return [NamedRecord(name=name, record=collected[name]) for name in sorted(collected)]


def _prefixes(places: list[Path]) -> list[str]:
    """What the names of each place's records begin with: nothing for a single place."""
    if len(places) < 2:
        return [""] * len(places)
    parts = [_stem(place.resolve()).parts for place in places]
    prefixes = []
    for own in parts:
        others = [other for other in parts if other != own]
        length = next(n for n in range(1, len(own) + 1) if n == len(own) or all(o[-n:] != own[-n:] for o in others))
        prefixes.append("/".join(own[-length:]).lstrip("/") + "/")
    return prefixes


def _records_of(place: Path, seen: set[Path]) -> Iterator[tuple[str, Record]]:
    """(name, record) of all in a place whose files are not in `seen`."""
    if place.is_file():
        if not _is_new(place, seen):
            return
        if has_archive_suffix(place):
            yield from _packed(place)
        else:
            yield place.name, load_record(place)
        return
    if not place.is_dir():
        raise InputError(f"--records {place}: there is no such folder or archive")
    for path in sorted(place.rglob("*.json")):
        if _is_loose_record(path) and _is_new(path, seen):
            yield path.relative_to(place).as_posix(), load_record(path)
    for path in sorted(path for suffix in SUFFIXES for path in place.rglob(f"*{suffix}")):
        if _holds_records(path) and _is_new(path, seen):
            below = _stem(path.relative_to(place)).as_posix()
            yield from ((f"{below}/{name}", record) for name, record in _packed(path))


def _packed(path: Path) -> Iterator[tuple[str, Record]]:
    for entry in read_archive(path):
        yield entry.name, parse_record(entry.values, f"{path}#{entry.name}")


def _add(collected: dict[str, Record], name: str, record: Record) -> None:
    """Keep the newer of two records of one name."""
    other = collected.setdefault(name, record)
    if other != record:
        newer = max(other, record, key=lambda own: own.created)
        note(f"{name} is there twice, packed and loose, with different content: the newer counts, of {newer.created}")
        collected[name] = newer


def _is_new(path: Path, seen: set[Path]) -> bool:
    real = path.resolve()
    new = real not in seen
    seen.add(real)
    return new


def _stem(path: Path) -> Path:
    """A path without the suffix of an archive."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix) and path.name != suffix:
            return path.with_name(path.name.removesuffix(suffix))
    return path


def _is_loose_record(path: Path) -> bool:
    """Whether a JSON file means to be a record."""
    try:
        return path.is_file() and is_record(parse_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        note(f"left out: {path}: not readable JSON ({str(error)[:160]})")
        return False


def _holds_records(path: Path) -> bool:
    """Whether a file is an archive: others of the same suffix are logs and lists of captions."""
    try:
        return path.is_file() and is_archive(path)
    except (OSError, ValueError) as error:
        note(f"left out: {path}: not readable as JSON lines ({str(error)[:160]})")
        return False
