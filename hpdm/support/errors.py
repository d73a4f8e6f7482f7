"""The exceptions that mean "the input is wrong" or "the place is", as opposed to "the program is wrong"."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Bad input: files, options or configuration that the user can correct.

    The message is one or two sentences that say what is wrong, where, and what to do about it.
    Commands print it on stderr without a traceback and exit with code 2.
    """


class Damaged(InputError):
    """A checkpoint that is not as it was written."""


class WriteError(InputError, OSError):
    """A file could not be written: the disk is full, a quota or a size limit is reached, the device fails.

    An InputError, since only the user can make room; an OSError too, with `errno` and `filename`, for callers that
    go on without the file.
    """

    errno: int  # an OSError may have none

    def __init__(self, path: str | Path, error_number: int, reason: str, kept: str = "") -> None:
        OSError.__init__(self, error_number, reason, str(path))
        self.message = f"{path} could not be written: {reason}" + (f"; {kept}" if kept else "")

    def __str__(self) -> str:
        return self.message


def going_on(number: int) -> str:
    """How to go on after a write has failed with that errno, for work that the same command continues."""
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return f"{'make room, and ' if full else ''}the same command continues"


@contextmanager
def too_large() -> Iterator[None]:
    """Within the block, which makes a network, sizes that no memory holds are an InputError."""
    try:
        yield
    except (RuntimeError, OverflowError, MemoryError) as error:
        text = str(error)
        if isinstance(error, RuntimeError) and not re.search(r"overflow|can't allocate|allocate memory", text, re.I):
            raise
        line = (text.splitlines() or ["out of memory"])[0][:200]
        raise InputError(f"a network of these settings cannot be made, it is too large ({line})") from error
