"""What lies in a folder of videos: found once, kept beside the videos, read again until a file changes.

Listing is a walk over the folder and opens nothing; scanning opens every file in worker processes, so that a file
that kills or hangs its decoder costs one entry and not the run.
"""

import hashlib
import os
from collections import Counter
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath

from hpdm.console import note, progress
from hpdm.data.accounts import counted
from hpdm.errors import InputError
from hpdm.files import parse_json, user_cache, write_json
from hpdm.video import formats
from hpdm.video.pixels import UnreadablePicture, read_picture
from hpdm.video.reader import DecodingError, VideoInfo, probe_video
from hpdm.video.timeline import Timeline, exact_rate
from hpdm.video.walk import walk
from hpdm.video.workers import JobFailed, Workers, available_cores, seconds_for

INDEX_NAME = ".hpdm-index.json"
INDEX_VERSION = 2
MOST_WORKERS = 16
PROBE = "hpdm.data.index:probe"


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
    """A readable video, or a picture as a video of one frame without a rate; the rest is as in `VideoInfo`."""

    frames: int
    fps: float
    seconds: float
    even: bool
    height: int
    width: int

    def frames_at(self, fps, own=None):
        """How many frames the whole video has at `fps` frames per second; 0 where it has no rate.

        own: frames per second that take the place of the file's times.
        """
        if own or self.even:
            rate = exact_rate(own or self.fps)
            return Timeline.even(self.frames, rate).resampled_length(fps) if rate else 0
        return -(-Fraction(self.seconds).limit_denominator(10**9) * exact_rate(fps) // 1)


@dataclass(frozen=True, kw_only=True)
class BrokenFile(FoundFile):
    """A file that no decoder opens, and why; `fatal` where it crashed or hung the process."""

    reason: str
    fatal: bool = False


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """The readable videos and the broken files of a folder, each sorted by path."""

    root: Path
    videos: tuple[IndexedVideo, ...]
    broken: tuple[BrokenFile, ...]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a walk over a folder met: videos sorted by path, and what was passed over, counted by kind."""

    root: Path
    files: tuple[FoundFile, ...]
    passed_over: Counter = field(default_factory=Counter)


def list_videos(root):
    """The Listing of all files under `root` with a video's suffix; symbolic links are followed, each folder once.

    Hidden files and folders are passed over without being counted. Raises InputError where `root` is no folder or
    holds no video.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; --data takes a folder of videos or the word procedural")
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
    passed_over = +passed_over
    if not found:
        instead = f"; it holds {counted(passed_over)}" if passed_over else ""
        raise InputError(f"{root} holds no video files; looked for {' '.join(formats.VIDEO_SUFFIXES)} in it and its "
                         f"subfolders{instead}")
    return Listing(root=root, files=tuple(sorted(found, key=lambda file: file.path)), passed_over=passed_over)


def find_file(root, path):
    """FoundFile of a path below `root`; None where there is no such file."""
    try:
        place = Path(root, path)
        stat = place.stat()
        return FoundFile(path=path, size=stat.st_size, mtime=stat.st_mtime_ns) if place.is_file() else None
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None


def build_index(root, *, found=None, workers=None, quiet=False):
    """Return the VideoIndex of the folder `root`, opening only files that are new or changed since the last time.

    `found` are the FoundFiles wanted, by default all of `list_videos(root)`. The index is kept as `.hpdm-index.json` in
    `root`, or in the user's cache folder where `root` cannot be written. Raises InputError where no file is readable;
    then nothing is written.
    """
    root = Path(root)
    found = list_videos(root).files if found is None else found
    known = _load(root)
    new = [file for file in found if file.path not in known or not _unchanged(known[file.path], file)]
    scanned = _scan(root, new, workers, quiet) if new else {}
    entries = [scanned.get(file.path) or known[file.path] for file in found]
    videos = tuple(entry for entry in entries if isinstance(entry, IndexedVideo))
    broken = tuple(entry for entry in entries if isinstance(entry, BrokenFile))
    if not videos:
        first = f"{broken[0].path}: {broken[0].reason}"
        raise InputError(f"none of the {len(broken)} video files in {root} can be decoded; the first is {first}")
    if new:
        # What was not asked for this time, as the other part of a split, stays known while it is there.
        kept = {path: entry for path, entry in known.items() if path not in scanned and (root / path).exists()}
        _save(root, kept | scanned, quiet)
    return VideoIndex(root=root, videos=videos, broken=broken)


def probe(path, settings=None):
    """(VideoInfo, None) of a video or picture file, or (None, why it cannot be read); runs in a worker process."""
    try:
        if formats.is_image(path):
            height, width, _ = read_picture(path).shape
            return VideoInfo(frames=1, fps=0.0, seconds=0.0, even=True, height=height, width=width), None
        return probe_video(path), None
    except (DecodingError, UnreadablePicture) as error:
        return None, str(error)
    except Exception as error:  # what a decoder's binding raises on a damaged file costs that file, whatever it is
        return None, f"cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())[:160]})"


def _unchanged(entry, file):
    return (entry.size, entry.mtime) == (file.size, file.mtime)


def _scan(root, files, workers, quiet):
    """Probe `files` in processes; returns path → IndexedVideo or BrokenFile."""
    workers = workers or min(MOST_WORKERS, available_cores())
    done = {}
    with (
        progress(total=len(files), unit="file", description=f"indexing {root.name}", quiet=quiet) as bar,
        Workers(PROBE, None, min(workers, len(files)), seconds_for) as pool,
    ):
        futures = {pool.submit(str(root / file.path)): file for file in files}
        for future in as_completed(futures):
            file = futures[future]
            done[file.path] = _entry(file, future)
            bar.update()
    return done


def _entry(file, future):
    try:
        info, reason = future.result()
    except JobFailed as failure:
        return BrokenFile(**asdict(file), reason=str(failure), fatal=True)
    return IndexedVideo(**asdict(file), **asdict(info)) if info else BrokenFile(**asdict(file), reason=reason)


def cache_files(root):
    """The places of a folder's index, in the order in which they are tried: the folder, the user's cache."""
    root = Path(root).resolve()
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return root / INDEX_NAME, user_cache("hpdm") / f"index-{name}.json"


def _load(root):
    """path → entry of the last index; empty where there is none, or one of another version."""
    for file in cache_files(root):
        try:
            content = parse_json(file.read_bytes())
            if content["version"] != INDEX_VERSION:
                continue
            entries = [IndexedVideo(**row) for row in content["videos"]]
            entries += [BrokenFile(**row) for row in content["broken"]]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # absent, or written by something else: scanning again is always right
        return {entry.path: entry for entry in entries}
    return {}


def _save(root, entries, quiet):
    entries = [entries[path] for path in sorted(entries)]
    content = {
        "version": INDEX_VERSION,
        "videos": [asdict(entry) for entry in entries if isinstance(entry, IndexedVideo)],
        "broken": [asdict(entry) for entry in entries if isinstance(entry, BrokenFile)],
    }
    for file in cache_files(root):
        try:
            write_json(file, content)
            return
        except OSError:
            continue
    places = " or ".join(map(str, cache_files(root)))
    note(f"the index of {root} cannot be kept in {places}: every start scans the folder again", quiet)
