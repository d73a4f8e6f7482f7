"""Sets of samples for the study of sampling: made, looked at and reduced to what its statistics need.

A set is what one checkpoint makes under one option with one seed: `num` videos, kept as their features, whether the
classifier sees their class, their seam scores, and how they were made.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hpdm.checkpoint.load import load_checkpoint
from hpdm.config import Config, override_config
from hpdm.config.sampling import named_sampler
from hpdm.support.environment import choose_device, hardware
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, atomic_folder, parse_json, read_json
from hpdm_eval.studies.sampling.options import OPTIONS, Option, slug

PARTS = ("features", "right", "seams", "detail")


@dataclass(frozen=True, kw_only=True)
class SetJob:
    """One set to make; small enough to send to another process."""

    checkpoint: str  # as for hpdm-sample
    sha256: str  # of its weights
    option: str
    seed: int
    num: int
    device: str
    scratch: Path
    steps: tuple[int, ...] | None = None  # that options take shares of; None: the checkpoint's
    common: tuple[str, ...] = ()  # KEY=VALUE of SamplingConfig, for all options and the baseline

    @property
    def name(self) -> str:
        steps = "" if self.steps is None else "-of-" + "-".join(map(str, self.steps))
        common = "".join("-" + slug(text) for text in self.common)
        return f"{self.sha256[:12]}-{slug(self.option)}{steps}{common}-n{self.num}-s{self.seed}"

    @property
    def settings(self) -> dict:
        """What all options share, and `option_settings` of the job's option."""
        config = with_paper_sampler(load_checkpoint_config(self.checkpoint), self.steps, self.common)
        shared = {key: getattr(config.sampling, key) for key in (text.partition("=")[0] for text in self.common)}
        return {**shared, **option_settings(OPTIONS[self.option], config)}

    @property
    def file(self) -> Path:
        return self.scratch / "sets" / f"{self.name}.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledSet:
    """What is kept of a set of N videos."""

    features: np.ndarray  # float32 [N, D] of shapes3d
    right: np.ndarray  # bool [N]: the classifier sees the class that was asked for
    seams: np.ndarray  # float64 [N]: each video's part in the pooled seam excess
    detail: np.ndarray  # float64 [N]: `fine_detail` of each
    about: dict  # samples (path, digest, clips), block evaluations, seconds, backbone, settings, hardware


def option_settings(option: Option, config: Config) -> dict:
    """All fields of SamplingConfig that an `Option` fixes for a `Config`: its own and the numbers of steps."""
    shares = [option.steps[min(level, len(option.steps) - 1)] for level in range(config.pyramid.levels)]
    steps = config.sampling.level_steps(config.pyramid.levels)
    return {**option.settings, "steps": [max(1, round(share * n)) for share, n in zip(shares, steps)]}


def with_paper_sampler(config: Config, steps: tuple[int, ...] | None = None, common: Sequence[str] = ()) -> Config:
    """A `Config` with the sampler of the paper, which takes `steps` a level; None: the checkpoint's.

    common: KEY=VALUE of SamplingConfig, such as "guidance=2".
    """
    settings = named_sampler("paper", config.sampling) | ({} if steps is None else {"steps": steps})
    config = replace(config, sampling=replace(config.sampling, **settings))
    return override_config(config, [f"sampling.{text}" for text in common])


def load_set(job: SetJob) -> SampledSet | None:
    """The set of a job, where it has been made with the option's present settings."""
    try:
        with np.load(job.file, allow_pickle=False) as arrays:
            about = parse_json(str(arrays["about"]))
            sampled = SampledSet(**{part: arrays[part] for part in PARTS}, about=about)
    except (OSError, ValueError, KeyError):
        return None
    return sampled if about["settings"] == parse_json(json.dumps(job.settings)) else None


_LOADED = {}


def load_checkpoint_config(name: str) -> Config:
    """The configuration of a checkpoint, read once per process."""
    return _once(("checkpoint", name), lambda: load_checkpoint(name).config)


def _once(key, make):
    if key not in _LOADED:
        _LOADED[key] = make()
    return _LOADED[key]


def make_set(job: SetJob) -> None:
    """Sample, look and keep; the videos themselves are removed."""
    from hpdm_eval.studies.samples import sample_folder

    settings, folder = job.settings, job.scratch / "samples" / job.name
    device = choose_device(job.device)
    shutil.rmtree(folder, ignore_errors=True)  # of a set that was interrupted: its seconds would be wrong
    on_gpu = device.type == "cuda"
    began = time.perf_counter()
    sample_folder(
        job.checkpoint,
        folder,
        num=job.num,
        seed=job.seed,
        device=job.device,
        format="npy",
        sampler="paper",
        overrides=[f"sampling.{key}={json.dumps(value)}" for key, value in settings.items()],
        calls="fastest" if on_gpu else "exact",
        batch=job.num if on_gpu else None,
    )
    seconds = time.perf_counter() - began
    manifest = read_json(folder / "samples.json")
    features, right, detail, samples, backbone = look(folder, device)
    seams = seam_scores(folder)
    about = {
        "option": job.option,
        "settings": settings,
        "seed": job.seed,
        "seconds": seconds,
        "samples": samples,
        "backbone": backbone,
        "block_evaluations_per_video": manifest["block_evaluations_per_video"],
        "all_settings": manifest["settings"],
        "command": manifest["command"],
        "versions": manifest["versions"],
        "git": manifest["git"],
        "hardware": hardware(device),
    }
    with atomic_file(job.file) as file:
        np.savez(file, features=features, right=right, seams=seams, detail=detail, about=np.array(json.dumps(about)))
    shutil.rmtree(folder, ignore_errors=True)


def look(folder: Path, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict, dict]:
    """(features float32 [N, D], whether each is seen as its class, fine detail of each, the source's summary, the
    backbone's description)."""
    from hpdm_eval.backbones import load_backbone
    from hpdm_eval.clips.source import open_clips
    from hpdm_eval.features.extraction import extract_features
    from hpdm_eval.metrics.accuracy import label_in_name
    from hpdm_eval.metrics.detail import fine_detail
    from hpdm_eval.protocols import load_protocol

    backbone = _once(("backbone", str(device)), lambda: load_backbone("shapes3d", device=device))

    def opened():
        return open_clips(folder, load_protocol("native", backbone="shapes3d"), quiet=True, workers=0)

    source = opened()
    extracted = extract_features(source, backbone, quiet=True)
    assert extracted.probabilities is not None  # as shapes3d gives them
    labels = np.array([label_in_name(name) for name in extracted.names])
    detail = np.array([fine_detail(clip.video) for clip in opened()])
    return (
        extracted.features,
        extracted.probabilities.argmax(1) == labels,
        detail,
        source.summary(),
        backbone.describe(),
    )


def seam_scores(folder: Path) -> np.ndarray:
    """Each video's part in the pooled seam excess, float64 [N], on the borders of overlapping tiles.

    They are the same whatever the option, or the excesses could not be compared.
    """
    from hpdm_eval.evaluation.seams import find_plan, judge_tiling
    from hpdm_eval.evaluation.settings import Evaluation
    from hpdm_eval.protocols import load_protocol

    evaluation = Evaluation(protocol=load_protocol("native"), samples=folder, quiet=True, workers=0, group_by="none")
    return judge_tiling(evaluation, find_plan(folder, overlap="hw")).pooled.scores


def draw_reference(
    scratch: Path, count: int, size: Sequence[int], device: str, quiet: bool = False
) -> tuple[np.ndarray, float, dict]:
    """(features float32 [count, D], mean fine detail, summary) of procedural clips of `size` that are new."""
    from hpdm.data.procedural import procedural_clip
    from hpdm.data.procedural_folders import REFERENCE_SEED
    from hpdm.support.progress import progress

    name = f"reference-{count}-{'x'.join(map(str, size))}"
    file, folder = scratch / f"{name}.npz", scratch / name
    if not file.exists():
        if not folder.exists():
            with atomic_folder(folder) as made:
                for index in progress(range(count), description="drawing reference", unit="clip", quiet=quiet):
                    video, label = procedural_clip(REFERENCE_SEED, index, *size)
                    np.save(made / f"{index:05d}_c{label:03d}.npy", video, allow_pickle=False)
        features, _, detail, summary, _ = look(folder, choose_device(device))
        with atomic_file(file) as out:
            np.savez(out, features=features, detail=detail.mean(), summary=np.array(json.dumps(summary)))
        shutil.rmtree(folder, ignore_errors=True)
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["features"], float(arrays["detail"]), parse_json(str(arrays["summary"]))


def make_sets(jobs: Sequence[SetJob], processes: int, *, deadline: float | None = None, quiet: bool = False) -> None:
    """Make the sets of `jobs` that are not there yet, in their order, `processes` at a time.

    deadline: `time.monotonic()` after which none is begun. Raises InputError where a set cannot be made.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from hpdm.support.progress import progress

    missing = [job for job in jobs if load_set(job) is None]
    bar = progress(total=len(jobs), initial=len(jobs) - len(missing), unit="set", quiet=quiet)

    def late():
        return deadline is not None and time.monotonic() > deadline

    with bar:
        if processes == 1 or len(missing) < 2:
            for job in missing:
                if late():
                    return
                make_set(job)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(processes, len(missing)), context, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            futures = [
                pool.submit(_make_unless, job, deadline and deadline - time.monotonic() + time.time())
                for job in missing
            ]
            for future in as_completed(futures):
                if error := future.exception():
                    pool.shutdown(cancel_futures=True)
                    raise InputError(f"a set of samples could not be made: {type(error).__name__}: {error}") from error
                bar.update()


def _make_unless(job, end):
    if end is None or time.time() < end:
        make_set(job)
