"""Which of the candidates count, and in which order: official splits and selection rules."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from hpdm.support.errors import InputError
from hpdm.support.files import sha256_file
from hpdm.video.ucf101 import read_list, video_key
from hpdm_eval.clips.choices import SPLIT_NAME, check_split
from hpdm_eval.clips.frames import natural_key, seeded_key
from hpdm_eval.clips.listing import Candidate

SPLIT_FOLDER = "ucfTrainTestlist"
_UCF_GROUP = re.compile(r"(v_[A-Za-z]+_g\d+)_c\d+")
_CLASS_IN_NAME = re.compile(r"(?:v_([A-Za-z]+)_g\d+_c\d+|\d+_c(\d+))$")


def matching(candidates: list[Candidate], pattern: str | None, where: object) -> list[Candidate]:
    """Candidates whose file's name fits the pattern, or, where it holds a "/", their path below the root; None: all.

    Raises InputError where none does.
    """
    if pattern is None:
        return candidates
    part = str if "/" in pattern else lambda file: PurePosixPath(file).name
    chosen = [candidate for candidate in candidates if fnmatchcase(part(candidate.file), pattern)]
    if not chosen:
        raise InputError(
            f"--match {pattern}: none of the {len(candidates)} clips in {where} fits, the first is {candidates[0].name}"
        )
    return chosen


def order(candidates: Sequence[Candidate], rule: str, seed: int, wanted: int | None = None) -> list[Candidate]:
    """Candidates (in natural order) as `rule` wants them; the first `wanted` usable ones are read (None: all).

    sorted: as they are; a prefix of them holds the first classes alone. shuffled: by a hash of (seed, name), so that
    the order of two clips does not depend on the others. class-balanced: drawn at random, one of each class in turn,
    so that any prefix is as balanced as the classes allow; the first `wanted` are then put into natural order, where
    the cells of one sheet are neighbours, and so are all where all are read. Classes are those of `class_of`.
    """
    if rule == "sorted":
        return list(candidates)
    shuffled = sorted(candidates, key=lambda candidate: seeded_key(seed, candidate.name))
    if rule == "shuffled":
        return shuffled
    if wanted is None or wanted >= len(candidates):
        return list(candidates)
    classes = defaultdict(list)
    for candidate in shuffled:
        classes[class_of(candidate)].append(candidate)
    # Which classes get one more where `wanted` is no multiple of their number is drawn too, else the first always do.
    ranked = [
        (turn, seeded_key(seed, f"class\0{label}"), candidate)
        for label, members in classes.items()
        for turn, candidate in enumerate(members)
    ]
    drawn = [candidate for *_, candidate in sorted(ranked, key=lambda entry: entry[:2])]
    places = {id(candidate): place for place, candidate in enumerate(candidates)}
    return sorted(drawn[:wanted], key=lambda candidate: places[id(candidate)]) + drawn[wanted:]


def class_of(candidate: Candidate) -> str:
    """Class of a candidate: its class folder; else what its name says, as UCF-101's (`v_Punch_g08_c01`) and those of
    `hpdm-sample` (`00012_c003`) do; else "", which all nameless ones share."""
    if candidate.label:
        return candidate.label
    match = _CLASS_IN_NAME.match(PurePosixPath(candidate.file).stem)
    return (match[1] or match[2]) if match else ""


def source_of(name: str) -> str | None:
    """Group of a clip whose members are no independent draws: the UCF-101 group (`v_Punch_g08`) of a video of it
    (`Punch/v_Punch_g08_c01.avi`), None for any other name. Clips of one group are cut from one longer video."""
    match = _UCF_GROUP.match(PurePosixPath(name).name)
    return match[1] if match else None


def sources_of(names: Sequence[str], rule: str = "auto", clips: int = 1) -> list[str] | None:
    """Source of each clip, list of N texts, or None where every clip is a draw of its own.

    clips: how many were cut from each video (the protocol's `clips_per_video`); their names end in "#k".
    rule: "auto" knows the groups of UCF-101, and clips of one video; "none" is None; "folder" is the folder that a clip
    lies in; anything else is a regular expression that is searched in the name: its first group, or all that it
    matches, is the source, and a name without a match is a source of its own. Raises InputError for an expression that
    is none or never matches.
    """
    names = list(map(str, names))
    if rule in (None, "none"):
        return None
    if rule == "auto":
        found = [source_of(name) or (_video_of(name, clips) if clips > 1 else None) for name in names]
    elif rule == "folder":
        found = [str(PurePosixPath(name).parent) for name in names]
    else:
        found = _by_expression(names, rule)
    sources = [name if source is None else f"source {source}" for name, source in zip(names, found)]
    return None if len(set(sources)) == len(names) else sources


def _video_of(name, clips):
    file, _, number = name.rpartition("#")
    return f"{file}#{int(number) // clips}"


def _by_expression(names, rule):
    try:
        expression = re.compile(rule)
    except re.error as error:
        raise InputError(f"--group-by {rule}: write auto, none, folder or a regular expression ({error})") from error
    matches = [expression.search(name) for name in names]
    if not any(matches):
        raise InputError(f"--group-by {rule}: no name matches, the first is {names[0]}")
    return [match and (match[1] if expression.groups and match[1] is not None else match[0]) for match in matches]


def subset_entry(
    candidates: Sequence[Candidate], rejected: Sequence[Mapping[str, str]], accepted: int
) -> dict[str, Any]:
    """A record's entry of a subset: {"classes": {"available": clips, "of": classes, "taken": classes, "lost": [...]}}.

    candidates: in the order of reading; rejected: [{"path", "reason"}]; accepted: how many clips were read. {} where
    all that is usable was read.
    """
    unusable = {entry["path"] for entry in rejected}
    usable = [candidate for candidate in candidates if candidate.name not in unusable]
    if len(usable) <= accepted:
        return {}
    known = {class_of(candidate) for candidate in usable}
    taken = {class_of(candidate) for candidate in usable[:accepted]}
    return {
        "classes": {
            "available": len(usable),
            "of": len(known),
            "taken": len(taken),
            "lost": sorted(known - taken, key=natural_key),
        }
    }


def find_split_lists(root: str | os.PathLike, lists: str | os.PathLike | None) -> Path | None:
    """Folder of the official lists: `lists` if given, else `ucfTrainTestlist` in `root` or beside it, else None."""
    if lists is not None:
        return Path(lists)
    above = Path(os.path.abspath(root))
    return next((folder for folder in (above / SPLIT_FOLDER, above.parent / SPLIT_FOLDER) if folder.is_dir()), None)


def apply_split(candidates: Sequence[Candidate], split: str, lists: Path) -> tuple[list[Candidate], dict[str, Any]]:
    """Candidates that the official list of `split` names, and what the record says of it.

    Videos are matched by their `video_key`, which is unique in UCF-101, so the files may have been converted or moved.
    Returns (candidates, {"name", "sha256", "listed", "present"}); raises InputError.
    """
    check_split(split)
    part, number = SPLIT_NAME.fullmatch(split).groups()  # type: ignore[union-attr]  # checked above
    path = Path(lists, f"{part}list0{number}.txt")
    if not path.is_file():
        raise InputError(f"split {split}: {path} does not exist; --split-lists takes UCF-101's {SPLIT_FOLDER} folder")
    listed = {video_key(video) for _, video, _ in read_list(path)}
    chosen = [candidate for candidate in candidates if video_key(candidate.file) in listed]
    if not chosen:
        raise InputError(f"none of {len(candidates)} videos is in {path}; --split none takes them all")
    return chosen, {"name": split, "sha256": sha256_file(path), "listed": len(listed), "present": len(chosen)}
