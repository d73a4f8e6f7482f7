"""`hpdm-info export`: one safetensors file of weights that a sharded run has saved in many."""

import json
from pathlib import Path

import click

from hpdm.console import Command, OutputFolder
from hpdm.errors import InputError


@click.command(cls=Command, name="export", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", metavar="RUN|STEP")
@click.option("--out", type=OutputFolder(path_type=Path), required=True, metavar="FOLDER",
              help="Folder for model.safetensors, ema.safetensors, config.yaml and their checksums.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def export(checkpoint, out, as_json):
    """Write a checkpoint's weights and their average as one safetensors file each.

    For checkpoints of sharded training (parallel=fsdp or hsdp), which have a file per process; hpdm-sample reads either.
    Memory holds one tensor at a time. The optimizer is left out: training resumes from the sharded checkpoint itself.

        hpdm-info export runs/T2V --out t2v/
    """
    from hpdm.console import note

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
    from hpdm.config import config_from_dict, save_config
    from hpdm.files import atomic_folder, holds_something
    from hpdm.sampling.load import find_weights
    from hpdm.training.checkpoint import CONFIG_FILE, EMA_FILE, MODEL_FILE, open_weights, write_manifest

    if not Path(checkpoint).is_dir():
        raise InputError(f"{checkpoint}: no such folder; name a run or one of its steps")
    if holds_something(out):
        raise InputError(f"--out {out} is not empty; name a new folder")
    found = find_weights(checkpoint, say=say).parent
    with atomic_folder(out) as temporary:
        for name, raw in ((MODEL_FILE, True), (EMA_FILE, False)):
            with open_weights(find_weights(found, raw=raw, say=say)) as weights:
                header = weights.header
                write_one_by_one(temporary / name, weights, header)
        save_config(config_from_dict(header["config"], where=str(found)), temporary / CONFIG_FILE)
        files = write_manifest(temporary, header["step"], (MODEL_FILE, EMA_FILE, CONFIG_FILE))
    return {"from": str(found), "step": header["step"], "files": files}


def write_one_by_one(file, weights, header):
    """What `hpdm.training.checkpoint.write_weights` writes, with one tensor in memory at a time.

    weights: by name, each read when it is asked for, with `shape(name)` and `dtype(name)`; header: config, step and kind
    of weights. They are read twice: their digest comes first in the file.
    """
    import torch

    from hpdm.training.checkpoint import HEADER, tensor_digest

    kinds = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    header = header | {"sha256": tensor_digest(weights)}
    content, place = {"__metadata__": {HEADER: json.dumps(header)}}, 0
    names = sorted(weights, key=lambda name: (-weights.dtype(name).itemsize, name))
    for name in names:
        kind, shape = weights.dtype(name), weights.shape(name)
        size = torch.Size(shape).numel() * kind.itemsize
        content[name] = {"dtype": kinds[kind], "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    head = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with open(file, "wb") as output:
        output.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            tensor = weights[name].contiguous()
            output.write(tensor.reshape(-1).view(torch.uint8).numpy())
