"""Files that failed while a run was reading them, kept in the run's folder so that no later start meets them again.

A line of the list is {"path", "reason", "when", "clip", "from"}: the file failed for the clip of number `clip` and is
not opened for clips from number `from` on (null: for that clip alone). `from` lies beyond all clips that any process
may have asked for by then, so which clips get another file does not depend on how fast processes and workers are.
"""

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from hpdm.support.files import parse_json

QUARANTINE_FILE = "quarantine.jsonl"

log = logging.getLogger(__name__)


class Quarantine:
    """The list in `file`, or in memory alone where that is None."""

    def __init__(self, file: str | Path | None = None) -> None:
        self.file, self._read = None if file is None else Path(file), 0
        self._reasons, self._first, self._clips = {}, {}, set()
        self.refresh()

    def __len__(self):
        return len(self._reasons)

    def refresh(self) -> None:
        """Read what other processes of the run have added."""
        try:
            if self.file is None or self.file.stat().st_size <= self._read:
                return
            with open(self.file, "rb") as file:
                file.seek(self._read)
                added = file.read()
        except OSError:
            return
        whole = added.rfind(b"\n") + 1  # a line may be half written
        self._read += whole
        for line in added[:whole].split(b"\n"):
            try:
                entry = parse_json(line)
                self._note(entry["path"], entry.get("reason", ""), entry.get("clip"), entry.get("from"))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut off by a kill

    def reason(self, path: str, clip: int) -> str | None:
        """Why a file is not to be opened for the clip of that number; None where it is."""
        if (path, clip) in self._clips or clip >= self._first.get(path, clip + 1):
            return f"quarantined: {self._reasons[path]}"
        return None

    def add(self, path: str, reason: str, clip: int | None = None, first: int | None = None) -> None:
        """Note that a file failed for a clip (None: before any); it is not opened for clips from number `first` on."""
        known = path in self._reasons
        self._note(path, reason, clip, first)
        instead = "it is left out" if clip is None else "another file takes its place"
        log.warning(
            "%s: %s; %s%s", path, reason, instead, "" if known or self.file is None else f", {self.file} lists it"
        )
        if self.file is None:
            return
        entry = {
            "path": path,
            "reason": reason,
            "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "clip": clip,
            "from": first,
        }
        line = json.dumps(entry, ensure_ascii=True) + "\n"
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line.encode())  # one write, so that lines of several processes do not mix
        finally:
            os.close(handle)

    def _note(self, path, reason, clip, first):
        self._reasons.setdefault(path, reason)
        if clip is not None:
            self._clips.add((path, clip))
        if first is None and clip is None:
            first = 0  # a line that a person added
        if first is not None:
            self._first[path] = min(first, self._first.get(path, first))
