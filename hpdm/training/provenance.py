"""What made a run: a line of `provenance.jsonl` in its folder for every start of the training."""

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hpdm.support.environment import git_revision, hardware, package_versions
from hpdm.support.files import append_line
from hpdm.training.log import read_lines

if TYPE_CHECKING:
    import torch


PROVENANCE_FILE = "provenance.jsonl"


def note_start(
    run: str | Path,
    step: int,
    device: "torch.device | str",
    world_size: int,
    changes: Mapping[str, tuple] | None = None,
) -> None:
    """Add a line: from which step on which code, versions and hardware trained, by how many processes.

    changes: "section.key" → (old, new) of the settings that are others than before that step.
    """
    line = {
        "step": step,
        "git": git_revision(),
        "versions": package_versions(),
        "hardware": hardware(device),
        "processes": world_size,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **({"changed": dict(changes)} if changes else {}),
    }
    append_line(Path(run) / PROVENANCE_FILE, json.dumps(line, ensure_ascii=False))


def read_provenance(run: str | Path) -> list[dict]:
    """The lines of a run, oldest first, without one that was cut off by a kill; empty where nothing is noted."""
    return read_lines(Path(run) / PROVENANCE_FILE)[0]
