"""What lies under a path: video files, folders of frames, arrays and archives of them, as candidates in natural order.

Archives and arrays that cannot be read in place are unpacked into a temporary folder and read from there clip by clip,
so that memory does not grow with them.
"""

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from hpdm.support.errors import InputError
from hpdm.video.formats import ARRAY_SUFFIXES, VIDEO_SUFFIXES, is_image, is_video, suffix
from hpdm.video.walk import natural_key, walk
from hpdm_eval.clips import arrays
from hpdm_eval.clips.frames import Grid, NoVideo, Rejected
from hpdm_eval.clips.unpacking import ARCHIVE_SUFFIXES, Scratch, is_archive, unpack_archive, unpack_npz, unpack_pt

__all__ = ["Candidate", "Listing", "Scratch"]

SUFFIXES = (*VIDEO_SUFFIXES, *ARRAY_SUFFIXES, *ARCHIVE_SUFFIXES)
LIST_SUFFIX = ".txt"
PICKLES = (".pkl", ".pickle", ".p")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One clip to be: its class, and where its frames are (`Job` in clip_jobs.py says what the rest means).

    file: path below the root of its file, or folder of frames. number: which of the clips in it, None for the only one.
    """

    file: str
    number: int | None = None
    label: str | None
    path: str
    kind: str
    index: int | None = None
    cell: int | None = None
    repeat: int = 0
    value_range: str | None = None

    @property
    def name(self) -> str:
        """`file`, with "#k" for clip k of several."""
        return self.file if self.number is None else f"{self.file}#{self.number}"


class Listing:
    """Candidates under `root` in natural order, and what had to be rejected on the way there.

    root: a folder, one file, or a list of such in a .txt file, one path a line. grid: Grid of contact sheets.
    value_range: of float arrays, as in a protocol. clips: how many of each video.

    candidates: list of Candidate. rejected: list of {"path", "reason"}. passed_over: {kind: how many} of what is left
    out without being at fault: other files by their suffix, videos that lie beside the same as an array, or a gif
    beside another video (published code writes both), arrays beside videos that hold something else. repeated: names
    of links to folders that are read elsewhere. `scratch` must live as long as the candidates are read.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        scratch: Scratch,
        grid: Grid | None = None,
        value_range: str = "auto",
        clips: int = 1,
    ) -> None:
        self.candidates, self.rejected, self.passed_over, self.repeated = [], [], Counter(), []
        self._scratch, self._grid, self._range, self._clips = scratch, grid, value_range, clips
        root = Path(os.path.abspath(root))
        if root.is_dir():
            self._tree(root, "", None, root.name)
        elif not root.exists():
            raise InputError(f"{root} does not exist")
        elif suffix(root.name) == LIST_SUFFIX:
            self._list_of_files(root)
        elif root.name.lower().endswith(SUFFIXES):
            self._file(root, root.name, None, "" if is_archive(root.name) else None)
        elif suffix(root.name) in PICKLES:
            raise InputError(
                f"{root} is a pickle: reading it would run what is in it. Write videos as .npy, statistics "
                "by numpy.savez(FILE, mu=mean, sigma=covariance, n=number_of_clips)"
            )
        else:
            raise InputError(f"{root} is not a folder, nor one of {' '.join(SUFFIXES)}, nor a list of files (.txt)")
        self.candidates.sort(key=lambda candidate: natural_key(candidate.name))

    def _tree(self, root, prefix, label, name):
        """List the folder `root`; returns whether anything was found.

        prefix: of the names below it. label: class of all, None for that of the first folder below `root`. name: of the
        clip where `root` itself is a folder of frames.
        """
        folders, filled = list(walk(root, natural_key)), set()
        for folder in folders:
            if self._folder(folder, prefix, label or _first(folder.name)):
                filled |= {"", folder.name, *(str(parent) for parent in PurePosixPath(folder.name).parents)}
            self.repeated += [prefix + below for below in folder.repeated]
        for folder in reversed(folders):  # inner ones first: a folder of folders of frames is no clip
            pictures = [file for file in folder.files if is_image(file)]
            if pictures and folder.name not in filled:
                self._add(
                    prefix + folder.name if folder.name else name, label or _first(folder.name), folder.path, "frames"
                )
                filled |= {"", folder.name, *(str(parent) for parent in PurePosixPath(folder.name).parents)}
            else:
                self.passed_over.update(map(_kind, pictures))
        return bool(filled)

    def _folder(self, folder, prefix, label):
        """List the files of one folder of a walk other than pictures; returns whether anything was found."""
        before = len(self.candidates) + len(self.rejected)
        if folder.error:
            self._reject(prefix + folder.name, folder.error)
        for name in folder.irregular:
            if name.lower().endswith(SUFFIXES):
                self._reject(prefix + name, "a broken link, or not a regular file")
        videos = [name for name in folder.files if is_video(name)]
        better = defaultdict(set)  # suffix → stems whose videos are better read from another file
        better[".gif"] = {Path(name).stem for name in videos if suffix(name) != ".gif"}
        for name in folder.files:
            path = folder.path / PurePosixPath(name).name
            if suffix(name) in ARRAY_SUFFIXES:
                stem = path.stem
                beside = [video for video in videos if Path(video).stem == stem]
                if self._array_file(path, prefix + name, label, bool(videos), bool(beside)):
                    for video in beside:
                        better[suffix(video)].add(stem)
            elif is_archive(name):
                self._file(path, prefix + name, label, prefix + name + "/")
            elif not is_video(name) and not is_image(name):
                self.passed_over[_kind(name)] += 1
        for name in videos:
            if PurePosixPath(name).stem in better[suffix(name)]:
                self.passed_over[f"{suffix(name)} beside the same in another form"] += 1
            else:
                self._add(prefix + name, label, folder.path / PurePosixPath(name).name, "video")
        return len(self.candidates) + len(self.rejected) > before

    def _file(self, path, name, label, prefix=None):
        """List one file; prefix: of the names in an archive."""
        if is_archive(name):
            self._archive(path, name, name + "/" if prefix is None else prefix, label)
        elif suffix(name) in ARRAY_SUFFIXES:
            self._array_file(path, name, label)
        else:
            self._add(name, label, path, "video")

    def _array_file(self, path, name, label, with_videos=False, beside=False):
        """List a file of arrays; returns whether it holds clips.

        with_videos: whether its folder holds videos as well; then arrays of other things are passed over. beside:
        whether there is one of the same name; then pixels are looked at too.
        """
        before = len(self.candidates)
        try:
            if suffix(name) == ".npy":
                files = {"": path}
            else:
                files = (unpack_npz if suffix(name) == ".npz" else unpack_pt)(path, self._scratch.new(path))
        except Rejected as rejection:
            self._refuse_array(name, suffix(name), rejection, with_videos)
            return False
        for member, file in files.items():
            own = name if len(files) == 1 else f"{name}/{member}"
            try:
                self._array(file, own, label, with_videos, beside)
            except Rejected as rejection:
                self._refuse_array(own, suffix(name), rejection, with_videos)
        return len(self.candidates) > before

    def _refuse_array(self, name, kind, rejection, with_videos):
        if with_videos and isinstance(rejection, NoVideo):
            self.passed_over[f"{kind} that holds no videos"] += 1
        else:
            self._reject(name, rejection)

    def _array(self, path, name, label, with_videos, beside):
        array = arrays.open_npy(path)
        shape, dtype = array.shape, array.dtype
        del array
        layout = arrays.array_layout(shape, dtype, grey=not with_videos)
        if beside:
            arrays.check_pictures(path, layout, self._range)
        if layout.clips is None:
            self._add(name, label, path, "array")
            return
        value_range = "0..255" if dtype == np.uint8 else arrays.scan_npy(path).value_range(self._range)
        for index in range(layout.clips):
            self._add(name, label, path, "array", index=index, value_range=value_range)

    def _archive(self, path, name, prefix, label):
        try:
            folder = self._scratch.new(path)
            unpacked = unpack_archive(path, folder, _readable)
        except Rejected as rejection:
            self._reject(name, rejection)
            return
        self.passed_over.update({_kind(f"a{end}"): count for end, count in unpacked.others.items()})
        for member, reason in unpacked.damaged.items():
            self._reject(prefix + member, reason)
        # Archives are often made of one folder: its name is not a class.
        inner = list(folder.iterdir())
        top = inner[0] if len(inner) == 1 and inner[0].is_dir() else folder
        if not self._tree(top, prefix, label, name) and not unpacked.damaged:
            self._reject(name, "holds no videos, frames or arrays")

    def _list_of_files(self, path):
        """Lines end at \\n alone (a \\r before it belongs to the line's end); names may hold anything else."""
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if b"\0" in content:
            raise InputError(f"{path} is no list of files: it is not text")
        seen = set()
        for line in content.split(b"\n"):
            name = os.fsdecode(line.removesuffix(b"\r"))
            if not name.strip():
                continue
            target = Path(os.path.normpath(path.parent / name))
            exists, is_folder = os.path.exists(target), os.path.isdir(target)  # False also for names that cannot be
            label = PurePosixPath(os.path.normpath(name)).parent.name or None
            if target in seen:
                self._reject(name, "listed before")
            elif is_folder:
                self._listed_folder(target, name.rstrip("/"), label)
            elif not exists:
                self._reject(name, f"no such file; paths in {path.name} start at {path.parent}, or are absolute")
            elif not target.name.lower().endswith(SUFFIXES):
                self._reject(name, "its suffix is none of a video, an array or an archive")
            else:
                self._file(target, name, label)
            seen.add(target)

    def _listed_folder(self, path, name, label):
        """A folder in a list of files: one clip where it holds frames, else all clips below it."""
        before = len(self.candidates)
        if not self._tree(path, name + "/", None, name):
            self._reject(name, "a folder without videos, frames or arrays")
        for place in range(before, len(self.candidates)):
            if (found := self.candidates[place]).label is None:
                own = label if found.file == name else path.name
                self.candidates[place] = replace(found, label=own)

    def _add(self, file, label, path, kind, index=None, value_range=None):
        candidate = Candidate(file=file, label=label, path=str(path), kind=kind, index=index, value_range=value_range)
        cells = 1 if self._grid is None else len(self._grid)
        for cell in range(cells):
            for repeat in range(self._clips):
                number = ((index or 0) * cells + cell) * self._clips + repeat
                only = index is None and self._grid is None and self._clips == 1
                self.candidates.append(
                    replace(
                        candidate,
                        number=None if only else number,
                        repeat=repeat,
                        cell=None if self._grid is None else cell,
                    )
                )

    def _reject(self, name, reason):
        self.rejected.append({"path": name, "reason": str(reason)})


def _readable(name):
    """Whether a file of that name can be a clip or a part of one."""
    return name.lower().endswith(SUFFIXES) or is_image(name)


def _first(name):
    """First folder of a path below the root: the class; None at the root."""
    return name.split("/")[0] or None


def _kind(name):
    """What a file that is passed over is counted as."""
    return suffix(name) or "without a suffix"
