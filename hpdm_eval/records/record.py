"""The record: one figure as JSON, with everything that is needed to say how it was made and to make it again."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpdm.support import openmp
from hpdm.support.environment import git_revision, hardware, package_versions
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json, write_json
from hpdm_eval.records.archive import find_entry, has_archive_suffix, is_archive, split_place
from hpdm_eval.records.labels import label_remarks, protocol_label, split_is_missing

if TYPE_CHECKING:
    import torch

SCHEMA = 1
LONGEST_NAME = 200  # bytes of a record's file name before its digest

# What decides the features of a backbone; its file's name and place do not.
OF_BACKBONE = ("name", "sha256", "epsilon", "precision", "mean_sha256", "per_frame")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure. Keys that a later version adds are kept in `extra` and written back as they were."""

    metric: str  # "fvd", "is", ...; the table's label adds the backbone
    value: float  # the headline figure
    ci95: tuple[float, float] | None = None  # 95 % confidence interval of `value`
    unit: str | None = None
    higher_is_better: bool
    protocol: dict  # every resolved setting, with "overrides" (what was changed of the named one) and "hash"
    num_samples: int  # clips that entered the figure
    num_reference: int | None = None  # None for a metric without reference
    samples: dict  # {"path", "sha256", "clips", "rejected": [{"path", "reason"}]}
    reference: dict | None = None  # the same
    backbone: dict | None = None  # {"name", "sha256", "verified", ...}; None for a metric on pixels
    seed: int
    details: tuple[dict, ...] = ()  # a metric's further figures, flat objects
    warnings: tuple[str, ...] = ()
    command: str
    versions: dict  # {"hpdm": ..., "torch": ..., ...}
    hardware: str
    git: str | None = None
    seconds: float
    created: str  # UTC, 2026-01-31T12:00:00Z
    extra: dict = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able dict in the order of the fields, "schema" first; tuples become lists."""
        values = asdict(self)
        extra = values.pop("extra")
        return {"schema": SCHEMA, **json.loads(json.dumps(values)), **extra}

    def file_name(self) -> str:
        """Readable name that depends on what was measured, not on when: the same question overwrites its answer."""
        identity = [self.metric, self.protocol.get("hash"), self.seed, self.extra.get("settings")]
        identity += [part and part.get("sha256") for part in (self.samples, self.reference)]
        identity += [self.backbone and {key: self.backbone.get(key) for key in OF_BACKBONE}]
        parts = [self.metric, self.backbone and self.backbone["name"], self.protocol["name"], _stem(self.samples)]
        parts += ["vs", _stem(self.reference)] if self.reference else []
        digest = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        name = "-".join(re.sub(r"[^\w.]+", "-", part).strip("-.") for part in parts if part)
        if len(name.encode()) > LONGEST_NAME:  # file systems end at 255 bytes
            name = name.encode()[:LONGEST_NAME].decode(errors="ignore")
        return f"{name}-{digest}.json"


def make_record(
    *, started: float, device: str | torch.device = "cpu", command: str | None = None, **values: Any
) -> Record:
    """A `Record` of `values` (its fields) with what the surroundings add: command, versions, hardware, git, time.

    `started`: `time.time()` when the work began. `command`: the command line to store, by default the running one.
    """
    record = Record(
        command=command or command_line(),
        versions=package_versions(),
        hardware=hardware(device),
        git=git_revision(),
        seconds=round(time.time() - started, 3),
        created=utc_now(),
        **values,
    )
    check_record(record, "this record")
    warnings = (*record.warnings, *_split_warnings(record))
    marked = any(label_remarks(record.protocol, record.reference))  # the name and the hash alone say it all otherwise
    extra = {**record.extra, "threads": openmp.settings()} | ({"label": protocol_label(record)} if marked else {})
    return replace(record, warnings=warnings, extra=extra)


def _split_warnings(record: Record) -> Iterator[str]:
    if record.reference and split_is_missing(record.protocol, record.reference):
        yield (
            f"split not applied: {record.reference['path']} was read as it is, and {record.protocol['name']} wants "
            f"{record.protocol['split']}; --split-lists DIR picks it, --split none says that there is none"
        )


_running: ContextVar[str | None] = ContextVar("running command", default=None)


@contextmanager
def running_command(words: Sequence[str]) -> Iterator[None]:
    """Within the block, records are made by the command `words`, a list."""
    token = _running.set(shlex.join(words))
    try:
        yield
    finally:
        _running.reset(token)


def command_line() -> str:
    """The running command, quoted for a shell: that of `running_command`, elsewhere the process's arguments."""
    if (command := _running.get()) is not None:
        return command
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None and module.name:  # python -m
        return shlex.join(["python", "-m", module.name.removesuffix(".__main__"), *sys.argv[1:]])
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def utc_now() -> str:
    """The time as records write it: 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def save_record(record: Record, folder: str | os.PathLike) -> Path:
    """Write the record to `folder` under its `file_name()`, atomically; returns the path."""
    path = Path(folder) / record.file_name()
    write_json(path, record.to_dict())
    return path


def load_record(place: str | os.PathLike, metric: str | None = None) -> Record:
    """Read a record from its file, or from an archive by `ARCHIVE#NAME`, or by the metric where only one has it.

    Raises InputError that names the file and the key where it is not one of schema 1, or is not of `metric`.
    """
    path, name = split_place(place)
    try:
        if name is not None or (has_archive_suffix(path) and is_archive(path)):
            entry = find_entry(path, name, metric)
            return parse_record(entry.values, f"{path}#{entry.name}")
        values = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: not a readable record ({error})") from error
    record = parse_record(values, place)
    if metric is not None and record.metric != metric:
        raise InputError(f"{place}: a record of {record.metric}, not of {metric}")
    return record


def parse_record(values: Any, path: str | os.PathLike) -> Record:
    """The `Record` of what `to_dict` made; raises InputError that names `path` and the key where it is not one."""
    version = values.get("schema") if isinstance(values, dict) else None
    if isinstance(version, bool) or version != SCHEMA:
        raise InputError(f'{path}: not a record of schema {SCHEMA} ("schema" is {version!r:.200})')
    known = {f.name for f in fields(Record)} - {"extra"}
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        raise InputError(f"{path}: the record lacks {', '.join(missing)}")
    own = {key: _as_field(key, value) for key, value in values.items() if key in known}
    extra = {key: value for key, value in values.items() if key not in known and key != "schema"}
    return check_record(Record(**own, extra=extra), path)


def _as_field(key: str, value: Any) -> Any:
    """A value of JSON as the field `key` has it: lists become tuples, and counts written as 12.0 whole numbers."""
    if key in ("ci95", "details", "warnings") and isinstance(value, list):
        return tuple(value)
    if key in ("num_samples", "num_reference", "seed"):
        return _whole(value)
    if key in ("samples", "reference") and isinstance(value, dict) and "clips" in value:
        return {**value, "clips": _whole(value["clips"])}
    return value


def _whole(value: Any) -> Any:
    """JSON has one kind of numbers: 12.0 is the count 12."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_record(record: Record, where: str | os.PathLike) -> Record:
    """Return the record if its values have the types of the schema, else raise InputError naming one that has not."""
    for key, (test, expected) in CHECKS.items():
        if not test(getattr(record, key)):
            got = repr(getattr(record, key))
            got = got if len(got) <= 200 else got[:197] + "..."
            raise InputError(f"{where}: {key!r} must be {expected}, got {got}")
    return record


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _detail(entry: Any) -> bool:
    """Whether a further figure is one: names are texts, figures numbers or null, intervals two numbers or null."""
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        return False
    interval = entry.get("ci95")
    return (
        ("figure" not in entry or isinstance(entry["figure"], str))
        and all(entry.get(key) is None or _number(entry[key]) for key in ("value", "excess"))
        and (
            interval is None
            or (
                isinstance(interval, list | tuple)
                and len(interval) == 2
                and all(end is None or _number(end) for end in interval)
            )
        )
    )


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _source(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"path", "sha256", "clips", "rejected"} <= set(value)
        and isinstance(value["path"], str)
        and isinstance(value["sha256"], str)
        and _count(value["clips"])
        and isinstance(value["rejected"], list)
    )


def _optional(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "metric": (_text, "a name"),
    "value": (_number, "a finite number"),
    "ci95": (_optional(lambda v: isinstance(v, tuple) and len(v) == 2 and all(map(_number, v))), "[low, high] or null"),
    "unit": (_optional(_text), "text or null"),
    "higher_is_better": (lambda v: isinstance(v, bool), "true or false"),
    "protocol": (lambda v: isinstance(v, dict) and _text(v.get("name")), "an object with a name"),
    "num_samples": (_count, "a count"),
    "num_reference": (_optional(_count), "a count or null"),
    "samples": (_source, "an object with path, sha256, clips and rejected"),
    "reference": (_optional(_source), "an object with path, sha256, clips and rejected, or null"),
    "backbone": (
        _optional(lambda v: isinstance(v, dict) and _text(v.get("name")) and isinstance(v.get("sha256"), str)),
        "an object with name and sha256, or null",
    ),
    "seed": (_count, "a whole number of at least 0"),
    "details": (
        lambda v: isinstance(v, tuple) and all(map(_detail, v)),
        "a list of flat objects whose figures are numbers",
    ),
    "warnings": (lambda v: isinstance(v, tuple) and all(map(_text, v)), "a list of texts"),
    "command": (_text, "a command line"),
    "versions": (lambda v: isinstance(v, dict), "an object"),
    "hardware": (_text, "text"),
    "git": (_optional(_text), "a commit or null"),
    "seconds": (_number, "a number"),
    "created": (lambda v: _text(v) and v.endswith("Z"), "a UTC time that ends in Z"),
}

# `details` and `warnings` may be absent; every other key of the schema is always written, null or not
REQUIRED = [key for key in CHECKS if key not in ("details", "warnings")]


def _stem(source: dict) -> str:
    path = Path(source["path"])
    return path.stem if path.suffix.lower() in (".npz", ".npy", ".pt", ".zip", ".mp4", ".avi", ".gif") else path.name
