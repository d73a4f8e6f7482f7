"""`hpdm-info export`: one safetensors file of weights that a sharded run has saved in many."""

import json
from pathlib import Path

import click

from hpdm.support.console import Command, OutputFolder


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
def export(checkpoint: str, out: Path, as_json: bool) -> None:
    """Write a checkpoint's weights and their average as one safetensors file each.

    For checkpoints of sharded training (parallel=fsdp or hsdp), which have a file per process; hpdm-sample reads
    either. Memory holds one tensor at a time. The optimizer is left out: training resumes from the sharded checkpoint
    itself.

        hpdm-info export runs/T2V --out t2v/
    """
    from hpdm.support.progress import note
    from hpdm.training.export import export_weights

    about = export_weights(checkpoint, out, say=note)
    if as_json:
        click.echo(json.dumps(about, indent=2))
    else:
        click.echo(f"{about['from']} as {', '.join(about['files'])} in {out}")
