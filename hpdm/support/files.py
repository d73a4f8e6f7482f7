"""Writing files so that a reader never sees half of one, and naming them by their content.

Whatever is written appears under its name whole or not at all, also after a loss of power: content is flushed to the
disk before it gets its name, and the folder after. What a killed process leaves is a hidden `.NAME.xxxxxxxx.part`;
the next process that writes to the same folder deletes it. A lock on each tells those of living processes apart.
"""

import ctypes
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from hpdm.support.errors import InputError, WriteError

# What the place has to answer for where a file is written, not the program.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENXIO, errno.EROFS, errno.ESTALE}
UNCHANGED = "nothing of it is left, and what was there before is unchanged"
LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
LOCKS = re.compile(r"\.lock(-\d+)?")  # see hpdm.support.lock
OLD_SECONDS = 24 * 3600  # a leftover of this age is nobody's, where the file system cannot lock
DEEPEST_JSON = 200

_swept = set()  # folders that this process has looked through for leftovers
_umask_lock = threading.Lock()
_scratch = {}  # temporary folder → the descriptor that holds its lock


@contextmanager
def atomic_file(path, mode="wb"):
    """Open a temporary file beside `path`; on success it becomes `path`, on error it disappears.

    `mode` is "wb" or "w" (text is UTF-8 with "\\n" line ends; half-decoded file names are written with escapes, which
    JSON reads back as they were). Missing parent folders are made. Raises WriteError where there is no room.
    """
    path = Path(path)
    with writing(path):
        _prepare(path.parent)
        handle, temporary = _locked_file(path)
    try:
        with writing(path):
            with os.fdopen(handle, "r+b", buffering=0) as raw:
                sink = _Sink(raw)
                file = (
                    sink
                    if "b" in mode
                    else io.TextIOWrapper(sink, encoding="utf-8", newline="\n", errors="backslashreplace")
                )
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
def atomic_folder(path):
    """Yield a temporary folder beside `path` that is renamed to `path` when the block succeeds.

    An existing `path` is replaced as a whole. Raises WriteError where there is no room.
    """
    path = Path(path)
    with writing(path):
        _prepare(path.parent)
        temporary, handle = _locked_folder(path)
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
def writing(path, kept=UNCHANGED):
    """Within the block, errors that say there is no room become a WriteError that names `path`.

    Libraries report them in ways of their own; those of safetensors and numpy are known here.
    """
    try:
        yield
    except Exception as error:
        number = None if isinstance(error, WriteError) and not _is_hidden(error.filename) else no_room(error)
        if number is None:
            raise
        raise WriteError(path, number, os.strerror(number), kept) from error


def no_room(error):
    """The errno of a full or failing disk that an exception, or one that it comes from, tells of; None for others."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno
        text = str(error)
        if (found := re.search(r"os error (\d+)", text)) and int(found[1]) in NO_ROOM:  # Rust's
            return int(found[1])
        if isinstance(error, OSError) and error.errno is None and re.search(r"requested and -?\d+ written", text):
            return errno.ENOSPC  # numpy.tofile
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def checked_file(path):
    """A new binary file in a folder that is nobody else's yet, such as one of `atomic_folder`, flushed to the disk.

    For libraries that hide why a write failed, such as torch.save: the block raises the OSError itself.
    """
    with open(path, "wb", buffering=0) as raw:
        sink = _Sink(raw)
        try:
            yield sink
            sink.flush()
        finally:
            if sink.error is not None:
                raise sink.error
        os.fsync(raw.fileno())


def append_line(path, text, kept="the lines before it are whole"):
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


def write_json(path, value):
    """Write `value` as indented JSON with a final newline, atomically."""
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path, what="JSON"):
    """The content of a JSON file. Raises InputError, one line that calls it `what`, for any that cannot be read.

    A missing file is an InputError too.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as {what} ({' '.join(str(error).split())})") from error


def parse_json(content):
    """The value of JSON text or bytes.

    Raises ValueError for all that is wrong, also for bytes that are not UTF-8, more than DEEPEST_JSON containers in one
    another, and whole numbers that no 64 bits hold: what works with the value fails at those in ways of its own.
    """
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if text.count("[") + text.count("{") > DEEPEST_JSON and _is_deep(value):
        raise ValueError("nested too deeply")
    return value


def _whole_number(text):
    if len(text) > 20 or not -1 << 63 <= (value := int(text)) < 1 << 64:
        raise ValueError(f"a whole number of {len(text.lstrip('-'))} digits")
    return value


def _is_deep(value):
    level = [value]
    for _ in range(DEEPEST_JSON):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def sha256_file(path, chunk=1 << 20):
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(chunk):
            digest.update(block)
    return digest.hexdigest()


def holds_something(folder):
    """Whether a folder is there and holds more than locks and what a killed process had not finished."""
    try:
        return any(not LEFTOVER.fullmatch(name) and not LOCKS.fullmatch(name) for name in os.listdir(folder))
    except FileNotFoundError:
        return False


def free_name(path):
    """`path`, or where that is taken the first of NAME-2, NAME-3, ... that is not."""
    path, number = Path(path), 1
    while os.path.lexists(path if number == 1 else path.with_stem(f"{path.stem}-{number}")):
        number += 1
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def sync_folder(path):
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


def sweep(folder):
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


@contextmanager
def scratch_folder(prefix="hpdm"):
    """A temporary folder for the length of the block; those of killed processes are deleted first."""
    folder = make_scratch(prefix)
    try:
        yield folder
    finally:
        remove_scratch(folder)


def make_scratch(prefix="hpdm"):
    """A temporary folder that is this process' until `remove_scratch`; those of killed processes are deleted first."""
    place = Path(tempfile.gettempdir())
    if (place, prefix) not in _swept:
        _swept.add((place, prefix))
        for old in place.glob(f".{prefix}.????????.part"):
            _sweep_one(old)
    folder, handle = _locked_folder(place / prefix)
    _scratch[folder] = handle
    return folder


def remove_scratch(folder):
    """Delete a folder of `make_scratch`."""
    shutil.rmtree(folder, ignore_errors=True)
    if (handle := _scratch.pop(folder, None)) is not None:
        os.close(handle)


def user_cache(name):
    """Folder `name` in the user's cache folder; in the temporary folder for users without a home."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / name
    home = home_folder()
    return home / ".cache" / name if home else _own_temporary(f"{name}-{os.getuid()}")


def _own_temporary(name):
    """A lasting folder in the temporary one, where anybody may make folders: it has to be ours and closed to others."""
    folder = Path(tempfile.gettempdir()) / name
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))


def home_folder():
    """The user's home folder; None where neither $HOME nor the list of users names one, as in some containers."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def expand_user(path):
    """A path with a leading ~ resolved where that can be done."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


class _Sink(io.BufferedIOBase):
    """A writable binary file that remembers the first error of the disk.

    Libraries turn such errors into words of their own, or write past Python into the file's descriptor; here they
    cannot, and `error` is the one that happened. Small writes are gathered.
    """

    GATHER = 1 << 16

    def __init__(self, raw):
        self._raw, self._pending, self.error = raw, bytearray(), None

    def writable(self):
        return True

    def readable(self):
        return False

    def seekable(self):
        return True

    def write(self, data):
        data = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        if len(data) < self.GATHER:
            self._pending += data
            if len(self._pending) >= self.GATHER:
                self.flush()
        else:
            self.flush()
            self._put(data)
        return len(data)

    def flush(self):
        pending, self._pending = self._pending, bytearray()
        self._put(pending)

    def tell(self):
        return self._raw.tell() + len(self._pending)

    def seek(self, offset, whence=os.SEEK_SET):
        self.flush()
        return self._raw.seek(offset, whence)

    def truncate(self, size=None):
        self.flush()
        return self._raw.truncate(size)

    def close(self):
        pass  # its owner closes the file itself

    def _put(self, data):
        view = memoryview(data)
        try:
            while view:
                view = view[self._raw.write(view) :]
        except OSError as error:
            self.error = self.error or error
            raise


def _is_hidden(path):
    """Whether a path leads through a folder that will get another name."""
    return any(LEFTOVER.fullmatch(part) for part in Path(path).parts)


def _prepare(folder):
    folder.mkdir(parents=True, exist_ok=True)
    key = os.path.realpath(folder)
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


def _sweep_one(path):
    """Delete one leftover if no living process owns it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if _is_abandoned(handle):
                shutil.rmtree(path)
        finally:
            os.close(handle)


def _locked_file(path):
    """(descriptor, name) of a new temporary file beside `path`, locked by this process."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{_short(path.name)}.", suffix=".part")
        if _lock(handle, name):
            return handle, name
        os.close(handle)


def _locked_folder(path):
    """(folder, descriptor) of a new temporary folder beside `path`, locked by this process."""
    while True:
        name = tempfile.mkdtemp(dir=path.parent, prefix=f".{_short(path.name)}.", suffix=".part")
        handle = os.open(name, os.O_RDONLY)
        if _lock(handle, name):
            return Path(name), handle
        os.close(handle)


def _short(name):
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


def rename(source, target):
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
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{_short(path.name)}.", suffix=".part"))
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
