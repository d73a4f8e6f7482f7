"""The index of shards: tar headers are read one after the other, videos opened in worker processes.

What a shard says of itself is checked: members that are links, named out of the archive or too large are counted and
passed over, and damage ends the shard where it is. Nothing is unpacked to the disk.
"""

import tarfile
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from hpdm.config.data import DataConfig
from hpdm.data.addresses import is_address, persistently
from hpdm.data.index import IndexedVideo, Progress, check_limit, known_entries, probed, unchanged
from hpdm.data.members import Member
from hpdm.data.store import is_sharded, open_shard, refuse_unfinished, shard_index_files, shard_names, stored_table
from hpdm.data.table import SHOWN, FoundFile, VideoTable, now
from hpdm.support.columns import Texts
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm.support.progress import note, progress
from hpdm.video import formats
from hpdm.video.walk import visible
from hpdm.video.workers import seconds_for_bytes

PACKED = "hpdm"  # key of what `hpdm-data pack` says in a sample's .json
SIDECAR_BYTES = 1 << 20  # of a .txt, .json or .cls
MEMBER_BYTES = 4 << 30  # of a video: it is read into memory as a whole
HEADER_BYTES = 1 << 20  # of a header with a long name
THREADS = 8
LARGEST_SIDE, MOST_FRAMES = 1 << 16, 1 << 40


@dataclass(kw_only=True)
class Sample:
    """What a shard holds under one key: the video or picture, and what is said of it."""

    name: str | None = None
    offset: int = 0
    size: int = 0
    captions: tuple = ()
    label: str = ""
    about: dict = field(default_factory=dict)


@dataclass(kw_only=True)
class Shard:
    """A shard's samples in the order of their videos; what was passed over, by reason."""

    name: str
    size: int
    stamp: int
    samples: list
    passed_over: Counter


def open_shards(config: DataConfig) -> VideoTable | None:
    """The VideoTable of the shards that `config.path` names; None where that is a folder of something else.

    Raises InputError where a folder is still being packed, where shards of the index are missing, and where shards have
    no index and hold more than `config.index_limit` videos.
    """
    root = config.path
    if not is_sharded(root):
        return None
    refuse_unfinished(root)
    table = stored_table(root, config.index)
    if table is None or config.recheck:
        table = index_shards(root, limit=config.index_limit, quiet=True)
    missing = sorted(set(table.about["shards"]) - set(shard_names(root)))
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} of the {len(table.about['shards'])} shards of its index, the "
            f"first is {missing[0]}; bring them back, or run hpdm-data index --data {root} again"
        )
    return table


def index_shards(
    root: str | Path,
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
    limit: int | None = None,
) -> VideoTable:
    """Return the VideoTable of the shards in a folder or behind an address, and keep it for later starts.

    It is written to `out`, or beside the shards, or where that is impossible to the user's cache. Videos of shards that
    have not changed since the last index, or since a scan that was ended, are not opened again. Raises InputError where
    there is no video, and where more than `limit` have to be opened.
    """
    refuse_unfinished(root)
    names = shard_names(root)
    if not names:
        raise InputError(f"{root} holds no .tar shards")
    places = (out,) if out else shard_index_files(root)
    done = Progress(places)
    known = known_entries(root, places)[0] | done.entries()
    table, opened = _index(root, names, known, workers, quiet, limit, done.add)
    for place in places:
        try:
            table.about["file"] = str(place)
            table.write(place)
            break
        except OSError:
            if out:
                raise
    else:
        note(f"the index of {root} cannot be kept: every start reads the shards again", quiet)
    done.remove()
    table.about["opened"] = opened
    return table


def read_shard(root: str | Path, name: str) -> "Shard":
    """The Shard of that name: its headers and what is said beside the videos, no video. Raises InputError."""
    try:
        if is_address(root):
            return persistently(lambda: _read_shard(root, name), f"{root}/{name}")
        return _read_shard(root, name)
    except OSError as error:
        raise InputError(f"{root}/{name} cannot be read ({error.strerror or type(error).__name__})") from error


def _read_shard(root, name):
    size, stamp, file = open_shard(root, name)
    shard = Shard(name=name, size=size, stamp=stamp, samples=[], passed_over=Counter())
    samples = {}
    with file:
        try:
            with tarfile.open(fileobj=_Bounded(file), mode="r:") as archive:
                for info in archive:
                    _add(archive, info, size, samples, shard.passed_over)
                    archive.members = []  # else it remembers all of them
                file.seek(archive.offset)
                end = file.read(tarfile.BLOCKSIZE)  # tarfile takes a damaged header for the end
                if end.strip(b"\0") or len(end) < tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("damaged header" if end else "no mark of its end")
        except (tarfile.TarError, EOFError, ValueError, MemoryError) as error:
            shard.passed_over[f"rest of shard {name}, which is cut off or damaged ({error})"[:200]] += 1
    shard.samples = sorted((sample for sample in samples.values() if sample.name), key=lambda sample: sample.offset)
    shard.passed_over["sample without a video or picture"] += len(samples) - len(shard.samples)
    shard.passed_over = +shard.passed_over
    return shard


def _add(archive, info, end, samples, passed_over):
    """Take one member into its sample."""
    if info.isdir():
        return
    parts = PurePosixPath(info.name).parts
    if not info.isfile() or info.issparse():
        passed_over["link or special file in a shard"] += 1
    elif info.name.startswith("/") or ".." in parts or "\\" in info.name or "\0" in info.name:
        passed_over["name that leads out of the shard"] += 1
    elif not all(map(visible, parts)):
        return
    elif info.offset_data + info.size > end:
        raise tarfile.ReadError("a member ends behind it")
    else:
        folder, _, base = info.name.rpartition("/")
        key, _, extension = base.partition(".")
        kind = extension.rpartition(".")[2].lower()
        sample = samples.setdefault((folder, key), Sample())
        if formats.is_video(f"x.{kind}") or formats.is_image(f"x.{kind}"):
            _add_media(info, sample, passed_over)
        elif kind not in ("txt", "json", "cls"):
            passed_over[f".{kind}" if kind else "without suffix"] += 1
        elif info.size > SIDECAR_BYTES:
            passed_over[f".{kind} of more than {SIDECAR_BYTES >> 20} MiB"] += 1
        else:
            _add_words(archive.extractfile(info).read(), kind, sample, passed_over)


def _add_media(info, sample, passed_over):
    if info.size > MEMBER_BYTES:
        passed_over[f"video of more than {MEMBER_BYTES >> 30} GiB"] += 1
    elif sample.name is not None:
        passed_over["second video or picture of a sample"] += 1
    else:
        sample.name, sample.offset, sample.size = info.name, info.offset_data, info.size


def _add_words(content, kind, sample, passed_over):
    try:
        text = parse_json(content) if kind == "json" else content.decode("utf-8")
    except ValueError:
        passed_over[f".{kind} that cannot be read"] += 1
        return
    if kind == "cls":
        sample.label = text.strip()
    elif kind == "txt":
        sample.captions = sample.captions or ((text,) if text.strip() else ())
    elif isinstance(text, dict):
        sample.about = text
        listed = text.get("captions", text.get("caption"))
        listed = [listed] if isinstance(listed, str) else listed if isinstance(listed, list) else []
        listed = tuple(entry for entry in listed if isinstance(entry, str) and entry.strip() and _is_unicode(entry))
        sample.captions = listed or sample.captions


def _is_unicode(text):
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


class _Bounded:
    """A tar file as tarfile reads it: no header may ask for more than HEADER_BYTES at once."""

    def __init__(self, file):
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size=-1):
        if not 0 <= size <= max(HEADER_BYTES, SIDECAR_BYTES):
            raise tarfile.ReadError("a header of more than 1 MiB")
        return self._file.read(size)


def _index(root, names, known, workers, quiet, limit, keep):
    """(VideoTable, how many videos were opened)."""
    rows, passed_over, sizes, to_open = [], Counter(), [], []
    with (
        ThreadPoolExecutor(min(THREADS, len(names))) as threads,
        progress(total=len(names), unit="shard", description="reading headers", quiet=quiet) as bar,
    ):
        for number, shard in enumerate(_ahead(threads, lambda name: read_shard(root, name), names, 2 * THREADS)):
            passed_over += shard.passed_over
            sizes.append([shard.size, shard.stamp])
            for sample in shard.samples:
                found = _located(shard, sample)
                entry = _stated(found, sample) or known.get(found.path)
                entry = entry if entry and unchanged(entry, found) else None
                rows.append([number, sample, found, entry])
                if entry is None:
                    to_open.append(rows[-1])
            check_limit(root, len(to_open), limit)
            bar.update()
    if not rows:
        raise InputError(f"the {len(names)} shards in {root} hold no videos")
    jobs = (
        (
            row[2],
            Member(
                name=row[2].path,
                shard=f"{str(root).rstrip('/')}/{names[row[0]]}",
                offset=row[1].offset,
                size=row[1].size,
            ),
        )
        for row in to_open
    )
    if to_open:
        for row, entry in zip(
            to_open,
            probed(
                jobs,
                len(to_open),
                "shards",
                workers=workers,
                quiet=quiet,
                limit=lambda member: seconds_for_bytes(member.size),
                prepare=Member.fetched,
            ),
            strict=True,
        ):
            row[3] = entry
            keep(entry)
    return _table(root, names, sizes, rows, passed_over), len(to_open)


def _table(root, names, sizes, rows, passed_over):
    rows.sort(key=lambda row: (row[2].path, row[0], row[1].offset))
    if repeated := [a[2].path for a, b in zip(rows, rows[1:]) if a[2].path == b[2].path]:
        raise InputError(f"{len(repeated)} names are in the shards twice, the first is {repeated[0]}")
    table = VideoTable.of(
        [row[3] for row in rows],
        {"complete": True, "shards": names, "sizes": sizes, "passed_over": dict(passed_over), "made": now()},
    )
    table.columns["shard"] = np.array([row[0] for row in rows], np.int32)
    table.columns["offset"] = np.array([row[1].offset for row in rows], np.int64)
    packed = [row[1].about.get(PACKED) for row in rows]
    if not all(isinstance(about, dict) for about in packed):
        table.columns["label"] = Texts.of(row[1].label for row in rows)
    elif shrunk := packed[0].get("shrunk"):
        table.about["shrunk"] = shrunk
    if any(row[1].captions for row in rows):
        captions = [list(dict.fromkeys(" ".join(text.split()) for text in row[1].captions)) for row in rows]
        table.columns["caption"] = Texts.of(text for several in captions for text in several)
        table.columns["caption_ends"] = np.cumsum([len(several) for several in captions])
        rates = [_rate(row[1].about, about) for row, about in zip(rows, packed, strict=True)]
        table.columns["list_fps"] = np.array(rates)
        count = sum(map(bool, captions))
        table.about["captions"] = {"file": str(root), "rows": len(table.caption), "named": count, "dropped": {}}
    return table


def _located(shard, sample):
    """FoundFile of a sample: by the path from which `hpdm-data pack` took it, else by shard and member."""
    about = sample.about.get(PACKED)
    path = about.get("path") if isinstance(about, dict) else None
    if not isinstance(path, str) or not path:
        path = f"{shard.name.removesuffix('.tar')}/{sample.name}"
    return FoundFile(path=path, size=sample.size, mtime=shard.stamp)


def _stated(found, sample):
    """IndexedVideo as `hpdm-data pack`, which had the file open, has written it down; None for other shards."""
    about = sample.about.get(PACKED)
    if not isinstance(about, dict):
        return None
    values = {name: about.get(name) for name in SHOWN}
    whole = all(
        type(values[name]) is int and 0 < values[name] < most
        for name, most in (("frames", MOST_FRAMES), ("height", LARGEST_SIDE), ("width", LARGEST_SIDE))
    )
    real = all(type(values[name]) in (int, float) and 0 <= values[name] < 1e12 for name in ("fps", "seconds"))
    if not (whole and real and type(values["even"]) is bool):
        return None
    values |= {"fps": float(values["fps"]), "seconds": float(values["seconds"])}
    return IndexedVideo(path=found.path, size=found.size, mtime=found.mtime, **values)


def _rate(about, packed):
    """The frame rate that a list of captions gave, 0 for none."""
    rate = packed.get("list_fps") if isinstance(packed, dict) else about.get("fps")
    return float(rate) if isinstance(rate, int | float) and 0 < rate < 1e4 else 0.0


def _ahead(threads, function, items, ahead):
    """Yield `function(item)` of each item in order, up to `ahead` of them begun."""
    waiting = deque()
    for item in items:
        waiting.append(threads.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
