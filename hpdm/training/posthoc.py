"""Post-hoc EMA: an average of any length from snapshots of two lengths (EDM2, arXiv 2312.02696, section 3.2).

The average of relative length sigma_rel at step t weights step tau, 0 <= tau <= t, with the profile
(gamma + 1) tau^gamma / t^(gamma + 1). Snapshots are averages with other such profiles, so the combination of them whose
profile is closest to the one asked for, by least squares, is nearly the average that training would have kept. The
closer the snapshots, the nearer: `Reconstruction.error` says how near, whatever the weights did.

Unlike EDM2's, the coefficients add up to 1 exactly, so that weights which did not move come out as they are: an error
of 1e-4 there would be one of all weights, and late in a run that is more than lengths differ by.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpdm.checkpoint.folder import (
    CONFIG_FILE,
    EMA_FILE,
    SNAPSHOTS,
    TRACE_FILE,
    Damaged,
    check_files,
    open_weights,
    read_config,
    steps_saved,
    trace_file,
    write_manifest,
    write_weights,
)
from hpdm.config import save_config
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_folder, write_json
from hpdm.support.progress import note
from hpdm.training.ema import gamma_of

ABOUT_FILE = "posthoc.json"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One stored average: of relative length `sigma_rel` after `step` steps."""

    step: int
    sigma_rel: float
    file: Path


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Coefficients of snapshots, and how close their profile is to the one asked for."""

    coefficients: np.ndarray  # float64 [K]
    error: float  # root mean square difference of the profiles, as a share of the wanted one's


def profile_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> np.ndarray:
    """Integral over all steps of the product of two profiles, of arrays that broadcast; float64."""
    t_a, gamma_a, t_b, gamma_b = (np.asarray(value, np.float64) for value in (t_a, gamma_a, t_b, gamma_b))
    ratio = (t_a / t_b) ** np.where(t_a < t_b, gamma_b, -gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def solve(steps: Sequence[float], sigma_rels: Sequence[float], step: float, sigma_rel: float) -> Reconstruction:
    """How to combine averages of the lengths `sigma_rels` [K] at `steps` [K] into the one of `sigma_rel` at `step`."""
    t, gamma = np.asarray(steps, np.float64), np.array([gamma_of(value) for value in sigma_rels])
    wanted = gamma_of(sigma_rel)
    own = profile_product(step, wanted, step, wanted)
    norms = np.sqrt(profile_product(t, gamma, t, gamma))  # equations of one scale
    gram = profile_product(t[:, None], gamma[:, None], t, gamma) / (norms[:, None] * norms)
    right = profile_product(t, gamma, step, wanted) / norms
    free, shift = np.linalg.lstsq(gram, np.stack([right, 1 / norms], 1), rcond=len(t) * np.finfo(np.float64).eps)[0].T
    x = free + shift * (1 - (free / norms).sum()) / (shift / norms).sum()
    left = own - 2 * x @ right + x @ gram @ x
    return Reconstruction(coefficients=x / norms, error=float(np.sqrt(max(left, 0.0) / own)))


def find_snapshots(run: str | Path, step: int | None = None) -> list[Snapshot]:
    """The whole traces of a run after `step` steps at most, the newest by default, checkpoints included.

    Damaged ones are left out and named. Raises InputError where there are none, or none at `step`.
    """
    run = Path(run)
    folders = steps_saved(run) | steps_saved(run / SNAPSHOTS)
    with_traces = {number: files for number, path in sorted(folders.items()) if (files := _traces(path))}
    if not with_traces:
        raise InputError(f"{run} holds no averages for post-hoc EMA; train with --set training.keep_weights_every=N")
    step = max(with_traces) if step is None else step
    if step not in with_traces:
        raise InputError(f"{run} has no averages of step {step}; there are steps {_listed(with_traces)}")
    found = []
    for number, files in with_traces.items():
        if number > step:
            continue
        try:
            check_files(next(iter(files.values())).parent, [trace_file(sigma_rel) for sigma_rel in files])
        except Damaged as error:
            if number == step:
                raise
            note(f"{error}; the others are used")
            continue
        found += [Snapshot(step=number, sigma_rel=sigma_rel, file=file) for sigma_rel, file in files.items()]
    return found


def _traces(folder) -> dict[float, Path]:
    """{sigma_rel: file} of the traces in a folder; the file is an index where a sharded run saved them in parts."""
    matches = ((TRACE_FILE.fullmatch(path.name), path) for path in sorted(Path(folder).iterdir()))
    return {float(match[1]): path for match, path in matches if match}


def _listed(steps):
    steps = list(steps)
    return ", ".join(map(str, steps if len(steps) <= 8 else [*steps[:3], "...", *steps[-3:]]))


def combine(files: Sequence[Path], coefficients: Sequence[float] | np.ndarray) -> dict[str, torch.Tensor]:
    """name → sum of coefficient times tensor over weights files, summed in float64, float32; one tensor at a time.

    Raises InputError where the files differ in names or shapes.
    """
    result = {}
    with ExitStack() as stack:
        opened = [stack.enter_context(open_weights(file)) for file in files]
        for weights, file in zip(opened, files, strict=True):
            if set(weights) != set(opened[0]):
                raise InputError(f"{file} and {files[0]} are of different networks")
        for name in opened[0]:
            total = torch.zeros(opened[0].shape(name), dtype=torch.float64)
            for weights, file, coefficient in zip(opened, files, coefficients, strict=True):
                if weights.shape(name) != tuple(total.shape):
                    raise InputError(f"{file}: {name} is of another shape than in {files[0]}")
                total.add_(weights[name].double(), alpha=float(coefficient))
            result[name] = total.float()
    return result


def write_average(run: str | Path, out: str | Path, *, length: float, step: int | None = None) -> dict:
    """Write the average of relative length `length` after `step` steps of a run as a checkpoint to sample from.

    The folder `out` holds `ema.safetensors`, the configuration, a manifest and ABOUT_FILE, whose content is returned:
    {"length", "step", "profile_error", "snapshots": [{"file", "sigma_rel", "step", "coefficient"}, ...]}.
    """
    snapshots = find_snapshots(run, step)
    step = snapshots[-1].step
    solution = solve([s.step for s in snapshots], [s.sigma_rel for s in snapshots], step, length)
    files = [snapshot.file for snapshot in snapshots]
    about = {
        "length": length,
        "step": step,
        "profile_error": solution.error,
        "snapshots": [
            {
                "file": s.file.relative_to(run).as_posix(),
                "sigma_rel": s.sigma_rel,
                "step": s.step,
                "coefficient": float(x),
            }
            for s, x in zip(snapshots, solution.coefficients, strict=True)
        ],
    }
    config = read_config(files[-1].parent / CONFIG_FILE)
    with atomic_folder(out) as folder:
        write_weights(folder / EMA_FILE, combine(files, solution.coefficients), config=config, step=step, kind="ema")
        save_config(config, folder / CONFIG_FILE)
        (folder / EMA_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)
        write_json(folder / ABOUT_FILE, about)
        write_manifest(folder, step)
    return about
