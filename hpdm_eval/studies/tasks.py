"""The work of a plan as tasks that know whether they are done, and the loop that does them.

What is on disk is all the state there is: checkpoints of the training, samples, statistics, records. So an interrupted
study continues where it stopped, a finished task is never done again, and several processes may work on one folder:
each takes a task that no other has.
"""

import dataclasses
import fcntl
import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from baselines.reconstruct import SUMMARY, reconstruct_clips
from hpdm.config import Config, override_config
from hpdm.console import note
from hpdm.methods import make_method
from hpdm.pyramid import tile_starts
from hpdm.sampling.cli import sample
from hpdm.training.checkpoint import step_folder
from hpdm.training.config import plan_batch
from hpdm.training.loop import train
from hpdm_eval.distributed import gather, rank_and_size
from hpdm_eval.studies.measure import Judge, Records, call, step_record
from hpdm_eval.studies.plan import TIMED, Plan
from hpdm_eval.studies.real import write_real_samples, write_statistics
from hpdm_eval.studies.speed import sampling_seconds, training_memory, training_rates

WAIT, FINISHED = "wait", "finished"  # in place of a task's name
TIMED_VIDEOS = 4  # sampled at once where sampling is timed
POLL_SECONDS = 2.0  # between looks at what other processes have finished
SAMPLING_OPTIONS = ("overlap", "heun_levels", "sigma_context", "guidance", "S_churn", "S_min", "S_max", "S_noise")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of work. `cost` is in forward passes of a patch token through a block, about."""

    name: str
    done: Callable[[], bool]
    run: Callable[[], None]
    needs: tuple[str, ...] = ()  # names of tasks
    cost: float = 0.0
    alone: bool = False  # spoilt by other processes on the machine


class Workshop:
    """Makes the tasks of a plan in the folder `out`, for a torch.device."""

    def __init__(self, plan: Plan, out, *, device, command="", quiet=False):
        self.plan, self.out, self.device, self.quiet = plan, Path(out), device, quiet
        self.records = Records(self.out / "records", plan.tier.name, command)
        self.judge = Judge(plan, self.records, self.statistics, self.device.type)

    def tasks(self) -> list[Task]:
        """All tasks, in an order in which each can be done after those before it."""
        tasks = [self._bench(study) for study in self.plan.studies if set(study.measures) & set(TIMED)]
        statistics = {}
        for judgement in self.plan.judgements:
            config, needs = judgement.samples.config, [f"sample {_label(judgement.samples)}"]
            if "fvd" in judgement.study.measures:
                gone = self.plan.base.pyramid.levels - config.pyramid.levels
                frames = self.plan.tier.short_clip if judgement.variant.clip == "short" else None
                for level in judgement.levels:
                    key = level + gone, config.training.shrink, frames
                    statistics[key] = self._reference(*key)
                    needs.append(statistics[key].name)
            tasks.append(self._measure(judgement, tuple(needs)))
        making = [self._train(run) for run in self.plan.runs] + [self._sample(set_) for set_ in self.plan.sample_sets]
        return _in_order([*statistics.values(), *making, *tasks])

    def statistics(self, level, shrink, frames):
        """File of the statistics of real clips."""
        return self.out / "reference" / f"level{level}-{shrink}{f'-{frames}f' if frames else ''}.npz"

    def folder(self, samples):
        """Folder of a sample set; its levels are in it."""
        return self.out / "samples" / samples.name / f"repeat{samples.repeat}"

    def run_folder(self, run):
        return self.out / "runs" / run.name / f"repeat{run.repeat}"

    def _reference(self, level, shrink, frames):
        path, tier = self.statistics(level, shrink, frames), self.plan.tier
        base = self.plan.base
        config = dataclasses.replace(base, training=dataclasses.replace(base.training, shrink=shrink))
        return Task(
            name=f"reference {path.stem}",
            done=path.exists,
            run=lambda: _on_first(lambda: write_statistics(
                path, config, level, count=tier.reference, backbone=tier.backbone, frames=frames,
                device=self.device.type, quiet=self.quiet)),
            cost=1e4 * (tier.reference or 10_000),
        )

    def _train(self, run):
        folder, training = self.run_folder(run), run.config.training

        def go():
            outcome = train(self._with_autoencoder(run), folder, device=self.device.type, quiet=self.quiet)
            if outcome.interrupted:
                raise KeyboardInterrupt

        tokens = math.prod(r // t for r, t in zip(run.config.pyramid.patch, run.config.network.token))
        passes = 4 if run.config.network.self_conditioning else 3  # with backward, and the first estimate
        return Task(
            name=f"train {_label(run)}",
            done=lambda: all(step_folder(folder, step).is_dir() for step in run.steps),
            run=go,
            needs=(f"train {_label(run.needs)}",) if run.needs else (),
            cost=float(training.steps) * training.batch * tokens * sum(run.config.network.levels_per_block) * passes,
        )

    def _with_autoencoder(self, run):
        """The run's configuration, with the folder of the autoencoder that it takes over, if any."""
        if run.needs is None:
            return run.config
        return override_config(run.config, [f"method.autoencoder={json.dumps(str(self.run_folder(run.needs)))}"])

    def _sample(self, samples):
        folder, tier = self.folder(samples), self.plan.tier
        levels = range(samples.config.pyramid.levels)
        finest = folder / f"level{levels[-1]}"
        if samples.run is None:
            return Task(
                name=f"sample {_label(samples)}",
                done=lambda: all(_count(folder / f"level{level}", "npy") >= samples.count for level in levels),
                run=lambda: _on_first(lambda: write_real_samples(folder, samples.config, samples.count, self.quiet)),
            )
        checkpoint = step_folder(self.run_folder(samples.run), samples.step)
        needs = (f"train {_label(samples.run)}",)
        if samples.reconstructed:
            return Task(
                name=f"sample {_label(samples)}",
                done=lambda: _summary_count(folder) >= samples.count,
                run=lambda: _on_first(lambda: reconstruct_clips(
                    checkpoint, folder, samples.count, folders=("real", finest.name), device=self.device.type,
                    quiet=self.quiet)),
                needs=needs,
            )

        def go():
            sampling = samples.config.sampling
            options = [(name, getattr(sampling, name)) for name in SAMPLING_OPTIONS]
            options += [("steps", ",".join(map(str, sampling.steps)))]
            call(sample, "--checkpoint", checkpoint,
                 "--num", samples.count, "--out", folder, "--save-levels", "--format", tier.format,
                 "--seed", samples.repeat, "--device", self.device.type, *(["--quiet"] if self.quiet else []),
                 *(word for name, value in options for word in (f"--{name.lower().replace('_', '-')}", value)))

        return Task(
            name=f"sample {_label(samples)}",
            done=lambda: _manifest_count(finest) >= samples.count,
            run=go,
            needs=needs,
            cost=samples.count * sampling_cost(samples.config),
        )

    def _measure(self, judgement, needs):
        wanted = self.judge.wanted(judgement)
        return Task(
            name=f"judge {judgement.name}",
            done=lambda: all(path.exists() for path in wanted),
            run=lambda: self.judge.make(judgement, self.folder(judgement.samples)),
            needs=needs,
            cost=1e4 * judgement.samples.count * len(wanted),
        )

    def _bench(self, study):
        """Throughput and memory of all chosen variants of a study, in one run."""
        variants = self.plan.variants(study)
        metrics = [metric for metric in study.measures if metric in TIMED]
        paths = {(variant, metric): self.records.path(variant, metric, 0)
                 for variant, config in variants for metric in metrics
                 if metric != "sampling" or make_method(config).makes_videos}

        def go():
            started = time.time()
            configs = {variant: config for variant, config in variants}
            batch = plan_batch(self.plan.base.training, 1).micro_batch
            figures = {}
            if "throughput" in metrics:
                figures["throughput"] = training_rates(
                    configs, batch=batch, rounds=self.plan.tier.rounds, device=self.device, quiet=self.quiet)
            if "memory" in metrics:
                figures["memory"] = {variant: training_memory(config, batch=batch, device=self.device) / 2**30
                                     for variant, config in configs.items()}
            if "sampling" in metrics:
                figures["sampling"] = sampling_seconds(
                    {variant: config for variant, config in configs.items() if make_method(config).makes_videos},
                    videos=TIMED_VIDEOS, rounds=self.plan.tier.rounds, device=self.device, quiet=self.quiet)
            for (variant, metric), path in paths.items():
                at_once = TIMED_VIDEOS if metric == "sampling" else batch
                record = step_record(metric, figures[metric][variant], configs[variant], started=started,
                                     device=self.device, details=[{"batch": at_once, "rounds": self.plan.tier.rounds}])
                self.records.save(record, path, variant, 0)

        return Task(name=f"time {study.name}", done=lambda: all(path.exists() for path in paths.values()),
                    run=lambda: _on_first(go), alone=True)


def sampling_cost(config: Config) -> float:
    """Forward passes of a patch token through a block that one sample takes."""
    sampling, network = config.sampling, config.network
    tokens = math.prod(r // t for r, t in zip(config.pyramid.patch, network.token))
    total = 0
    for level, steps in enumerate(sampling.level_steps(config.pyramid.levels)):
        tiles = len(tile_starts(config.pyramid, level, sampling.overlap))
        evaluations = 2 * steps - 1 if level < sampling.heun_levels else steps
        total += tiles * evaluations * tokens * sum(hosted > level for hosted in network.levels_per_block)
    return float(total) * (1 if sampling.guidance == 1 else 2)


class Progress:
    """Says what was done and how long the rest may take, on stderr and in a log file."""

    def __init__(self, tasks, log, quiet):
        self.tasks, self.log, self.quiet = tasks, Path(log), quiet
        self.began, self.before = time.monotonic(), self._cost_done()

    def _cost_done(self):
        return sum(task.cost for task in self.tasks if task.done())

    def line(self):
        """How many tasks are done, and an estimate of the time left once there is something to estimate from."""
        total, done = sum(task.cost for task in self.tasks), self._cost_done()
        count, elapsed = sum(task.done() for task in self.tasks), time.monotonic() - self.began
        text = f"{count} of {len(self.tasks)} tasks done"
        if count < len(self.tasks) and done > self.before:
            text += f", about {duration(elapsed * (total - done) / (done - self.before))} left"
        return text

    def say(self, text):
        """Print a line and add it to the log, on the first process of a `torchrun`."""
        if not _is_first():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        note(text, self.quiet)


def duration(seconds):
    """Seconds for people: 40 s, 12 min, 3 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def work(tasks, locks, progress):
    """Do all tasks that are not done, each when what it needs is; returns when all are.

    Tasks that another process works on are left to it. Under `torchrun` the processes do each task together.
    """
    by_name = {task.name: task for task in tasks}
    while True:
        with ExitStack() as held:
            name = _of_first(_choose(by_name, Path(locks), held) if _is_first() else None)
            if name == FINISHED:
                return
            if name == WAIT:
                time.sleep(POLL_SECONDS)
                continue
            started = time.monotonic()
            by_name[name].run()
            _of_first(None)  # all have done their part
            progress.say(f"{name}: {duration(time.monotonic() - started)}; {progress.line()}")


def _choose(by_name, locks, held):
    """Name of a task that can be done now, its lock in the ExitStack `held`; else WAIT or FINISHED."""
    done = {name: task.done() for name, task in by_name.items()}
    if all(done.values()):
        return FINISHED
    for name, task in by_name.items():
        if done[name] or not all(done[need] for need in task.needs):
            continue
        with ExitStack() as lock:
            if lock.enter_context(_taken(locks / f"{name.replace(' ', '-')}.lock")) and not task.done():
                held.push(lock.pop_all())
                return name
    return WAIT


@contextmanager
def _taken(path):
    """Whether this process could take a lock; held for the length of the block, and gone with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _is_first():
    """Whether this is the first, or the only, process of a `torchrun`."""
    return rank_and_size()[0] == 0


def _of_first(value):
    """The first process's value, on all processes of a `torchrun`, once all have come here."""
    return gather(value)[0]


def _on_first(function):
    if _is_first():
        function()


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


def _count(folder, suffix):
    return sum(1 for _ in folder.glob(f"*.{suffix}"))


def _manifest_count(folder):
    return _read_count(folder / "samples.json", "count")


def _summary_count(folder):
    return _read_count(folder / SUMMARY, "clips")


def _read_count(path, key):
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError):
        return 0

