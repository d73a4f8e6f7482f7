"""Making a record's figure again: run its command, compare, and say what has changed since.

Only commands of `hpdm-eval` that print records are run, in this process and without a shell. A record is a file of
somebody else's: what it names is used only as far as it is verified, or allowed by whoever runs this.
"""

import contextlib
import io
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from hpdm.support.errors import InputError
from hpdm.support.files import scratch_folder
from hpdm.support.trust import only_trusting
from hpdm_eval.protocols import DESCRIPTION
from hpdm_eval.records.record import Record, parse_record

PROGRAM = "hpdm-eval"
# commands that measure: what they print with --json is records
ON_FEATURES = ("fvd", "is", "kvd", "prdc", "fid", "all", "curve", "compare", "positions")
MEASURES = (*ON_FEATURES, "seams", "dead-tokens", "pyramid", "clipsim")
ALSO_FVD = "compare-protocols"  # each of its records is one of fvd under the record's own protocol
OUTPUTS = ("--record", "--plots", "--report", "--shard", "--shards")  # options that write beside what is printed
INPUTS = ("--samples", "--reference", "--weights", "--c3d-mean", "--split-lists")
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # what other processors, numbers of threads and versions may move
UNCHANGED, CHANGED, UNKNOWN = "unchanged", "changed", "unknown"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One of the things that a figure depends on, then and now."""

    what: str  # code, weights, inputs, settings, versions or hardware
    state: str  # unchanged, changed or unknown
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A record, what its command gives now, and how they compare."""

    recorded: Record
    now: Record
    differences: tuple[str, ...]  # figures beyond the tolerance, in words
    changes: tuple[Change, ...]

    @property
    def equal(self) -> bool:
        return not self.differences


def reproduce(
    record: Record,
    run: Callable[..., Any],
    *,
    folder: Any = None,
    near: Any = None,
    relative: float = RELATIVE,
    absolute: float = ABSOLUTE,
    device: Any = None,
    seed: Any = None,
    quiet: bool = True,
    allow: Any = (),
) -> Reproduction:
    """Run the command of a `Record` again and compare: a `Reproduction`.

    run: function of (name of a subcommand, its words, folder it may write to) that runs it, see
    `hpdm_eval.commands.reproduce.run_command`. folder: where the command's relative paths start; without it, the
    working folder or, where the inputs are not there, the folder `near`, such as the record's own, or one above it.
    relative, absolute: what figures may differ by. device, seed: in place of the command's own. quiet: no progress on
    stderr. allow: what the command may use though nobody has verified it: weights files and folders by path or SHA-256,
    networks by their id on the hub. The protocol is the one that the record holds, whatever its name means now; of a
    command that measures more, only the record's metric and samples are run. Features are computed again, not taken
    from the cache. Raises InputError for a command that is not ours or measures nothing, for inputs that are not found,
    and whatever the command itself raises.
    """
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder")
    printed = io.StringIO()
    with scratch_folder("hpdm-eval-reproduce") as scratch:
        name, words = rerun_words(record.command, scratch, device, seed, quiet, record)
        place = find_folder(words, folder, near)
        with contextlib.chdir(place), contextlib.redirect_stdout(printed), only_trusting(allow):
            run(name, words, scratch)
    now = _matching(record, json.loads(printed.getvalue()))
    return Reproduction(
        recorded=record,
        now=now,
        differences=tuple(_differences(record, now, relative, absolute)),
        changes=tuple(_changes(record, now)),
    )


def rerun_words(
    command: str, scratch: Any, device: Any = None, seed: Any = None, quiet: bool = True, record: Any = None
) -> tuple[str, list[str]]:
    """(name of the subcommand, its words) to run a record's command again; raises InputError where that cannot be.

    What it would write is left out, or goes to the folder `scratch`, and its records are printed. record: restricts the
    command to what this record needs, under its own protocol.
    """
    try:
        program, *words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"the record's command cannot be read ({error}): {command}") from error
    if PurePath(program).name != PROGRAM or not words:
        raise InputError(f"the record was not made by a command of {PROGRAM}: {command}")
    name, *words = words
    if name == ALSO_FVD and _has_protocol(record):
        words = _without(words, ("--protocols", "--out", "--numerics"))
        name, words = "fvd", [word for word in words if word not in ("--legacy", "--no-legacy")]
    if name not in MEASURES:
        raise InputError(
            f"`{PROGRAM} {name}` is no single measurement: run it again and compare its records. It was "
            f"made by {command}"
        )
    words = _without(words, OUTPUTS)
    if record is not None:
        words = _only(name, words, record, scratch)
    if name == "curve":
        words = [*_without(words, ("--out",)), "--out", str(scratch)]
    for option, value in (("--device", device), ("--seed", seed)):
        if value is not None:
            words = [*_without(words, (option,)), option, str(value)]
    if name in ON_FEATURES:
        words.append("--no-cache")
    return name, [*(word for word in words if word not in ("--json", "--quiet")), "--json", *["--quiet"] * quiet]


def find_folder(words: Sequence[str], folder: Any = None, near: Any = None) -> Path:
    """Where the relative inputs among a command's words are; InputError that says --folder where they are nowhere.

    folder: the only place to look; else the working folder, `near`, and the folders above it.
    """
    paths = [path for path in _inputs_of(words) if not PurePath(path).is_absolute()]
    places = [Path(folder)] if folder is not None else [Path(".")]
    if folder is None and near is not None:
        near = Path(near).resolve()
        places += [near, *near.parents]
    for place in places:
        if all((place / path).exists() for path in paths):
            return place
    missing = next(path for path in paths if not (places[0] / path).exists())
    where = f"in {folder}" if folder is not None else "here" + (", nor beside the record or above it" if near else "")
    raise InputError(f"{missing} is not {where}: --folder DIR says where the command's relative paths start")


def _inputs_of(words):
    """Paths that a command reads, from its words."""
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in INPUTS and (equals or index + 1 < len(words)):
            path = value if equals else words[index + 1]
            if option == "--samples" and not Path(path).exists() and "=" in path:  # compare's NAME=DIR
                path = path.partition("=")[2]
            yield path


def _only(name, words, record, scratch):
    """The words restricted to what one record needs: its metric, its samples, its protocol."""
    if name in ("all", "compare"):
        words = [*_without(words, ("--metrics", "--sort")), "--metrics", record.metric]
    if name == "curve":
        words = [*_without(words, ("--samples",)), "--samples", record.samples["path"]]
    if _has_protocol(record):
        words = [*_without(words, ("--protocol",)), "--protocol", _write_protocol(name, record, scratch)]
    return words


def _has_protocol(record):
    return record is not None and "hash" in record.protocol


def _write_protocol(name, record, scratch):
    """A YAML file of the settings that a record was made with."""
    settings = {key: value for key, value in record.protocol.items() if key not in (*DESCRIPTION, "hash")}
    if name in ("all", "compare") and record.metric in ("is", "fid"):
        del settings["backbone"]  # they look through a network of their own
    if settings.get("numerics") == "legacy":
        settings["legacy"] = {"root": settings["root"]}
    path = Path(scratch, f"{record.protocol['name']}.yaml")
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


def _without(words, options):
    """The words without options that take a value, in either way of writing."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


def _matching(record, printed):
    """The record among those that a command printed that answers the same question."""
    found = [parse_record(values, "the new record") for values in (printed if isinstance(printed, list) else [printed])]
    same = [item for item in found if item.metric == record.metric and item.samples["path"] == record.samples["path"]]
    if not same:
        raise InputError(f"the command gives no {record.metric} any more")
    return same[0]


def _differences(record, now, relative, absolute):
    """What differs between the figures of two records, in words."""

    def close(first, second):
        return math.isclose(first, second, rel_tol=relative, abs_tol=absolute)

    def compare(name, first, second):
        if _is_number(first) and _is_number(second):
            if not close(first, second):
                yield f"{name}: {first:.10g} recorded, {second:.10g} now"
        elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
            if len(first) != len(second):
                yield f"{name}: {len(first)} entries recorded, {len(second)} now"
            for index, pair in enumerate(zip(first, second)):
                yield from compare(f"{name}[{index}]", *pair)
        elif isinstance(first, dict) and isinstance(second, dict):
            for key in first.keys() | second.keys():
                yield from compare(f"{name}.{key}", first.get(key), second.get(key))
        elif first != second:
            yield f"{name}: {first!r} recorded, {second!r} now"

    for key in ("value", "ci95", "num_samples", "num_reference", "details"):
        yield from sorted(compare(key, getattr(record, key), getattr(now, key)))


def _changes(record, now):
    """A `Change` for each of the things that the figure depends on."""
    yield _code(record.git, now.git)
    yield _compared("weights", _weights(record), _weights(now), absent="no network takes part")
    yield _compared("inputs", _inputs(record), _inputs(now))
    yield _compared("settings", _settings(record, now), _settings(now, record))
    yield _compared("versions", record.versions, now.versions)
    yield _compared("hardware", {"hardware": record.hardware}, {"hardware": now.hardware})


def _code(recorded, now):
    words = f"{_commit(recorded)} -> {_commit(now)}"
    if recorded is None or now is None:
        return Change(what="code", state=UNKNOWN, detail=words)
    if recorded.removesuffix("-dirty") != now.removesuffix("-dirty"):
        return Change(what="code", state=CHANGED, detail=words)
    if recorded.endswith("-dirty") or now.endswith("-dirty"):
        return Change(what="code", state=UNKNOWN, detail=words)
    return Change(what="code", state=UNCHANGED)


def _compared(what, recorded, now, absent=""):
    if not recorded and not now:
        return Change(what=what, state=UNCHANGED, detail=absent)
    words = [
        f"{key}: {recorded.get(key, 'none')} -> {now.get(key, 'none')}"
        for key in sorted(recorded.keys() | now.keys())
        if recorded.get(key) != now.get(key)
    ]
    return Change(what=what, state=CHANGED if words else UNCHANGED, detail="; ".join(words))


def _weights(record):
    return {key: str(value) for key, value in (record.backbone or {}).items() if key in ("name", "sha256")}


def _inputs(record):
    found = {}
    for role in ("samples", "reference"):
        source = getattr(record, role)
        if source:
            found |= {
                f"{role} SHA-256": source["sha256"][:16],
                f"{role} clips": source["clips"],
                f"{role} rejected": len(source["rejected"]),
            }
    return found


def _settings(record, other):
    own = {
        key: value
        for key, value in record.protocol.items()  # later versions add settings that are null
        if key not in (*DESCRIPTION[1:], "hash") and value is not None
    }
    also = record.extra.get("settings") or {}
    if "settings" not in other.extra:  # earlier versions did not write them
        also = {}
    own |= {
        f"backbone {key}": value
        for key, value in (record.backbone or {}).items()
        if key in ("precision", "epsilon", "resize")
    }
    return {key: json.dumps(value) for key, value in (own | also).items()}


def _commit(revision):
    return "unknown" if revision is None else revision[:12] + ("-dirty" if revision.endswith("-dirty") else "")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
