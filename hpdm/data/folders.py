"""Which videos of a folder make up the data, and of which class each is: split lists, parts, class subfolders."""

from collections import Counter
from pathlib import Path, PurePosixPath

from hpdm.data.config import check_classes
from hpdm.data.index import build_index, list_videos
from hpdm.data.videos import FolderClips
from hpdm.errors import InputError
from hpdm.video import ucf101
from hpdm.video.walk import PARTS


class Chosen:
    """The videos of a folder that a configuration names: `labels` is path → class id (-1: none) of the chosen.

    `files` are their FoundFiles, `about` is what the description says of the choice.
    """

    def __init__(self, listing, class_names, labels, about):
        self.listing, self.class_names, self.labels = listing, tuple(class_names), labels
        self.files = [file for file in listing.files if file.path in labels]
        self.about = about | {"passed_over": dict(listing.passed_over)}

    def need_classes(self):
        """Raise InputError where a video has no class."""
        outside = sorted(path for path, label in self.labels.items() if label < 0)
        if outside:
            raise InputError(
                f"{self.listing.root}: {len(outside)} videos lie in no class subfolder, the first is {outside[0]}; a "
                "class-conditional model needs one subfolder per class; --set network.num_classes=0 trains without "
                "classes"
            )


def choose_videos(config):
    """The Chosen videos of the folder `config.path`, by their names alone; nothing is opened.

    Raises InputError where there are none and where the layout is not the one that is asked for.
    """
    root = Path(config.path)
    listing = list_videos(root)
    lists = Path(config.split_lists) if config.split_lists else ucf101.find_lists(root)
    if config.layout == "ucf101" and lists is None:
        raise InputError(
            f"data.layout=ucf101 needs the folder {ucf101.LISTS_FOLDER} in {root} or beside it, or data.split_lists"
        )
    if config.layout != "folders" and lists is not None:
        return _by_lists(root, listing, lists, config)
    files, about = listing.files, {"layout": "folders"}
    place = 0  # of the class's folder in a path
    if config.layout == "auto" and (parts := _parts(files)):
        files, place = _of_part(root, files, parts, config.part), 1
        about |= {"part": config.part, "parts": dict(Counter(parts.values()))}
    class_names, labels = _by_subfolders(files, place)
    return Chosen(listing, class_names, labels, about)


def open_folder(config, sampling, num_classes, quiet):
    """FolderClips of the folder `config.path`; `num_classes` None allows videos without a class.

    Raises InputError as `choose_videos`, for a video without one otherwise, and for more classes than `num_classes`.
    """
    chosen = choose_videos(config)
    if num_classes is not None:
        chosen.need_classes()
    check_classes(chosen.class_names, num_classes, config.path)
    index = build_index(config.path, found=chosen.files, quiet=quiet)
    return FolderClips(index, chosen.labels, chosen.class_names, sampling, chosen.about)


def _by_lists(root, listing, lists, config):
    split = ucf101.read_split(lists, split=config.split, part=config.part)
    paths = {}
    for file in listing.files:  # of several files with one name, the first
        paths.setdefault(ucf101.video_key(file.path), file.path)
    labels = {path: split.labels[key] for key, path in paths.items() if key in split.labels}
    if not labels:
        raise InputError(f"{root} holds none of the videos listed in {lists} ({split.name}); "
                         "data.layout=folders ignores the lists")
    about = {
        "layout": "ucf101", "split": split.name, "listed": len(split.labels), "listed_present": len(labels),
        "not_listed": len(listing.files) - len(labels),
    }
    return Chosen(listing, split.class_names, labels, about)


def _parts(files):
    """path → part, where all files lie in folders that are named like parts of a data set; else empty."""
    parts = {file.path: PARTS.get((file.label or "").casefold()) for file in files}
    return parts if all(parts.values()) else {}


def _of_part(root, files, parts, part):
    """The files of a part ("all": of every part)."""
    chosen = [file for file in files if part in ("all", parts[file.path])]
    if not chosen:
        there = sorted({file.label for file in files})
        raise InputError(f"{root} holds the parts {', '.join(there)}, but none is data.part={part}; name the folder of "
                         "one part as --data, set data.part, or data.layout=folders to take the parts for classes")
    return chosen


def _by_subfolders(files, place):
    """(class names sorted, path → class id, -1 for a file outside every class folder)."""
    names = {}
    for file in files:
        parts = PurePosixPath(file.path).parts
        names[file.path] = parts[place] if len(parts) > place + 1 else None
    classes = sorted(set(names.values()) - {None})
    ids = {name: number for number, name in enumerate(classes)}
    return classes, {path: ids.get(name, -1) for path, name in names.items()}
