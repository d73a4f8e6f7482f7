"""Errors of a disk that is full or fails, in whatever words a library reports them."""

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpdm.support.errors import WriteError
from hpdm.support.leftovers import LEFTOVER

# What the place has to answer for where a file is written, not the program.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENXIO, errno.EROFS, errno.ESTALE}
UNCHANGED = "nothing of it is left, and what was there before is unchanged"


@contextmanager
def writing(path: str | Path, kept: str = UNCHANGED) -> Iterator[None]:
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


def no_room(error: BaseException | None) -> int | None:
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


def _is_hidden(path):
    """Whether a path leads through a folder that will get another name."""
    return any(LEFTOVER.fullmatch(part) for part in Path(path).parts)


class DiskFile(io.BufferedIOBase):
    """A writable binary file that remembers the first error of the disk.

    Libraries turn such errors into words of their own, or write past Python into the file's descriptor; here they
    cannot, and `error` is the one that happened. Small writes are gathered.
    """

    GATHER = 1 << 16

    def __init__(self, raw: io.FileIO) -> None:
        self._raw, self._pending = raw, bytearray()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        if len(data) < self.GATHER:
            self._pending += data
            if len(self._pending) >= self.GATHER:
                self.flush()
        else:
            self.flush()
            self._put(data)
        return len(data)

    def flush(self) -> None:
        pending, self._pending = self._pending, bytearray()
        self._put(pending)

    def tell(self) -> int:
        return self._raw.tell() + len(self._pending)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.flush()
        return self._raw.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        self.flush()
        return self._raw.truncate(size)

    def close(self) -> None:
        pass  # its owner closes the file itself

    def _put(self, data):
        view = memoryview(data)
        try:
            while view:
                view = view[self._raw.write(view) :]
        except OSError as error:
            self.error = self.error or error
            raise
