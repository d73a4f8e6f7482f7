"""`hpdm-eval bench index` and `bench shards`: what data of many files cost at the start and in each step."""

from pathlib import Path

import click
import torch

from hpdm.support.progress import note
from hpdm_eval.benchmarks.results import finish, result_options
from hpdm_eval.commands.recorded import RecordedCommand

QUIET = click.option("--quiet", is_flag=True, help="No progress on stderr.")


@click.command(cls=RecordedCommand)
@click.option(
    "--rows", type=click.IntRange(1000, 10**8), default=1_000_000, show_default=True, help="Files of the data."
)
@QUIET
@result_options
def index(rows: int, quiet: bool, as_json: bool, record: Path | None) -> None:
    """Measure a start of training on many files: from the index of hpdm-data, and by looking at every file.

    \b
    hpdm-eval bench index --rows 1000000 --record reports/benchmarks/

    Makes so many empty files in the temporary folder (TMPDIR).
    """
    from hpdm_eval.benchmarks.index_cost import measure

    result = {"bench": "index", "rows": rows, **measure(rows, quiet=quiet)}
    finish(result, _index_lines(result), device=torch.device("cpu"), as_json=as_json, record=record)


@click.command(cls=RecordedCommand)
@click.option("--videos", type=click.IntRange(16, 10**6), default=2000, show_default=True, help="Files of the data.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Each source is timed so often, in turn; the median counts.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Decoding processes.")
@QUIET
@result_options
def shards(videos: int, rounds: int, workers: int, quiet: bool, as_json: bool, record: Path | None) -> None:
    """Compare clips per second from a folder of many small videos with those from shards.

    \b
    hpdm-eval bench shards --record reports/benchmarks/
    """
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
    finish(result, _shard_lines(result), device=torch.device("cpu"), as_json=as_json, record=record)


def _index_lines(result):
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


def _shard_lines(result):
    lines = [f"{result['videos']:,} videos of 64 frames of 64x64 px, {result['workers']} decoding processes"]
    for title, base in (("as they are", "folder"), ("averaged 8x8x8", "folder")):
        part = result[title]
        lines += ["", title, f"{'source':<20}{'clips/s':>10}{'of folder':>12}"]
        for name, rate in part["clips_per_second"].items():
            ratio = "" if name == base else f"{part['ratio'][name]:.2f}x"
            lines.append(f"{name:<20}{rate:>10.1f}{ratio:>12}")
    return lines
