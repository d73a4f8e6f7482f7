"""Writing files so that a reader never sees half of one.

Whatever is written appears under its name whole or not at all, also after a loss of power: content is flushed to the
disk before it gets its name, and the folder after. What a killed process leaves is deleted by the next process that
writes to the same folder, see `hpdm.support.leftovers`.
"""

import ctypes
import io
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from hpdm.support.disk_errors import NO_ROOM, DiskFile, writing
from hpdm.support.leftovers import locked_file, locked_folder, short_name, sweep

_swept: set[str] = set()  # folders that this process has looked through for leftovers
_umask_lock = threading.Lock()


@contextmanager
def atomic_file(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[Any]:
    """Open a temporary file beside `path`; on success it becomes `path`, on error it disappears.

    `mode` is "wb" or "w" (text is UTF-8 with "\\n" line ends; half-decoded file names are written with escapes, which
    JSON reads back as they were). Missing parent folders are made. Raises WriteError where there is no room.
    """
    path = Path(path)
    with writing(path):
        _prepare(path.parent)
        handle, temporary = locked_file(path)
    try:
        with writing(path):
            with os.fdopen(handle, "r+b", buffering=0) as raw:
                sink = DiskFile(raw)
                file: DiskFile | io.TextIOWrapper = sink
                if "b" not in mode:
                    bare = cast(BinaryIO, sink)  # it has no name, which its wrapper can do without
                    file = io.TextIOWrapper(bare, encoding="utf-8", newline="\n", errors="backslashreplace")
                try:
                    yield file
                    file.flush()
                finally:
                    if file is not sink:
                        with suppress(OSError, ValueError):
                            file.detach()
                    if sink.error is not None:  # whatever a library made of it
                        raise sink.error
                os.fchmod(raw.fileno(), 0o666 & ~_umask())
                os.fsync(raw.fileno())
                rename(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that is renamed to `path` when the block succeeds.

    An existing `path` is replaced as a whole. Raises WriteError where there is no room.
    """
    path = Path(path)
    with writing(path):
        _prepare(path.parent)
        temporary, handle = locked_folder(path)
    try:
        with writing(path):
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in files:
                    _sync(os.path.join(folder, name))
                sync_folder(folder)
            _take_place(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(handle)


@contextmanager
def checked_file(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A new binary file in a folder that is nobody else's yet, such as one of `atomic_folder`, flushed to the disk.

    For libraries that hide why a write failed, such as torch.save: the block raises the OSError itself.
    """
    with open(path, "wb", buffering=0) as raw:
        sink = DiskFile(raw)
        try:
            yield sink
            sink.flush()
        finally:
            if sink.error is not None:
                raise sink.error
        os.fsync(raw.fileno())


def append_line(path: str | Path, text: str, kept: str = "the lines before it are whole") -> None:
    """Append a line of text to a file and flush it; a line that a killed process broke off is ended first."""
    with writing(path, kept), open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        broken = False
        if end:
            file.seek(end - 1)
            broken = file.read(1) != b"\n"
        line = (b"\n" if broken else b"") + text.encode("utf-8", "backslashreplace") + b"\n"
        while line:
            line = line[file.write(line) :]
        os.fsync(file.fileno())


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Have the disk know the names in a folder: without it a loss of power undoes what has just been renamed."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
    finally:
        os.close(handle)


def _prepare(folder):
    folder.mkdir(parents=True, exist_ok=True)
    key = os.path.realpath(folder)
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


def rename(source: str | Path, target: str | Path) -> None:
    """As os.replace. A server of files that gets a request twice says of the second that there is no such file."""
    before = os.lstat(source)
    try:
        os.replace(source, target)
    except FileNotFoundError:
        if os.path.lexists(source) or not os.path.lexists(target) or not os.path.samestat(before, os.lstat(target)):
            raise


def _take_place(temporary, path):
    """Give a folder its name; one that is there before is exchanged for it in one step, and then deleted."""
    if not os.path.lexists(path):
        rename(temporary, path)
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        rename(temporary, path)
        return
    if not _exchange(temporary, path):
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{short_name(path.name)}.", suffix=".part"))
        rename(path, aside)
        rename(temporary, path)
        temporary = aside
    shutil.rmtree(temporary, ignore_errors=True)


def _exchange(first, second):
    """Swap two names in one step; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_working_folder, exchange = -100, 2
    return renameat2(at_working_folder, os.fsencode(first), at_working_folder, os.fsencode(second), exchange) == 0


def _sync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask():
    with _umask_lock:  # of two threads at once, one would take the other's 0 for the mask and leave it behind
        mask = os.umask(0)
        os.umask(mask)
    return mask
