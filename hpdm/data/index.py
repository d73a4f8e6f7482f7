"""What lies in a folder of videos: found once, kept beside the videos, read again until a file changes.

Listing is a walk over the folder and opens nothing; scanning opens every file in worker processes, so that a file
that kills its decoder costs one entry and not the run.
"""

import hashlib
import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from hpdm.console import note, progress
from hpdm.data.decoding import DecodingError, probe_video
from hpdm.errors import InputError
from hpdm.files import write_json

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
INDEX_NAME = ".hpdm-index.json"
INDEX_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file whose name says video: path relative to the folder (posix), bytes, modification time in ns."""

    path: str
    size: int
    mtime: int

    @property
    def label(self):
        """Name of the class subfolder, the first part of the path; None for a file outside any."""
        parts = PurePosixPath(self.path).parts
        return parts[0] if len(parts) > 1 else None


@dataclass(frozen=True, kw_only=True)
class IndexedVideo(FoundFile):
    """A readable video: length in frames, mean frame rate per second (0 if unknown), size in pixels."""

    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class BrokenFile(FoundFile):
    """A file that no decoder opens, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """The readable videos and the broken files of a folder, each sorted by path."""

    root: Path
    videos: tuple[IndexedVideo, ...]
    broken: tuple[BrokenFile, ...]


def list_videos(root):
    """All files under `root` with a video's suffix as FoundFile, sorted by path; symbolic links are followed.

    Hidden files and folders are passed over. Raises InputError where `root` is no folder or holds no video.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; --data takes a folder of videos or the word procedural")
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
                continue
            stat = path.stat()
            found.append(FoundFile(path=path.relative_to(root).as_posix(), size=stat.st_size, mtime=stat.st_mtime_ns))
    if not found:
        raise InputError(f"{root} holds no video files; looked for {' '.join(VIDEO_SUFFIXES)} in it and its subfolders")
    return sorted(found, key=lambda file: file.path)


def build_index(root, *, found=None, workers=None, quiet=False):
    """Return the VideoIndex of the folder `root`, opening only files that are new or changed since the last time.

    `found` is an earlier answer of `list_videos(root)`. The index is kept as `.hpdm-index.json` in `root`, or in the
    user's cache folder where `root` cannot be written. Raises InputError where no file is readable; then nothing
    is written.
    """
    root = Path(root)
    found = list_videos(root) if found is None else found
    known = _load(root)
    new = [file for file in found if file.path not in known or not _unchanged(known[file.path], file)]
    scanned = _scan(root, new, workers, quiet) if new else {}
    entries = [scanned.get(file.path) or known[file.path] for file in found]
    videos = tuple(entry for entry in entries if isinstance(entry, IndexedVideo))
    broken = tuple(entry for entry in entries if isinstance(entry, BrokenFile))
    if not videos:
        first = f"{broken[0].path}: {broken[0].reason}"
        raise InputError(f"none of the {len(broken)} video files in {root} can be decoded; the first is {first}")
    if new or len(known) != len(found):
        _save(root, videos, broken, quiet)
    return VideoIndex(root=root, videos=videos, broken=broken)


def available_cores():
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unchanged(entry, file):
    return (entry.size, entry.mtime) == (file.size, file.mtime)


def _scan(root, files, workers, quiet):
    """Probe `files` in processes; returns path → IndexedVideo or BrokenFile."""
    workers = workers or min(16, available_cores())
    done = {}
    with progress(total=len(files), unit="file", description=f"indexing {root.name}", quiet=quiet) as bar:
        _probe_all(root, files, workers, done, bar)
    return done


def _probe_all(root, files, workers, done, bar):
    pool = ProcessPoolExecutor(min(workers, len(files)), initializer=_ignore_interrupts)
    try:
        futures = {pool.submit(_probe, str(root / file.path)): file for file in files}
        for future in as_completed(futures):
            _add(done, futures[future], bar, *future.result())
    except BrokenProcessPool:
        # A decoder that dies takes its pool along and does not say for which file: halve until one is left.
        left = [file for file in files if file.path not in done]
        if len(left) == 1:
            _add(done, left[0], bar, None, "the decoder crashed on it")
        else:
            for half in (left[: len(left) // 2], left[len(left) // 2 :]):
                _probe_all(root, half, workers, done, bar)
    finally:
        pool.shutdown(cancel_futures=True)


def _add(done, file, bar, info, reason):
    done[file.path] = (
        IndexedVideo(**asdict(file), **asdict(info)) if info else BrokenFile(**asdict(file), reason=reason)
    )
    bar.update()


def _ignore_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the pool


def _probe(path):
    try:
        return probe_video(path), None
    except DecodingError as error:
        return None, str(error)


def cache_files(root):
    """The two places of a folder's index, in the order in which they are tried: in the folder, in the user's cache."""
    root = Path(root).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    return root / INDEX_NAME, cache / "hpdm" / f"index-{name}.json"


def _load(root):
    """path → entry of the last index; empty where there is none, or one of another version."""
    for file in cache_files(root):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["version"] != INDEX_VERSION:
                continue
            entries = [IndexedVideo(**row) for row in content["videos"]]
            entries += [BrokenFile(**row) for row in content["broken"]]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # absent, or written by something else: scanning again is always right
        return {entry.path: entry for entry in entries}
    return {}


def _save(root, videos, broken, quiet):
    content = {
        "version": INDEX_VERSION,
        "videos": [asdict(entry) for entry in videos],
        "broken": [asdict(entry) for entry in broken],
    }
    for file in cache_files(root):
        try:
            write_json(file, content)
            return
        except OSError:
            continue
    places = " or ".join(map(str, cache_files(root)))
    note(f"the index of {root} could not be kept in {places}; it is made anew each time", quiet)
