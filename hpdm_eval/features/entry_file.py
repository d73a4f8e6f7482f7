"""A file that grows by entries, each with its checksums: it may be read, written and cut short by several processes.

    head: MAGIC, kind u8, 3 zeros, length of the body u32, key [32], BLAKE2b [16] of the entry, CRC-32 of the head u32
    body: bytes

All integers are little-endian. Heads alone say where entries are, so a file is opened without reading bodies; a body is
compared with its checksum whenever it is read. After damage reading goes on at the next whole head. Writers lock the
file for the length of one entry. What a killed one has left of an entry at the end is cut off by the next.
"""

import errno
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpdm.support.files import atomic_file
from hpdm.support.lock import try_flock

MAGIC = b"HPe1"
HEAD = struct.Struct("<4sB3xI32s16sI")
SEARCHED = 1 << 20  # bytes at a time, after damage
PATIENCE = 10.0  # seconds for another writer's entry


class EntryFile:
    """Entries (kind, key) → body of one file, which need not be there; of equal keys the last counts.

    damaged: entries, or stretches of them, that were found not to be what was written.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.damaged = Path(path), 0
        self._places, self._end, self._file = {}, 0, None  # (kind, key): (offset, length); read so far; (device, inode)
        self.refresh()

    def __contains__(self, entry: object) -> bool:
        return entry in self._places

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return iter(list(self._places))

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Look at what other processes have added."""
        try:
            with _opened(self.path, os.O_RDONLY) as handle:
                self._scan(handle)
        except OSError:
            self._forget()

    def read(self, kind: int, key: bytes) -> bytes | None:
        """The body of an entry as bytes, or None where there is none, or a damaged one."""
        place = self._places.get((kind, key))
        if place is None:
            return None
        offset, length = place
        try:
            with _opened(self.path, os.O_RDONLY) as handle:
                content = _read(handle, offset, HEAD.size + length)
        except OSError:
            content = b""
        if _parse(content[: HEAD.size]) == (kind, length, key) and content == _entry(kind, key, content[HEAD.size :]):
            return content[HEAD.size :]
        self.damaged += 1
        del self._places[kind, key]
        return None

    def append(self, kind: int, key: bytes, body: bytes) -> None:
        """Add an entry; raises OSError where it cannot be written, and nothing of it is left then."""
        entry = _entry(kind, key, body)
        with self._locked() as handle:
            self._scan(handle)
            os.ftruncate(handle, self._end)
            try:
                written = 0
                while written < len(entry):
                    written += os.pwrite(handle, entry[written:], self._end + written)
            except BaseException:
                os.ftruncate(handle, self._end)
                raise
            self._places[kind, key] = self._end, len(body)
            self._end += len(entry)

    def rewrite(self) -> None:
        """Write the file again without damaged and superseded entries; raises OSError where that cannot be."""
        with self._locked() as handle:
            self._scan(handle)
            entries, self._places, end = self._places, {}, 0
            with atomic_file(self.path) as file:
                for (kind, key), (offset, length) in entries.items():
                    content = _read(handle, offset, HEAD.size + length)
                    if content == _entry(kind, key, content[HEAD.size :]):
                        file.write(content)
                        self._places[kind, key], end = (end, length), end + len(content)
        self._end, self._file = end, _identity(os.stat(self.path))

    def sync(self) -> None:
        """Have the disk hold all entries."""
        with _opened(self.path, os.O_RDONLY) as handle:
            os.fsync(handle)

    @contextmanager
    def _locked(self):
        """A descriptor of the file, made where it is not there, that no other writer has."""
        until = time.monotonic() + PATIENCE
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _opened(self.path, os.O_RDWR | os.O_CREAT) as handle:
                # Without locks in the file system checksums tell entries that were written over each other.
                if try_flock(handle) is not False and _is_still(handle, self.path):
                    yield handle
                    return
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock", str(self.path))
            time.sleep(0.005)

    def _scan(self, handle):
        """Take in the heads from where the last scan ended to the last whole entry."""
        status = os.fstat(handle)
        if _identity(status) != self._file or status.st_size < self._end:
            self._forget()
            self._file = _identity(status)
        while self._end < status.st_size:
            head = _parse(_read(handle, self._end, HEAD.size))
            if head is None:
                following = _next_head(handle, self._end + 1, status.st_size)
                if following is None:
                    return
                self.damaged += 1
                self._end = following
                continue
            kind, length, key = head
            if self._end + HEAD.size + length > status.st_size:
                return
            self._places[kind, key] = self._end, length
            self._end += HEAD.size + length

    def _forget(self):
        self._places, self._end, self._file = {}, 0, None


@contextmanager
def _opened(path, flags):
    handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _identity(status):
    return status.st_dev, status.st_ino


def _is_still(handle, path):
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _entry(kind, key, body):
    about = struct.pack("<BI", kind, len(body)) + key
    check = hashlib.blake2b(about + body, digest_size=16).digest()
    head = HEAD.pack(MAGIC, kind, len(body), key, check, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + body


def _parse(head):
    """(kind, length, key) of a head, or None for what is none."""
    if len(head) < HEAD.size or head[:4] != MAGIC or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    _, kind, length, key, _, _ = HEAD.unpack(head)
    return kind, length, key


def _next_head(handle, offset, size):
    """Offset of the first whole head from `offset` on, or None."""
    while offset + HEAD.size <= size:
        block = _read(handle, offset, SEARCHED + HEAD.size)
        place = -1
        while (place := block.find(MAGIC, place + 1)) >= 0 and place < SEARCHED:
            if _parse(block[place : place + HEAD.size]) is not None:
                return offset + place
        offset += SEARCHED
    return None


def _read(handle, offset, length):
    """Up to `length` bytes from `offset`."""
    parts = []
    while length > 0 and (part := os.pread(handle, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)
