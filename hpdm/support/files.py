"""Files: one door to writing them safely, to JSON, and to the places where they go; and naming them by content.

`atomic` writes whole files and folders, `disk_errors` says what a full disk is, `leftovers` clears up after killed
processes, `json_files` reads and writes JSON, `places` knows caches and scratch folders.
"""

import hashlib
import os
import re
from pathlib import Path

from hpdm.support.atomic import append_line, atomic_file, atomic_folder, checked_file, rename, sync_folder
from hpdm.support.disk_errors import NO_ROOM, no_room, writing
from hpdm.support.json_files import DEEPEST_JSON, parse_json, read_json, write_json
from hpdm.support.leftovers import LEFTOVER, OLD_SECONDS, sweep
from hpdm.support.places import expand_user, home_folder, make_scratch, remove_scratch, scratch_folder, user_cache

__all__ = [
    "DEEPEST_JSON",
    "LEFTOVER",
    "NO_ROOM",
    "OLD_SECONDS",
    "append_line",
    "atomic_file",
    "atomic_folder",
    "checked_file",
    "expand_user",
    "free_name",
    "holds_something",
    "home_folder",
    "make_scratch",
    "no_room",
    "parse_json",
    "read_json",
    "remove_scratch",
    "rename",
    "scratch_folder",
    "sha256_file",
    "sweep",
    "sync_folder",
    "user_cache",
    "write_json",
    "writing",
]

LOCKS = re.compile(r"\.lock(-\d+)?")  # see hpdm.support.lock


def sha256_file(path: str | os.PathLike[str], chunk: int = 1 << 20) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(chunk):
            digest.update(block)
    return digest.hexdigest()


def holds_something(folder: str | Path) -> bool:
    """Whether a folder is there and holds more than locks and what a killed process had not finished."""
    try:
        return any(not LEFTOVER.fullmatch(name) and not LOCKS.fullmatch(name) for name in os.listdir(folder))
    except FileNotFoundError:
        return False


def free_name(path: str | Path) -> Path:
    """`path`, or where that is taken the first of NAME-2, NAME-3, ... that is not."""
    path, number = Path(path), 1
    while os.path.lexists(path if number == 1 else path.with_stem(f"{path.stem}-{number}")):
        number += 1
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")
