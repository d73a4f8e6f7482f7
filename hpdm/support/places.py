"""Folders of the user and of this process: scratch space, caches, home."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir

from hpdm.support.leftovers import locked_folder, sweep_one

_swept: set[tuple[Path, str]] = set()  # (folder, prefix) whose leftovers this process has looked through
_scratch: dict[Path, int] = {}  # temporary folder → the descriptor that holds its lock


@contextmanager
def scratch_folder(prefix: str = "hpdm") -> Iterator[Path]:
    """A temporary folder for the length of the block; those of killed processes are deleted first."""
    folder = make_scratch(prefix)
    try:
        yield folder
    finally:
        remove_scratch(folder)


def make_scratch(prefix: str = "hpdm") -> Path:
    """A temporary folder that is this process' until `remove_scratch`; those of killed processes are deleted first."""
    place = Path(tempfile.gettempdir())
    if (place, prefix) not in _swept:
        _swept.add((place, prefix))
        for old in place.glob(f".{prefix}.????????.part"):
            sweep_one(old)
    folder, handle = locked_folder(place / prefix)
    _scratch[folder] = handle
    return folder


def remove_scratch(folder: Path) -> None:
    """Delete a folder of `make_scratch`."""
    shutil.rmtree(folder, ignore_errors=True)
    if (handle := _scratch.pop(folder, None)) is not None:
        os.close(handle)


def user_cache(name: str) -> Path:
    """Folder `name` where the platform keeps caches; in the temporary folder for users without a home.

    On Linux that is $XDG_CACHE_HOME or ~/.cache.
    """
    if home_folder() is None and not os.environ.get("XDG_CACHE_HOME"):
        return _own_temporary(f"{name}-{os.getuid()}")
    return Path(user_cache_dir(name, appauthor=False, opinion=False))


def _own_temporary(name):
    """A lasting folder in the temporary one, where anybody may make folders: it has to be ours and closed to others."""
    folder = Path(tempfile.gettempdir()) / name
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))


def home_folder() -> Path | None:
    """The user's home folder; None where neither $HOME nor the list of users names one, as in some containers."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def expand_user(path: str | Path) -> Path:
    """A path with a leading ~ resolved where that can be done."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
