"""`hpdm-info export`: one safetensors file of weights that a sharded run has saved in many."""

import json
from pathlib import Path

import click

from hpdm.support.console import Command, OutputFolder
from hpdm.support.errors import InputError


@click.command(cls=Command, name="export", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", metavar="RUN|STEP")
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder for model.safetensors, ema.safetensors, config.yaml and their checksums.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def export(checkpoint, out, as_json):
    """Write a checkpoint's weights and their average as one safetensors file each.

    For checkpoints of sharded training (parallel=fsdp or hsdp), which have a file per process; hpdm-sample reads
    either. Memory holds one tensor at a time. The optimizer is left out: training resumes from the sharded checkpoint itself.

        hpdm-info export runs/T2V --out t2v/
    """
    from hpdm.support.progress import note

    about = export_weights(checkpoint, out, say=note)
    if as_json:
        click.echo(json.dumps(about, indent=2))
    else:
        click.echo(f"{about['from']} as {', '.join(about['files'])} in {out}")


def export_weights(checkpoint, out, say=lambda text: None) -> dict:
    """Write the weights of a run's newest whole checkpoint, or of a step's folder, into the folder `out`.

    say(text) gets a line where it is not the run's last one. Returns {"from", "step", "files": {name: {"bytes",
    "sha256"}}}. Raises InputError where there is no checkpoint, it is damaged, or `out` holds something.
    """
    from hpdm.checkpoint.folder import (
        CONFIG_FILE,
        EMA_FILE,
        HEADER,
        MODEL_FILE,
        open_weights,
        tensor_digest,
        write_manifest,
    )
    from hpdm.checkpoint.load import find_weights
    from hpdm.checkpoint.shard_files import write_tensors
    from hpdm.config import config_from_dict, save_config
    from hpdm.support.files import atomic_folder, holds_something

    if not Path(checkpoint).is_dir():
        raise InputError(f"{checkpoint}: no such folder; name a run or one of its steps")
    if holds_something(out):
        raise InputError(f"--out {out} is not empty; name a new folder")
    found = find_weights(checkpoint, say=say).parent
    with atomic_folder(out) as temporary:
        for name, raw in ((MODEL_FILE, True), (EMA_FILE, False)):
            with open_weights(find_weights(found, raw=raw, say=say)) as weights:
                header = weights.header
                described = {key: (weights.dtype(key), weights.shape(key)) for key in weights}
                # Read twice: the digest comes first in the file.
                text = json.dumps(header | {"sha256": tensor_digest(weights)})
                write_tensors(temporary / name, described, weights, {HEADER: text})
        save_config(config_from_dict(header["config"], where=str(found)), temporary / CONFIG_FILE)
        files = write_manifest(temporary, header["step"], (MODEL_FILE, EMA_FILE, CONFIG_FILE))
    return {"from": str(found), "step": header["step"], "files": files}
