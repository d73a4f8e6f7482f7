"""The one walk over a folder of data, for training and evaluation alike.

Symbolic links are followed, and every folder is listed once, whatever links lead to it: under its own place where that
is below the root, else under the first link in the order of names. So a link to a folder above it ends the walk there
and counts nothing twice. Hidden entries and the `__MACOSX` folders of archives are passed over.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Names of folders above the classes, as data sets have them → the part that each is.
PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One folder of a walk. Names are posix paths below the root; those of `files` and `folders` are in order.

    name: "" for the root. path: what opens it. files, folders: names of regular files and of the subfolders that are
    walked next, links to either included. irregular: names of broken links, pipes and other entries that are neither.
    repeated: names under which folders were met that are listed elsewhere. error: why the folder could not be listed,
    or None.
    """

    name: str
    path: Path
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    irregular: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    error: str | None = None


def walk(root: str | Path, order: Callable[[list[str]], list[str]] | None = None) -> "Iterator[Folder]":
    """Yield a Folder for `root` and each folder below it, parents first.

    order: key function of names, by default plain; `natural_key` puts 2 before 10. A `root` that is no folder yields
    one Folder with its `error`.
    """
    root = Path(root)
    top = os.path.realpath(root)
    claimed, waiting = {top}, [("", top)]
    while waiting:
        folder, inside = _list(root, *waiting.pop(), top, claimed, order)
        waiting += reversed(inside)
        yield folder


def walk_files(root: str | Path, order: Callable[[list[str]], list[str]] | None = None) -> Iterator[str]:
    """Yield the name (posix path below `root`) of every regular file, folder by folder; `walk` says what is skipped."""
    for folder in walk(root, order):
        yield from folder.files


def visible(name: str) -> bool:
    """Whether a file or folder of this name counts: neither hidden nor the `__MACOSX` of an archive."""
    return not name.startswith(".") and name != "__MACOSX"


def natural_key(name: str) -> tuple:
    """Sort key that puts frame2 before frame10, path component by path component."""
    parts = []
    for part in name.split("/"):
        pieces = re.split("([0-9]+)", part)
        parts.append(tuple(int(piece) if i % 2 else piece for i, piece in enumerate(pieces)))
    return parts, name


def _list(root, name, real, top, claimed, order):
    """(Folder, [(name, real path)] of the subfolders to be walked, which are added to the `claimed` real paths)."""
    path = root / name
    try:
        with os.scandir(path) as listed:
            entries = sorted(
                (entry for entry in listed if visible(entry.name)),
                key=lambda entry: order(entry.name) if order else entry.name,
            )
    except OSError as error:
        return Folder(name=name, path=path, error=f"cannot be listed ({error.strerror})"), []
    files, inside, irregular, repeated = [], [], [], []
    for entry in entries:
        below = f"{name}/{entry.name}" if name else entry.name
        kind = _kind(entry)
        if kind == "file":
            files.append(below)
        elif kind != "folder":
            irregular.append(below)
        else:
            target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            if target in claimed or (entry.is_symlink() and _has_own_place(target, top)):
                repeated.append(below)
            else:
                claimed.add(target)
                inside.append((below, target))
    return Folder(
        name=name,
        path=path,
        files=tuple(files),
        folders=tuple(below for below, _ in inside),
        irregular=tuple(irregular),
        repeated=tuple(repeated),
    ), inside


def _kind(entry):
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:  # a link to itself
        return None


def _has_own_place(target, top):
    """Whether the walk below `top` reaches the folder `target` without a link. Both are real paths."""
    relative = os.path.relpath(target, top)
    return relative == "." or all(visible(part) for part in relative.split(os.sep))
