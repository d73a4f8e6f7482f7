"""Which clips a file gave when it was read last: where it is the same file, read the same way, it need not be decoded.

A file counts as the same where its path, size and time of change (in nanoseconds) are. That is what make, rsync and git
go by too; a file that was overwritten by one of equal size and whose time was then set back is taken for the old one.
`--verify-cache` decodes everything and compares. A file that has changed just now is not remembered: it may change
again within what its time tells apart.

The same way means the same settings, source text of the decoding code and versions of the libraries below it.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from hpdm.support.environment import package_versions
from hpdm.support.progress import note
from hpdm.video import walk
from hpdm.video.formats import is_image
from hpdm_eval.clips.jobs import EMPTY_CELL, Decoded, DecodeSettings, Job
from hpdm_eval.support.limits import limit

DECODES = ("arrays.py", "frames.py", "jobs.py", "resize.py", "sheets.py", "unpacking.py")  # and all of hpdm.video
LIBRARIES = ("av", "numpy", "pillow")
FINE, COARSE = 10**8, 2 * 10**9 + 10**8  # nanoseconds that times of change may lag, and where they are whole seconds


class Remembered:
    """What the files of one source gave earlier, as a `FeatureCache` knows it.

    settings: DecodeSettings of the source. origin: function from a path to (file, folder that it was unpacked to) where
    it comes from an archive, else None.
    """

    def __init__(
        self, cache: Any, settings: DecodeSettings, origin: Callable[[str], tuple[str, str] | None] = lambda path: None
    ) -> None:
        self._cache, self._origin = cache, origin
        self._how = [_decoding(), repr(settings), limit("HPDM_EVAL_MAX_CLIP")]
        self.compared = self.changed = 0

    def key(self, job: Job) -> bytes | None:
        """32 bytes for a job and its files as they are now; None where they are too new, or not there."""
        try:
            files = self._files(job.path, job.kind)
        except OSError:
            return None
        now = time.time_ns()
        if any(changed > now - (FINE if changed % 10**9 else COARSE) for *_, changed in files):
            return None
        parts = [[part.name, part.cell, part.repeat] for part in job.parts]
        text = json.dumps([*self._how, files, job.kind, job.index, job.value_range, parts])
        return sha256(text.encode()).digest()

    def recall(self, key: bytes | None) -> list[Decoded] | None:
        """[Decoded, ...] without videos but with features, or None where any is to be decoded."""
        if key is None or self._cache.verify or (told := self._cache.recall(key)) is None:
            return None
        answers = []
        for entry in told:
            if entry is None:
                answers.append(Decoded(reason=EMPTY_CELL))
            elif (known := self._cache.get(entry["digest"])) is not None:
                answers.append(Decoded(**entry, known=known))
            else:
                return None
        return answers

    def learn(self, key: bytes | None, answers: Sequence[Decoded]) -> None:
        """Keep what was decoded, unless any of it could not be read for a reason that may pass."""
        if key is None or any(answer.reason not in (None, EMPTY_CELL) for answer in answers):
            return
        found = [
            None
            if answer.reason
            else {"digest": answer.digest, "length": answer.frames, "value_range": answer.value_range}
            for answer in answers
        ]
        before = self._cache.recall(key)
        self.compared += before is not None
        self.changed += before is not None and before != found
        if before != found:
            self._cache.learn(key, found)

    def settle(self, quiet: bool = False) -> None:
        """After a run: say what a comparison has shown."""
        if self.changed:
            note(
                f"cache: {self.changed} of {self.compared} files hold other clips than when they were read last, at "
                "the same size and time; they count as they are now",
                quiet,
            )
        elif self._cache.verify:
            note(f"cache: {self.compared} files hold the clips that are remembered of them", quiet)

    def _files(self, path, kind):
        """[[path, size, time of change in ns], ...] of all files that a job reads."""
        if (origin := self._origin(path)) is not None:
            file, inner = origin
            return [[os.path.relpath(path, inner), 0, 0], *self._files(file, "file")]
        if kind == "frames":
            names = sorted(name for name in os.listdir(path) if is_image(name) and walk.visible(name))
            return [_stat(os.path.join(path, name)) for name in names]
        return [_stat(path)]


def _stat(path):
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


@cache
def _decoding():
    """SHA-256 of the source text of what decodes, and versions of what it calls."""
    folder = Path(__file__).parent
    files = [*(folder / name for name in DECODES), *sorted(Path(walk.__file__).parent.glob("*.py"))]
    text = sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return [text, package_versions(LIBRARIES)]
