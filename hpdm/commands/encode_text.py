"""`hpdm-train encode-text`: embeddings of all captions of a data set, made once and before training."""

import json
import os
from pathlib import Path

import click

from hpdm.support.console import Command, OutputFolder, common_options
from hpdm.support.errors import InputError
from hpdm.support.progress import note, progress


@click.command(cls=Command, name="encode-text", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--size", required=True, metavar="T2V|FILE.yaml", help="Size whose text encoder and text length are taken."
)
@click.option(
    "--data", required=True, metavar="DIR", help="Folder of videos and images with a list of captions, or of shards."
)
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    required=True,
    metavar="EMBEDDINGS",
    help="Folder for the embeddings; training takes it as --set data.embeddings=EMBEDDINGS.",
)
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Texts encoded at once.")
@click.option("--shard", type=click.IntRange(min=1), default=10_000, show_default=True, help="Texts per file.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as text.encoder=FOLDER or data.captions=FILE.",
)
@common_options
def encode_text(
    size: str,
    data: str,
    out: Path,
    batch: int,
    shard: int,
    overrides: tuple[str, ...],
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Encode the captions of a data set with the T5 of a size.

    The same command again encodes what is missing: after an interruption, or when captions were added. Under torchrun
    (torchrun --nproc-per-node 8 -m hpdm.training encode-text ...) the processes share the captions.
    """
    from hpdm.config import load_config
    from hpdm.config.data import AUTO, PROCEDURAL
    from hpdm.data.captions import Row, find_captions, read_captions
    from hpdm.data.index import find_file
    from hpdm.data.shards import open_shards
    from hpdm.model.text import WORDS, T5Encoder, load_encoder, store_embeddings
    from hpdm.support.environment import choose_device
    from hpdm.support.lock import hold

    config = load_config(size, [f"data.path={json.dumps(data)}", *overrides])
    if data == PROCEDURAL or not config.network.text_width or config.text.encoder == WORDS:
        raise InputError("encode-text is for folders with captions and for a size that reads a T5's embeddings")
    rows: list[Row] = []
    if (table := open_shards(config.data)) is not None:
        texts = list(dict.fromkeys(table.columns.get("caption", ())))
        if not texts:
            raise InputError(f"the shards in {data} hold no captions")
    else:
        rows = read_captions(find_captions(data, config.data.captions or AUTO))
        texts = list(dict.fromkeys(row.caption for row in rows if row.caption))
    if not texts:
        raise InputError(f"all {len(rows)} captions of {data} are empty")
    if empty := sum(not row.caption for row in rows):
        note(f"left out: {empty} of {len(rows)} rows with an empty caption", quiet)
    if missing := sum(find_file(data, path) is None for path in {row.path for row in rows}):
        note(f"{missing} files that are listed are not there; their captions are encoded all the same", quiet)
    rank, count = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    texts, quiet = texts[rank::count], quiet or rank > 0
    encoder = load_encoder(config, choose_device(device))
    assert isinstance(encoder, T5Encoder)  # sizes without one were refused above
    if rank == 0:  # for all of them
        click.get_current_context().with_resource(hold(out))
    with progress(total=len(texts), unit="caption", description=out.name, quiet=quiet) as bar:
        store_embeddings(out, texts, encoder, batch=batch, shard=shard, done=bar.update)
    note(f"encoded with {encoder.name}", quiet)
    share = f" by process {rank} of {count}" if count > 1 else ""
    click.echo(f"{len(texts)} captions are encoded in {out}{share}")
