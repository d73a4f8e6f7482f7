"""Temporary files and folders next to what they will become, and what killed processes have left of theirs.

They are hidden, `.NAME.xxxxxxxx.part`, and locked for as long as their process lives, which tells those of living
processes from the others.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
OLD_SECONDS = 24 * 3600  # a leftover of this age is nobody's, where the file system cannot lock


def sweep(folder: str | Path) -> int:
    """Delete what killed processes had not finished writing in `folder`; returns how many there were."""
    count = 0
    try:
        entries = [entry for entry in os.scandir(folder) if LEFTOVER.fullmatch(entry.name)]
    except OSError:
        return 0
    for entry in entries:
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if _is_abandoned(handle):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
                    count += 1
            finally:
                os.close(handle)
    return count


def sweep_one(path: str | Path) -> None:
    """Delete one leftover if no living process owns it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if _is_abandoned(handle):
                shutil.rmtree(path)
        finally:
            os.close(handle)


def locked_file(path: Path) -> tuple[int, str]:
    """(descriptor, name) of a new temporary file beside `path`, locked by this process."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{short_name(path.name)}.", suffix=".part")
        if _lock(handle, name):
            return handle, name
        os.close(handle)


def locked_folder(path: Path) -> tuple[Path, int]:
    """(folder, descriptor) of a new temporary folder beside `path`, locked by this process."""
    while True:
        name = tempfile.mkdtemp(dir=path.parent, prefix=f".{short_name(path.name)}.", suffix=".part")
        handle = os.open(name, os.O_RDONLY)
        if _lock(handle, name):
            return Path(name), handle
        os.close(handle)


def short_name(name: str) -> str:
    """A name that leaves room for what temporary names add: file systems end at 255 bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 235 else hashlib.sha256(encoded).hexdigest()[:16]


def _lock(handle, name):
    """Lock a new file; False where a sweep by another process has taken it in the same moment."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name))
    except FileNotFoundError:
        return False


def _is_abandoned(handle):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(handle).st_mtime > OLD_SECONDS
