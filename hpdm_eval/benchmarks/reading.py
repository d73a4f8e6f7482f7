"""Are the frames that a reader returns those that the file shows, and what does reading them cost?

Two kinds of files are read: generated ones whose frames carry their numbers (`numbered_videos`), and any videos at
hand, compared pixel by pixel with decoding them once from the beginning. Each file is read at random starts and
strides, at its last frame alone and as a whole, by this package's reader and, where it is installed, by decord. Every
reading happens in a process of its own with a time limit, because decord never returns from some files."""

import hashlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from hpdm.support.errors import InputError
from hpdm.support.progress import note, progress
from hpdm.video import formats
from hpdm.video.packets import open_container
from hpdm.video.reader import DecodingError, VideoReader
from hpdm.video.workers import JobFailed, Workers
from hpdm_eval.benchmarks.numbered_videos import all_cases, number_of, write_case, write_pictures

CLIP_FRAMES = 64  # of the timed clip, from the middle of the file
TIMED_RUNS = 3  # of each reader, in turn; the fastest counts
TIMED_SIZE = {"frames": 250, "height": 240, "width": 320}  # UCF-101's pictures, ten seconds
SECONDS = 60.0  # after which a reader is taken to hang
# Cases of `numbered_videos` that are timed, with pictures that move instead of numbers.
TIMED_CASES = (
    "h264-g250-b2.mp4",
    "h264-g12-b3.mp4",
    "h264-g250-b2.mkv",
    "h264-g250-b2.avi",
    "h264-g250-b2.ts",
    "h264-g250-b2.flv",
    "hevc-open.mp4",
    "mpeg4-b0.avi",
    "mpeg4-b2.avi",
    "mpeg4-b2.mp4",
    "mpeg2.mpg",
    "vp9.webm",
    "av1.mp4",
    "mjpeg.avi",
    "ffv1.mkv",
    "wmv2.wmv",
    "even.gif",
)


@dataclass(kw_only=True)
class Row:
    """Results of the files of one kind; `wrong` and `failed` count readings by reader, `seconds` adds up clips."""

    kind: str
    files: int = 0
    readings: int = 0
    wrong: dict = field(default_factory=lambda: defaultdict(int))
    failed: dict = field(default_factory=lambda: defaultdict(int))
    seconds: dict = field(default_factory=lambda: defaultdict(float))

    def ratio(self) -> float | None:
        """Time of this package's reader over decord's, None where either read nothing."""
        return (
            self.seconds["hpdm"] / self.seconds["decord"] if self.seconds["decord"] and self.seconds["hpdm"] else None
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "files": self.files,
            "readings": self.readings,
            "wrong": dict(self.wrong),
            "failed": dict(self.failed),
            "seconds": dict(self.seconds),
            "ratio": self.ratio(),
        }


def readers() -> list[str]:
    """Names of the readers that are installed."""
    try:
        import decord  # noqa: F401
    except ImportError:
        return ("hpdm",)
    return ("hpdm", "decord")


def check_generated(seed: int = 0, quiet: bool = False) -> list[Row]:
    """Rows by container and codec over the whole matrix of numbered files."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="hpdm-decoding-") as folder, _pool() as pool:
        cases = all_cases()
        with progress(total=len(cases), unit="file", description="generated files", quiet=quiet) as bar:
            for case in cases:
                path, shown = write_case(case, folder)
                row = rows.setdefault(case.kind, Row(kind=case.kind))
                _check(pool, row, path, shown, "number", np.random.default_rng([seed, len(shown)]))
                path.unlink()
                bar.update()
    return sorted(rows.values(), key=lambda row: row.kind)


def check_files(
    folders: Sequence[str | Path], seed: int = 0, quiet: bool = False
) -> tuple[list[Row], list[tuple[str, str]]]:
    """(rows by container and codec, files that neither way of decoding reads with the reason) over all videos below."""
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*")) if formats.is_video(path.name)]
    if not paths:
        raise InputError(f"no videos in {', '.join(map(str, folders))}")
    rows, unreadable = {}, []
    with _pool() as pool, progress(total=len(paths), unit="file", description="files", quiet=quiet) as bar:
        for path in paths:
            try:
                codec, shown = _call(pool, str(path), "plain", None, "pixels")
            except (DecodingError, JobFailed) as error:
                unreadable.append((path.name, str(error)))
            else:
                kind = f"{formats.suffix(path.name)[1:]} {codec}"
                row = rows.setdefault(kind, Row(kind=kind))
                random = np.random.default_rng([seed, len(shown)])
                _check(pool, row, path, shown, "pixels", random)
                _time(pool, row, path, len(shown))
            bar.update()
    return sorted(rows.values(), key=lambda row: row.kind), unreadable


def time_generated(seed: int = 0, quiet: bool = False) -> list[Row]:
    """Rows with the time of a clip from the middle of generated files with moving pictures, one for each container."""
    from hpdm.data.procedural import procedural_clip

    size = TIMED_SIZE["frames"], TIMED_SIZE["height"], TIMED_SIZE["width"]
    pictures, _ = procedural_clip(seed, 0, *size)
    cases = {case.name: case for case in all_cases()}
    rows = []
    with tempfile.TemporaryDirectory(prefix="hpdm-decoding-") as folder, _pool() as pool:
        for name in TIMED_CASES:
            path = Path(folder, name)
            write_pictures(replace(cases[name], **TIMED_SIZE), path, pictures)
            row = Row(kind=name)
            _time(pool, row, path, len(pictures))
            rows.append(row)
            note(f"timed {name}", quiet)
            path.unlink()
    return rows


def read(job: Any, _: object) -> tuple:
    """A worker's job: (what, digests or numbers of the frames of each selection, seconds)."""
    path, reader, selections, content = job
    identify = number_of if content == "number" else _digest
    if reader == "plain":
        return _read_plain(path, identify)
    begin = time.perf_counter()
    with _READERS[reader](path) as (count, get):
        frames = [get(np.asarray(selection) if selection is not None else _middle(count)) for selection in selections]
    seconds = time.perf_counter() - begin
    return count, [[identify(frame) for frame in clip] for clip in frames] if content else None, seconds


def _check(pool, row, path, shown, content, random):
    """Read one file by every reader and compare with what it shows."""
    count = len(shown)
    selections = [[count - 1], list(range(count))]
    for stride in (1, 2, 3, 7, 1, 4):
        selections.append(list(range(int(random.integers(count)), count, stride))[:16])
    row.files += 1
    row.readings += len(selections)
    for reader in readers():
        try:
            _, clips, _ = _call(pool, str(path), reader, selections, content)
        except (DecodingError, JobFailed):
            row.failed[reader] += len(selections)
            continue
        wanted = [[shown[index] for index in selection] for selection in selections]
        row.wrong[reader] += sum(clip != own for clip, own in zip(clips, wanted))


def _time(pool, row, path, count):
    """Add the fastest of several readings of the middle of a file to each reader's time."""
    if not row.files:
        row.files = 1
    best = {}
    for _ in range(TIMED_RUNS):
        for reader in readers():
            try:
                seconds = _call(pool, str(path), reader, [None], None)[2]
            except (DecodingError, JobFailed):
                continue
            best[reader] = min(best.get(reader, seconds), seconds)
    if len(best) == len(readers()):
        for reader, seconds in best.items():
            row.seconds[reader] += seconds


def _middle(count):
    frames = min(CLIP_FRAMES, count)
    return (count - frames) // 2 + np.arange(frames)


def _pool():
    return Workers("hpdm_eval.benchmarks.reading:read", None, 1, limit=SECONDS)


def _call(pool, *job):
    return pool.submit(job).result()


def _read_plain(path, identify):
    """(codec, what every frame shows) by FFmpeg's plain decoding, turned as the frames' side data say."""
    try:
        with open_container(path) as file:
            stream = file.streams.video[0]
            frames = []
            for frame in file.decode(stream):
                picture = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                frames.append(identify(np.ascontiguousarray(picture)))
            return stream.codec_context.name, frames
    except (av.error.FFmpegError, IndexError) as error:
        raise DecodingError(str(error)) from error


class _OurReader:
    def __init__(self, path):
        self._reader = VideoReader(path)

    def __enter__(self):
        return self._reader.timeline.frames, self._reader.read

    def __exit__(self, *_):
        self._reader.close()


class _Decord:
    def __init__(self, path):
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        try:
            self._reader = decord.VideoReader(path, num_threads=1)
        except Exception as error:  # RuntimeError or a class of its own
            raise DecodingError("decord cannot open it") from error

    def __enter__(self):
        return len(self._reader), lambda indices: self._reader.get_batch(indices).asnumpy()

    def __exit__(self, kind, error, _):
        if error is not None:
            raise DecodingError(f"decord: {kind.__name__}") from error


_READERS = {"hpdm": _OurReader, "decord": _Decord}


def _digest(picture):
    return hashlib.blake2b(picture.tobytes(), digest_size=8).digest() + str(picture.shape).encode()
