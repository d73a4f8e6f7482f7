"""The work of a plan as tasks, each with its files: training, sampling, statistics of real clips, judging, timing."""

import dataclasses
import json
import math
import time
from pathlib import Path

import torch

from baselines.reconstruct import SUMMARY, reconstruct_clips
from hpdm.checkpoint.folder import CONFIG_FILE, read_config, step_folder
from hpdm.config import Config, override_config
from hpdm.config.training import plan_batch
from hpdm.methods import make_method
from hpdm.sampling.request import NOISE_RANGE
from hpdm.sampling.steps import plan_level
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json
from hpdm.training.loop import train
from hpdm.training.provenance import read_provenance
from hpdm_eval.benchmarks.speed import fitting_batch, sampling_seconds, training_memory, training_rates
from hpdm_eval.studies.ablations.measure import Judge, Records, step_record
from hpdm_eval.studies.ablations.plan import AGAINST_CLIPS, TIMED, Plan, Run, SampleSet, trained_settings
from hpdm_eval.studies.ablations.real import write_real_samples, write_statistics
from hpdm_eval.studies.ablations.work import Task, is_first, of_first, on_first
from hpdm_eval.studies.samples import sample_folder
from hpdm_eval.support.distributed import rank_and_size

REAL_CLIPS = 3  # for each sample, where tiles at a position are compared
TIMED_VIDEOS = 4  # sampled at once where sampling is timed
# What tasks cost in the unit of training, forward passes of a patch token through a block, as nano takes it on a core:
# small calls of the sampler cost more a token, and decoding, features and tests have no tokens.
SAMPLING = 3.0
PER_REFERENCE, PER_JUDGED = 1e3, 4e3  # a clip, and a clip and figure
SAMPLING_OPTIONS = ("overlap", "heun_levels", "sigma_context", "guidance", "S_churn", "S_min", "S_max", "S_noise")


class Workshop:
    """Makes the tasks of a plan in the folder `out`, for a torch.device."""

    def __init__(
        self, plan: Plan, out: str | Path, *, device: torch.device, command: str = "", quiet: bool = False
    ) -> None:
        self.plan, self.out, self.device, self.quiet = plan, Path(out), device, quiet
        self.records = Records(self.out / "records", plan.tier.name, command)
        self.judge = Judge(
            plan,
            self.records,
            self.statistics,
            self.trained_by,
            self.device.type,
            self.run_folder,
            self.out / "reference" / "clips" / f"level{plan.base.pyramid.levels - 1}",
        )

    def tasks(self) -> list[Task]:
        """All tasks, in an order in which each can be done after those before it.

        Raises InputError for a run in the folder that was trained with other settings than the plan's.
        """
        for run in self.plan.runs:
            self._check_run(run)
        tasks = [self._bench(study) for study in self.plan.studies if set(study.measures) & set(TIMED)]
        statistics = {}
        for judgement in self.plan.judgements:
            config, needs = judgement.samples.config, [f"sample {_label(judgement.samples)}"]
            if "fvd" in judgement.study.measures:
                dropped = self.plan.base.pyramid.levels - config.pyramid.levels
                frames = self.plan.tier.short_clip if judgement.variant.clip == "short" else None
                for level in judgement.levels:
                    key = level + dropped, config.training.shrink, frames
                    statistics[key] = self._reference(*key)
                    needs.append(statistics[key].name)
            if set(judgement.study.measures) & set(AGAINST_CLIPS):
                clips = self._real_clips()
                statistics[clips.name] = clips
                needs.append(clips.name)
            tasks.append(self._measure(judgement, tuple(needs)))
        making = [self._train(run) for run in self.plan.runs] + [self._sample(set_) for set_ in self.plan.sample_sets]
        return _in_order([*statistics.values(), *making, *tasks])

    def statistics(self, level: int, shrink: str, frames: int | None) -> Path:
        """File of the statistics of real clips."""
        return self.out / "reference" / f"level{level}-{shrink}{f'-{frames}f' if frames else ''}.npz"

    def folder(self, samples: SampleSet) -> Path:
        """Folder of a sample set; its levels are in it."""
        return self.out / "samples" / samples.name / f"repeat{samples.repeat}"

    def run_folder(self, run: Run) -> Path:
        return self.out / "runs" / run.name / f"repeat{run.repeat}"

    def trained_by(self, run: Run) -> list[str] | None:
        """Commits of the code that trained a run, oldest first; None where they are not known."""
        commits = [line["git"] or "unknown" for line in read_provenance(self.run_folder(run))]
        return list(dict.fromkeys(commits)) or None

    def _check_run(self, run):
        file = self.run_folder(run) / CONFIG_FILE
        if not file.exists():
            return
        before, now = (trained_settings(config) for config in (read_config(file), self._with_autoencoder(run)))
        for values in (before, now):
            values.pop("trained_on", None)  # what the data were, which only a run knows
        if run.needs:  # the folder may be named from elsewhere
            before["method"]["autoencoder"] = now["method"]["autoencoder"]
        for key in ("keep", "micro_batch"):  # what else is needed of the run, and what the device takes
            before["training"][key] = now["training"][key]
        if before != now:
            changed = [
                f"{section}.{key}"
                for section, values in now.items()
                if isinstance(values, dict)
                for key, value in values.items()
                if before.get(section, {}).get(key) != value
            ]
            raise InputError(
                f"{file.parent} was trained with other settings ({', '.join(changed)}) than "
                f"{run.name} has now; name another folder, or delete that one"
            )

    def _reference(self, level, shrink, frames):
        path, tier = self.statistics(level, shrink, frames), self.plan.tier
        base = self.plan.base
        config = dataclasses.replace(base, training=dataclasses.replace(base.training, shrink=shrink))
        return Task(
            name=f"reference {path.stem}",
            done=path.exists,
            run=lambda: on_first(
                lambda: write_statistics(
                    path,
                    config,
                    level,
                    count=tier.reference,
                    backbone=tier.backbone,
                    frames=frames,
                    device=str(self.device),
                    quiet=self.quiet,
                )
            ),
            cost=PER_REFERENCE * (tier.reference or 10_000),
        )

    def _real_clips(self):
        """Real clips of the finest level as files, for what needs more than their statistics."""
        base, count = self.plan.base, min(REAL_CLIPS * self.plan.tier.samples, self.plan.tier.reference or 10**9)
        folder = self.out / "reference" / "clips"
        return Task(
            name="reference clips",
            done=lambda: _count(self.judge.real_clips, "npy") >= count,
            run=lambda: on_first(
                lambda: write_real_samples(folder, base, count, self.quiet, levels=[base.pyramid.levels - 1])
            ),
            cost=PER_REFERENCE * count,
        )

    def _train(self, run):
        folder, training = self.run_folder(run), run.config.training

        def train_run():
            config = self._that_fits(self._with_autoencoder(run), _label(run))
            outcome = train(config, folder, device=str(self.device), quiet=self.quiet)
            if outcome.interrupted:
                raise KeyboardInterrupt

        tokens = math.prod(r // t for r, t in zip(run.config.pyramid.patch, run.config.network.token))
        passes = 4 if run.config.network.self_conditioning else 3  # with backward, and the first estimate
        windows = training.windows(run.config.pyramid.levels)
        hosted = sum(sum(windows[:levels]) for levels in run.config.network.levels_per_block)
        return Task(
            name=f"train {_label(run)}",
            done=lambda: all(step_folder(folder, step).is_dir() for step in run.steps),
            run=train_run,
            needs=(f"train {_label(run.needs)}",) if run.needs else (),
            cost=float(training.steps) * training.batch * tokens * hosted * passes,
        )

    def _with_autoencoder(self, run):
        """The run's configuration, with the folder of the autoencoder that it takes over, if any."""
        if run.needs is None:
            return run.config
        return override_config(run.config, [f"method.autoencoder={json.dumps(str(self.run_folder(run.needs)))}"])

    def _that_fits(self, config, name):
        """The configuration with as many videos at once as the device takes; what is trained does not depend on it."""
        most = plan_batch(config.training, rank_and_size()[1]).micro_batch
        fitting = of_first(fitting_batch(config, self.device, most) if is_first() else None)
        if not fitting:
            raise InputError(
                f"{name} does not fit on {self.device}, not even one video at a time; leave it out with "
                "--only, or set training.activation_checkpointing in a file for --size"
            )
        return config if fitting == most else override_config(config, [f"training.micro_batch={fitting}"])

    def _sample(self, samples):
        folder, tier = self.folder(samples), self.plan.tier
        levels = range(samples.config.pyramid.levels)
        finest = folder / f"level{levels[-1]}"
        if samples.run is None:
            return Task(
                name=f"sample {_label(samples)}",
                done=lambda: all(_count(folder / f"level{level}", "npy") >= samples.count for level in levels),
                run=lambda: on_first(lambda: write_real_samples(folder, samples.config, samples.count, self.quiet)),
            )
        checkpoint = step_folder(self.run_folder(samples.run), samples.step)
        needs = (f"train {_label(samples.run)}",)
        if samples.reconstructed:
            return Task(
                name=f"sample {_label(samples)}",
                done=lambda: _summary_count(folder) >= samples.count,
                run=lambda: on_first(
                    lambda: reconstruct_clips(
                        checkpoint,
                        folder,
                        samples.count,
                        folders=("real", finest.name),
                        device=str(self.device),
                        quiet=self.quiet,
                    )
                ),
                needs=needs,
            )

        def make_samples():
            sampling = samples.config.sampling
            settings = {name: getattr(sampling, name) for name in (*SAMPLING_OPTIONS, "steps")}
            diffusion = samples.config.diffusion
            sample_folder(
                checkpoint,
                folder,
                num=samples.count,
                seed=samples.repeat,
                device=str(self.device),
                quiet=self.quiet,
                settings=settings,
                noise_range={name: getattr(diffusion, name) for name in NOISE_RANGE},
                format=tier.format,
                save_levels=True,
                # on a GPU no matter of bits, but of many times the speed in fp32
                calls="fastest" if self.device.type == "cuda" else "exact",
            )

        return Task(
            name=f"sample {_label(samples)}",
            done=lambda: _manifest_count(finest) >= samples.count,
            run=make_samples,
            needs=needs,
            cost=SAMPLING * samples.count * sampling_cost(samples.config),
        )

    def _measure(self, judgement, needs):
        wanted = self.judge.wanted(judgement)
        return Task(
            name=f"judge {judgement.name}",
            done=lambda: all(path.exists() for path in wanted),
            run=lambda: self.judge.make(judgement, self.folder(judgement.samples)),
            needs=needs,
            cost=PER_JUDGED * judgement.samples.count * len(wanted),
        )

    def _bench(self, study):
        """Throughput and memory of all chosen variants of a study, in one run."""
        variants = self.plan.variants(study)
        metrics = [metric for metric in study.measures if metric in TIMED]
        paths = {
            (variant, metric): self.records.path(variant, metric, 0)
            for variant, config in variants
            for metric in metrics
            if metric != "sampling" or make_method(config).makes_videos
        }

        def time_variants():
            started = time.time()
            configs = dict(variants)
            most = plan_batch(self.plan.base.training, 1).micro_batch
            batch = {variant: fitting_batch(config, self.device, most) for variant, config in configs.items()}
            trainable = {variant: config for variant, config in configs.items() if batch[variant]}
            figures = {}
            if "throughput" in metrics:
                figures["throughput"] = training_rates(
                    trainable, batch=batch, rounds=self.plan.tier.rounds, device=self.device, quiet=self.quiet
                )
            if "memory" in metrics:
                figures["memory"] = {
                    variant: training_memory(config, batch=batch[variant], device=self.device) / 2**30
                    for variant, config in trainable.items()
                }
            if "sampling" in metrics:
                figures["sampling"] = sampling_seconds(
                    {variant: config for variant, config in configs.items() if make_method(config).makes_videos},
                    videos=TIMED_VIDEOS,
                    rounds=self.plan.tier.rounds,
                    device=self.device,
                    quiet=self.quiet,
                )
            for (variant, metric), path in paths.items():
                if variant not in figures[metric]:
                    with atomic_file(_does_not_fit(path), "w") as file:
                        what = f"sampling {TIMED_VIDEOS} videos" if metric == "sampling" else "a step of one video"
                        file.write(f"{what} of {variant.full_name} does not fit on {self.device}\n")
                    continue
                at_once = TIMED_VIDEOS if metric == "sampling" else batch[variant]
                record = step_record(
                    metric,
                    figures[metric][variant],
                    configs[variant],
                    started=started,
                    device=self.device,
                    details=[{"batch": at_once, "rounds": self.plan.tier.rounds}],
                )
                if metric != "sampling" and at_once < most:
                    record = dataclasses.replace(
                        record,
                        warnings=(f"Of steps of {at_once} where {most} were wanted: no more videos fit on the device",),
                    )
                self.records.save(record, path, variant, 0)

        return Task(
            name=f"time {study.name}",
            done=lambda: all(map(_is_timed, paths.values())),
            run=lambda: on_first(time_variants),
            alone=True,
            remarks=lambda: _shortages(paths.values()),
        )


def sampling_cost(config: Config) -> float:
    """Forward passes of a patch token through a block that one sample takes."""
    sampling, network = config.sampling, config.network
    tokens = math.prod(r // t for r, t in zip(config.pyramid.patch, network.token))
    total = 0
    for level in range(config.pyramid.levels):
        tiles = plan_level(config.pyramid, config.diffusion, sampling, level).tile_evaluations
        total += tiles * tokens * sum(hosted > level for hosted in network.levels_per_block)
    return float(total) * (2 if sampling.guided else 1)


def _label(item):
    return f"{item.name}-r{item.repeat}"


def _in_order(tasks):
    """Tasks behind those that they need, else in the given order of those that need nothing more."""
    by_name = {task.name: task for task in tasks}
    ordered = {}

    def add(task):
        for name in task.needs:
            add(by_name[name])
        ordered.setdefault(task.name, task)

    for task in sorted(tasks, key=lambda task: not task.alone):
        if task.alone or task.name.startswith("judge"):
            add(task)
    return list(ordered.values())


def _does_not_fit(path):
    """The file that says why there is no record at `path`."""
    return path.with_suffix(".does-not-fit.txt")


def _shortages(paths):
    """What did not fit, of the timings of these paths, each once."""
    files = [_does_not_fit(path) for path in paths if not path.exists()]
    return list(dict.fromkeys(file.read_text(encoding="utf-8").strip() for file in files))


def _is_timed(path):
    return path.exists() or _does_not_fit(path).exists()


def _count(folder, suffix):
    return sum(1 for _ in folder.glob(f"*.{suffix}"))


def _manifest_count(folder):
    return _read_count(folder / "samples.json", "count")


def _summary_count(folder):
    return _read_count(folder / SUMMARY, "clips")


def _read_count(path, key):
    try:
        return int(parse_json(path.read_bytes())[key])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
