"""`hpdm-eval bench`: how fast the tool is and how much memory it takes, against a plain baseline in the same run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpdm.support.console import Command, Group, OutputFile, OutputFolder, common_options
from hpdm.support.errors import InputError
from hpdm_eval.commands.bench_gpu import gpu
from hpdm_eval.commands.recorded import RecordedCommand

if TYPE_CHECKING:
    from hpdm_eval.benchmarks.results import Measured

QUIET = click.option("--quiet", is_flag=True, help="No progress on stderr.")
ROUNDS = click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Each alternative is timed so often, in turn; the median counts.",
)


@click.group(cls=Group)
def bench() -> None:
    """Measure throughput and memory on this machine. Run it alone: another process on the cores spoils every figure."""


def result_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` and `--record`, for `show_result`."""
    for option in (
        click.option(
            "--record", type=OutputFolder(path_type=Path), metavar="DIR", help="Also save the result in this folder."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table."),
    ):
        function = option(function)
    return function


def bench_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--rounds`, the options of the result and the common ones."""
    return ROUNDS(result_options(common_options(function)))


def show_result(measured: "Measured", *, as_json: bool, record: Path | None) -> None:
    """Print what was measured, and save it if `record` names a folder."""
    from hpdm_eval.benchmarks.results import save_result

    result = measured.complete()
    click.echo(json.dumps(result) if as_json else result["text"])
    if record:
        save_result(result, record)


@bench.command(cls=RecordedCommand)
@click.option("--clips", type=click.IntRange(min=4), default=32, show_default=True, help="Videos to make and read.")
@click.option("--frames", type=click.IntRange(min=9), default=16, show_default=True, help="Frames per clip.")
@click.option("--size", type=click.IntRange(min=16), default=256, show_default=True, help="Height and width (even).")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Clips per forward pass.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Every stage is timed so often, in turn; the median counts.",
)
@click.option(
    "--memory",
    default="50,500",
    show_default=True,
    metavar="N,N,...|none",
    help="Peak memory of runs over so many clips, each in a process of its own.",
)
@click.option("--bf16", is_flag=True, help="Also bfloat16: speed, error of the features, drift of the distance.")
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="I3D state dict; random weights otherwise, which cost the same time.",
)
@click.option("--unverified", is_flag=True, help="Accept weights whose checksum is not known.")
@click.option("--workers", type=click.IntRange(min=0), help="Decoding processes.  [default: one per core]")
@result_options
@common_options
def extract(memory: str, device: str, as_json: bool, record: Path | None, **settings: Any) -> None:
    """Feature extraction with I3D: decoding, resizing, network and all of it together, in clips per second.

    The yardstick is the network as public code runs it (float32, contiguous, BatchNorm unfolded, explicit padding),
    without any decoding or resizing, timed in the same run.
    """
    counts = _parse_counts(memory)
    from hpdm.support.environment import choose_device
    from hpdm_eval.benchmarks.extraction import bench_extraction

    measured = bench_extraction(memory=counts, device=choose_device(device), **settings)
    show_result(measured, as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
@click.option("--clips", type=click.IntRange(min=40), default=2048, show_default=True, help="On each side.")
@click.option("--features", type=click.IntRange(min=1), default=400, show_default=True, help="Per clip.")
@bench_options
def interval(device: str, as_json: bool, record: Path | None, **settings: Any) -> None:
    """Time FVD with its 95 % interval from features: of one side by two methods, and all of it.

    "joined moments" multiplies both covariances for each group that is left out; "projected sums" is what fvd does.
    """
    from hpdm_eval.benchmarks.interval import bench_interval

    show_result(bench_interval(**settings), as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
@ROUNDS
@QUIET
@result_options
def threads(as_json: bool, record: Path | None, **settings: Any) -> None:
    """Time calls of small and large networks with one thread, two, four, ... and with what the program chooses."""
    from hpdm_eval.benchmarks.threads import bench_threads

    show_result(bench_threads(**settings), as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
@click.option(
    "--clips",
    "counts",
    default="1000,10000",
    show_default=True,
    metavar="N,N,...",
    help="Samples to judge, each number in turn.",
)
@click.option("--reference", type=click.IntRange(min=40), default=1000, show_default=True, help="Real clips.")
@click.option("--frames", type=click.IntRange(min=1), default=64, show_default=True, help="Frames per clip.")
@click.option("--size", type=click.IntRange(min=16), default=32, show_default=True, help="Height and width (even).")
@click.option("--commands", default="fvd,all", show_default=True, metavar="NAME,NAME,...", help="Of hpdm-eval.")
@click.option("--backbone", default="shapes3d", show_default=True, help="Network that sees the clips.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the clips here.  [default: a temporary folder]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the clips.")
@QUIET
@result_options
def scale(counts: str, commands: str, as_json: bool, record: Path | None, **settings: Any) -> None:
    """Judge ever more clips by whole commands: seconds, processor time and the largest process' memory.

    \b
    hpdm-eval bench scale --clips 1000,10000 --record reports/benchmarks/

    Draws the clips first. Every command runs with an empty cache, with a full one while it decodes and compares all
    clips nevertheless (--verify-cache), and with a full one.
    """
    if not re.fullmatch("[0-9]+(,[0-9]+)*", counts) or min(map(int, counts.split(","))) < 40:
        raise InputError(f"--clips {counts}: write numbers from 40 up, such as 1000,10000")
    from hpdm_eval.benchmarks.scale import bench_scale

    numbers = tuple(map(int, counts.split(",")))
    show_result(bench_scale(numbers, commands=commands.split(","), **settings), as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
@click.option("--width", type=click.IntRange(min=1), default=1024, show_default=True, help="Channels of a token.")
@click.option("--tokens", default="16x16x16", show_default=True, metavar="FxHxW", help="Token grid of a patch.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@bench_options
def fusion(tokens: str, device: str, as_json: bool, record: Path | None, **settings: Any) -> None:
    """Resampling of a coarse level's tokens, forward and backward: three small matrices against F.grid_sample."""
    grid = _parse_grid(tokens)
    from hpdm.support.environment import choose_device
    from hpdm_eval.benchmarks.training import bench_fusion

    measured = bench_fusion(grid=grid, device=choose_device(device), **settings)
    show_result(measured, as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
@click.option("--size", default="S", show_default=True, help="Size of the network, or a file of settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as in hpdm-train.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Samples per pass.")
@bench_options
def training(device: str, as_json: bool, record: Path | None, **settings: Any) -> None:
    """Forward and backward of a training sample: with and without adaptive computation, and matrix products alone.

    Without adaptive computation every level runs every block. The yardstick of efficiency is the time that the step's
    matrix products would take at the rate of large ones, measured in the same run. Latent self-conditioning is left
    out: its first pass would blur what is compared.
    """
    from hpdm.support.environment import choose_device
    from hpdm_eval.benchmarks.training import bench_training

    show_result(bench_training(device=choose_device(device), **settings), as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
@click.option("--checkpoint", default="nano", show_default=True, metavar="RUN|FILE|nano", help="As for hpdm-sample.")
@click.option("--videos", type=click.IntRange(min=1), default=4, show_default=True, help="Videos made at once.")
@click.option("--steps", metavar="128,64,32", help="Steps per level. [default: the checkpoint's]")
@click.option("--overlaps", default="none,hw,fhw", show_default=True, metavar="O,O,..", help="Overlaps to time.")
@click.option("--cached-only", is_flag=True, help="Leave out the runs that recompute all context: they take long.")
@bench_options
def sampling(
    steps: str | None, overlaps: str, device: str, as_json: bool, record: Path | None, **settings: Any
) -> None:
    """Sampling with the context cache and without, for several overlaps of tiles, in one run.

    Both make the same videos. A block evaluation is one block of the network on one tile.
    """
    numbers, names = _parse_steps(steps), _parse_overlaps(overlaps)
    from hpdm.support.environment import choose_device
    from hpdm_eval.benchmarks.sampling import bench_sampling

    measured = bench_sampling(steps=numbers, overlaps=names, device=choose_device(device), **settings)
    show_result(measured, as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
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
    from hpdm_eval.benchmarks.data import bench_index

    show_result(bench_index(rows=rows, quiet=quiet), as_json=as_json, record=record)


@bench.command(cls=RecordedCommand)
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
def shards(as_json: bool, record: Path | None, **settings: Any) -> None:
    """Compare clips per second from a folder of many small videos with those from shards.

    \b
    hpdm-eval bench shards --record reports/benchmarks/
    """
    from hpdm_eval.benchmarks.data import bench_shards

    show_result(bench_shards(**settings), as_json=as_json, record=record)


bench.add_command(gpu)


@bench.command(cls=Command)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--out", type=OutputFile(), required=True, metavar="FILE.md", help="Page to write.")
@common_options
def page(folder: str, out: str, **options: Any) -> None:
    """Write a markdown page with all results that --record saved in FOLDER."""
    from hpdm_eval.benchmarks.results import write_page

    write_page(folder, out)


@bench.command(cls=RecordedCommand)
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
@QUIET
@result_options
def decoding(folders: tuple[str, ...], as_json: bool, record: Path | None, **settings: Any) -> None:
    """Read every video in FOLDERS at random places and count the frames that are not those the file shows.

    \b
    hpdm-eval bench decoding UCF-101/
    hpdm-eval bench decoding --record reports/benchmarks/

    Readings: the last frame, all frames, six clips at random starts and strides. decord is compared where it is
    installed (extra `bench`).
    """
    from hpdm_eval.benchmarks.decoding import bench_decoding

    show_result(bench_decoding(folders, **settings), as_json=as_json, record=record)


def _parse_counts(text: str) -> list[int]:
    if text == "none":
        return []
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise InputError(f"--memory {text}: write numbers of clips such as 50,500, or none")
    return counts


def _parse_grid(text: str) -> tuple[int, int, int]:
    match = re.fullmatch("([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)", text)
    if not match:
        raise InputError(f"--tokens {text}: write frames x rows x columns, such as 16x16x16")
    return int(match[1]), int(match[2]), int(match[3])


def _parse_steps(text: str | None) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise InputError(f"--steps takes whole numbers such as 128,64,32; got {text!r}") from error


def _parse_overlaps(text: str) -> list[str]:
    from hpdm.pyramid import OVERLAPS

    names = text.split(",")
    if unknown := [name for name in names if name not in OVERLAPS]:
        raise InputError(f"--overlaps: unknown {unknown[0]!r}; choose among {', '.join(OVERLAPS)}")
    return names
