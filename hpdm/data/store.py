"""Shards: tar files of videos in the layout of WebDataset, in a folder or behind an address that fsspec opens.

A shard holds samples: members whose names are equal up to the first dot. Of each, one member is a video or a picture;
`.txt` or the `caption` of `.json` is its caption, `.cls` its class. The index, INDEX_FILE beside the shards, says where
each video begins and ends, so that any clip is read by itself: nothing depends on how many processes read, or in which
order.
"""

import hashlib
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hpdm.data.addresses import file_system, is_address, persistently
from hpdm.data.table import VideoTable
from hpdm.support.columns import DamagedTable
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json, read_json, user_cache
from hpdm.video import formats, ucf101

INDEX_FILE = "hpdm-shards.safetensors"
PACKING = "hpdm-pack.json"  # of `hpdm-data pack`: what is packed, and whether it is finished
SHARD_SUFFIX = ".tar"
BLOCK = 8 << 20  # bytes of a download at once


def is_sharded(root: str | Path) -> bool:
    """Whether a folder or address holds shards: .tar files, and neither videos nor folders (or the index of shards)."""
    if is_address(root):
        return bool(shard_names(root))
    if (Path(root) / INDEX_FILE).is_file() or (Path(root) / PACKING).is_file():
        return True
    found = False
    try:
        with os.scandir(root) as entries:
            for entry in entries:  # in a folder of videos the first ones tell
                if not entry.name.startswith("."):
                    if formats.is_video(entry.name) or entry.is_dir():
                        return False
                    found = found or entry.name.endswith(SHARD_SUFFIX)
    except OSError:
        return False
    return found


def refuse_unfinished(root: str | Path) -> None:
    """Raise InputError for a packing or an upload that is not finished: half of the data would pass for all."""
    if is_address(root):
        system, place = file_system(str(root))
        try:
            content = persistently(lambda: system.cat_file(f"{place.rstrip('/')}/{PACKING}"), f"{root}/{PACKING}")
        except FileNotFoundError:
            return
        with suppress(ValueError):
            content = parse_json(bytes(content))
        about = content
    elif (Path(root) / PACKING).is_file():
        about = read_json(Path(root) / PACKING)
    else:
        return
    if not (isinstance(about, dict) and about.get("finished")):
        raise InputError(f"{root} is not packed to its end: run the same hpdm-data pack command again")
    if (there := len(shard_names(root))) < about.get("written", 0):
        raise InputError(f"{root} holds {there} of the {about['written']} shards that were packed; bring the others")


def shard_names(root: str | Path) -> list[str]:
    """Names of the shards in a folder or behind an address, sorted. Raises InputError where it cannot be listed."""
    if not is_address(root):
        try:
            names = [entry.name for entry in os.scandir(root)]
        except OSError as error:
            raise InputError(f"{root} cannot be listed ({error.strerror})") from error
    else:
        system, place = file_system(str(root))
        try:
            entries = persistently(lambda: system.ls(place, detail=False), root)
        except FileNotFoundError:
            raise InputError(f"{root}: there is no such folder") from None
        names = [str(entry).rstrip("/").rpartition("/")[2] for entry in entries]
    return sorted(name for name in names if name.endswith(SHARD_SUFFIX) and not name.startswith("."))


def split_lists(root: str | Path) -> Path | None:
    """Folder of UCF-101's lists in or beside a folder, or a copy of those behind an address; None for none."""
    if not is_address(root):
        return ucf101.find_lists(Path(root))
    system, place = file_system(str(root))
    folder = f"{place.rstrip('/')}/{ucf101.LISTS_FOLDER}"
    copy = user_cache("hpdm") / f"lists-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}"
    try:
        for path in persistently(lambda: system.ls(folder, detail=False), f"{root}/{ucf101.LISTS_FOLDER}"):
            name = str(path).rpartition("/")[2]
            if name.endswith(".txt"):
                content = persistently(partial(system.cat_file, f"{folder}/{name}"), f"{root}/{ucf101.LISTS_FOLDER}")
                with atomic_file(copy / name) as file:
                    file.write(bytes(content))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return copy if copy.is_dir() else None


def open_shard(root: str | Path, name: str) -> tuple[int, int, Any]:
    """(size in bytes, stamp that changes with the content, readable binary file) of a shard; the caller closes it."""
    if not is_address(root):
        path = Path(root, name)
        about = path.stat()
        return about.st_size, about.st_mtime_ns, open(path, "rb")  # the caller closes it
    system, place = file_system(str(root))
    file = f"{place.rstrip('/')}/{name}"
    about = system.info(file)
    version = {
        key: value
        for key, value in about.items()
        if key in ("size", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created", "blob_id")
    }
    stamp = int(hashlib.sha256(repr(sorted(version.items())).encode()).hexdigest()[:15], 16)
    return int(about["size"]), stamp, system.open(file, "rb")


def shard_index_files(root: str | Path) -> tuple[Path, ...]:
    """Where the index of a folder of shards may be, in the order in which places are tried."""
    if is_address(root):
        digest = hashlib.sha256(str(root).rstrip("/").encode()).hexdigest()[:16]
        return (user_cache("hpdm") / f"index-{digest}.safetensors",)
    digest = hashlib.sha256(os.fsencode(Path(root).resolve())).hexdigest()[:16]
    return Path(root) / INDEX_FILE, user_cache("hpdm") / f"index-{digest}.safetensors"


def stored_table(root: str | Path, file: str | Path | None) -> VideoTable | None:
    """The table of an index that is there; one behind an address is copied to the user's cache once."""
    places = [Path(file)] if file else [*([_fetched_index(root)] if is_address(root) else []), *shard_index_files(root)]
    for place in filter(None, places):
        try:
            table = VideoTable.read(place)
        except (OSError, DamagedTable) as error:
            if file:
                raise InputError(f"data.index={file} cannot be read ({error})") from error
            continue
        if table.in_shards:
            return table
        if file:
            raise InputError(f"data.index={file} is the index of a folder, and {root} holds shards")
    return None


def _fetched_index(root):
    """The copy of the index that lies beside shards behind an address; None where there is none."""
    system, place = file_system(str(root))
    path = f"{place.rstrip('/')}/{INDEX_FILE}"
    try:
        about = persistently(lambda: system.info(path), f"{root}/{INDEX_FILE}")
        stamp = sorted((key, str(value)) for key, value in about.items())
        name = hashlib.sha256(f"{root} {stamp}".encode()).hexdigest()[:16]
        copy = user_cache("hpdm") / f"shards-{name}.safetensors"
        if not copy.is_file() or copy.stat().st_size != about["size"]:
            with atomic_file(copy) as file:
                for begin in range(0, about["size"], BLOCK):
                    read = partial(system.cat_file, path, start=begin, end=min(begin + BLOCK, about["size"]))
                    file.write(persistently(read, f"{root}/{INDEX_FILE}"))
    except FileNotFoundError:
        return None
    return copy
