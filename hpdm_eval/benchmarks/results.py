"""Results of `hpdm-eval bench` as files, and a page made from them.

A result is a JSON object with "bench" (which one), its figures, "text" (the table for people), and what is needed to
say where it comes from: command, hardware, versions, commit and date.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from hpdm.support.console import OutputFolder, common_options
from hpdm.support.environment import git_revision, hardware, package_versions
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json, write_json
from hpdm_eval.records.record import command_line, utc_now

ORDER = ("decoding", "extract", "interval", "scale", "fusion", "training", "sampling", "index", "shards")
TITLES = {
    "decoding": "Reading videos",
    "extract": "Feature extraction with I3D",
    "interval": "FVD with its interval",
    "scale": "Ten times the clips, and what the cache saves",
    "fusion": "Resampling in context fusion",
    "training": "Training step",
    "sampling": "Sampling",
    "index": "Starting on a million files",
    "shards": "Reading from shards",
}


def result_options(function: Callable) -> Callable:
    """Add `--json` and `--record`, for `finish`."""
    for option in (
        click.option(
            "--record", type=OutputFolder(path_type=Path), metavar="DIR", help="Also save the result in this folder."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table."),
    ):
        function = option(function)
    return function


def bench_options(function: Callable) -> Callable:
    """`--rounds`, the options of the result and the common ones."""
    rounds = click.option(
        "--rounds",
        type=click.IntRange(min=1),
        default=3,
        show_default=True,
        help="Each alternative is timed so often, in turn; the median counts.",
    )
    return rounds(result_options(common_options(function)))


def finish(
    result: Mapping[str, Any], lines: Sequence[str], *, device: str | torch.device, as_json: bool, record: Path | None
) -> None:
    """Complete a result with its origin, print it, and save it if `record` names a folder."""
    result = {
        **result,
        "text": "\n".join(lines),
        "command": command_line(),
        "hardware": hardware(device),
        "versions": package_versions(),
        "git": git_revision(),
        "created": utc_now(),
    }
    click.echo(json.dumps(result) if as_json else result["text"])
    if record:
        name = "-".join(str(result[key]) for key in ("bench", "size", "precision") if key in result)
        write_json(record / f"{name}.json", result)


NOTES = "<!-- notes: what follows is kept when the page is written again -->"


def write_page(folder: Path, out: Path) -> None:
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


def _read(path):
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not a readable JSON file ({error})") from error
