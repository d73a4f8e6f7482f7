"""Which checkpoint of a run is to be used: the newest that is whole. Nothing is deleted here, and nothing is silent."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hpdm.checkpoint.folder import (
    LATEST,
    SNAPSHOTS,
    check_files,
    latest_checkpoint,
    point_latest,
    remove_leftovers,
    steps_saved,
)
from hpdm.support.errors import Damaged, InputError
from hpdm.support.files import free_name
from hpdm.support.lock import hold
from hpdm.support.progress import note

SET_ASIDE = "set-aside-"


@contextmanager
def owned_run(run: str | Path, process: Any) -> Iterator[None]:
    """Hold the lock of a run's folder, by the first of its `Processes`, for the length of the block."""
    with ExitStack() as held:
        process.agreed(lambda: held.enter_context(hold(run)))
        yield


def newest_whole(
    run: str | Path,
    *,
    names: Sequence[str] | None = None,
    say: Callable[[str], object] = note,
    check: Callable[..., bool] = check_files,
) -> Path | None:
    """The folder of a run's newest checkpoint that is whole; None for a run without any.

    names: which files matter; all by default. `latest` decides where it was set after the newest checkpoint was
    written, as one does to go back. say(text) gets a line for everything unexpected. check(folder, names) is
    `check_files` or does as it does. Raises InputError where there are checkpoints and none is whole.
    """
    link, saved = Path(run) / LATEST, steps_saved(run)
    linked = latest_checkpoint(run)
    candidates = list(reversed(saved.values()))
    if linked is None and os.path.lexists(link):
        if not candidates:
            raise InputError(
                f"{link} leads to no checkpoint and there is no other in {run}; bring it back, or delete "
                f"{link} to start from the beginning"
            )
        say(f"{link} leads to no checkpoint")
    elif linked is None and candidates:
        say(f"{link} is missing")
    elif linked is not None and candidates and linked.name != candidates[0].name:
        if link.lstat().st_mtime_ns < candidates[0].stat().st_mtime_ns:
            say(f"{link} is older than {candidates[0].name}: the run ended between the two")
        else:
            candidates = [linked, *(path for path in candidates if path.name < linked.name)]
    elif linked is not None and not candidates:
        candidates = [linked]  # a copy that holds no links
    faults = []
    for folder in candidates:
        try:
            if not check(folder, names):
                say(f"{folder} was saved without checksums, by an earlier version: its content cannot be checked")
        except Damaged as error:
            say(str(error))
            faults.append(str(error))
            continue
        if faults or linked is None or folder.name != linked.name:
            say(f"using the newest checkpoint that is whole: {folder.name}")
        return folder
    if faults:
        raise InputError(
            f"{run} has no checkpoint that is whole ({'; '.join(faults)}). Bring one back, or move them "
            "away to start from the beginning"
        )
    return None


def tidy(run: str | Path, checkpoint: Path | None) -> None:
    """Delete what a killed process had not finished, and have `latest` lead to the checkpoint that a run goes on from.

    checkpoint: of `newest_whole`. A process that ended between a checkpoint and its link leaves an older one.
    """
    remove_leftovers(run)
    if checkpoint is None or checkpoint not in steps_saved(run).values():
        return
    if latest_checkpoint(run) != checkpoint.resolve():
        point_latest(run, checkpoint.name)


def set_aside_later(run: str | Path, checkpoint: Path | None, say: Callable[[str], object] = note) -> None:
    """Rename checkpoints and snapshots of later steps than the one that a run goes on from: those will come again."""
    if checkpoint is None:
        return
    saved = steps_saved(run)
    step = next((number for number, path in saved.items() if path.name == Path(checkpoint).name), None)
    for number, path in [*saved.items(), *steps_saved(Path(run) / SNAPSHOTS).items()]:
        if step is not None and number > step:
            target = free_name(path.with_name(SET_ASIDE + path.name))
            os.rename(path, target)
            what = path.name if path in saved.values() else f"{SNAPSHOTS}/{path.name}"
            say(f"{what} is set aside as {target.name}")
