"""Whether frames are the right ones, and what reading costs, against decord."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpdm.support.progress import note
from hpdm_eval.benchmarks.results import Measured


def bench_decoding(
    folders: Sequence[str | Path] = (), *, generated: bool = True, seed: int = 0, quiet: bool = False
) -> Measured:
    """Read videos at random places and count the frames that are not those the file shows.

    folders: of videos; generated: also the matrix of written files whose frames carry their numbers; seed: fixes the
    frames that are read. decord is compared where it is installed.
    """
    from hpdm_eval.benchmarks import reading  # needs PyAV, which other benchmarks do not

    result: dict[str, Any] = {"bench": "decoding", "seed": seed, "readers": reading.readers(), "tables": {}}
    note("decord is not installed: only this package's reader is checked", quiet or "decord" in result["readers"])
    if generated:
        result["tables"]["generated"] = [row.as_dict() for row in reading.check_generated(seed, quiet)]
    if folders:
        rows, unreadable = reading.check_files(folders, seed, quiet)
        result["tables"]["files"] = [row.as_dict() for row in rows]
        result["unreadable"] = unreadable
    if generated:
        result["tables"]["timed"] = [row.as_dict() for row in reading.time_generated(seed, quiet)]
    return Measured(result=result, lines=_lines(result))


TITLES = {
    "generated": "Generated files, frames identified by their numbers",
    "files": "Files at hand, frames compared with decoding from the beginning",
    "timed": "Time of a 64-frame clip from the middle of 250 frames of 240x320 px",
}


def _lines(result: dict[str, Any]) -> list[str]:
    lines = []
    for name, rows in result["tables"].items():
        lines += ([""] if lines else []) + [TITLES[name], ""] + _table(rows, result["readers"], name == "timed")
    for name, reason in result.get("unreadable", ()):
        lines += [f"not readable: {name}: {reason}"]
    return lines


def _table(rows: list[dict[str, Any]], readers: list[str], timed: bool) -> list[str]:
    total: dict[str, Any] = {
        "kind": "all",
        "files": 0,
        "readings": 0,
        "wrong": {},
        "failed": {},
        "seconds": {},
        "ratio": None,
    }
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
