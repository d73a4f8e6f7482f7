"""Videos in any of the usual forms as a stream of uint8 clips, cut as a protocol says.

    T frames, H and W rows and columns: a clip is uint8 [T,H,W,3]

Files are decoded, cropped and resized in worker processes, a bounded number ahead; the order of clips, which clips are
rejected and every pixel are the same for any number of workers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.clips import selection
from hpdm_eval.clips.ahead import decode_ahead
from hpdm_eval.clips.frames import FrameRule, Grid, parse_grid
from hpdm_eval.clips.jobs import DecodeSettings, Job, Part
from hpdm_eval.clips.listing import Candidate, Listing, Scratch
from hpdm_eval.clips.parts import take_part
from hpdm_eval.clips.rejections import rejection_lines
from hpdm_eval.clips.remembered import Remembered
from hpdm_eval.support.distributed import gather, rank_and_size, share

if TYPE_CHECKING:
    from hpdm_eval.protocols import Protocol
from hpdm_eval.support.notes import note_once as note

MOST_WORKERS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One clip: `video` uint8 [T,H,W,3], `digest` (hex SHA-256 over its shape and bytes), `label` (class folder).

    `name` is the path below the source's root, with "#k" for the k-th clip of an array, a grid or a long video; `file`
    and `number` are that path and k (None for the only clip). Where `known` is there, (features, probabilities) of a
    clip that is remembered, `video` is None and `length` its number of frames.
    """

    name: str
    file: str | None = None
    number: int | None = None
    video: np.ndarray | None
    digest: str
    label: str | None
    length: int | None = None
    known: tuple | None = None
    position: int = 0  # among all candidates; puts in order what several processes have read
    owned: tuple = (0, None)  # from where to where positions are this process' alone; None: there is no other process

    @property
    def pixels(self) -> np.ndarray:
        """`video` of a clip that was decoded; those that are remembered have none."""
        if self.video is None:
            raise ValueError(f"{self.name} was not decoded: its features are remembered")
        return self.video


def open_clips(
    path: str | os.PathLike,
    protocol: Protocol,
    *,
    role: str = "samples",
    num: int | None = None,
    grid: str | Grid | None = None,
    match: str | None = None,
    seed: int = 0,
    strict: bool = False,
    workers: int | None = None,
    quiet: bool = False,
    split_lists: str | os.PathLike | None = None,
    choose: Callable[[list[Candidate]], list[Candidate]] | None = None,
) -> ClipSource:
    """Open videos as a ClipSource, to be read as `protocol` says for its `role` ("samples" or "reference").

    path: a folder of videos, of folders of pictures or of arrays (npy npz pt), with or without class subfolders, an
    archive (zip tar tar.gz) of such a folder, one such file, or a .txt list of them, one path a line. num: at most so
    many clips, in place of the protocol's number. grid: "RxC" or "RxC+PAD" where each video is a contact sheet. match:
    only files whose name, or path below the root where the pattern holds a "/", fits it (`*`, `?`, `[...]`). seed:
    fixes random starts and orders. strict: the first unusable file is an InputError instead of an entry in `rejected`.
    workers: decoding processes (None: one per core; 0: decode in this process, unprotected from decoders that crash).
    split_lists: UCF-101's folder of official lists, for a reference with a `split`; by default `ucfTrainTestlist`
    in `path` or beside it; without either all of the folder is read. quiet: no notes on stderr. choose:
    function of the candidates in order (each has `name` and `label`) that returns those to read.

    Raises InputError for a path without anything to read.
    """
    reference = role == "reference"
    grid = parse_grid(grid)
    scratch = Scratch()
    settings = decode_settings(protocol, reference, grid, seed)
    listing = Listing(path, scratch, grid, protocol.value_range, settings.rule.clips)
    if strict and listing.rejected:
        raise InputError("{path}: {reason} (--strict)".format(**listing.rejected[0]))
    if not listing.candidates:
        raise InputError(f"no readable clip in {path}" + _first_reason(listing.rejected))
    if listing.passed_over:
        note(f"{path}: passed over: {in_a_line(listing.passed_over)}", quiet)
    if listing.repeated:
        note(
            f"{path}: {len(listing.repeated)} links to folders that are read elsewhere, the first is "
            f"{listing.repeated[0]}",
            quiet,
        )
    candidates, split = selection.matching(listing.candidates, match, path), None
    listed = reference and protocol.split and selection.find_split_lists(path, split_lists)
    candidates, part = take_part(candidates, path, role, bool(listed), quiet)
    if reference and protocol.split:
        lists = selection.find_split_lists(path, split_lists)
        if lists is None:
            note(f"{path}: split not applied, all of it is read; --split-lists DIR picks {protocol.split}", quiet)
        else:
            candidates, split = selection.apply_split(candidates, protocol.split, lists)
            note("{}: {present} of {listed} videos of {name}, by {}".format(path, lists, **split), quiet)
    rule = protocol.selection if reference else protocol.samples_selection
    wanted = num or (protocol.num_reference if reference else protocol.num_samples)
    ordered = selection.order(candidates, rule, seed, wanted)
    return ClipSource(
        path=path,
        candidates=choose(ordered) if choose else ordered,
        rejected=listing.rejected,
        settings=settings,
        num=wanted,
        strict=strict,
        workers=workers,
        quiet=quiet,
        split=split,
        scratch=scratch,
        about={"passed_over": dict(sorted(listing.passed_over.items())), "part": part},
    )


def in_a_line(counts: Mapping[str, int]) -> str:
    """{kind: how many} as text, most frequent first: "3 .txt, 1 .json"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number} {kind}" for kind, number in ordered)


class ClipSource:
    """Clips of one path: iterate for `Clip` objects, as often as needed; `len()` is the most there can be.

    Clips that turn out to be unusable are skipped and the next candidate takes their place. After an iteration
    `accepted` counts the clips, `rejected` lists {"path", "reason"} of what was skipped, and `summary()` is the
    record's entry. An iteration that ends without a single clip raises InputError.

    Where `shared` is set and there are several processes, which must then all iterate, each gets its share of the
    clips; counts, lists and the entry after an iteration are those of all, and the same as of one process alone.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike,
        candidates: list[Candidate],
        rejected: list[dict[str, str]],
        settings: DecodeSettings,
        num: int | None,
        strict: bool,
        workers: int | None,
        quiet: bool,
        split: dict[str, Any] | None,
        scratch: Scratch,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.settings, self.rejected, self.accepted = str(path), settings, list(rejected), 0
        self._candidates, self._listed, self._num = candidates, rejected, num
        self._strict, self._workers, self._quiet = strict, workers, quiet
        self._split, self._scratch, self._about = split, scratch, about or {}
        self._digests, self._complete, self._noted = [], False, False
        self._remembered: Remembered | None = None
        self.shared = False
        self.part = None  # (index, count): only this share of the wanted candidates, and no others for rejected ones
        self.min_frames = 1  # shorter clips are rejected; set it to what the backbone needs

    def __len__(self) -> int:
        return len(self._own_part()) if self.part else self._most()

    def _most(self):
        return min(self._num or len(self._candidates), len(self._candidates))

    def _own_part(self):
        return share(range(self._most()), *self.part)

    def prepare(self, *, min_frames: int = 1, shared: bool = False, part: Any = None) -> None:
        """Say how it will be read: clips shorter than `min_frames`, which the network needs, are rejected; shared and
        part: among processes, and which share of the wanted candidates alone, as (index, count)."""
        self.min_frames, self.shared, self.part = min_frames, shared, part

    def listing(self) -> list[Any]:
        """[path, clips that are wanted, hash over the names of all candidates]: which clips there are to be read."""
        names = "".join(f"{candidate.name}\n" for candidate in self._candidates)
        digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
        return [os.path.abspath(self.path), self._most(), digest]

    def __iter__(self) -> Iterator[Clip]:
        self.rejected, self.accepted, self._digests, self._complete = list(self._listed), 0, [], False
        ranges = {}
        if self.part:
            yield from self._read(self._own_part(), None, ranges, (0, None))
            return
        rank, size = rank_and_size() if self.shared else (0, 1)
        start, wanted = 0, self._num or len(self._candidates)
        while start < len(self._candidates) and self.accepted < wanted:
            # One process goes on until it has enough. Several can only tell after each has read its share.
            stop = len(self._candidates) if size == 1 else start + wanted - self.accepted
            positions: Any = share(range(start, min(stop, len(self._candidates))), rank, size)
            before = len(self.rejected), len(self._digests)
            owned = (positions.start, positions.stop) if size > 1 else (0, None)
            yield from self._read(positions, wanted if size == 1 else None, ranges, owned)
            if size > 1:
                self._gather(before, ranges)
            start = stop
        self._finish()

    @contextmanager
    def remembering(self, cache: Any) -> Iterator[Any]:
        """Within the block, clips that a FeatureCache knows come with their features and without a video."""
        self._remembered = Remembered(cache, self.settings, self._scratch.origin)
        try:
            yield self._remembered
        finally:
            self._remembered = None

    def summary(self) -> dict[str, Any]:
        """The record's entry: {"path", "sha256", "clips", "rejected", "split"}, after a whole iteration.

        `sha256` is over the sorted digests of the clips, one hex line each; `split` says which official list chose
        them, None where no list was used; of a subset `classes` says which it holds. Where there is anything to say,
        also "passed_over" {kind of file: how many}, "part" (of train, test and val above the classes) and "duplicates"
        (clips that equal an earlier one).
        """
        digests = self.digests
        about = {**self._about, "duplicates": len(digests) - len(set(digests))}
        return {
            "path": self.path,
            "sha256": set_digest(digests),
            "clips": self.accepted,
            "rejected": self.rejected,
            "split": self._split,
            **selection.subset_entry(self._candidates, self.rejected, self.accepted),
            **{key: value for key, value in about.items() if value},
        }

    @property
    def digests(self) -> list[str]:
        """Digests of all clips, those of other processes included, after a whole iteration."""
        if not self._complete:
            raise RuntimeError("summary() and digests need a whole iteration first")
        return list(self._digests)

    def close(self) -> None:
        """Remove what was unpacked for reading; happens by itself at the end of the program."""
        self._scratch.remove()

    def _read(self, positions, wanted, ranges, owned):
        """The usable ones among candidates at `positions`, until `wanted` have been accepted."""
        with closing(self._decoded([self._candidates[position] for position in positions])) as decoded:
            following = iter(positions)
            for candidate, result in decoded:
                position = next(following)
                reason = result.reason
                if reason is None and result.frames < self.min_frames:
                    reason = too_few(result.frames, self.min_frames)
                if reason is not None:
                    self._reject(candidate.name, reason)
                    continue
                self._check_range(ranges, candidate, result)
                self._digests.append(result.digest)
                self.accepted += 1
                yield Clip(
                    name=candidate.name,
                    file=candidate.file,
                    number=candidate.number,
                    video=result.video,
                    digest=result.digest,
                    label=candidate.label,
                    length=result.length,
                    known=result.known,
                    position=position,
                    owned=owned,
                )
                del result
                if self.accepted == wanted:
                    return

    def _gather(self, before, ranges):
        """Put what all processes have rejected and accepted since `before` in place of what this one has."""
        rejected, accepted = before
        parts = gather((self.rejected[rejected:], self._digests[accepted:], ranges))
        self.rejected[rejected:] = [entry for part in parts for entry in part[0]]
        self._digests[accepted:] = [digest for part in parts for digest in part[1]]
        self.accepted = len(self._digests)
        for _, _, found in parts:
            for value_range, name in found.items():
                ranges.setdefault(value_range, name)
        _check_ranges(ranges)

    def _decoded(self, candidates):
        """(candidate, Decoded) in order, decoded a bounded number of jobs ahead."""
        count = _worker_count(self._workers, min(len(self), len(candidates)))
        with closing(decode_ahead(self._jobs(candidates), self.settings, count, self._quiet)) as answers:
            for (members, key), results in answers:
                if self._remembered is not None:
                    self._remembered.learn(key, results)
                for candidate in members:
                    yield candidate, results.pop(0)  # held by the caller alone: clips may be large

    def _jobs(self, candidates):
        """((candidates, key to learn what is decoded by), Job or its remembered answers), for `decode_ahead`."""
        for members, job in _group_jobs(candidates):
            key = self._remembered and self._remembered.key(job)
            known = self._remembered and self._remembered.recall(key)
            yield (members, None if known else key), known or job

    def _reject(self, name, reason):
        if self._strict:
            raise InputError(f"{name}: {reason} (--strict)")
        self.rejected.append({"path": name, "reason": reason})

    def _check_range(self, ranges, candidate, result):
        """Arrays that are told apart file by file must come out alike: one bright file must not be read another way."""
        if self.settings.value_range != "auto" or result.value_range is None:
            return
        ranges.setdefault(result.value_range, candidate.name)
        _check_ranges(ranges)

    def _finish(self):
        if not self._noted:
            self._noted = True
            for line in rejection_lines(self.rejected):
                note(line, self._quiet)
            if self._num and 0 < self.accepted < self._num:
                note(f"{self.path}: {self.accepted} clips where {self._num} were asked for", self._quiet)
        if not self.accepted:
            raise InputError(f"no readable clip in {self.path}" + _first_reason(self.rejected))
        self._complete = True


def set_digest(digests: Iterable[str]) -> str:
    """Hex SHA-256 of a set of clips: over their sorted hex digests, a line each."""
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(digests)).encode()).hexdigest()


def too_few(frames: int, needed: int) -> str:
    """Why a clip of `frames` frames is rejected where the network needs more."""
    return f"{frames} frames, needs at least {needed}; --frames {needed} --short loop repeats them"


def decode_settings(protocol: Protocol, reference: bool, grid: Grid | None, seed: int) -> DecodeSettings:
    """`DecodeSettings` of a protocol for reference clips, or for samples."""
    if reference:
        cut: dict[str, Any] = {
            "start": protocol.start,
            "stride": protocol.stride,
            "fps": protocol.fps,
            "clips": protocol.clips_per_video or 1,
        }
    else:
        cut = {
            "start": protocol.samples_frames,
            "stride": protocol.samples_stride,
            "fps": protocol.samples_fps,
            "clips": protocol.samples_clips_per_video or 1,
        }
    return DecodeSettings(
        rule=FrameRule(frames=protocol.frames, short=protocol.short, **cut),
        crop=protocol.crop,
        resolution=protocol.resolution,
        resize=protocol.resize,
        antialias=protocol.antialias,
        value_range=protocol.value_range,
        grid=grid,
        seed=seed,
    )


def _group_jobs(candidates):
    """(candidates, Job) pairs; neighbours that are cells of one sheet share a job, so that it is decoded once."""
    numbered = enumerate(candidates)
    for _, group in groupby(numbered, key=lambda pair: _sheet(pair[1]) or pair[0]):
        members = [candidate for _, candidate in group]
        first = members[0]
        parts = tuple(Part(name=member.name, cell=member.cell, repeat=member.repeat) for member in members)
        yield (
            members,
            Job(path=first.path, kind=first.kind, parts=parts, index=first.index, value_range=first.value_range),
        )


def _sheet(candidate):
    return None if candidate.cell is None else (candidate.path, candidate.index)


def _worker_count(workers, clips):
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workers = min(cores, MOST_WORKERS)
    return min(workers, clips)


def _check_ranges(ranges):
    """Raise InputError where files were told to be of several ranges; ranges: {range: first file of it}."""
    if len(ranges) > 1:
        first, second = list(ranges.items())[:2]
        raise InputError(
            f"{first[1]} holds values in {first[0]}, {second[1]} in {second[0]}: "
            "one of them is misread; say with --range which it is"
        )


def _first_reason(rejected):
    if not rejected:
        return ": looked for videos, folders of frames, arrays and archives of them"
    return f": {len(rejected)} rejected, the first is {rejected[0]['path']}: {rejected[0]['reason']}"
