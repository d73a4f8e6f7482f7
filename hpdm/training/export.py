"""One safetensors file of weights that a sharded run has saved in many."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_folder, holds_something


def export_weights(
    checkpoint: str | Path, out: str | Path, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Write the weights of a run's newest whole checkpoint, or of a step's folder, into the folder `out`.

    say(text) gets a line where it is not the run's last one. Returns {"from", "step", "files": {name: {"bytes",
    "sha256"}}}. Raises InputError where there is no checkpoint, it is damaged, or `out` holds something.
    """
    if not Path(checkpoint).is_dir():
        raise InputError(f"{checkpoint}: no such folder; name a run or one of its steps")
    if holds_something(out):
        raise InputError(f"--out {out} is not empty; name a new folder")
    found = find_weights(checkpoint, say=say).parent
    with atomic_folder(out) as temporary:
        for name, raw in ((MODEL_FILE, True), (EMA_FILE, False)):
            with open_weights(find_weights(found, raw=raw, say=say)) as weights:
                header: dict[str, Any] = weights.header
                described = {key: (weights.dtype(key), weights.shape(key)) for key in weights}
                # Read twice: the digest comes first in the file.
                text = json.dumps(header | {"sha256": tensor_digest(weights)})
                write_tensors(temporary / name, described, weights, {HEADER: text})
        save_config(config_from_dict(header["config"], where=str(found)), temporary / CONFIG_FILE)
        files = write_manifest(temporary, header["step"], (MODEL_FILE, EMA_FILE, CONFIG_FILE))
    return {"from": str(found), "step": header["step"], "files": files}
