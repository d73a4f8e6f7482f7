"""What lies under a path: video files, folders of frames, arrays and archives of them, as candidates in natural order.

Archives and arrays that cannot be read in place (.zip, .npz, .pt) are unpacked into a temporary folder and read from
there clip by clip, so that memory does not grow with them.
"""

import os
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from hpdm.errors import InputError
from hpdm_eval import arrays
from hpdm_eval.decoding import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from hpdm_eval.frames import Rejected, natural_key

ARRAY_SUFFIXES = (".npy", ".npz", ".pt")
SUFFIXES = (*VIDEO_SUFFIXES, *ARRAY_SUFFIXES, ".zip")

# An archive is refused as a bomb when it is larger than this unpacked and shrinks by more than that.
BOMB_BYTES = 256 << 20
BOMB_RATIO = 200


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One clip to be: its name, its class, and where its frames are (`Job` in decoding.py says what the rest means)."""

    name: str
    label: str | None
    path: str
    kind: str
    index: int | None = None
    cell: int | None = None
    value_range: str | None = None


class Scratch:
    """Temporary folders for what has to be unpacked; they go when this object does."""

    def __init__(self):
        self.folders = []
        self._remove = weakref.finalize(self, _remove_folders, self.folders)

    def new(self):
        """An empty folder."""
        self.folders.append(Path(tempfile.mkdtemp(prefix="hpdm-eval-")))
        return self.folders[-1]

    def remove(self):
        """Remove all folders now."""
        self._remove()


class Listing:
    """Candidates under `root` in natural order, and what had to be rejected on the way there.

    candidates: list of Candidate. rejected: list of {"path", "reason"}. passed_over: names of videos left out because
    an array of the same name lies beside them, or beside a gif another video: published code writes both. `scratch`
    must live as long as the candidates are read.
    """

    def __init__(self, root, scratch, grid=None, value_range="auto"):
        self.candidates, self.rejected, self.passed_over = [], [], []
        self._scratch, self._grid, self._range = scratch, grid, value_range
        root = Path(os.path.abspath(root))
        if root.is_dir():
            self._folder(root, "", None)
            if not self.candidates and not self.rejected and _frame_files(root):
                self._add(root.name, None, root, "frames")
        elif not root.exists():
            raise InputError(f"{root} does not exist")
        elif root.suffix.lower() == ".zip":
            self._archive(root, root.name, "", None)
        elif root.suffix.lower() in SUFFIXES:
            self._file(root, root.name, None)
        else:
            raise InputError(f"{root} is not a folder, nor one of {' '.join(SUFFIXES)}")
        self.candidates.sort(key=lambda candidate: natural_key(candidate.name))

    def _folder(self, folder, prefix, label, ancestors=()):
        """List `folder`, whose names start with `prefix`; returns whether anything was found in it."""
        identity = os.path.realpath(folder)
        if identity in ancestors:  # a link to a folder that holds it
            return False
        before = len(self.candidates) + len(self.rejected)
        try:
            entries = [entry for entry in os.scandir(folder) if _visible(entry.name)]
        except OSError as error:
            self._reject(prefix, f"cannot be listed ({error.strerror})")
            return True
        entries.sort(key=lambda entry: natural_key(entry.name))
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES) and not entry.is_file() and not entry.is_dir():
                self._reject(prefix + entry.name, "a broken link, or not a regular file")
        files = [entry for entry in entries if entry.is_file()]
        array_stems = {Path(entry.name).stem for entry in files if entry.name.lower().endswith(ARRAY_SUFFIXES)}
        video_stems = {Path(entry.name).stem for entry in files
                       if entry.name.lower().endswith(VIDEO_SUFFIXES) and not entry.name.lower().endswith(".gif")}
        for entry in files:
            suffix = Path(entry.name).suffix.lower()
            better = array_stems | video_stems if suffix == ".gif" else array_stems
            if suffix in VIDEO_SUFFIXES and Path(entry.name).stem in better:
                self.passed_over.append(prefix + entry.name)
            elif suffix in SUFFIXES:
                self._file(Path(entry.path), prefix + entry.name, label)
        for entry in entries:
            if entry.is_dir():
                name = prefix + entry.name
                found = self._folder(Path(entry.path), name + "/", label or entry.name, (*ancestors, identity))
                if not found and _frame_files(entry.path):
                    self._add(name, label, Path(entry.path), "frames")
        return len(self.candidates) + len(self.rejected) > before

    def _file(self, path, name, label):
        suffix = path.suffix.lower()
        try:
            if suffix == ".zip":
                self._archive(path, name, name + "/", label)
            elif suffix == ".npy":
                self._array(path, name, label)
            elif suffix in ARRAY_SUFFIXES:
                unpack = _unpack_npz if suffix == ".npz" else _unpack_pt
                members = unpack(path, self._scratch.new())
                for member, file in members.items():
                    self._array(file, name if len(members) == 1 else f"{name}/{member}", label)
            else:
                self._add(name, label, path, "video")
        except Rejected as rejection:
            self._reject(name, rejection)

    def _array(self, path, name, label):
        try:
            array = np.lib.format.open_memmap(path, mode="r")
            shape, dtype = array.shape, array.dtype
            del array
            layout = arrays.array_layout(shape, dtype)
            if layout.clips is None:
                self._add(name, label, path, "array")
                return
            span = (0, 255) if dtype == np.uint8 else arrays.scan_npy(path)
            value_range = arrays.value_range(*span, dtype, self._range)
        except Rejected as rejection:
            self._reject(name, rejection)
        except Exception as error:  # numpy reports damaged headers by many types of exception
            self._reject(name, f"not a readable .npy array ({type(error).__name__}: {error})"[:200])
        else:
            for index in range(layout.clips):
                self._add(name, label, path, "array", index=index, value_range=value_range)

    def _archive(self, path, name, prefix, label):
        try:
            folder = self._scratch.new()
            members, damaged = _unpack(path, folder, (*SUFFIXES, *IMAGE_SUFFIXES))
            for member, reason in damaged.items():
                self._reject(prefix + member, reason)
            for member in members:
                if member.suffix.lower() == ".zip":
                    member.unlink()
                    self._reject(prefix + member.relative_to(folder).as_posix(), "an archive inside an archive")
        except Rejected as rejection:
            self._reject(name, rejection)
            return
        # Archives are often made of one folder: its name is not a class.
        inner = list(folder.iterdir())
        top = inner[0] if len(inner) == 1 and inner[0].is_dir() else folder
        if not self._folder(top, prefix, label):
            if _frame_files(top):
                self._add(name, label, top, "frames")
            elif not damaged:
                self._reject(name, "holds no videos, frames or arrays")

    def _add(self, name, label, path, kind, index=None, value_range=None):
        candidate = Candidate(name=name, label=label, path=str(path), kind=kind, index=index, value_range=value_range)
        cells = 0 if self._grid is None else len(self._grid)
        if cells:
            first = cells * (index or 0)
            self.candidates += [replace(candidate, name=f"{name}#{first + cell}", cell=cell) for cell in range(cells)]
        else:
            self.candidates.append(candidate if index is None else replace(candidate, name=f"{name}#{index}"))

    def _reject(self, name, reason):
        self.rejected.append({"path": name, "reason": str(reason)})


def _remove_folders(folders):
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _visible(name):
    return not name.startswith(".") and name != "__MACOSX"


def _frame_files(folder):
    return [entry for entry in os.scandir(folder)
            if _visible(entry.name) and entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()]


def _unpack_npz(path, folder):
    """Array files by member name: those members of a .npz that have the four or five axes of videos."""
    members, damaged = _unpack(path, folder, (".npy",))
    if damaged:
        raise Rejected("; ".join(f"{member} {reason}" for member, reason in damaged.items()))
    files = {file.stem: file for file in members}
    videos = {name: file for name, file in files.items() if _axes(file) != "few"}
    if not videos:
        raise Rejected("holds no array with the axes of videos")
    return videos


def _axes(file):
    """Return "few" for an array that is meant for something else than videos, like labels beside them."""
    try:
        return "few" if np.lib.format.open_memmap(file, mode="r").ndim < 4 else "enough"
    except Exception:  # left for the reader to reject with its reason
        return "unknown"


def _unpack_pt(path, folder):
    """As `_unpack_npz` for a tensor, or a dict of tensors, that `torch.save` wrote."""
    import torch

    try:
        value = _load_tensors(path)
    except Exception as error:  # damaged pickles raise nearly anything
        raise Rejected(f"not a readable .pt file of tensors alone ({type(error).__name__})") from error
    tensors = value if isinstance(value, dict) else {path.stem: value}
    files = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        if isinstance(tensor, torch.Tensor) and tensor.ndim >= 4 and len(tensor):
            files[str(name)] = folder / f"{number}.npy"
            try:
                _write_npy(tensor.detach(), files[str(name)])
            except (TypeError, RuntimeError, NotImplementedError) as error:  # 8-bit floats, sparse, without data ...
                raise Rejected(f"{name}: a tensor of {tensor.dtype}, {tensor.layout} on {tensor.device} is no array "
                               f"of videos ({type(error).__name__})") from error
    if not files:
        raise Rejected("holds no tensor with the axes of videos")
    return files


def _write_npy(tensor, path):
    """Row by row, so that a mapped file is never in memory as a whole."""
    import torch

    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    out = np.lib.format.open_memmap(path, "w+", tensor[:1].numpy().dtype, tuple(tensor.shape))
    for row in range(len(tensor)):
        out[row] = tensor[row].numpy()
    out.flush()


def _load_tensors(path):
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files of before PyTorch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def _unpack(path, folder, suffixes):
    """Unpack the members with these suffixes into `folder`.

    Returns their paths, and a dict of reasons by name for those that are damaged. Raises Rejected for an archive that
    is damaged as a whole or not safe to unpack.
    """
    files, damaged = [], {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check_archive(members, path, folder)
            for info in members:
                parts = PurePosixPath(info.filename).parts
                if not info.filename.lower().endswith(suffixes) or not all(map(_visible, parts)):
                    continue
                target = folder.joinpath(*parts)
                try:
                    _unpack_member(archive, info, target)
                    files.append(target)
                except Exception as error:  # BadZipFile for a wrong checksum, zlib.error, NotImplementedError ...
                    target.unlink(missing_ok=True)
                    damaged[info.filename] = f"cannot be unpacked ({type(error).__name__}: {error})"[:200]
    except Rejected:
        raise
    except Exception as error:  # a damaged directory raises BadZipFile, struct.error, UnicodeDecodeError ...
        raise Rejected(f"not a readable archive ({type(error).__name__}: {error})"[:200]) from error
    return files, damaged


def _unpack_member(archive, info, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as packed, open(target, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)


def _check_archive(members, path, folder):
    for info in members:
        name = info.filename
        if name.startswith(("/", "\\")) or "\\" in name or ":" in name[:2] or ".." in PurePosixPath(name).parts:
            raise Rejected(f"member {name!r} would be written outside the archive's own folder")
        if info.flag_bits & 1:
            raise Rejected("the archive is encrypted")
    size = sum(info.file_size for info in members)
    if size > BOMB_BYTES and size > BOMB_RATIO * os.path.getsize(path):
        raise Rejected(f"unpacks to {size / 2**20:.0f} MiB, {size // os.path.getsize(path)} times its size: "
                       "refused as a decompression bomb")
    free = shutil.disk_usage(folder).free
    if size > 0.9 * free:
        raise Rejected(f"unpacks to {size / 2**30:.1f} GiB, the temporary folder has {free / 2**30:.1f} GiB left; "
                       "set TMPDIR to a larger one, or unpack it yourself")
