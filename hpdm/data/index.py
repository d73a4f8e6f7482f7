"""What lies in a folder of videos: found once, kept beside the videos, read again until a file changes.

Listing is a walk over the folder and opens nothing; scanning opens every file in worker processes, so that a file
that kills or hangs its decoder costs one entry and not the run.

The index is a table (`hpdm.data.table`). One that `hpdm-data index` made holds all files and is trusted until the
command runs again: a start that has it lists and opens nothing. One that a start of training made is compared with the
files, and only what is new or changed is opened.
"""

import hashlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpdm.data.accounts import counted
from hpdm.data.members import Member
from hpdm.data.table import BrokenFile, FoundFile, IndexedVideo, Rows, VideoTable
from hpdm.support.columns import DamagedTable
from hpdm.support.errors import InputError
from hpdm.support.files import append_line, parse_json, user_cache
from hpdm.support.progress import note, progress
from hpdm.video import formats
from hpdm.video.pixels import UnreadablePicture, read_picture
from hpdm.video.reader import DecodingError, VideoInfo, probe_video
from hpdm.video.walk import walk
from hpdm.video.workers import JobFailed, Workers, available_cores, seconds_for

__all__ = ["BrokenFile", "FoundFile", "IndexedVideo", "Listing", "VideoIndex", "build_index", "list_videos"]

INDEX_NAME = ".hpdm-index.safetensors"
OLD_NAME, OLD_VERSION = ".hpdm-index.json", 2
MOST_WORKERS = 16
AHEAD = 8  # files per worker that wait for it
PROBE = "hpdm.data.index:probe"
KEEP_EVERY = 200, 5.0  # files, seconds: progress is written down so often
COMMAND = "hpdm-data index --data {}"


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoIndex:
    """The readable videos and the broken files of a folder, each sorted by path; `table` has both."""

    root: Path
    table: VideoTable

    @property
    def videos(self) -> Rows:
        return Rows((~self.table.broken).nonzero()[0], self.table.entry)

    @property
    def broken(self) -> Rows:
        return Rows(self.table.broken.nonzero()[0], self.table.entry)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VideoIndex):
            return NotImplemented
        return self.root == other.root and self.videos == other.videos and self.broken == other.broken


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a walk over a folder met: videos sorted by path, and what was passed over, counted by kind."""

    root: Path
    files: tuple[FoundFile, ...]
    passed_over: Counter = field(default_factory=Counter)


def list_videos(root: str | Path, limit: int | None = None, empty: bool = False) -> "Listing":
    """The Listing of all files under `root` with a video's suffix; symbolic links are followed, each folder once.

    Hidden files and folders are passed over without being counted. Raises InputError where `root` is no folder, holds
    no video (unless `empty`), or holds more than `limit`.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; --data takes a folder of videos or of shards, an address of shards, "
            "or the word procedural"
        )
    found, passed_over = [], Counter()
    for folder in walk(root):
        passed_over["folder that cannot be listed"] += folder.error is not None
        passed_over["link to a folder that is listed elsewhere"] += len(folder.repeated)
        passed_over["broken link or special file"] += len(folder.irregular)
        for name in folder.files:
            if not formats.is_video(name):
                passed_over[formats.suffix(name) or "without suffix"] += 1
            elif file := find_file(root, name):
                found.append(file)
        check_limit(root, len(found), limit)
    passed_over = +passed_over
    if not found and not empty:
        instead = f"; it holds {counted(passed_over)}" if passed_over else ""
        raise InputError(
            f"{root} holds no video files; looked for {' '.join(formats.VIDEO_SUFFIXES)} in it and its "
            f"subfolders{instead}"
        )
    return Listing(root=root, files=tuple(sorted(found, key=lambda file: file.path)), passed_over=passed_over)


def check_limit(root: str | Path, count: int, limit: int | None) -> None:
    """Raise InputError where a start of training would have to open more than `limit` files (None: any number)."""
    if limit is not None and count > limit:
        raise InputError(
            f"{root} holds more than {limit:,} files that are not indexed (data.index_limit), and other "
            f"processes would wait for it; run this once before: {COMMAND.format(root)}"
        )


def find_file(root: str | Path, path: str) -> FoundFile | None:
    """FoundFile of a path below `root`; None where there is no such file."""
    try:
        place = Path(root, path)
        stat = place.stat()
        return FoundFile(path=path, size=stat.st_size, mtime=stat.st_mtime_ns) if place.is_file() else None
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None


def trusted_table(root: str | Path, file: str | Path | None = None) -> VideoTable | None:
    """The table that `hpdm-data index` made of the folder `root`, or the one in `file`; None where there is none.

    Raises InputError where `file` is named and is no such table.
    """
    if not Path(root).is_dir():
        return None  # whoever lists it says so
    for place in [Path(file)] if file else cache_files(root):
        try:
            table = VideoTable.read(place)
        except (OSError, DamagedTable) as error:
            if file:
                reason = error.strerror if isinstance(error, OSError) else error
                raise InputError(
                    f"data.index={file} cannot be read ({reason}); make it with {COMMAND.format(root)} --out {file}"
                ) from error
            continue
        if table.about.get("complete"):
            return table
        if file:
            raise InputError(f"data.index={file} was not made by {COMMAND.format(root)}")
    return None


def build_index(
    root: str | Path,
    *,
    found: Sequence[FoundFile] | None = None,
    workers: int | None = None,
    quiet: bool = False,
    limit: int | None = None,
) -> "VideoIndex":
    """Return the VideoIndex of the folder `root`, opening only files that are new or changed since the last time.

    `found` are the FoundFiles wanted, by default all of `list_videos(root)`. The index is kept as INDEX_NAME in
    `root`, or in the user's cache folder where `root` cannot be written. Raises InputError where no file is readable;
    then nothing is written; and where more than `limit` files have to be opened.
    """
    root = Path(root)
    found = list_videos(root).files if found is None else found
    known, complete = known_entries(root, cache_files(root))
    entries, opened = scan(root, found, known, cache_files(root), workers=workers, quiet=quiet, limit=limit)
    if opened and not complete:
        # What was not asked for this time, as the other part of a split, stays known while it is there.
        wanted = {entry.path for entry in entries}
        others = [entry for path, entry in known.items() if path not in wanted and (root / path).exists()]
        save(VideoTable.of(sorted([*entries, *others], key=lambda entry: entry.path)), root, quiet)
    return VideoIndex(root=root, table=VideoTable.of(entries))


def scan(
    root: str | Path,
    found: Sequence[FoundFile],
    known: dict,
    places: Sequence[Path],
    *,
    workers: int | None = None,
    quiet: bool = False,
    limit: int | None = None,
) -> tuple[list[IndexedVideo | BrokenFile], int]:
    """(IndexedVideos and BrokenFiles of the FoundFiles `found`, sorted by path; how many were opened).

    `known` is path → entry of an earlier scan. What is done is written down beside the first of `places` that can be
    written, and taken up again after a kill. Raises InputError where no file is readable, or more than `limit` have to
    be opened.
    """
    progress_file = Progress(places)
    known = known | progress_file.entries()
    new = [file for file in found if file.path not in known or not unchanged(known[file.path], file)]
    check_limit(root, len(new), limit)
    scanned = _scan(root, new, workers, quiet, progress_file.add) if new else {}
    entries = sorted((scanned.get(file.path) or known[file.path] for file in found), key=lambda entry: entry.path)
    progress_file.remove()
    if all(isinstance(entry, BrokenFile) for entry in entries):
        first = f"{entries[0].path}: {entries[0].reason}" if entries else "nothing"
        raise InputError(f"none of the {len(entries)} video files in {root} can be decoded; the first is {first}")
    return entries, len(new)


def probe(file: Any, settings: Any = None) -> tuple[VideoInfo | None, str | None]:
    """(VideoInfo, None) of a video or picture, or (None, why it cannot be read); runs in a worker process.

    file: a path, or a Member of a shard.
    """
    try:
        name, content = (file.name, file.load()) if isinstance(file, Member) else (file, None)
        if formats.is_image(name):
            height, width, _ = read_picture(name, content).shape
            return VideoInfo(frames=1, fps=0.0, seconds=0.0, even=True, height=height, width=width), None
        return probe_video(name if content is None else content), None
    except (DecodingError, UnreadablePicture) as error:
        return None, str(error)
    except Exception as error:  # what a decoder's binding raises on a damaged file costs that file, whatever it is
        return None, f"cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())[:160]})"


def unchanged(entry: IndexedVideo | BrokenFile, file: FoundFile) -> bool:
    """Whether an entry is of the FoundFile as it is now."""
    return (entry.size, entry.mtime) == (file.size, file.mtime)


def _scan(root, files, workers, quiet, keep=lambda entry: None):
    """Probe `files` in processes; returns path → IndexedVideo or BrokenFile."""
    jobs = ((file, str(root / file.path)) for file in files)
    done = {}
    for entry in probed(jobs, len(files), root.name, workers=workers, quiet=quiet, limit=lambda job: seconds_for(job)):
        done[entry.path] = entry
        keep(entry)
    return done


def probed(
    jobs: Iterable[tuple[FoundFile, Any]],
    total: int,
    name: str,
    *,
    workers: int | None,
    quiet: bool,
    limit: Callable[[Any], float],
    prepare: Callable[[Any], Any] | None = None,
) -> Iterator[IndexedVideo | BrokenFile]:
    """Yield IndexedVideo or BrokenFile of each of `jobs`, (FoundFile, what `probe` takes), having opened it.

    prepare: as in `Workers`; limit: seconds that a job may take, a function of it.
    """
    workers = min(workers or min(MOST_WORKERS, available_cores()), total)
    with (
        progress(total=total, unit="file", description=f"indexing {name}", quiet=quiet) as bar,
        Workers(PROBE, None, workers, limit, prepare) as pool,
    ):
        waiting = deque()
        for file, job in jobs:
            waiting.append((file, pool.submit(job)))
            if len(waiting) > AHEAD * workers:
                yield _entry(*waiting.popleft())
                bar.update()
        while waiting:
            yield _entry(*waiting.popleft())
            bar.update()


def _entry(file, future):
    try:
        info, reason = future.result()
    except JobFailed as failure:
        return BrokenFile(**asdict(file), reason=str(failure), fatal=True)
    return IndexedVideo(**asdict(file), **asdict(info)) if info else BrokenFile(**asdict(file), reason=reason)


def cache_files(root: str | Path, name: str = INDEX_NAME) -> tuple[Path, Path]:
    """The places of a folder's index, in the order in which they are tried: the folder, the user's cache."""
    root = Path(root).resolve()
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return root / name, user_cache("hpdm") / f"index-{digest}{Path(name).suffix}"


def known_entries(root: str | Path, places: Sequence[str | Path]) -> tuple[dict, bool]:
    """(path → entry of the last index, whether `hpdm-data index` made it); empty where there is none."""
    for place in places:
        try:
            table = VideoTable.read(place)
        except (OSError, DamagedTable):
            continue  # absent, or written by something else: scanning again is always right
        return {entry.path: entry for entry in table.entries()}, bool(table.about.get("complete"))
    return _old_entries(root), False


def _old_entries(root):
    """path → entry of the JSON index that earlier versions kept."""
    for file in cache_files(root, OLD_NAME):
        try:
            content = parse_json(file.read_bytes())
            if content["version"] != OLD_VERSION:
                continue
            entries = [IndexedVideo(**row) for row in content["videos"]]
            entries += [BrokenFile(**row) for row in content["broken"]]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        return {entry.path: entry for entry in entries}
    return {}


def save(table: VideoTable, root: str | Path, quiet: bool) -> None:
    """Keep a table as the index of a folder that later starts compare with its files."""
    for file in cache_files(root):
        try:
            table.write(file)
            return
        except OSError:
            continue
    places = " or ".join(map(str, cache_files(root)))
    note(f"the index of {root} cannot be kept in {places}: every start scans the folder again", quiet)


class Progress:
    """Entries of a scan that is not finished, a line each, in a file beside the index that is to come.

    Small scans write none. Where it cannot be written the scan goes on without.
    """

    def __init__(self, places: Sequence[str | Path]) -> None:
        self._places = [Path(f"{place}.progress") for place in places]
        self._lines, self._written, self._failed = [], time.monotonic(), False

    def entries(self) -> dict:
        """path → entry of what a scan before this one had done."""
        found = {}
        for place in self._places:
            try:
                lines = place.read_text(encoding="utf-8").split("\n")
            except (OSError, UnicodeDecodeError):
                continue
            for line in lines:
                with suppress(ValueError, TypeError, KeyError):  # cut off by a kill
                    row = parse_json(line)
                    entry = (BrokenFile if "reason" in row else IndexedVideo)(**row)
                    found[entry.path] = entry
        return found

    def add(self, entry: IndexedVideo | BrokenFile) -> None:
        self._lines.append(json.dumps(asdict(entry)))
        count, seconds = KEEP_EVERY
        if self._failed or (len(self._lines) < count and time.monotonic() - self._written < seconds):
            return
        self._failed = True
        for place in self._places:
            with suppress(OSError):
                append_line(place, "\n".join(self._lines))
                self._failed = False
                break
        self._lines, self._written = [], time.monotonic()

    def remove(self) -> None:
        for place in self._places:
            with suppress(OSError):
                place.unlink(missing_ok=True)
