"""What data of many files cost at the start and in each step."""

from typing import Any

from hpdm.support.progress import note
from hpdm_eval.benchmarks.results import Measured


def bench_index(*, rows: int = 1_000_000, quiet: bool = False) -> Measured:
    """Time a start of training on `rows` files: from the index of hpdm-data, and by looking at every file.

    The files, empty ones, are made in the temporary folder.
    """
    from hpdm_eval.benchmarks.index_cost import measure

    result = {"bench": "index", "rows": rows, **measure(rows, quiet=quiet)}
    return Measured(result=result, lines=_index_lines(result))


def bench_shards(*, videos: int = 2000, rounds: int = 3, workers: int = 1, quiet: bool = False) -> Measured:
    """Clips per second from a folder of many small videos and from shards; workers: decoding processes."""
    from hpdm.config.data import need_decoder

    need_decoder()
    from hpdm_eval.benchmarks.shard_speed import measure

    result = {
        "bench": "shards",
        "videos": videos,
        "workers": workers,
        **measure(videos, rounds=rounds, workers=workers, quiet=quiet),
    }
    unlike = [name for name, equal in result["as they are"]["equal"].items() if not equal]
    note(f"other clips than from the folder: {', '.join(unlike)}", not unlike)
    return Measured(result=result, lines=_shard_lines(result))


def _index_lines(result: dict[str, Any]) -> list[str]:
    size = result["bytes"]["index"] / 2**20
    lines = [
        f"{result['rows']:,} files in 1,000 classes, a caption each; index {size:.0f} MiB",
        "",
        f"{'start':<24}{'seconds':>10}{'fingerprint s':>15}{'peak MiB':>10}{'own MiB':>10}",
    ]
    for name, row in result["starts"].items():
        lines.append(
            f"{name:<24}{row['seconds']:>10.2f}{row['fingerprint_seconds']:>15.2f}{row['mib']:>10.0f}"
            f"{row['own_mib']:>10.0f}"
        )
    starts = result["starts"]
    if "every file" in starts:
        ratios = {
            name: starts[f"every file{name[5:]}"]["seconds"] / starts[name]["seconds"]
            for name in ("index", "index, captions")
        }
        lines += ["", *(f"{name}: {ratio:.0f} times as fast" for name, ratio in ratios.items())]
    return lines + ["", "memory is beyond what imports take; own: not shared between the processes of a machine"]


def _shard_lines(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['videos']:,} videos of 64 frames of 64x64 px, {result['workers']} decoding processes"]
    for title, base in (("as they are", "folder"), ("averaged 8x8x8", "folder")):
        part = result[title]
        lines += ["", title, f"{'source':<20}{'clips/s':>10}{'of folder':>12}"]
        for name, rate in part["clips_per_second"].items():
            ratio = "" if name == base else f"{part['ratio'][name]:.2f}x"
            lines.append(f"{name:<20}{rate:>10.1f}{ratio:>12}")
    return lines
