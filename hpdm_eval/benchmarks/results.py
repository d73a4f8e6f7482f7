"""Results of benchmarks as files, and a page made from them.

A result is a JSON object with "bench" (which one), its figures, "text" (the table for people), and what is needed to
say where it comes from: command, hardware, versions, commit and date.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpdm.support.environment import git_revision, hardware, package_versions
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json, write_json
from hpdm_eval.records.record import command_line, utc_now

ORDER = ("decoding", "extract", "interval", "scale", "fusion", "training", "threads", "sampling", "index", "shards")
TITLES = {
    "decoding": "Reading videos",
    "extract": "Feature extraction with I3D",
    "interval": "FVD with its interval",
    "scale": "Ten times the clips, and what the cache saves",
    "fusion": "Resampling in context fusion",
    "training": "Training step",
    "threads": "Threads by the size of the work",
    "sampling": "Sampling",
    "index": "Starting on a million files",
    "shards": "Reading from shards",
}


CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a benchmark has measured."""

    result: dict[str, Any]  # "bench", which one, and its figures; JSON-able
    lines: Sequence[str]  # a table for people
    device: torch.device = CPU

    def complete(self) -> dict[str, Any]:
        """The result with its table as "text" and with where it comes from."""
        return {
            **self.result,
            "text": "\n".join(self.lines),
            "command": command_line(),
            "hardware": hardware(self.device),
            "versions": package_versions(),
            "git": git_revision(),
            "created": utc_now(),
        }


def save_result(result: dict[str, Any], folder: Path) -> None:
    """Write a complete result to a folder, in a file named by its benchmark, size and precision."""
    name = "-".join(str(result[key]) for key in ("bench", "size", "precision") if key in result)
    write_json(folder / f"{name}.json", result)


NOTES = "<!-- notes: what follows is kept when the page is written again -->"


def write_page(folder: str | Path, out: str | Path) -> None:
    """Markdown with every result of a folder, in a fixed order; raises InputError where there is none.

    What people have written on the page, from the line NOTES on, stays.
    """
    results = [_read(path) for path in sorted(Path(folder).glob("*.json"))]
    results = [result for result in results if isinstance(result, dict) and result.get("bench") in ORDER]
    if not results:
        raise InputError(f"{folder} holds no result of hpdm-eval bench; make one with --record {folder}")
    lines = [
        "# Benchmarks",
        "",
        "Ratios compare alternatives within one run on one machine; absolute figures of machines "
        "that others may have used at the same time are worth less.",
    ]
    for result in sorted(results, key=lambda result: ORDER.index(result["bench"])):
        versions = ", ".join(
            f"{name} {result['versions'][name]}" for name in ("hpdm", "torch") if name in result["versions"]
        )
        lines += [
            "",
            f"## {TITLES[result['bench']]}",
            "",
            f"`{result['command']}`  ",
            f"{result['hardware']}; {versions}; commit {(result['git'] or 'unknown')[:12]}; {result['created'][:10]}",
            "",
            "```",
            result["text"],
            "```",
        ]
    written = Path(out).read_text(encoding="utf-8") if Path(out).exists() else ""
    if NOTES in written:
        lines += ["", NOTES + written.partition(NOTES)[2].rstrip("\n")]
    with atomic_file(out, "w") as file:
        file.write("\n".join(lines) + "\n")


def _read(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not a readable JSON file ({error})") from error
