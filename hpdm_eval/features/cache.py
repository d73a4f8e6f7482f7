"""Features of clips that were seen before: a file per set of clips and network.

A folder's name says what features are a function of beside the clip: a hash of everything else that moves them, which
is the network (weights, precision, epsilon, resize rule), the processor and the size of a call, the source text of our
code that pixels go through, and the versions of the libraries below it. In it is a file for each set, named after the
set's path, with two kinds of entries, see `entry_file`:

  clips  by the digest of their pixels as the network gets them, after the protocol has chosen, cut and resized the
         frames. Two protocols share what they have in common and nothing else, nothing can be out of date, and what
         is read is what would be computed, to the last bit. A clip that another set's file holds is taken from there.
  files  by their path, size and time of change, and all that decides how they are read: which clips they gave, see
         `remembered`. What is found that way need not be decoded.

Any number of runs may share the cache, and be killed at any moment: entries that are complete stay. Damaged entries
count as absent. The folder may be deleted at any time.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from hpdm.support.environment import package_versions, processor
from hpdm.support.errors import InputError
from hpdm.support.files import expand_user, parse_json
from hpdm.support.progress import note
from hpdm_eval import backbones
from hpdm_eval.backbones.backbone import Backbone, Extractor
from hpdm_eval.backbones.weights import user_cache
from hpdm_eval.features.entry_file import EntryFile
from hpdm_eval.support.npz import read_npz

SUFFIX = ".features"
CLIP, FILE = 1, 2  # kinds of entries
LAYOUT = 2  # the way clips go through a network, see `calls`; unchanged, since files of single clips are still read
# modules of `backbones` that pixels go through or that decide how; the others say where files come from
COMPUTES = (
    "backbone.py",
    "c3d.py",
    "convolution.py",
    "i3d.py",
    "loading.py",
    "preprocess.py",
    "registered.py",
    "scripted.py",
    "shapes3d.py",
    "video_transformers.py",
)
LIBRARIES = ("torch", "transformers", "torch-fidelity")  # the last two bring networks of their own
# entries of `Backbone.describe()` that say where weights came from, not what they compute
OF_ORIGIN = ("file", "verified", "trust")


def code_version(folder: Path | None = None) -> str:
    """SHA-256 of the source text of COMPUTES in `folder`, by default the one of the running program."""
    folder = folder or Path(backbones.__file__).parent
    return sha256(b"".join(sha256((folder / name).read_bytes()).digest() for name in COMPUTES)).hexdigest()


@functools.cache
def running_code() -> str:
    """`code_version` of the running program, taken when the first cache is opened.

    Python keeps no source text: where a file has changed since the program read it, nobody can tell by which text its
    features are made, so they are kept apart from all others.
    """
    folder = Path(backbones.__file__).parent
    if max((folder / name).stat().st_mtime for name in COMPUTES) > backbones.IMPORTED_AT:
        note("the sources of hpdm_eval.backbones have changed since the start: features get a cache of their own")
        return uuid4().hex
    return code_version(folder)


def cache_folder() -> Path:
    """Folder of cached features: $HPDM_EVAL_CACHE, else hpdm-eval/features in the platform's cache folder."""
    if chosen := os.environ.get("HPDM_EVAL_CACHE"):
        return expand_user(chosen)
    return user_cache() / "features"


def open_cache(backbone: Backbone, options: Mapping[str, Any]) -> FeatureCache | None:
    """The FeatureCache that a command's options ask for, or None."""
    return FeatureCache(backbone, verify=options.get("verify_cache", False)) if options["cache"] else None


class FeatureCache:
    """Features and probabilities of one backbone by clip digest.

    backbone: anything with `describe()` and a `device`; folder: by default `cache_folder()`; calls: clips in a call of
    the network, which its last bits depend on; path: of the set of clips; verify: whether files are decoded although
    their clips are known; part: name of a shard, whose file is its own.
    """

    def __init__(
        self,
        backbone: Extractor,
        folder: Path | None = None,
        calls: int = 1,
        *,
        path: Any = None,
        verify: bool = False,
        part: str | None = None,
    ) -> None:
        self._arguments, self.calls, self.verify = (backbone, folder), calls, verify
        self._set, self._part = path, part
        identity = {key: value for key, value in backbone.describe().items() if key not in OF_ORIGIN}
        identity |= {
            "device": backbone.device.type,
            "processor": processor(backbone.device),
            "calls": calls,
            "layout": LAYOUT,
            "code": running_code(),
            "libraries": package_versions(LIBRARIES),
        }
        key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = (folder or cache_folder()) / f"{backbone.name}-{key}"
        self.file = self.folder / (_file_name(path) + f".part-{part}" * (part is not None) + SUFFIX)
        self._writable, self._taken_over = True, 0

    def for_calls(self, calls: int) -> FeatureCache:
        """The cache of the same network in calls of another size."""
        return self._for(calls, self._set)

    def for_set(self, path: str | os.PathLike | None) -> FeatureCache:
        """The cache of the same network for the set of clips at a path, None for clips of no one place."""
        return self._for(self.calls, path)

    def _for(self, calls, path):
        if (calls, path) == (self.calls, self._set):
            return self
        return FeatureCache(*self._arguments, calls=calls, path=path, verify=self.verify, part=self._part)

    @cached_property
    def _own(self):
        return EntryFile(self.file)

    @cached_property
    def _others(self):
        """Files of other sets, opened where a clip is in none of this one's."""
        return [EntryFile(file) for file in sorted(self.folder.glob("*" + SUFFIX)) if file != self.file]

    @cached_property
    def _has_single_files(self):
        """Whether there are files of the time when each clip had its own."""
        return any(len(path.name) == 2 for path in self.folder.glob("??"))

    def get(self, digest: str) -> tuple[np.ndarray, ...] | None:
        """(features, probabilities) as float32 arrays, or None."""
        key = bytes.fromhex(digest)
        if (body := self._own.read(CLIP, key)) is None:
            body = next((found for other in self._others if (found := other.read(CLIP, key)) is not None), None)
            if body is None and self._has_single_files:
                body = _single_file(self.folder / digest[:2] / f"{digest}.npz")
                self._taken_over += body is not None
            if body is not None:
                self._append(CLIP, key, body)
        return None if body is None else _unpacked(body)

    def put(self, digest: str, features: np.ndarray, probabilities: np.ndarray) -> None:
        """Store float32 arrays; where the folder cannot be written, no more is tried and nothing is lost."""
        self._append(CLIP, bytes.fromhex(digest), _packed(features, probabilities))

    def recall(self, key: bytes) -> Any:
        """What `learn` was given for a key of 32 bytes, or None."""
        body = self._own.read(FILE, key)
        return None if body is None else parse_json(body)

    def learn(self, key: bytes, value: Any) -> None:
        """Store a JSON value by a key of 32 bytes."""
        self._append(FILE, key, json.dumps(value).encode())

    def settle(self, quiet: bool = False) -> None:
        """After a run: have the disk hold what is new, and say what was found to be damaged or moved."""
        with suppress(OSError):
            if self._own.damaged:
                self._own.rewrite()
            else:
                self._own.sync()
        for file in (self._own, *self.__dict__.get("_others", ())):
            if file.damaged:
                note(f"cache: {file.damaged} damaged entries of {file.path} were left out and made again", quiet)
                file.damaged = 0
        if self._taken_over:
            note(
                f"cache: {self._taken_over} clips were taken over into {self.file}; the folders of two letters beside "
                "it, of an earlier version, can be deleted",
                quiet,
            )
            self._taken_over = 0

    def _append(self, kind, key, body):
        if not self._writable:
            return
        try:
            self._own.append(kind, key, body)
        except OSError:
            self._writable = False


def _file_name(path):
    """Name of a set's file: what people know it by, and a hash of its place."""
    if path is None:
        return "clips"
    path = os.path.abspath(path)
    word = re.sub(r"[^A-Za-z0-9.-]+", "-", os.path.basename(path)).strip(".-")[:40]
    return f"{word or 'clips'}-{sha256(os.fsencode(path)).hexdigest()[:12]}"


def _packed(*arrays):
    """Arrays of float32 as bytes."""
    arrays = [np.ascontiguousarray(array, "<f4") for array in arrays]
    shapes = json.dumps([array.shape for array in arrays]).encode()
    return b"".join([len(shapes).to_bytes(2, "little"), shapes, *(array.tobytes() for array in arrays)])


def _unpacked(body):
    start = 2 + int.from_bytes(body[:2], "little")
    arrays = []
    for shape in parse_json(bytes(body[2:start])):
        count = math.prod(shape)
        arrays.append(np.frombuffer(body, "<f4", count, start).reshape(shape).copy())
        start += 4 * count
    return tuple(arrays)


def _single_file(path):
    try:
        arrays = read_npz(path)
        return _packed(arrays["features"], arrays["probabilities"])
    except (InputError, KeyError, ValueError):
        return None
