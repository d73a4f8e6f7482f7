"""The figures of a variant, each a record that also says which study, variant, tier and repeat it belongs to."""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines.budget import training_cost
from baselines.reconstruct import SUMMARY
from hpdm.checkpoint.folder import step_folder
from hpdm.checkpoint.load import load_checkpoint
from hpdm.config import Config, config_to_dict
from hpdm.data.procedural import CLASS_NAMES
from hpdm.methods import make_method
from hpdm.support.environment import choose_device
from hpdm.support.files import read_json, write_json
from hpdm.training.plan import count_flops
from hpdm_eval.backbones import load_backbone
from hpdm_eval.clips.source import open_clips
from hpdm_eval.evaluation.api import record_of
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.extraction import extract_features
from hpdm_eval.metrics.accuracy import class_accuracy, label_in_name
from hpdm_eval.metrics.detail import detail_ratio, fine_detail
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import Record, make_record
from hpdm_eval.studies.ablations.denoising import errors_by_noise, errors_by_position, held_out
from hpdm_eval.studies.ablations.plan import Judgement, Plan, Run, Variant
from hpdm_eval.support.distributed import rank_and_size
from hpdm_eval.support.timing import median_interval

NO_CLIPS = {"path": "-", "sha256": sha256(b"").hexdigest(), "clips": 0, "rejected": []}


class Records:
    """The records of one tier in a folder, a file each, named by what they are about."""

    def __init__(self, folder: str | Path, tier_name: str, command: str) -> None:
        self.folder, self.tier, self.command = Path(folder), tier_name, command

    def path(self, variant: Variant, metric: str, repeat: int, **place: Any) -> Path:
        """File of one record; `place` says what tells it from others of its variant, such as level and step."""
        at = "".join(f"-{key}{value}" for key, value in place.items() if value is not None)
        return self.folder / f"{variant.full_name}-r{repeat}-{metric}{at}.json"

    def save(self, record: Record, path: Path, variant: Variant, repeat: int, **place: Any) -> Record:
        """Write a `Record` with the study's keys in it; returns that."""
        about = {
            "study": variant.study,
            "variant": variant.name,
            "tier": self.tier,
            "repeat": repeat,
            **{key: value for key, value in place.items() if value is not None},
            "study_command": self.command,
        }
        record = replace(record, extra={**record.extra, **about})
        if rank_and_size()[0] == 0:
            write_json(path, record.to_dict())
        return record


def accuracy_record(
    folder: str | Path,
    *,
    device: str = "auto",
    seed: int = 0,
    count: int | None = None,
    workers: int | None = None,
    quiet: bool = True,
) -> Record:
    """How often the shipped classifier sees the class that samples of procedural videos were asked for: a `Record`."""
    started, device = time.time(), choose_device(device)
    protocol = load_protocol("native", backbone="shapes3d", **({"num_samples": count} if count else {}))
    backbone = load_backbone("shapes3d", device=device)
    source = open_clips(folder, protocol, quiet=quiet, workers=workers)
    extracted = extract_features(source, backbone, quiet=quiet)
    assert extracted.probabilities is not None  # as shapes3d gives them
    accuracy = class_accuracy(extracted.probabilities, [label_in_name(name) for name in extracted.names])
    return make_record(
        started=started,
        device=device,
        metric="accuracy",
        value=accuracy.value,
        ci95=accuracy.ci95,
        higher_is_better=True,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        num_samples=source.accepted,
        samples=source.summary(),
        backbone=backbone.describe(),
        seed=seed,
        details=tuple({"class": name, "accuracy": value} for name, value in zip(CLASS_NAMES, accuracy.per_class)),
    )


def step_record(
    metric: str,
    value: float | list[float],
    config: Config,
    *,
    started: float,
    device: torch.device | str = "cpu",
    details: Iterable[dict] = (),
) -> Record:
    """A figure of a network or a training step, which judges no clips: a `Record`.

    value: a number, or a list of one per timed round: the figure is then their median, with its interval.
    """
    ci95 = None
    if isinstance(value, list):
        ci95 = median_interval(value)
        value = statistics.median(value)
    units = {
        "throughput": "videos/s",
        "memory": "GiB",
        "flops": "FLOP/sample",
        "compute": "TFLOP",
        "parameters": None,
        "sampling": "s/video",
        "denoising": "squared pixels of [-1, 1]",
    }
    settings = config_to_dict(config)
    digest = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return make_record(
        started=started,
        device=device,
        metric=metric,
        value=value,
        ci95=ci95,
        unit=units[metric],
        higher_is_better=metric == "throughput",
        protocol={"name": "training", "config": settings, "hash": digest},
        num_samples=0,
        samples=NO_CLIPS,
        seed=config.training.seed,
        details=tuple(details),
    )


DENOISED = 16  # clips whose denoised pixels are compared with the clean ones
DENOISED_EVERYWHERE = 4  # of them at every tile of the finest level


def denoising_records(checkpoint: str | Path) -> dict[int, Record]:
    """How well a checkpoint denoises held-out clips: {level: `Record`}, the finest one also by position of the tile.

    The value is the geometric mean over noise levels, whose errors differ by orders of magnitude.
    """
    started = time.time()
    loaded = load_checkpoint(checkpoint)
    videos, labels = held_out(loaded.config, DENOISED)
    finest, records = loaded.config.pyramid.levels - 1, {}
    for level, errors in errors_by_noise(loaded.network, loaded.config, videos, labels).items():
        details = [{"noise_over_signal": ratio, "error": error} for ratio, error in errors.items()]
        if level == finest and level:
            few = slice(DENOISED_EVERYWHERE)
            by_position = errors_by_position(loaded.network, loaded.config, videos[few], labels[few])
            details += [
                {"noise_over_signal": 0.5, "position": name, "error": error} for name, error in by_position.items()
            ]
        value = float(np.exp(np.mean(np.log(list(errors.values())))))
        records[level] = step_record("denoising", value, loaded.config, started=started, details=details)
    return records


def count_parameters(config: Config) -> int:
    """Parameters of the configuration's network."""
    with torch.device("meta"):
        network = make_method(config).make_network()
    return sum(parameter.numel() for parameter in network.parameters())


class Judge:
    """Makes the records of judgements (`hpdm_eval.studies.ablations.plan.Judgement`) on sample folders.

    statistics: function of (level of the tier's pyramid, shrink rule, frames or None) → file of the real clips.
    trained_by: function of a `Run` → commits of the code that trained it, or None. run_folder: of a `Run` → its folder.
    real_clips: folder of real clips of the finest level.
    """

    def __init__(
        self,
        plan: Plan,
        records: Records,
        statistics: Callable[..., Path],
        trained_by: Callable[[Run], list[str] | None],
        device: str,
        run_folder: Callable[[Run], Path] | None = None,
        real_clips: Path | None = None,
    ) -> None:
        self.plan, self.records, self.device = plan, records, device
        self.statistics, self.trained_by = statistics, trained_by
        self.run_folder, self.real_clips = run_folder, real_clips
        self._denoised: dict[Path, dict[int, Record]] = {}  # of the last checkpoint that was asked for

    def wanted(self, judgement: Judgement) -> dict[Path, tuple[Callable[[Path], Record], str, dict[str, Any]]]:
        """{file of a record: (function that makes it, its metric, its place)} of all records of a judgement."""
        study, samples = judgement.study, judgement.samples
        step = samples.step if study.checkpoints else None
        wanted = {}

        def want(metric, make, **place):
            path = self.records.path(judgement.variant, metric, judgement.repeat, **place)
            wanted[path] = make, metric, {key: value for key, value in place.items() if key != "n"}

        for metric in study.measures:
            if metric == "fvd":
                for level in judgement.levels:
                    for count in judgement.counts:
                        n = count if study.counts else None
                        want(
                            "fvd",
                            lambda folder, level=level, count=count: self._fvd(judgement, folder, level, count),
                            level=self._base_level(samples.config, level),
                            step=step,
                            n=n,
                        )
            elif metric == "accuracy" and self.plan.tier.backbone == "shapes3d":
                want("accuracy", lambda folder: self._accuracy(judgement, folder), step=step)
            elif metric == "is" and self.plan.tier.backbone in ("shapes3d", "c3d"):
                want("is", lambda folder: self._inception_score(judgement, folder), step=step)
            elif metric == "psnr" and samples.reconstructed:
                want("psnr", lambda folder: self._psnr(judgement, folder))
            elif metric == "seams":
                want("seams", lambda folder: self._seams(judgement, folder), step=step)
            elif metric == "pyramid" and samples.config.pyramid.levels > 1 and not samples.reconstructed:
                want("pyramid", lambda folder: self._pyramid(judgement, folder), step=step)
            elif metric == "positions" and samples.run and samples.config.pyramid.levels > 1:
                want("positions", lambda folder: self._positions(judgement, folder))
            elif metric == "detail" and samples.run and not samples.reconstructed:
                want("detail", lambda folder: self._detail(judgement, folder), step=step)
            elif metric == "denoising" and samples.run:
                for level in range(samples.config.pyramid.levels):
                    want(
                        "denoising",
                        lambda folder, level=level: self._denoising(judgement)[level],
                        level=self._base_level(samples.config, level),
                    )
            elif metric == "parameters" and samples.run:
                want("parameters", lambda folder: self._of_network("parameters", count_parameters, samples.config))
            elif metric == "flops" and samples.run:
                want(
                    "flops",
                    lambda folder: self._of_network(
                        "flops", lambda config: count_flops(config).training, samples.config
                    ),
                )
            elif metric == "compute" and samples.run:
                want(
                    "compute",
                    lambda folder: self._of_network(
                        "compute", lambda config: training_cost(config) / 1e12, samples.config
                    ),
                )
        return wanted

    def make(self, judgement: Judgement, folder: Path) -> None:
        """Make the records that do not exist yet from the samples in `folder`."""
        run = judgement.samples.run
        for path, (make, _, place) in self.wanted(judgement).items():
            if not path.exists():
                self.records.save(
                    make(folder),
                    path,
                    judgement.variant,
                    judgement.repeat,
                    trained_by=run and self.trained_by(run),
                    **place,
                )

    def _base_level(self, config, level):
        """The level of the tier's own pyramid that has the resolution of `level` of a variant's."""
        return level + self.plan.base.pyramid.levels - config.pyramid.levels

    def _evaluation(self, judgement, samples, *, reference=None, count=None, **changes):
        """An `Evaluation` of a folder of samples under the protocol native; changes: of it."""
        protocol = load_protocol("native", num_samples=count or self.plan.tier.samples, **changes)
        return Evaluation(
            protocol=protocol,
            samples=samples,
            reference=reference,
            seed=judgement.repeat,
            device=self.device,
            quiet=True,
            workers=0 if self.plan.tier.format == "npy" else None,  # our own arrays break no decoder
        )

    def _finest(self, judgement, folder):
        return folder / f"level{judgement.samples.config.pyramid.levels - 1}"

    def _fvd(self, judgement, folder, level, count):
        config = judgement.samples.config
        frames = self.plan.tier.short_clip if judgement.variant.clip == "short" else None
        changes = {"backbone": self.plan.tier.backbone} | ({"frames": frames} if frames else {})
        statistics = self.statistics(self._base_level(config, level), config.training.shrink, frames)
        samples = folder / f"level{level}"
        return record_of("fvd", self._evaluation(judgement, samples, reference=statistics, count=count, **changes))

    def _accuracy(self, judgement, folder):
        return accuracy_record(
            self._finest(judgement, folder),
            device=self.device,
            seed=judgement.repeat,
            count=self.plan.tier.samples,
            workers=0 if self.plan.tier.format == "npy" else None,
        )

    def _seams(self, judgement, folder):
        finest, options = self._finest(judgement, folder), {}
        tiled = (finest / "samples.json").exists()  # else nothing says where borders would be
        if not tiled or judgement.samples.config.pyramid.levels == 1:
            base = self.plan.base
            options = {
                "patch": base.pyramid.patch,
                "overlap": base.sampling.overlap,
                "levels": base.pyramid.levels,
                "lossless": not tiled,
            }
        return record_of("seams", self._evaluation(judgement, finest), options)

    def _positions(self, judgement, folder):
        finest, backbone = self._finest(judgement, folder), self.plan.tier.backbone
        evaluation = self._evaluation(judgement, finest, reference=self.real_clips, backbone=backbone)
        return record_of("positions", evaluation)

    def _detail(self, judgement, folder):
        started, sources, details = time.time(), [], []
        for clips in (self._finest(judgement, folder), self.real_clips):
            sources.append(open_clips(clips, load_protocol("native"), quiet=True, workers=0))
            details.append(np.array([fine_detail(clip.video) for clip in sources[-1]]))
        ratio = detail_ratio(*details)
        samples, reference = (source.summary() for source in sources)
        return make_record(
            started=started,
            metric="detail",
            value=ratio.value,
            ci95=ratio.ci95,
            higher_is_better=True,
            protocol={"name": "fine-detail"},
            num_samples=len(details[0]),
            num_reference=len(details[1]),
            samples=samples,
            reference=reference,
            seed=judgement.repeat,
        )

    def _denoising(self, judgement):
        checkpoint = step_folder(self.run_folder(judgement.samples.run), judgement.samples.step)
        if checkpoint not in self._denoised:
            self._denoised = {checkpoint: denoising_records(checkpoint)}
        return self._denoised[checkpoint]

    def _pyramid(self, judgement, folder):
        levels = judgement.samples.config.pyramid.levels
        return record_of("pyramid", self._evaluation(judgement, folder), {"levels": levels})

    def _inception_score(self, judgement, folder):
        evaluation = self._evaluation(judgement, self._finest(judgement, folder), backbone=self.plan.tier.backbone)
        return record_of("is", evaluation, {"splits": 1})  # several would leave few clips to each, and score too low

    def _psnr(self, judgement, folder):
        started = time.time()
        source = open_clips(self._finest(judgement, folder), load_protocol("native"), quiet=True, workers=0)
        for _ in source:
            pass  # a digest of all clips takes reading them
        summary = read_json(folder / SUMMARY)
        return make_record(
            started=started,
            metric="psnr",
            value=summary["psnr"],
            unit="dB",
            higher_is_better=True,
            protocol={"name": "reconstruction"},
            num_samples=summary["clips"],
            samples=source.summary(),
            seed=0,
            details=({"worst": summary["worst"], "best": summary["best"]},),
        )

    def _of_network(self, metric, figure, config):
        return step_record(metric, figure(config), config, started=time.time())
