"""Sampling for studies: samples of a checkpoint in a folder, with the command that makes the same."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpdm.checkpoint.load import load_checkpoint
from hpdm.sampling.folder import sample_into
from hpdm.sampling.request import CALLS, NOISE_RANGE, FolderRequest, SampleRequest
from hpdm.sampling.sampler import Sampler
from hpdm.support.environment import choose_device, processes_here


def sample_folder(
    checkpoint: str | Path,
    out: str | Path,
    *,
    num: int,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = True,
    sampler: str | None = None,
    settings: Mapping[str, Any] | None = None,
    noise_range: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    prompts: str | Path | None = None,
    batch: int | None = None,
    calls: str = CALLS[0],
    format: str = "mp4",
    save_levels: bool = False,
    sheet: bool = False,
) -> None:
    """Write `num` samples of a checkpoint, and samples.json, to the folder `out`; those that are there are kept.

    checkpoint: a run, a file, or a name. noise_range: `sigma_min`, `sigma_max` and `rho` where they are not the
    checkpoint's. The rest are fields of `SampleRequest` and `FolderRequest`. Under `torchrun`
    the processes share the samples out. Raises InputError.
    """
    request = SampleRequest(
        num=num,
        seed=seed,
        sampler=sampler,
        settings=settings or {},
        **(noise_range or {}),
        overrides=overrides,
        prompts=prompts,
        batch=batch,
        calls=calls,
    )
    to_write = FolderRequest(format=format, save_levels=save_levels, sheet=sheet)
    command = shlex.join(_words(checkpoint, out, device, request, to_write))
    process = processes_here()
    quiet = quiet or process.rank > 0
    made = Sampler(load_checkpoint(checkpoint), request, device=choose_device(device), quiet=quiet)
    sample_into(made, out, replace(to_write, command=command), process=process, quiet=quiet)


def _words(
    checkpoint: str | Path, out: str | Path, device: str, request: SampleRequest, to_write: FolderRequest
) -> list[str]:
    """The command of hpdm-sample that makes the same."""
    words = ["hpdm-sample", "--checkpoint", checkpoint, "--num", request.num, "--out", out]
    words += ["--format", to_write.format, "--seed", request.seed, "--device", device]
    for name in ("sampler", "prompts", "batch"):
        if (value := getattr(request, name)) is not None:
            words += [f"--{name}", value]
    words += ["--calls", request.calls] if request.calls != CALLS[0] else []
    walk = {name: getattr(request, name) for name in NOISE_RANGE if getattr(request, name) is not None}
    for name, value in {**request.settings, **walk}.items():
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        words += [f"--{name.lower().replace('_', '-')}", text]
    for text in request.overrides:
        words += ["--set", text]
    words += ["--save-levels"] * to_write.save_levels + ["--sheet"] * to_write.sheet
    return [str(word) for word in words]
