"""`hpdm-data pack`: a folder of videos as shards in the layout of WebDataset, videos as they are or made smaller.

Sample k of the folder, by path, is k.<suffix> (the video or picture), k.json (its path, what it shows, captions), and
where there are some k.txt (the first caption) and k.cls (its class by subfolder). Which samples a shard holds follows
from the folder and the options alone, and a shard appears whole or not at all, so that the same command again goes on
where it was ended. Equal input gives equal shards.
"""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from hpdm.config.data import AUTO, DataConfig
from hpdm.data.folders import choose_videos
from hpdm.data.indexing import folder_table
from hpdm.data.shards import PACKED, index_shards
from hpdm.data.store import INDEX_FILE, PACKING, is_sharded
from hpdm.data.table import SHOWN
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, holds_something, read_json, write_json
from hpdm.support.lock import hold
from hpdm.support.progress import note, progress
from hpdm.video import formats, ucf101
from hpdm.video.errors import DecodingError
from hpdm.video.workers import JobFailed, Workers, available_cores, seconds_for

SHARD = "shard-{:06d}.tar"
SMALLER = "hpdm.data.pack:make_smaller"
ALONE = (1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """How videos are made smaller: fitted to `size` (rows, columns), averaged over `shrink` (frames, rows, columns).

    crf: quality where frames are not averaged; averages are stored lossless.
    """

    size: tuple[int, int] | None = None
    shrink: tuple[int, int, int] = ALONE
    crf: int = 17

    @property
    def changes(self) -> bool:
        return self.size is not None or self.shrink != ALONE


def pack(
    root: str | Path,
    out: str | Path,
    *,
    shard_bytes: int = 256 << 20,
    smaller: "Smaller" = Smaller(),
    captions: str = AUTO,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, int]:
    """Write shards of all videos of the folder `root`, and of pictures that its captions name, into the folder `out`.

    Returns {"shards", "samples", "bytes", "left_out"}. Files that no decoder opens are left out, counted and said.
    Raises InputError where `root` holds no videos, where `out` holds something else or another packing, and WriteError
    where the disk is full; whole shards stay, and the same call goes on.
    """
    out = Path(out)
    if is_sharded(root):
        raise InputError(f"{root} holds shards already; pack takes a folder of videos")
    if (Path(root) if Path(root).is_dir() else Path(".")).resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in {root}: it would be taken for data; name a folder outside")
    begun = (out / PACKING).is_file()
    if not begun and holds_something(out):
        raise InputError(f"--out {out} is not empty and holds nothing that hpdm-data pack has begun; name a new folder")
    table, _ = folder_table(root, captions=captions, workers=workers, quiet=quiet, keep=True)
    rows = (~table.broken).nonzero()[0]
    plan = _plan(table, rows, shard_bytes, smaller)
    about = {
        "from": Path(root).resolve().name,
        "plan": _digest(table, rows, shard_bytes, smaller),
        "shards": len(plan),
        "samples": len(rows),
        "left_out": len(table) - len(rows),
        "shard_bytes": shard_bytes,
        **asdict(smaller),
    }
    with hold(out):
        _begin(out, about, begun)
        if lists := ucf101.find_lists(Path(root)):  # without them training would take the test videos too
            for path in lists.glob("*.txt"):
                with atomic_file(out / ucf101.LISTS_FOLDER / path.name) as file:
                    file.write(path.read_bytes())
        lost = _write_shards(root, out, table, plan, smaller, workers or available_cores(), quiet)
        written = len(list(out.glob("shard-*.tar")))
        if not written:
            raise InputError(f"no video of {root} could be packed; the first: {next(iter(lost.values()), 'nothing')}")
        left_out = {table.path[row]: table.reason[row] for row in table.broken.nonzero()[0]} | lost
        for path, reason in sorted(left_out.items()):
            note(f"left out: {path}: {reason}", quiet)
        write_json(out / PACKING, about | {"finished": True, "written": written})
        try:
            index = index_shards(str(out), out=out / INDEX_FILE, quiet=True)
        except BaseException:
            write_json(out / PACKING, about | {"finished": False})
            raise
    return {
        "shards": len(index.about["shards"]),
        "samples": len(index),
        "left_out": len(table) - len(index),
        "bytes": sum(size for size, _ in index.about["sizes"]),
        "captions": len(index.columns.get("caption", ())),
    }


def make_smaller(job: Any, settings: Any) -> tuple[Any, str | None]:
    """((bytes of a video file, fields of its VideoInfo), None), or (None, why not); runs in a worker process."""
    path, smaller = job
    try:
        return (_smaller_picture if formats.is_image(path) else _smaller_video)(path, smaller), None
    except DecodingError as error:
        return None, str(error)
    except Exception as error:  # what a decoder's binding raises on a damaged file costs that file, whatever it is
        return None, f"cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())[:160]})"


def _smaller_video(path, smaller):
    """Frames evenly spaced in time, fitted and averaged, as H.264: lossless where averaged or of an odd size."""
    from hpdm.video.reader import VideoReader
    from hpdm.video.writer import encode_video

    times, rows, columns = smaller.shrink
    with VideoReader(path) as video:
        timeline = video.timeline
        rate = timeline.rate or 25
        frames, _ = video.read_chosen(lambda line: line.resampled(rate), _Fewer(smaller))
    count = len(frames) // times
    if not count or 0 in frames.shape[1:3]:
        raise DecodingError(f"{len(frames)} frames of this size are too few to average over {times}x{rows}x{columns}")
    if smaller.shrink != ALONE:
        frames = frames[: count * times].reshape(count, times, *frames.shape[1:]).mean(axis=1, dtype=np.float64)
        frames = np.rint(frames).astype(np.uint8)
    lossless = smaller.shrink != ALONE or any(side % 2 for side in frames.shape[1:3])
    content = encode_video(frames, fps=rate / times, crf=smaller.crf, lossless=lossless)
    return content, _shown(content)


class _Fewer:
    """Callable: uint8 [k,H,W,3] → fitted to the size, then sums of blocks of pixels as means, float32 [k,h,w,3]."""

    def __init__(self, smaller):
        self.shrink, self.fit = smaller.shrink, None
        if smaller.size:
            from hpdm.data.videos import Fitting  # imports torch

            self.fit = Fitting(*smaller.size)

    def __call__(self, frames):
        if self.fit:
            frames = self.fit(frames).transpose(0, 2, 3, 1)
        if self.shrink == ALONE:
            return np.ascontiguousarray(frames)
        _, rows, columns = self.shrink
        height, width = frames.shape[1] // rows, frames.shape[2] // columns
        top, left = (frames.shape[1] - height * rows) // 2, (frames.shape[2] - width * columns) // 2
        box = frames[:, top : top + height * rows, left : left + width * columns]
        return box.reshape(len(frames), height, rows, width, columns, 3).mean(axis=(2, 4), dtype=np.float32)


def _smaller_picture(path, smaller):
    """A picture, made smaller in the same way, as PNG."""
    from PIL import Image

    from hpdm.video.pixels import UnreadablePicture, read_picture

    try:
        picture = np.rint(_Fewer(smaller)(np.array(read_picture(path))[None])[0]).astype(np.uint8)
    except UnreadablePicture as error:
        raise DecodingError(str(error)) from error
    if 0 in picture.shape:
        raise DecodingError(f"too small to be averaged over {smaller.shrink[1]}x{smaller.shrink[2]}")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    height, width, _ = picture.shape
    return buffer.getvalue(), {"frames": 1, "fps": 0.0, "seconds": 0.0, "even": True, "height": height, "width": width}


def _shown(content):
    from hpdm.video.reader import probe_video

    return asdict(probe_video(content))


def _plan(table, rows, shard_bytes, smaller):
    """The rows of each shard: as many as have `shard_bytes` together, by the sizes that they will about have."""
    sizes = table.size[rows].astype(float)
    if smaller.changes:
        pixels = table.height[rows].astype(float) * table.width[rows]
        sizes *= (np.minimum(1.0, np.prod(smaller.size) / pixels) if smaller.size else 1.0) / np.prod(smaller.shrink)
    bounds = (np.cumsum(np.maximum(sizes, 1024)) // shard_bytes).astype(np.int64)
    return np.split(rows, np.flatnonzero(np.diff(bounds)) + 1)


def _digest(table, rows, shard_bytes, smaller):
    """What the shards follow from: the files, the captions, the options."""
    digest = sha256(json.dumps([shard_bytes, asdict(smaller)]).encode())
    captioned = table.captions_chosen(rows) if "caption" in table.columns else repeat([], len(rows))
    for row, path, captions in zip(rows.tolist(), table.path.chosen(rows), captioned, strict=True):
        digest.update(json.dumps([path, int(table.size[row]), int(table.mtime[row]), captions]).encode())
    return digest.hexdigest()


def _begin(out, about, begun):
    if not begun:
        write_json(out / PACKING, about | {"finished": False})
        return
    before = read_json(out / PACKING)
    before = before if isinstance(before, dict) else {}
    changed = [key for key in about if json.loads(json.dumps(about[key])) != before.get(key)]
    if changed:
        what = "the files have changed" if changed == ["plan"] else f"other settings ({', '.join(changed)})"
        raise InputError(f"{out} was begun with {what}: name a new folder, or delete it")
    if before.get("finished"):
        write_json(out / PACKING, about | {"finished": False})


def _write_shards(root, out, table, plan, smaller, workers, quiet):
    """Write the shards that are not there; returns path → reason of files that could not be made smaller."""
    missing = [number for number in range(len(plan)) if not (out / SHARD.format(number)).exists()]
    labels = _labels(root, table)
    lost = {}
    with ExitStack() as stack:
        bar = stack.enter_context(
            progress(
                total=len(plan), initial=len(plan) - len(missing), unit="shard", description="packing", quiet=quiet
            )
        )
        pool = None
        if smaller.changes and missing:
            pool = stack.enter_context(Workers(SMALLER, None, workers, _seconds))
        threads, ended = stack.enter_context(ThreadPoolExecutor(min(workers, max(1, len(missing))))), Event()
        written = [
            threads.submit(
                _write_shard, root, out / SHARD.format(number), table, plan[number], labels, smaller, pool, ended
            )
            for number in missing
        ]
        try:
            for future in written:
                lost |= future.result()
                bar.update()
        except BaseException:
            ended.set()
            for future in written:
                future.cancel()
            if pool:
                pool.close()
            raise
    return lost


def _seconds(job):
    """Time limit of a job of `make_smaller`, which decodes and encodes a whole file."""
    return 4 * seconds_for(job[0])


def _labels(root, table):
    """(class names, class id by row, -1 for none) by subfolders, as training without a choice of parts takes them."""
    ids = np.full(len(table), -1, np.int32)
    if table.still.all():
        return (), ids
    chosen = choose_videos(DataConfig(path=str(root), part="all", layout="auto"), table)
    if chosen.paths is table.path:
        ids[chosen.rows] = chosen.ids
    return chosen.class_names, ids


def _write_shard(root, path, table, rows, labels, smaller, pool, ended):
    """Write one shard, atomically; returns path → reason of files that were left out. Nothing once `ended` is set."""
    names, ids = labels
    sources = {int(row): str(Path(root, table.path[row])) for row in rows}
    made = {row: pool.submit((source, smaller)) for row, source in sources.items()} if pool else {}
    lost, count = {}, 0
    try:
        with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for row, source in sources.items():
                name = table.path[row]
                try:
                    content, shown, suffix = _content(table, row, source, made.pop(row, None))
                except DecodingError as error:
                    lost[name] = str(error)
                if ended.is_set():  # then a process may have failed because it was ended
                    raise _Ended
                if name in lost:
                    continue
                about = {"path": name, **shown}
                if "caption" in table.columns and (rate := float(table.list_fps[row])):
                    about["list_fps"] = rate
                if smaller.shrink != ALONE:
                    about["shrunk"] = list(smaller.shrink)
                captions = table.captions_of(row) if "caption" in table.columns else []
                words = {PACKED: about} | ({"caption": captions[0], "captions": captions} if captions else {})
                if ids[row] >= 0:
                    words["class"] = names[ids[row]]
                    _add(archive, row, "cls", str(int(ids[row])).encode())
                _add(archive, row, "json", json.dumps(words).encode())
                _add(archive, row, suffix, content)
                if captions:
                    _add(archive, row, "txt", captions[0].encode())
                count += 1
            if not count:
                raise _Empty
    except _Empty:
        pass
    return lost


class _Empty(Exception):
    """Nothing of a shard could be made."""


class _Ended(Exception):
    """Packing was ended, or failed in another shard."""


def _content(table, row, source, future):
    """(bytes of the file, what it shows, its suffix) of one sample; raises DecodingError for one that is left out."""
    if future is None:
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise InputError(f"{source} cannot be read any more ({error.strerror})") from error
        if len(content) != table.size[row]:
            raise InputError(f"{source} has changed while it was packed; run it again when nobody writes there")
        return content, {name: table.columns[name][row].item() for name in SHOWN}, formats.suffix(source)[1:]
    try:
        made, reason = future.result()
    except JobFailed as failure:
        made, reason = None, str(failure)
    if made is None:
        raise DecodingError(reason)
    return *made, "png" if table.still[row] else "mp4"


def _add(archive, row, suffix, content):
    info = tarfile.TarInfo(f"{row:09d}.{suffix}")
    info.size, info.mode = len(content), 0o644
    archive.addfile(info, io.BytesIO(content))
