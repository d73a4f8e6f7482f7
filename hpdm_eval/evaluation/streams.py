"""Judging samples that come from a loader, a generator or memory: every clip is looked at once.

All networks that the chosen metrics need run on each batch as it comes; of clips nothing is kept but features and
digests, unless a metric needs the clips themselves, for which they wait in a temporary folder. B clips, T frames, H
rows, W columns, C channels.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.progress import progress
from hpdm_eval.clips import tensors
from hpdm_eval.clips.frames import Rejected
from hpdm_eval.clips.jobs import clip_digest
from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.api import for_one
from hpdm_eval.evaluation.clip_metrics import Clips, judge_sets
from hpdm_eval.evaluation.comparison import judge_warnings, open_set
from hpdm_eval.evaluation.comparisons import Comparisons, Key
from hpdm_eval.evaluation.figure import Result
from hpdm_eval.evaluation.incoming import (
    MEMORY,
    OF_FILES,
    Gathered,
    Role,
    SharedNetwork,
    clip_name,
    collect,
    parts_of,
    shared_network,
)
from hpdm_eval.evaluation.received import (
    Received,
    comparison_of,
    open_reference,
    read_reference,
    receive,
    rejections,
    summary_of,
    used_protocol,
)
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.features.reference_statistics import is_statistics
from hpdm_eval.metrics.registry import NEEDS, MetricInfo
from hpdm_eval.protocols import Protocol
from hpdm_eval.records.record import Record


def evaluate_stream(
    samples: Iterable[Any],
    reference: Place | Iterable[Any] | None,
    chosen: Sequence[MetricInfo],
    protocol: Protocol,
    *,
    options: Mapping[str, Mapping[str, Any]],
    quiet: bool = True,
    everything: bool = False,
    changes: Mapping[str, Any] | None = None,
    **own: Any,
) -> Result:
    """`hpdm_eval.evaluate` of samples that are no path; its arguments after they were checked.

    everything: metrics that cannot be had go into the result's `missing`. changes: settings of the protocol that were
    given beside it. own: fields of `Evaluation`. Raises InputError.
    """
    started = time.time()
    if of_files := [key for key in OF_FILES if own.get(key) is not None]:
        raise InputError(f"{of_files[0]} is a setting of samples in files; leave it out")
    place = reference if reference is None or isinstance(reference, str | os.PathLike) else MEMORY
    videos = None if reference is None or isinstance(reference, str | os.PathLike) else reference
    evaluation = Evaluation(protocol=protocol, samples=MEMORY, reference=place, quiet=quiet, **own)
    with contextlib.ExitStack() as stack:
        work = _Work(evaluation, videos is not None, stack)
        missing: dict[str, str] = {}
        for info in chosen:
            try:
                work.prepare(info, alone=len(chosen) == 1, changes=changes or {})
            except InputError as error:
                if not everything:
                    raise
                missing[info.name] = str(error)
        if videos is not None:
            work.read("reference", videos, quiet)
        work.read("samples", samples, quiet)
        records: dict[str, Record] = {}
        for info in chosen:
            if info.name in missing:
                continue
            try:
                records[info.name] = work.record(info, options[info.name], started)
            except InputError as error:
                if not everything:
                    raise
                missing[info.name] = str(error)
    return Result(records, missing)


class _Work:
    """The networks and folders that the chosen metrics need, each once."""

    def __init__(self, evaluation: Evaluation, in_memory: bool, stack: contextlib.ExitStack):
        self._evaluation, self._in_memory, self._stack = evaluation, in_memory, stack
        self._keys: dict[str, Key] = {}  # by metric
        self._evaluations: dict[Key, Evaluation] = {}
        self._streams: dict[tuple[Key, str], _Stream] = {}  # by network and role
        self._references: dict[Key, Received] = {}
        self._spools: dict[str, _Spool] = {}  # by role
        judge_warnings(evaluation)

    def prepare(self, info: MetricInfo, alone: bool, changes: Mapping[str, Any]) -> None:
        """Open what a metric needs; raises InputError for what can be found wrong before the first clip."""
        if info.reference and self._evaluation.reference is None and info.extracts:
            raise InputError(f"{info.name} compares with real clips: give reference")
        if info.needs == "clips":
            self._prepare_clips(info)
            return
        if not info.extracts:
            raise InputError(
                f"{info.name} needs {NEEDS[info.needs]}, which a stream does not have; write the samples into a "
                "folder and give its path"
            )
        if alone:
            evaluation = for_one(info, self._evaluation, changes)
            evaluation = evaluation if info.reference else replace(evaluation, reference=None)
            key: Key = (None, info.needs == "frames", evaluation.reference is not None)
        else:
            key, evaluation = Comparisons(self._evaluation).settings_of(info)
        if key not in self._evaluations:
            device = choose_device(evaluation.device)
            network = shared_network(evaluation, key[1], device)
            if evaluation.reference is not None and not self._in_memory:
                open_reference(evaluation, network)
            roles = ["samples", *(["reference"] if evaluation.reference is not None and self._in_memory else [])]
            for role in roles:
                self._streams[key, role] = _Stream(evaluation, key[1], role, network)
            self._evaluations[key] = evaluation
        self._keys[info.name] = key

    def _prepare_clips(self, info: MetricInfo) -> None:
        reference = self._evaluation.reference
        if info.reference and reference is not None and not self._in_memory and is_statistics(reference):
            raise InputError(f"{reference} holds statistics of features; {info.name} needs the clips themselves")
        for role in ("samples", *(["reference"] if self._in_memory else [])):
            if role not in self._spools:
                folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hpdm-eval-clips-"))
                self._spools[role] = _Spool(Role.of(role, self._evaluation), Path(folder))

    def read(self, role: str, videos: Iterable[Any], quiet: bool) -> None:
        """Take in all videos of a role, or as many as are wanted."""
        takers: list[_Stream | _Spool] = [
            *(stream for (_, name), stream in self._streams.items() if name == role),
            *(spool for name, spool in self._spools.items() if name == role),
        ]
        if not takers:
            return
        wanted = Role.of(role, self._evaluation).wanted
        with progress(total=wanted, unit="clip", description=role, quiet=quiet) as bar:
            batches = batches_of(videos, self._evaluation.batch, role)
            for batch in batches:
                for clips in parts_of(batch):
                    for taker in takers:
                        taker.add(clips)
                    bar.update(len(clips))
                if all(taker.full for taker in takers):
                    more = _has_more(batches)
                    for taker in takers:
                        taker.more = more
                    break

    def record(self, info: MetricInfo, options: Mapping[str, Any], started: float) -> Record:
        """The record of a metric, after `read`."""
        if info.needs == "clips":
            return self._record_of_clips(info, options, started)
        key = self._keys[info.name]
        evaluation, stream = self._evaluations[key], self._streams[key, "samples"]
        if key not in self._references and evaluation.reference is not None:
            self._references[key] = (
                self._streams[key, "reference"].received()
                if self._in_memory
                else read_reference(evaluation, stream.network)
            )
        reference = self._references.get(key)
        return comparison_of(evaluation, stream.network, stream.received(), reference, started).record(info, options)

    def _record_of_clips(self, info: MetricInfo, options: Mapping[str, Any], started: float) -> Record:
        sets: dict[str, Any] = {"samples": self._spools["samples"]}
        if info.reference and self._evaluation.reference is not None:
            sets["reference"] = (
                self._spools["reference"] if self._in_memory else Clips(open_set("reference", self._evaluation))
            )
        prefixes = {role: spool.more for role, spool in self._spools.items() if role in sets}
        protocol = used_protocol(
            self._evaluation.protocol, samples=prefixes["samples"], reference=prefixes.get("reference", False)
        )
        return judge_sets(info, sets, replace(self._evaluation, protocol=protocol), options, started).record


class _Stream:
    """Videos of one role on their way through one network."""

    def __init__(self, evaluation: Evaluation, per_frame: bool, role: str, network: SharedNetwork):
        self._evaluation, self._per_frame, self._auto = evaluation, per_frame, evaluation.device == "auto"
        self._role, self.network = Role.of(role, evaluation), network
        self._parts: list[Gathered] = []
        self._seen = self._have = 0
        self.more = False  # whether the stream goes on

    @property
    def full(self) -> bool:
        """Whether there are as many clips as are wanted."""
        return self._role.wanted is not None and self._have >= self._role.wanted

    def add(self, videos: torch.Tensor) -> None:
        """Take in videos [B, T, H, W, C]."""
        if self._auto and videos.device.type != "cpu" and videos.device != self.network.device:
            self.network = shared_network(self._evaluation, self._per_frame, videos.device)
        found = collect(videos, self._role, self.network, first=self._seen, have=self._have)
        self._parts.append(found)
        self._seen, self._have = self._seen + found.seen, self._have + len(found.clips)

    def received(self) -> Received:
        """All of them; raises InputError where there are none."""
        parts = [part for part in self._parts if len(part.rows)]
        gathered = Gathered(
            rows=torch.cat([part.rows for part in parts]) if parts else torch.zeros(0, 0),
            clips=torch.cat([part.clips for part in self._parts] or [torch.zeros(0, 6, dtype=torch.int64)]),
            rejected=torch.cat([part.rejected for part in self._parts] or [torch.zeros(0, 4, dtype=torch.int64)]),
            seen=self._seen,
            beyond=sum(part.beyond for part in self._parts),
            lowest=min((part.lowest for part in self._parts), default=float("inf")),
        )
        received = receive(gathered, self._role, self.network.backbone, self._evaluation.group_by)
        if not self.more:
            return received
        summary = {
            key: value for key, value in received.side.summary.items() if key != "classes"
        }  # of how many: unknown
        return replace(received, prefix=True, side=replace(received.side, summary=summary))


class _Spool:
    """Clips of one role that wait in a folder for metrics which need them, as often as they are iterated."""

    def __init__(self, role: Role, folder: Path):
        self._role, self._folder = role, folder
        self._digests: list[str] = []
        self._positions: list[int] = []
        self._rejected: list[tuple[int, ...]] = []
        self._seen, self.more = 0, False

    @property
    def full(self) -> bool:
        """Whether there are as many clips as are wanted."""
        return self._role.wanted is not None and len(self) >= self._role.wanted

    def add(self, videos: torch.Tensor) -> None:
        """Take in videos [B, T, H, W, C]."""
        settings = self._role.settings
        if not len(videos):
            return
        name, _ = tensors.check_range(videos, settings.value_range)
        for video in videos:
            for repeat in range(settings.rule.clips):
                position = self._seen * settings.rule.clips + repeat
                if self.full:
                    self.more = True
                    break
                try:
                    indices = tensors.plan(video.shape[:3], settings, [clip_name(position)], repeat=repeat)
                except Rejected as rejection:
                    if self._role.strict:
                        raise InputError(f"{clip_name(position)}: {rejection} (--strict)") from rejection
                    self._rejected.append((position, *video.shape[:3]))
                    continue
                clip = tensors.cut(video[None], indices, settings, name)[0].cpu().numpy()
                np.save(self._folder / f"{len(self)}.npy", clip)
                self._digests.append(clip_digest(clip))
                self._positions.append(position)
            self._seen += 1

    def __iter__(self) -> Iterator[Clip]:
        for number, (position, digest) in enumerate(zip(self._positions, self._digests, strict=True)):
            video = np.load(self._folder / f"{number}.npy")
            yield Clip(name=clip_name(position), video=video, digest=digest, label=None, position=position)

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def names(self) -> list[str]:
        """Of the clips, in order."""
        return [clip_name(position) for position in self._positions]

    def summary(self) -> dict[str, Any]:
        """The record's entry for them; raises InputError where there are none."""
        rejected = rejections(torch.tensor(self._rejected, dtype=torch.int64).reshape(-1, 4), self._role, 1)
        if not len(self):
            first = f": {len(rejected)} rejected, the first is {rejected[0]['reason']}" if rejected else ""
            raise InputError(f"no usable clip among the {self._role.name}{first}")
        return summary_of(self._digests, rejected, 0)


def batches_of(videos: Any, size: int, role: str = "samples") -> Iterator[Any]:
    """Iterator over the batches of a loader, a generator or a list; a tensor or array is cut into batches of `size`."""
    if hasattr(videos, "shape") and hasattr(videos, "ndim"):
        clips = tensors.as_clips(videos)
        return (clips[start : start + size] for start in range(0, len(clips), size))
    try:
        return iter(videos)
    except TypeError as error:
        raise InputError(
            f"{role} are {type(videos).__name__}; give a path, a tensor, or an iterable of batches of videos"
        ) from error


def _has_more(batches: Iterator[Any]) -> bool:
    """Whether a stream goes on after enough clips have come, which makes those a prefix of it."""
    try:
        return next(batches, None) is not None
    except Exception:  # it would have gone on; what is wrong there concerns no clip that counts
        return True
