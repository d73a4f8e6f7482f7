"""What a run learns from: said at its start, kept in its folder and its checkpoints, compared when it is resumed.

data.json         what was found, used and left out, per reason and per class
data-files.csv    the files that are used: path, bytes, frames, class
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpdm.checkpoint.folder import CONFIG_FILE, latest_checkpoint, read_config
from hpdm.config import TrainedOn
from hpdm.config.data import PROCEDURAL, check_classes, need_decoder
from hpdm.data.accounts import summary
from hpdm.data.procedural import CLASS_NAMES
from hpdm.data.quarantine import QUARANTINE_FILE, Quarantine
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, write_json
from hpdm.support.progress import note

if TYPE_CHECKING:
    from hpdm.config import Config
    from hpdm.config.data import DataConfig
    from hpdm.data.loader import TrainingClips


DATA_FILE, FILES_FILE = "data.json", "data-files.csv"
COLUMNS = ("path", "bytes", "frames", "class")


def with_classes_of_data(config: "Config", run: str | Path | None = None, must_exist: bool = True) -> "Config":
    """The configuration with as many classes as its data have, or as the run in the folder `run` has that it continues.

    A network that reads texts is left as it is, and without `must_exist` any where the data are not there, for which
    InputError is raised otherwise.
    """
    if config.network.text_width:
        return config
    checkpoint = None if run is None else latest_checkpoint(run)
    if checkpoint is not None:
        number = read_config(checkpoint / CONFIG_FILE).network.num_classes
    else:
        try:
            number = len(class_names_of(config.data))
        except InputError:
            if must_exist or Path(config.data.path).is_dir():
                raise
            return config
    return dataclasses.replace(config, network=dataclasses.replace(config.network, num_classes=number))


def class_names_of(config: "DataConfig") -> tuple[str, ...]:
    """Names of the classes of the data that a DataConfig names; empty where it has none. Opens no video.

    Raises InputError where there are no data, or some videos have a class and others none.
    """
    if config.captions is not None:
        return ()
    if config.path == PROCEDURAL:
        return CLASS_NAMES
    need_decoder()
    from hpdm.data.folders import choose_videos

    chosen = choose_videos(config)
    if chosen.class_names:
        chosen.need_classes()  # some have one
    return chosen.class_names


def note_data(config: "Config", clips: "TrainingClips", quiet: bool = False) -> "Config":
    """Say what the `TrainingClips` are made of; returns the configuration with its `trained_on` filled in."""
    for line in summary(clips.describe()):
        note(line, quiet)
    names = clips.source.class_names if config.network.num_classes else ()
    procedural = clips.source.contents() is None
    labels = range(len(names)) if procedural else np.unique(getattr(clips.source, "labels", ())).tolist()
    trained_on = TrainedOn(
        class_names=tuple(names),
        classes=tuple(sorted(set(labels) - {-1})) if names else (),
        fingerprint=fingerprint_of(clips),
    )
    return dataclasses.replace(config, trained_on=trained_on)


def keep_data(run: str | Path, clips: "TrainingClips") -> None:
    """Write DATA_FILE and FILES_FILE into the run's folder, atomically; list what killed its process while indexed."""
    source, quarantine = clips.source, Quarantine(Path(run) / QUARANTINE_FILE)
    write_json(
        Path(run) / DATA_FILE,
        clips.describe()
        | {
            "class_names": list(source.class_names),
            "fingerprint": fingerprint_of(clips),
            "left_out": getattr(source, "left_out", {}),
        },
    )
    for file in getattr(source, "broken", ()):
        if file.fatal and quarantine.reason(file.path, 0) is None:
            quarantine.add(file.path, file.reason, first=0)
    if (contents := source.contents()) is not None:
        with atomic_file(Path(run) / FILES_FILE) as file:
            for rows in chain([[COLUMNS]], batched(contents)):
                table = io.StringIO(newline="")
                csv.writer(table, lineterminator="\n").writerows(rows)
                file.write(table.getvalue().encode(errors="surrogateescape"))


def fingerprint_of(clips: "TrainingClips") -> str:
    """`fingerprint` of TrainingClips; computed once, for it takes seconds where there are millions of files."""
    if clips.fingerprint is None:
        clips.fingerprint = fingerprint(clips.source.contents())
    return clips.fingerprint


def fingerprint(contents: Iterable[tuple] | None) -> str:
    """Hex digest of (name below the folder, bytes, frames, class) of files in the order of names; "" for None."""
    if contents is None:
        return ""
    digest = hashlib.sha256()
    for rows in batched(contents):
        digest.update(
            "".join(
                f"[{quoted(path)}, {size}, {frames}, {quoted(label)}]\n" for path, size, frames, label in rows
            ).encode()
        )
    return digest.hexdigest()


def batched(rows: Iterable, count: int = 10_000) -> Iterator[list]:
    """Lists of up to `count` of an iterable's values."""
    rows = iter(rows)
    while several := list(islice(rows, count)):
        yield several


def refuse_other_data(run: str | Path, checkpoint: Path | None, config: "Config", clips: "TrainingClips") -> None:
    """Raise InputError where a run is resumed with other data than it was trained on, wherever those are now."""
    if checkpoint is None:
        return
    before, now = read_config(checkpoint / CONFIG_FILE), config
    same = "use the same, or a new --out folder"
    old, new = before.data, now.data
    if bool(old.captions) != bool(new.captions) or (PROCEDURAL in (old.path, new.path) and old.path != new.path):
        name = "path" if old.path != new.path else "captions"
        raise InputError(
            f"{run} was trained with other settings: data.{name} was {getattr(old, name)!r}, now "
            f"{getattr(new, name)!r}; {same}"
        )
    if old.path == PROCEDURAL or before.trained_on.fingerprint == now.trained_on.fingerprint:
        check_classes(clips.source.class_names, config.network.num_classes or None, new.path)
        return
    if not before.trained_on.fingerprint:  # by a version that kept none
        if Path(old.path).resolve() != Path(new.path).resolve():
            raise InputError(
                f"{run} was trained with other settings: data.path was {old.path!r}, now {new.path!r}; {same}"
            )
        check_classes(clips.source.class_names, config.network.num_classes or None, new.path)
        return
    raise InputError(
        f"{run} was trained on other data than {new.path} holds now: "
        f"{_differences(run, clips.source.contents())}; use the same data, or a new --out folder"
    )


def _differences(run, contents):
    try:
        text = (Path(run) / FILES_FILE).read_bytes().decode(errors="surrogateescape")
        before = {row[0]: tuple(row[1:]) for row in list(csv.reader(io.StringIO(text, newline="")))[1:]}
    except OSError:
        return f"the list of files differs, but {FILES_FILE}, which could say how, is missing"
    now = {path: tuple(map(str, rest)) for path, *rest in contents}
    kinds = {
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "changed": sorted(path for path in now.keys() & before.keys() if now[path] != before[path]),
    }
    changes = [f"{len(paths)} {kind} (such as {paths[0]})" for kind, paths in kinds.items() if paths]
    return f"of the files that are used, {', '.join(changes)}" if changes else "the list of files differs"
