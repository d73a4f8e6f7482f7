"""`hpdm-eval bench decoding`: whether frames are the right ones, and what reading costs, against decord."""

from pathlib import Path

import click
import torch

from hpdm.support.progress import note
from hpdm_eval.benchmarks.results import finish, result_options
from hpdm_eval.commands.recorded import RecordedCommand


@click.command(cls=RecordedCommand)
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False))
@click.option(
    "--generated/--no-generated",
    default=True,
    show_default=True,
    help="Also write and read the matrix of files whose frames carry their numbers.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes the frames that are read."
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@result_options
def decoding_command(
    folders: tuple[str, ...], generated: bool, seed: int, quiet: bool, as_json: bool, record: Path | None
) -> None:
    """Read every video in FOLDERS at random places and count the frames that are not those the file shows.

    \b
    hpdm-eval bench decoding UCF-101/
    hpdm-eval bench decoding --record reports/benchmarks/

    Readings: the last frame, all frames, six clips at random starts and strides. decord is compared where it is
    installed (extra `bench`).
    """
    from hpdm_eval.benchmarks import reading as decoding  # needs PyAV, which other benchmarks do not

    result = {"bench": "decoding", "seed": seed, "readers": decoding.readers(), "tables": {}}
    note("decord is not installed: only this package's reader is checked", quiet or "decord" in result["readers"])
    if generated:
        result["tables"]["generated"] = [row.as_dict() for row in decoding.check_generated(seed, quiet)]
    if folders:
        rows, unreadable = decoding.check_files(folders, seed, quiet)
        result["tables"]["files"] = [row.as_dict() for row in rows]
        result["unreadable"] = unreadable
    if generated:
        result["tables"]["timed"] = [row.as_dict() for row in decoding.time_generated(seed, quiet)]
    finish(result, _lines(result), device=torch.device("cpu"), as_json=as_json, record=record)


TITLES = {
    "generated": "Generated files, frames identified by their numbers",
    "files": "Files at hand, frames compared with decoding from the beginning",
    "timed": "Time of a 64-frame clip from the middle of 250 frames of 240x320 px",
}


def _lines(result):
    lines = []
    for name, rows in result["tables"].items():
        lines += ([""] if lines else []) + [TITLES[name], ""] + _table(rows, result["readers"], name == "timed")
    for name, reason in result.get("unreadable", ()):
        lines += [f"not readable: {name}: {reason}"]
    return lines


def _table(rows, readers, timed):
    total = {"kind": "all", "files": 0, "readings": 0, "wrong": {}, "failed": {}, "seconds": {}, "ratio": None}
    for row in rows:
        for key in ("files", "readings"):
            total[key] += row[key]
        for key in ("wrong", "failed", "seconds"):
            for reader in readers:
                total[key][reader] = total[key].get(reader, 0) + row[key].get(reader, 0)
    if total["seconds"].get("decord"):
        total["ratio"] = total["seconds"]["hpdm"] / total["seconds"]["decord"]
    head = f"{'':<22}" + (
        ""
        if timed
        else f"{'files':>7}{'reads':>7}" + "".join(f"{reader + ' wrong':>14}{'failed':>8}" for reader in readers)
    )
    lines = [head + f"{'time/decord':>13}"]
    for row in (*rows, total):
        counts = (
            ""
            if timed
            else f"{row['files']:>7}{row['readings']:>7}"
            + "".join(f"{row['wrong'].get(reader, 0):>14}{row['failed'].get(reader, 0):>8}" for reader in readers)
        )
        lines.append(f"{row['kind']:<22}{counts}" + (f"{row['ratio']:>13.2f}" if row["ratio"] else f"{'-':>13}"))
    return lines
