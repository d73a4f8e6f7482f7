"""Data sets that come as train, test and val folders above the classes: which part is meant."""

import os
from dataclasses import replace

from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm.video.walk import PARTS
from hpdm_eval.clips.listing import Candidate


def take_part(
    candidates: list[Candidate], path: str | os.PathLike, role: str, all_parts: bool = False, quiet: bool = False
) -> tuple[list[Candidate], str | None]:
    """(candidates of the part that is meant, name of its folder), with the folders below it as classes.

    Where all candidates lie in folders of such names, at least two or one that holds folders of its own, a reference
    takes its train part and samples must name theirs; elsewhere all are returned as they are, with None. all_parts:
    official lists choose among all. Raises InputError.
    """
    folders = {candidate.file.split("/")[0] if "/" in candidate.file else "" for candidate in candidates}
    if not folders or not all(folder.casefold() in PARTS for folder in folders):
        return candidates, None
    if len(folders) == 1 and not any(candidate.file.count("/") > 1 for candidate in candidates):
        return candidates, None  # a single class, whatever its name
    parts = {PARTS[folder.casefold()]: folder for folder in sorted(folders)}
    if all_parts:
        return [_below(candidate) for candidate in candidates], None
    if len(folders) > 1 and not (role == "reference" and "train" in parts):
        first = min(folders)
        raise InputError(
            f"{path} holds {', '.join(sorted(folders))} above the classes: name the one that is meant, "
            f"such as {path}/{first}" + f", or --match '{first}/*'" * (role == "samples")
        )
    chosen = next(iter(folders)) if len(folders) == 1 else parts["train"]
    taken = [_below(candidate) for candidate in candidates if candidate.file.split("/")[0] == chosen]
    left = len(candidates) - len(taken)
    note(
        f"{path}: the {chosen} part is used, {len(taken)} clips" + (f"; {left} of the others are not" if left else ""),
        quiet,
    )
    return taken, chosen


def _below(candidate):
    """The candidate with the folder below the part as its class."""
    folders = candidate.file.split("/")[1:-1]
    return replace(candidate, label=folders[0] if folders else None)
