"""Which of the candidates count, and in which order: official splits and selection rules."""

import os
import re
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hpdm.errors import InputError
from hpdm.files import sha256_file
from hpdm.video.ucf101 import read_list, video_key
from hpdm_eval.frames import natural_key, seeded_key

RULES = ("sorted", "shuffled", "class-balanced")
SPLIT_FOLDER = "ucfTrainTestlist"
_SPLIT = re.compile(r"ucf101-(train|test)-0([123])")


def check_split(name):
    """Raise InputError unless `name` is a split: ucf101-train-01 ... ucf101-test-03."""
    if not _SPLIT.fullmatch(name):
        raise InputError(f"unknown split {name!r}: ucf101-train-01, -02, -03 and ucf101-test-01, -02, -03 are known")


def matching(candidates, pattern, where):
    """Candidates whose file's name fits the pattern, or, where it holds a "/", their path below the root; None: all.

    Raises InputError where none does.
    """
    if pattern is None:
        return candidates
    part = str if "/" in pattern else lambda file: PurePosixPath(file).name
    chosen = [candidate for candidate in candidates if fnmatchcase(part(candidate.file), pattern)]
    if not chosen:
        raise InputError(f"--match {pattern}: none of the {len(candidates)} clips in {where} fits, "
                         f"the first is {candidates[0].name}")
    return chosen


def order(candidates, rule, seed):
    """Candidates (in natural order) as `rule` wants them.

    sorted: as they are; a prefix of them holds the first classes alone. shuffled: by a hash of (seed, name), so that
    the order of two clips does not depend on the others. class-balanced: one of each class in turn (classes in natural
    order, clips of a class as in shuffled), so that any prefix is as balanced as the classes allow.
    """
    if rule == "sorted":
        return list(candidates)
    shuffled = sorted(candidates, key=lambda candidate: seeded_key(seed, candidate.name))
    if rule == "shuffled":
        return shuffled
    classes = defaultdict(list)
    for candidate in shuffled:
        classes[candidate.label or ""].append(candidate)
    ranked = [(turn, natural_key(label), candidate)
              for label, members in classes.items() for turn, candidate in enumerate(members)]
    return [candidate for *_, candidate in sorted(ranked, key=lambda entry: entry[:2])]


def find_split_lists(root, lists):
    """Folder of the official lists: `lists` if given, else `ucfTrainTestlist` in `root` or beside it, else None."""
    if lists is not None:
        return Path(lists)
    root = Path(os.path.abspath(root))
    return next((folder for folder in (root / SPLIT_FOLDER, root.parent / SPLIT_FOLDER) if folder.is_dir()), None)


def apply_split(candidates, split, lists):
    """Candidates that the official list of `split` names, and what the record says of it.

    Videos are matched by their `video_key`, which is unique in UCF-101, so the files may have been converted or moved.
    Returns (candidates, {"name", "sha256", "listed", "present"}); raises InputError.
    """
    check_split(split)
    part, number = _SPLIT.fullmatch(split).groups()
    path = Path(lists, f"{part}list0{number}.txt")
    if not path.is_file():
        raise InputError(f"split {split}: {path} does not exist; --split-lists takes UCF-101's {SPLIT_FOLDER} folder")
    listed = {video_key(video) for _, video, _ in read_list(path)}
    chosen = [candidate for candidate in candidates if video_key(candidate.file) in listed]
    if not chosen:
        raise InputError(f"none of {len(candidates)} videos is in {path}; --split none takes them all")
    return chosen, {"name": split, "sha256": sha256_file(path), "listed": len(listed), "present": len(chosen)}
