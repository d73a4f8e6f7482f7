"""UCF-101 as it comes: class folders of avi files and the official split lists (`ucfTrainTestlist`).

`classInd.txt` numbers the classes from 1; `trainlist0k.txt` holds lines of `Class/v_Class_gXX_cYY.avi number`,
`testlist0k.txt` the same without the number, both with CRLF line ends. Class ids here count from 0 in that order,
however few of the classes are present.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hpdm.support.errors import InputError

LISTS_FOLDER = "ucfTrainTestlist"
SPLITS = (1, 2, 3)
PARTS = ("train", "test", "all")


@dataclass(frozen=True, kw_only=True)
class SplitList:
    """One part of one split: class names by id, and the class id of every listed video by its `video_key`."""

    name: str
    class_names: tuple[str, ...]
    labels: dict[str, int]


def find_lists(root: str | Path) -> Path | None:
    """The folder `ucfTrainTestlist` in `root` or beside it; None where there is none."""
    root = Path(root).resolve()
    return next((place / LISTS_FOLDER for place in (root, root.parent) if (place / LISTS_FOLDER).is_dir()), None)


def video_key(path: str) -> str:
    """What identifies a video whatever its folder, suffix and upper case: `v_punch_g08_c02`.

    The lists and the archive disagree in the case of some names, and many keep the videos re-encoded as mp4.
    """
    return PurePosixPath(path).stem.casefold()


def read_split(folder: str | Path, *, split: int = 1, part: str = "train") -> "SplitList":
    """Read the SplitList of `split` 1, 2 or 3 and `part` "train", "test" or "all" from the folder of list files.

    Raises InputError for a missing file or a line that does not follow the format.
    """
    if split not in SPLITS or part not in PARTS:
        raise InputError(f"UCF-101 has splits 1, 2, 3 with parts {', '.join(PARTS)}; got {split!r} and {part!r}")
    folder = Path(folder)
    class_names = _read_classes(folder / "classInd.txt")
    ids = {name.casefold(): index for index, name in enumerate(class_names)}
    labels = {}
    for kind in ("train", "test") if part == "all" else (part,):
        file = folder / f"{kind}list{split:02d}.txt"
        for number, path, stated in read_list(file):
            label = ids.get(PurePosixPath(path).parent.name.casefold())
            if label is None or stated not in (None, str(label + 1)):
                raise InputError(f"{file}, line {number}: {path!r} does not agree with the classes of classInd.txt")
            labels[video_key(path)] = label
    return SplitList(name=f"{part}, split {split:02d}", class_names=class_names, labels=labels)


def read_list(file: str | Path) -> list[tuple[int, str, int | None]]:
    """[(line number, path, number of its class or None)] of a train or test list; raises InputError."""
    videos = []
    for number, line in _lines(Path(file)):
        path, *stated = line.split()
        if len(stated) > 1:
            raise InputError(f"{file}, line {number}: expected `Class/video.avi` and at most a number, found {line!r}")
        videos.append((number, path, stated[0] if stated else None))
    return videos


def _read_classes(file):
    names = []
    for number, line in _lines(file):
        parts = line.split()
        if len(parts) != 2 or parts[0] != str(len(names) + 1):
            raise InputError(f"{file}, line {number}: expected '{len(names) + 1} ClassName', found {line!r}")
        names.append(parts[1])
    return tuple(names)


def _lines(file):
    """(line number, text) of the lines that are not empty, whatever the line ends."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{file} is missing; UCF-101 needs the official split lists: unpack them beside the videos "
            f"or name their folder with data.split_lists"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no list of UCF-101 (not UTF-8 text)") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
