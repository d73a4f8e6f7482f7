"""Addresses that fsspec opens, such as s3://bucket/folder: file systems, and reading that survives network faults."""

import logging
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt to read

log = logging.getLogger(__name__)


class NoAddress(InputError):
    """An address of a kind that nothing installed can open."""


def is_address(path: str | Path) -> bool:
    """Whether a path is an address that fsspec opens, such as s3://bucket/folder."""
    return "://" in str(path)


def read_range(address: str, begin: int, size: int) -> bytes:
    """Bytes `begin` to `begin + size` of the file at an address; fewer where it ends before.

    Raises InputError where it is not there, or still cannot be read after all attempts.
    """
    folder, _, name = address.rpartition("/")
    system, place = file_system(folder)
    path = f"{place.rstrip('/')}/{name}"
    try:
        return bytes(persistently(lambda: system.cat_file(path, start=begin, end=begin + size), address))
    except FileNotFoundError:
        raise InputError(f"{address} is missing; bring it back, and the same command continues") from None


def persistently(function: Callable[[], Any], what: str | Path) -> Any:
    """What `function` returns, called again after a while where it fails as networks do.

    Errors that say that nothing is there are raised as they are; others that remain become an InputError about `what`.
    """
    for wait in (*WAITS, None):
        try:
            return function()
        except (FileNotFoundError, NotADirectoryError, InputError):
            raise
        except Exception as error:  # every service has its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            lasting = isinstance(error, (PermissionError, ImportError, NotImplementedError))
            if wait is None or lasting:
                times = "" if lasting else f", tried {len(WAITS) + 1} times"
                raise InputError(
                    f"{what} cannot be read ({reason}){times}; once it can, the same command continues"
                ) from error
            log.warning("%s: %s; trying again in %g s", what, reason, wait)
        time.sleep(wait)


@lru_cache(maxsize=64)
def file_system(address: str) -> tuple[Any, str]:
    """(fsspec's file system, the path there) of an address."""
    try:
        import fsspec
    except ImportError as error:
        raise NoAddress(f"{address}: addresses need fsspec: pip install 'hpdm[shards]'") from error
    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise NoAddress(f"{address} cannot be opened ({' '.join(str(error).split())})") from error
