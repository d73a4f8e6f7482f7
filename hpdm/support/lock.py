"""One program at a time in a folder: two trainers in one run would undo each other's work.

The lock is a file `.lock` in the folder with the owner's host, process and start in it, locked for as long as the
owner lives. The system gives it back when the owner dies, however it dies, so a stale one needs no care. File systems
that share no locks between hosts are covered by the file's age: the owner touches it every half minute.
"""

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from hpdm.support.errors import InputError
from hpdm.support.files import parse_json, writing

LOCK_FILE = ".lock"
BEAT_SECONDS = 30
POLL_SECONDS = 0.2
SILENT_SECONDS = 4 * BEAT_SECONDS  # an owner on another host that has not touched its lock for so long is gone


@contextmanager
def hold(folder: str | Path, name: str = LOCK_FILE, patience: float = 0) -> Iterator[None]:
    """Own a folder for the length of the block; made where it is not there, and removed again if it stays empty.

    name: of the lock; different ones do not exclude each other. patience: seconds to wait for another owner. Raises
    InputError that names the owner where another living process holds it.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        yield  # whoever writes there says what is wrong
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / name
    with writing(path, kept="nothing was begun"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _take_patiently(path, time.monotonic() + patience)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        with suppress(OSError):  # the folder may have been replaced meanwhile, and be another's now
            if _is_still(handle, path):
                path.unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # not empty: that is what it is for
            for new in made:
                new.rmdir()


def _take_patiently(path, until):
    while True:
        try:
            return _take(path)
        except InputError:
            if time.monotonic() >= until:
                raise
        time.sleep(POLL_SECONDS)


def _take(path):
    """An open, locked descriptor of the lock file, which now names this process."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _try(handle):
                raise InputError(_in_use(path, _owner(handle)))
            if not _is_still(handle, path):  # its owner has just removed it
                os.close(handle)
                continue
            owner = _owner(handle)
            if owner.get("host") not in (None, socket.gethostname()) and _age(handle, path) < SILENT_SECONDS:
                raise InputError(_in_use(path, owner))
            os.ftruncate(handle, 0)
            about = {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "since": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            os.pwrite(handle, json.dumps(about).encode() + b"\n", 0)
            return handle
        except BaseException:
            with suppress(OSError):
                os.close(handle)
            raise


def try_flock(handle: int) -> bool | None:
    """Whether the lock of an open file could be taken at once; None where its file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
        return None
    return True


def _try(handle):
    taken = try_flock(handle)
    if taken is not None:
        return taken
    owner = _owner(handle)  # no locks here: ask whether the process that is named there lives
    return owner.get("host") != socket.gethostname() or not _lives(owner.get("process"))


def _lives(process):
    if not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _is_still(handle, path):
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(handle):
    try:
        owner = parse_json(os.pread(handle, 1000, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _age(handle, path):
    """Seconds since the lock was touched, by the clock of the file system."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock.") as now:
        return os.fstat(now.fileno()).st_mtime - os.fstat(handle).st_mtime


def _in_use(path, owner):
    who = f"process {owner['process']} on {owner['host']}" if {"process", "host"} <= owner.keys() else "another process"
    since = f", since {owner['since']}" if "since" in owner else ""
    return f"{path.parent} is in use by {who}{since}: wait for it or stop it, or name another folder"


def _beat(path, stop):
    while not stop.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)
