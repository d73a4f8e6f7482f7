"""Snapshots of the averaged weights along a run, which no rotation of checkpoints deletes.

    snapshots/step-00010000/ema.safetensors           the average that is sampled from
                            trace-0.050.safetensors   EDM2's averages, from which `hpdm-info ema` makes any other length
                            trace-0.100.safetensors
                            config.yaml, manifest.json

A snapshot takes 4 bytes a parameter and average. Where training is sharded every process writes its part of each average
instead, as in `hpdm.checkpoint.shard_files`. A step that has one has a checkpoint too, saved before it: so a run
that is killed in between writes it when it goes on.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpdm.checkpoint.folder import (
    CONFIG_FILE,
    EMA_FILE,
    MANIFEST_FILE,
    SNAPSHOTS,
    Damaged,
    _whole,
    check_files,
    step_folder,
    trace_file,
    write_manifest,
    write_weights,
)
from hpdm.config import save_config
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_folder, read_json

if TYPE_CHECKING:
    from hpdm.config import Config
    from hpdm.config.training import TrainingConfig
    from hpdm.training.ema import Average, PowerEMA


def snapshot_folder(run: str | Path, step: int) -> Path:
    return step_folder(Path(run) / SNAPSHOTS, step)


def kept_at(settings: "TrainingConfig", step: int) -> bool:
    """Whether a `TrainingConfig` asks for a snapshot after that many steps."""
    return bool(settings.keep_weights_every) and step % settings.keep_weights_every == 0


def save_snapshot(
    run: str | Path,
    *,
    step: int,
    ema: "Average",
    config: "Config",
    traces: "Sequence[PowerEMA]" = (),
    first: bool = True,
) -> Path:
    """Write the averages after `step` steps beside the run's checkpoints; one of that step is replaced.

    Every process must call this; the one with `first` writes. Raises WriteError where the disk is full.
    """
    folder = snapshot_folder(run, step)
    sets = {EMA_FILE: ema, **{trace_file(trace.sigma_rel): trace for trace in traces}}
    if not first:
        for average in sets.values():
            _whole(average.named_averages(), keep=False)
        return folder
    with atomic_folder(folder) as temporary:
        for file, average in sets.items():  # one at a time is whole
            weights = _whole(average.named_averages(), keep=True)
            write_weights(temporary / file, weights, config=config, step=step, kind=file.removesuffix(".safetensors"))
        save_config(config, temporary / CONFIG_FILE)
        mode = (temporary / CONFIG_FILE).stat().st_mode
        for file in sets:
            os.chmod(temporary / file, mode)  # safetensors writes for the owner alone
        write_manifest(temporary, step)
    return folder


def check_snapshot(folder: str | Path) -> bool:
    """Compare a snapshot's files with its manifest; False where there is none; raises Damaged with what is wrong."""
    if not (Path(folder) / MANIFEST_FILE).exists():
        return False
    try:
        names = list(read_json(Path(folder) / MANIFEST_FILE)["files"])
    except (InputError, KeyError, TypeError) as error:
        raise Damaged(f"{folder} is damaged: {MANIFEST_FILE} cannot be read") from error
    return check_files(folder, names)
