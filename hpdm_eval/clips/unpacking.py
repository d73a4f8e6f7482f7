"""Archives and files of arrays that cannot be read in place (zip, tar, npz, pt), unpacked into temporary folders.

Nothing leaves its folder, links and devices are not made, and what a file says about its own size is looked at before
anything is unpacked: see `limits`.
"""

import gzip
import os
import shutil
import tarfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from hpdm.support.files import make_scratch, remove_scratch
from hpdm.video import formats
from hpdm.video.walk import visible
from hpdm_eval.clips.frames import NoVideo, Rejected
from hpdm_eval.support.limits import GROWTH, check_growth, in_words, limit

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MOST_FREE = 0.9  # of a disk's free space that may be filled
HEADER_BYTES = 16 << 20  # of a tar archive: long names and extended headers are read at once


class Scratch:
    """Temporary folders for what has to be unpacked; they go when this object does."""

    def __init__(self) -> None:
        self.folders, self._origins = [], {}
        self._remove = weakref.finalize(self, _remove_folders, self.folders)

    def new(self, of: str | os.PathLike) -> Path:
        """An empty folder, for what is unpacked from the file `of`."""
        self.folders.append(make_scratch("hpdm-eval"))
        self._origins[str(self.folders[-1])] = str(of)
        return self.folders[-1]

    def origin(self, path: str | os.PathLike) -> tuple[str, str] | None:
        """(file that a path was unpacked from, folder that it was unpacked to), or None."""
        folders = map(str, (PurePath(path), *PurePath(path).parents))
        found = next((folder for folder in folders if folder in self._origins), None)
        return None if found is None else (self._origins[found], found)

    def remove(self) -> None:
        """Remove all folders now."""
        self._remove()


@dataclass
class Unpacked:
    """What became of an archive: files on disk, reasons by name for what was refused, other members by suffix."""

    files: list[Path] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    others: Counter = field(default_factory=Counter)


def is_archive(name: str) -> bool:
    """Whether a name says archive of files."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack_archive(path: Path, folder: Path, wanted: Callable[[str], bool]) -> Unpacked:
    """Unpack the members of a zip or tar file whose name `wanted` takes into `folder`; returns Unpacked.

    Raises Rejected for an archive that is damaged as a whole, or not safe to unpack.
    """
    unpack = _unpack_zip if path.name.lower().endswith(".zip") else _unpack_tar
    done = Unpacked()
    try:
        unpack(path, folder, wanted, done)
    except Rejected:
        raise
    except Exception as error:  # damaged directories raise BadZipFile, struct.error, ReadError, zlib.error ...
        raise Rejected(f"not a readable archive ({type(error).__name__}: {error})"[:200]) from error
    return done


def unpack_npz(path: Path, folder: Path) -> dict[str, Path]:
    """{name: .npy file} of those members of a .npz that have the axes of videos; raises Rejected, NoVideo for none."""
    done = Unpacked()
    try:
        _unpack_zip(path, folder, lambda name: name.endswith(".npy"), done)
    except Rejected:
        raise
    except Exception as error:
        raise Rejected(f"not a readable archive ({type(error).__name__}: {error})"[:200]) from error
    if done.damaged:
        raise Rejected("; ".join(f"{member} {reason}" for member, reason in done.damaged.items()))
    videos = {file.stem: file for file in done.files if _axes(file) != "few"}
    if not videos:
        raise NoVideo("holds no array with the axes of videos")
    return videos


def unpack_pt(path: Path, folder: Path) -> dict[str, Path]:
    """As `unpack_npz` for a tensor, or dicts, lists and tuples of tensors, that `torch.save` wrote.

    A list of tensors of one shape and type is one array: of clips [T,H,W,C], or joined where each holds several.
    """
    _check_directory(path)
    try:
        value = _load_tensors(path)
    except Exception as error:  # damaged pickles raise nearly anything
        raise Rejected(f"not a readable .pt file of tensors alone ({type(error).__name__})") from error
    found = {name: rows for name, rows in _tensors(value, path.stem) if rows[0].ndim >= 4 and len(rows[0])}
    if not found:
        raise NoVideo("holds no tensor with the axes of videos")
    sizes = [sum(row.numel() * row.element_size() for row in rows) for rows in found.values()]
    if reason := check_growth(sum(sizes), os.path.getsize(path)):
        raise Rejected(reason)
    _check_space(sum(sizes), folder)
    files = {}
    for number, (name, rows) in enumerate(found.items()):
        files[name] = folder / f"{number}.npy"
        try:
            _write_npy(rows, files[name])
        except (TypeError, RuntimeError, NotImplementedError) as error:  # 8-bit floats, sparse, without data ...
            raise Rejected(
                f"{name}: a tensor of {rows[0].dtype}, {rows[0].layout} on {rows[0].device} is no array "
                f"of videos ({type(error).__name__})"
            ) from error
    return files


def _remove_folders(folders):
    for folder in folders:
        remove_scratch(folder)


def _unpack_zip(path, folder, wanted, done):
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        for info in members:
            _check_name(info.filename)
            if info.flag_bits & 1:
                raise Rejected("the archive is encrypted")
        _check_size(sum(info.file_size for info in members), path, folder)
        for info in members:
            if not _chosen(info.filename, wanted, done):
                continue
            if info.external_attr >> 28 == 0o12:
                done.damaged[info.filename] = "a link inside an archive"
                continue
            target = folder / info.filename
            try:
                with archive.open(info) as packed:
                    _write(packed, target)
                done.files.append(target)
            except Exception as error:  # BadZipFile for a wrong checksum, zlib.error, NotImplementedError ...
                target.unlink(missing_ok=True)
                done.damaged[info.filename] = f"cannot be unpacked ({type(error).__name__}: {error})"[:200]


def _unpack_tar(path, folder, wanted, done):
    """Member by member, since a tar archive has no directory: what follows damage is lost, and said."""
    packed = not path.name.lower().endswith(".tar")
    with (gzip.open if packed else open)(path, "rb") as raw, _opened_tar(raw, path, packed) as archive:
        size = 0
        try:
            for info in archive:
                if info.isdir():
                    continue
                _check_name(info.name)
                size += info.size
                _check_size(size, path, folder, info.size)
                if _chosen(info.name, wanted, done):
                    _unpack_tar_member(archive, info, folder / info.name, done)
            _check_end(archive, raw, path, packed, done)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            done.damaged["(rest)"] = f"the archive ends early ({type(error).__name__}: {error})"[:200]


def _opened_tar(raw, path, packed):
    return tarfile.open(fileobj=_Bounded(raw, path) if packed else raw, mode="r:")


def _unpack_tar_member(archive, info, target, done):
    if not info.isfile() or info.issparse():
        kind = "a link" if info.islnk() or info.issym() else "no regular file"
        done.damaged[info.name] = f"{kind} inside an archive"
        return
    try:
        _write(archive.extractfile(info), target)
        done.files.append(target)
    except (OSError, tarfile.TarError) as error:  # a file where a folder is, among others
        target.unlink(missing_ok=True)
        done.damaged[info.name] = f"cannot be unpacked ({type(error).__name__}: {error})"[:200]
        if isinstance(error, tarfile.TarError):
            raise


def _check_end(archive, raw, path, packed, done):
    """tarfile takes a damaged header for the end of the archive; a sound one ends with zeros, or with the file."""
    raw.seek(archive.offset)
    rest = raw.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):
        left = "" if packed else f", {in_words(os.path.getsize(path) - archive.offset)} before its end"
        done.damaged["(rest)"] = f"the archive is damaged{left}: what follows there was not read"


class _Bounded:
    """A compressed tar file, as `tarfile` reads it: single reads and the whole length are bounded."""

    def __init__(self, file, path):
        self._file = file
        self._longest = max(limit("HPDM_EVAL_MAX_UNPACKED"), GROWTH * os.path.getsize(path))

    def read(self, size=-1):
        if not 0 <= size <= max(HEADER_BYTES, 1 << 20):
            raise Rejected("the archive's headers are too large")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, position, whence=0):
        self._check(position)
        return self._file.seek(position, whence)

    def tell(self):
        return self._file.tell()

    def _check(self, position):
        if position > self._longest + HEADER_BYTES:
            raise Rejected(
                "its content takes more than "
                f"{in_words(self._longest)}: refused as a decompression bomb; HPDM_EVAL_MAX_UNPACKED "
                "raises the limit"
            )


def _chosen(name, wanted, done):
    """Whether a member is to be unpacked; what is not is counted, or refused."""
    if not all(map(visible, PurePosixPath(name).parts)):
        return False
    if is_archive(name):
        done.damaged[name] = "an archive inside an archive"
        return False
    if not wanted(name):
        done.others[formats.suffix(name)] += 1
        return False
    return True


def _check_name(name):
    if (
        not name
        or "\0" in name
        or name.startswith(("/", "\\"))
        or "\\" in name
        or ":" in name[:2]
        or ".." in PurePosixPath(name).parts
    ):
        raise Rejected(f"member {name!r} would be written outside the archive's own folder")


def _check_size(size, path, folder, more=None):
    if reason := check_growth(size, os.path.getsize(path)):
        raise Rejected(reason)
    _check_space(size if more is None else more, folder)


def _check_space(size, folder):
    free = shutil.disk_usage(folder).free
    if size > MOST_FREE * free:
        raise Rejected(
            f"unpacks to {in_words(size)}, the temporary folder has {in_words(free)} left; "
            "set TMPDIR to a larger one, or unpack it yourself"
        )


def _write(packed, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)


def _axes(file):
    """Return "few" for an array that is meant for something else than videos, like labels beside them."""
    try:
        return "few" if np.lib.format.open_memmap(file, mode="r").ndim < 4 else "enough"
    except Exception:  # left for the reader to reject with its reason
        return "unknown"


def _check_directory(path):
    """What a .pt file, which is an archive, says of its own size: PyTorch unpacks it unasked."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except Exception:  # damaged, or of before PyTorch 1.6: left for PyTorch to say
        return
    if reason := check_growth(size, os.path.getsize(path)):
        raise Rejected(reason)


def _load_tensors(path):
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files of before PyTorch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(value, name, top=True):
    """(name, tensors that are the rows of one array) of everything in `value` that is made of tensors."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, [value.detach()]
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, str(key) if top else f"{name}/{key}", False)
    elif isinstance(value, (list, tuple)):
        tensors = [item.detach() for item in value if isinstance(item, torch.Tensor)]
        if len(tensors) == len(value) > 0 and len({(row.shape[-4:], row.ndim, row.dtype) for row in tensors}) == 1:
            yield name, [row[None] for row in tensors] if tensors[0].ndim == 4 else tensors
        else:
            for number, inner in enumerate(value):
                yield from _tensors(inner, str(number) if top else f"{name}/{number}", False)


def _write_npy(rows, path):
    """The tensors `rows`, joined along their first axis, row by row: a mapped file is never in memory as a whole."""
    import torch

    rows = [row.float() if row.dtype == torch.bfloat16 else row for row in rows]
    shape = (sum(len(row) for row in rows), *rows[0].shape[1:])
    dtype = rows[0][:1].numpy().dtype
    with open(path, "wb") as file:  # not through a memory map: a full disk is then an error, not a signal
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        for row in rows:
            for index in range(len(row)):
                file.write(np.ascontiguousarray(row[index].numpy()))
