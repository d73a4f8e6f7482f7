"""Time and memory of commands over more and more clips, and what the cache saves of them."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpdm.data.procedural_folders import REAL_SEED, REFERENCE_SEED, draw_clips
from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.benchmarks.results import Measured

COLD, DECODED, WARM = "empty cache", "full cache, decoding", "full cache"
OPTIONS = {COLD: (), DECODED: ("--verify-cache",), WARM: ()}
ROW = "{:<12}{:<24}{:>9}{:>11}{:>11}{:>14}{:>12}"


def bench_scale(
    counts: Sequence[int] = (1000, 10000),
    *,
    reference: int = 1000,
    frames: int = 64,
    size: int = 32,
    commands: Sequence[str] = ("fvd", "all"),
    backbone: str = "shapes3d",
    folder: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Measured:
    """Judge ever more clips by whole commands: seconds, processor time and the largest process' memory.

    counts: samples to judge, each number in turn; reference: real clips, which like them are drawn first, `frames`
    of `size` x `size`, into `folder` where one is named; commands: of hpdm-eval. Every command runs with an empty
    cache, with a full one while it decodes and compares all clips nevertheless, and with a full one.
    """
    counts = sorted(set(counts))
    with tempfile.TemporaryDirectory(prefix="hpdm-bench-") as temporary:
        folder = folder or Path(temporary)
        draw_clips(folder / "reference", REFERENCE_SEED + seed, reference, (frames, size, size), quiet)
        draw_clips(folder / "samples", REAL_SEED + seed, max(counts), (frames, size, size), quiet)
        rows = []
        for command in commands:
            for count in counts:
                cache = Path(temporary) / f"cache-{command}-{count}"
                for state, more in OPTIONS.items():
                    words = [
                        command,
                        "--samples",
                        folder / "samples",
                        "--num-samples",
                        count,
                        "--reference",
                        folder / "reference",
                        "--protocol",
                        "native",
                        "--backbone",
                        backbone,
                        "--device",
                        "cpu",
                        "--quiet",
                        "--json",
                        *more,
                    ]
                    row: dict[str, Any] = {"command": command, "clips": count, "cache": state, **_run(words, cache)}
                    rows.append(row)
                    note("{command}, {clips} clips, {cache}: {seconds:.1f} s, {mib:.0f} MiB".format(**row), quiet)
    result = {
        "bench": "scale",
        "reference": reference,
        "frames": frames,
        "size": [size, size],
        "backbone": backbone,
        "rows": rows,
    }
    return Measured(result={**result, "size": f"{size}px"}, lines=_lines(result))


def _run(words: Sequence[Any], cache: Path) -> dict[str, float]:
    """Seconds, processor seconds with those of its workers, and peak MiB of one command in a process of its own."""
    search = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    environment = {**os.environ, "HPDM_EVAL_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(search)}
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "hpdm_eval", *map(str, words)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise InputError(
                f"hpdm-eval {words[0]} ended with {process.returncode}: "
                f"{said.read().decode(errors='replace').strip()[-300:]}"
            )
    per_unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / per_unit}


def _lines(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['frames']} frames of {result['size'][0]}x{result['size'][1]} px, {result['backbone']}, against "
        f"{result['reference']:,} reference clips",
        "",
        ROW.format("command", "cache", "clips", "seconds", "CPU s", "CPU s/1,000", "peak MiB"),
    ]
    for row in result["rows"]:
        used = row["processor_seconds"]
        each = 1000 * used / (row["clips"] + result["reference"])
        lines.append(
            ROW.format(
                row["command"],
                row["cache"],
                f"{row['clips']:,}",
                f"{row['seconds']:.1f}",
                f"{used:.1f}",
                f"{each:.1f}",
                f"{row['mib']:.0f}",
            )
        )
    known = {(row["command"], row["clips"], row["cache"]): row for row in result["rows"]}
    lines.append("")
    for command, clips in dict.fromkeys((row["command"], row["clips"]) for row in result["rows"]):
        cold, decoded, warm = (known[command, clips, state]["processor_seconds"] for state in (COLD, DECODED, WARM))
        lines.append(
            f"{command}, {clips:,} clips: a full cache takes {warm / decoded:.2f} of the processor time of "
            f"one that decodes, and {warm / cold:.2f} of an empty one's"
        )
    return lines + ["", "CPU s/1,000: per thousand clips on both sides, start included"]
