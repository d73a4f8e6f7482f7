"""Sampling for studies: one function, so that all say alike what they sample."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


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
    overrides: Sequence[str] = (),
    prompts: str | Path | None = None,
    format: str = "mp4",
    save_levels: bool = False,
    sheet: bool = False,
    batch: int | None = None,
    calls: str | None = None,
) -> None:
    """Write `num` samples of a checkpoint, and samples.json, to the folder `out`; those that are there are kept.

    settings: fields of `hpdm.config.sampling.SamplingConfig`, as options of `hpdm-sample`; overrides: texts
    "sampling.KEY=VALUE"; calls: "exact" or "fastest"; the rest as for `hpdm-sample`. Raises InputError.
    """
    from hpdm.commands.sample import sample

    words = ["--checkpoint", checkpoint, "--num", num, "--out", out, "--format", format, "--seed", seed]
    words += ["--device", device]
    for name, value in (("sampler", sampler), ("prompts", prompts), ("batch", batch), ("calls", calls)):
        words += [] if value is None else [f"--{name}", value]
    for name, value in (settings or {}).items():
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        words += [f"--{name.lower().replace('_', '-')}", text]
    for text in overrides:
        words += ["--set", text]
    for name, wanted in (("save-levels", save_levels), ("sheet", sheet), ("quiet", quiet)):
        words += [f"--{name}"] * wanted
    with redirect_stdout(io.StringIO()):
        sample.main([str(word) for word in words], prog_name=sample.name, standalone_mode=False)
