"""The `hpdm-data` command: videos indexed and packed before training. Heavy imports wait until a command runs."""

import re
from pathlib import Path

import click

from hpdm.support.console import Command, Group, OutputFile, OutputFolder, version_option
from hpdm.support.errors import InputError
from hpdm.support.progress import note

JOBS = click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Processes that open videos.  [one per core]"
)
QUIET = click.option("--quiet", is_flag=True, help="No progress bars and no notes on stderr.")
CAPTIONS = click.option(
    "--captions",
    default="auto",
    show_default=True,
    metavar="FILE|auto|none",
    help="List of captions to take in; auto takes captions.jsonl or captions.csv in DIR.",
)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
SHOWN = 5  # broken files that are named


class _Bytes(click.ParamType):
    name = "size"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", value.strip().lower())
        if not match or match[2] not in UNITS:
            self.fail(f"{value!r}: write a number of bytes, such as 256MB or 1GiB", param, ctx)
        size = int(float(match[1]) * UNITS[match[2]])
        if not 1024 <= size <= 2**40:
            self.fail(f"{value!r}: a shard has between 1 KiB and 1 TiB", param, ctx)
        return size


class _Numbers(click.ParamType):
    """`count` whole numbers with an x between them."""

    def __init__(self, count, most):
        self.name, self._count, self._most = "x".join("N" * count), count, most

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        parts = value.lower().replace(",", "x").split("x")
        if len(parts) != self._count or not all(part.isdecimal() and 0 < int(part) <= self._most for part in parts):
            self.fail(
                f"{value!r}: write {self._count} whole numbers from 1 to {self._most:,}, such as "
                f"{'x'.join(['8'] * self._count)}",
                param,
                ctx,
            )
        return tuple(map(int, parts))


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def data() -> None:
    """Prepare training data: index millions of files once, or pack them into shards for a cluster.

    \b
    hpdm-data index --data videos/                    # before the first start on more than 100,000 files
    hpdm-data pack --data videos/ --out shards/       # WebDataset shards and their index
    hpdm-train --size L --data shards/ --out runs/L   # or s3://bucket/shards, after uploading the folder

    \b
    For text to video, with captions, and made smaller for --levels 1:
    hpdm-data pack --data clips/ --out low/ --shrink 8x8x8
    hpdm-train --size T2V --levels 1 --data low/ --out runs/low
    """


@data.command(cls=Command)
@click.option(
    "--data",
    "root",
    required=True,
    metavar="DIR|ADDRESS",
    help="Folder of videos, or of .tar shards in the layout of WebDataset; or an address of shards.",
)
@click.option(
    "--out",
    type=OutputFile(path_type=Path),
    metavar="FILE.safetensors",
    help="Write the index here; training takes it as --set data.index=FILE.  [default: next to the videos]",
)
@CAPTIONS
@JOBS
@QUIET
def index(root: str, out: Path | None, captions: str, jobs: int | None, quiet: bool) -> None:
    """Open every video once and store what training needs to know about it in one file.

    Run it again after changes: only new and changed files are opened. What was done before a kill is kept. Training
    trusts the index and lists and opens no file at its start; files that were added since are not seen until then.

    \b
    hpdm-data index --data videos/ --jobs 16
    hpdm-data index --data /read-only/videos --out index.safetensors
    hpdm-data index --data s3://bucket/shards         # shards that another tool wrote
    """
    from hpdm.data.indexing import index_data

    table = index_data(root, out=out, captions=captions, workers=jobs, quiet=quiet)
    broken = table.broken.nonzero()[0]
    for row in broken[:SHOWN]:
        note(f"broken: {table.path[row]}: {table.reason[row]}", quiet)
    note(f"broken: {len(broken) - SHOWN} more", quiet or len(broken) <= SHOWN)
    if passed_over := table.about["passed_over"]:
        from hpdm.data.accounts import counted

        note(f"passed over: {counted(passed_over)}", quiet)
    parts = [f"{len(table) - len(broken):,} files", f"{len(broken):,} broken"]
    if "caption" in table.columns:
        parts.append(f"{len(table.caption):,} captions")
    click.echo(f"{', '.join(parts)}; {table.about['opened']:,} opened now; index: {table.about['file']}")


@data.command(cls=Command)
@click.option("--data", "root", required=True, metavar="DIR", help="Folder of videos, as for hpdm-train.")
@click.option("--out", type=OutputFolder(), required=True, metavar="SHARDS", help="New folder for the shards.")
@click.option(
    "--shard-size", type=_Bytes(), default="256MB", show_default=True, metavar="SIZE", help="Bytes per shard, about."
)
@click.option(
    "--resolution",
    type=_Numbers(2, 65_536),
    metavar="ROWSxCOLUMNS",
    help="Crop and resize to this, as training does, and encode again.",
)
@click.option(
    "--shrink",
    type=_Numbers(3, 1024),
    metavar="FRAMESxROWSxCOLUMNS",
    help="Average over blocks of this many frames, rows and columns and store the result lossless; for runs of "
    "the coarsest levels (8x8x8 for T2V with --levels 1).",
)
@click.option(
    "--crf",
    type=click.IntRange(0, 51),
    default=17,
    show_default=True,
    help="Quality with --resolution: 0 is best, larger is smaller.",
)
@CAPTIONS
@JOBS
@QUIET
def pack(
    root: str,
    out: str,
    shard_size: int,
    resolution: tuple[int, int] | None,
    shrink: tuple[int, int, int] | None,
    crf: int,
    captions: str,
    jobs: int | None,
    quiet: bool,
) -> None:
    """Write the videos of a folder into shards: few large files, which clusters and object stores read well.

    Shards are in the layout of WebDataset, with an index beside them. Training makes the same clips from them as from
    the folder, whatever the number of processes, and a run may change from one to the other. The same command again
    goes on after an interruption.

    \b
    hpdm-data pack --data UCF-101/ --out shards/
    hpdm-data pack --data clips/ --out low/ --shrink 8x8x8 --jobs 16
    aws s3 sync shards/ s3://bucket/shards            # then hpdm-train --data s3://bucket/shards
    """
    from hpdm.config.data import need_decoder

    need_decoder()
    from hpdm.data.addresses import is_address
    from hpdm.data.pack import Smaller
    from hpdm.data.pack import pack as pack_folder

    if is_address(root) or is_address(out):
        raise InputError("pack reads and writes folders of this machine; copy the shards to an address afterwards")
    smaller = Smaller(size=resolution, shrink=shrink or (1, 1, 1), crf=crf)
    made = pack_folder(root, out, shard_bytes=shard_size, smaller=smaller, captions=captions, workers=jobs, quiet=quiet)
    captioned = f", {made['captions']:,} captions" if made["captions"] else ""
    click.echo(
        f"{made['samples']:,} videos and pictures{captioned} in {made['shards']:,} shards, {made['bytes']:,} "
        f"bytes; {made['left_out']:,} left out; {out}"
    )
