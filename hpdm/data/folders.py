"""Which videos of a folder make up the data, and of which class each is: split lists, parts, class subfolders."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpdm.config.data import check_classes
from hpdm.data.addresses import is_address
from hpdm.data.index import INDEX_NAME, OLD_NAME, build_index, cache_files, list_videos, trusted_table
from hpdm.data.shards import open_shards
from hpdm.data.store import split_lists
from hpdm.data.videos import FolderClips
from hpdm.support.columns import Texts
from hpdm.support.errors import InputError
from hpdm.video import ucf101
from hpdm.video.walk import PARTS

if TYPE_CHECKING:
    from hpdm.config.data import DataConfig
    from hpdm.data.table import VideoTable
    from hpdm.data.videos import ClipSampling


MOST_CLASSES = 1_000_000  # by number; more is a mistake


class Chosen:
    """The videos that a configuration names: numbers `rows` of those of `paths`, with class ids `ids` (-1: none).

    paths: all there are, sorted. listing: where nothing is indexed yet, else None. table: of an index that is trusted,
    else None. about: what the description says of the choice.
    """

    def __init__(
        self,
        root: str | Path,
        paths: Sequence[str],
        rows: Any,
        ids: Any,
        class_names: Sequence[str],
        about: dict,
        listing: Any = None,
        table: "VideoTable | None" = None,
    ) -> None:
        self.root, self.paths, self.rows, self.ids = root, paths, rows, ids
        self.class_names, self.about, self.listing, self.table = tuple(class_names), about, listing, table

    @property
    def labels(self) -> dict[str, int]:
        """path → class id, -1 for none."""
        return {self.paths[row]: int(label) for row, label in zip(self.rows, self.ids, strict=True)}

    @property
    def files(self) -> list:
        """FoundFiles of a listing that are chosen."""
        return [self.listing.files[row] for row in self.rows]

    def need_classes(self) -> None:
        """Raise InputError where a video has no class."""
        outside = self.rows[self.ids < 0]
        if len(outside):
            raise InputError(
                f"{self.root}: {len(outside)} videos lie in no class subfolder, the first is {self.paths[outside[0]]}; "
                "a class-conditional model needs one subfolder per class; --set network.num_classes=0 trains without "
                "classes"
            )


def open_table(config: "DataConfig") -> "VideoTable | None":
    """The VideoTable of what `config.path` names, where that is in shards or `hpdm-data index` made one; else None."""
    if table := open_shards(config):
        return table
    if is_address(config.path):
        raise InputError(
            f"{config.path} holds no .tar shards; videos are read from folders of this machine, or from "
            "shards: hpdm-data pack writes them"
        )
    return None if config.recheck else trusted_table(config.path, config.index)


def choose_videos(config: "DataConfig", table: "VideoTable | None" = None) -> "Chosen":
    """The Chosen videos of the folder or shards `config.path`, by their names alone; nothing is opened.

    table: of all videos there, where it is known.
    Raises InputError where there are none and where the layout is not the one that is asked for.
    """
    listing, root = None, config.path
    table = open_table(config) if table is None else table
    if table is None:
        # A folder that was never indexed is not even listed to its end where it holds too much.
        indexed = any(place.exists() for name in (INDEX_NAME, OLD_NAME) for place in cache_files(root, name))
        listing = list_videos(root, None if indexed else config.index_limit)
        paths, passed_over = [file.path for file in listing.files], listing.passed_over
        videos = np.ones(len(paths), bool)
    else:
        paths, passed_over, videos = table.path, table.about.get("passed_over", {}), ~table.still
        if not videos.any():
            raise InputError(f"{root} holds no videos, only {len(paths)} pictures; these are read with data.captions")
    lists = config.split_lists or split_lists(root)
    if config.layout == "ucf101" and lists is None:
        raise InputError(
            f"data.layout=ucf101 needs the folder {ucf101.LISTS_FOLDER} in {root} or beside it, or data.split_lists"
        )
    if config.layout != "folders" and lists is not None:
        rows, ids, class_names, about = _by_lists(root, paths, videos, Path(lists), config)
    elif table is not None and "label" in table.columns:
        rows, about = videos.nonzero()[0], {"layout": "shards"}
        class_names, ids = _by_labels([table.label[row] for row in rows])
    else:
        rows, ids, class_names, about = _by_folders(root, paths, videos, config)
    about |= {"passed_over": dict(passed_over)}
    if table is not None:
        about["index"] = {"file": table.about.get("file"), "made": table.about.get("made")}
    return Chosen(root, paths, rows, ids, class_names, about, listing, table)


def open_folder(config: "DataConfig", sampling: "ClipSampling", num_classes: int | None, quiet: bool) -> FolderClips:
    """FolderClips of the folder or shards `config.path`; `num_classes` None allows videos without a class.

    Raises InputError as `choose_videos`, for a video without one otherwise, and for more classes than `num_classes`.
    """
    chosen = choose_videos(config)
    if num_classes is not None:
        chosen.need_classes()
    check_classes(chosen.class_names, num_classes, config.path)
    table, rows = chosen.table, chosen.rows
    if table is None:
        table = build_index(config.path, found=chosen.files, quiet=quiet, limit=config.index_limit).table
        rows = np.arange(len(table))
    return FolderClips(config.path, table, rows, chosen.ids, chosen.class_names, sampling, chosen.about)


def _by_lists(root, paths, videos, lists, config):
    split = ucf101.read_split(lists, split=config.split, part=config.part)
    first, count = {}, 0
    for row, path in enumerate(paths):
        if videos[row]:
            count += 1
            first.setdefault(ucf101.video_key(path), row)  # of several files with one name, the first
    rows = np.array(sorted(first[key] for key in split.labels.keys() & first.keys()), np.int64)
    if not len(rows):
        raise InputError(
            f"{root} holds none of the videos listed in {lists} ({split.name}); data.layout=folders ignores the lists"
        )
    ids = np.array([split.labels[ucf101.video_key(paths[row])] for row in rows], np.int32)
    about = {
        "layout": "ucf101",
        "split": split.name,
        "listed": len(split.labels),
        "listed_present": len(rows),
        "not_listed": count - len(rows),
    }
    return rows, ids, split.class_names, about


def _by_labels(labels):
    """(class names, ids) of the classes that samples state: whole numbers are the ids, other names are sorted."""
    names = sorted(set(labels) - {""})
    if names and all(name.isdecimal() and int(name) < MOST_CLASSES for name in names):
        count = max(map(int, names)) + 1
        return [str(number) for number in range(count)], np.array([int(label or -1) for label in labels], np.int32)
    ids = {name: number for number, name in enumerate(names)}
    return names, np.array([ids.get(label, -1) for label in labels], np.int32)


def _by_folders(root, paths, videos, config):
    """(rows, class ids, class names, about) by the folders in which the files lie."""
    before = np.concatenate([[0], np.cumsum(videos)])
    about, place = {"layout": "folders"}, 0
    runs = [run for run in _runs(paths, place, [(0, len(paths))]) if before[run[2]] > before[run[1]]]
    if config.layout == "auto" and all(PARTS.get((name or "").casefold()) for name, _, _ in runs):
        # All lie in folders that are named like parts of a data set; the classes are the folders below.
        counts, chosen = Counter(), []
        for name, begin, end in runs:
            part = PARTS[name.casefold()]
            counts[part] += int(before[end] - before[begin])
            if config.part in ("all", part):
                chosen.append((begin, end))
        if not chosen:
            there = sorted({name for name, _, _ in runs})
            raise InputError(
                f"{root} holds the parts {', '.join(there)}, but none is data.part={config.part}; name "
                "the folder of one part as --data, set data.part, or data.layout=folders to take the "
                "parts for classes"
            )
        about |= {"part": config.part, "parts": dict(counts)}
        runs = [run for run in _runs(paths, 1, chosen) if before[run[2]] > before[run[1]]]
    class_names = sorted({name for name, _, _ in runs} - {None})
    number = {name: number for number, name in enumerate(class_names)}
    rows, ids = [], []
    for name, begin, end in runs:
        rows.append(begin + videos[begin:end].nonzero()[0])
        ids.append(np.full(len(rows[-1]), number.get(name, -1), np.int32))
    return np.concatenate(rows), np.concatenate(ids), class_names, about


def _runs(paths, place, spans):
    """[(folder number `place` of the path, first row, end)] of the sorted `paths` within each of `spans`.

    Rows without such a folder, since they are not so deep, are runs with None.
    """
    if isinstance(paths, Texts) and place == 0 and not (paths.bytes == ord("/")).any():
        return [(None, begin, end) for begin, end in spans]
    runs = []
    for begin, end in spans:
        while begin < end:
            parts = paths[begin].split("/")
            name, stop = None, begin + 1
            if len(parts) > place + 1:
                name = parts[place]
                # "0" follows "/": no path of the folder is behind it.
                stop = bisect_left(paths, "/".join(parts[: place + 1]) + "0", lo=begin, hi=end)
            runs.append((name, begin, stop))
            begin = stop
    return runs
