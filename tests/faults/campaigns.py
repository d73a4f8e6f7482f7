"""Campaigns of faults: damage, kills, lost writes. Each tries many faults and counts how they ended.

A campaign is a function of (effort, seed, folder) and returns a `Tally`. The gate runs them with little effort
(test_campaigns.py); `python tests/faults/run.py` runs them at length and writes reports/reliability.md.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from small_training import small_config, write_small

from hpdm.config import load_config
from hpdm.errors import InputError
from hpdm.files import write_json
from hpdm.sampling.prompts import read_prompts
from hpdm.sampling.writer import SamplesFolder
from hpdm.training import checkpoint as checkpoints
from hpdm.training.log import RunLog
from hpdm.training.loop import train
from hpdm.training.provenance import read_provenance
from hpdm.training.recover import newest_whole
from hpdm_eval.backbones import load_backbone
from hpdm_eval.backbones.loading import read_tensors
from hpdm_eval.backbones.weights import read_pins
from hpdm_eval.cache import FeatureCache
from hpdm_eval.features import FeatureSet
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records import load_record
from hpdm_eval.report.collect import collect_records
from hpdm_eval.report.markup import csv_text, latex, markdown
from hpdm_eval.report.write import make_sections
from hpdm_eval.statistics import Statistics

SLOWEST = 20.0  # seconds that one damaged file may take


@dataclass
class Tally:
    """How faults ended. survived: nothing was lost and the work went on; said: one message; the rest must be none."""

    name: str
    counts: Counter = field(default_factory=Counter)
    examples: list = field(default_factory=list)

    def add(self, outcome, example=None):
        self.counts[outcome] += 1
        if outcome in BAD and len(self.examples) < 20:
            self.examples.append(f"{outcome}: {example}")

    @property
    def tried(self):
        return sum(self.counts.values())

    @property
    def bad(self):
        return sum(self.counts[key] for key in BAD)


GOOD, BAD = ("survived", "said"), ("lost", "traceback", "hang")


# Damaged files


def mutate(content, chance):
    """Damage of a random kind in bytes: flips, cuts, holes, repetitions, foreign bytes, hostile values."""
    if not content:
        return b"\xff"
    size = len(content)
    start = chance.randrange(size)
    end = min(size, start + chance.choice([1, 4, 64, 1024]))
    kind = chance.randrange(9)
    if kind == 0:
        return content[:start] + bytes([content[start] ^ (1 << chance.randrange(8))]) + content[start + 1:]
    if kind == 1:
        return content[:start]
    if kind == 2:
        return content[:start] + bytes(end - start) + content[end:]
    if kind == 3:
        return content[:start] + content[end:]
    if kind == 4:
        return content[:end] + content[start:end] + content[end:]
    if kind == 5:
        return content[:start] + chance.randbytes(end - start) + content[end:]
    if kind == 6:
        return content + chance.randbytes(chance.choice([1, 100]))
    if kind == 7:
        return b""
    # a value exchanged for one that nobody expects
    places = [index for index in range(size) if content[index:index + 1] in (b":", b"=", b",", b"[")]
    if not places:
        return content[:start] + b"\xff\xfe" + content[start:]
    place = chance.choice(places) + 1
    stop = place
    while stop < size and content[stop:stop + 1] not in (b",", b"\n", b"}", b"]"):
        stop += 1
    return content[:place] + b" " + chance.choice(HOSTILE) + content[stop:]


HOSTILE = [b"NaN", b".nan", b"Infinity", b"-1", b"1e999", b"9" * 5000, b"[" * 3000, b"{}", b"[]", b"null", b"true",
           b'"\\ud800"', b'"' + b"x" * 3000 + b'"', b"2024-13-45", b"&a [*a]", b"!!python/name:os.system", b'"=1+1"',
           b"'$\\frac'", b'"{0.__class__}"', b'"../../x"', b"0x41", b"1:30", b"\xff"]


def damage(name, path, read, effort, seed, same=None):
    """Mutate the file `path` `effort` times; read() has to take it or say what is wrong.

    same(value): whether what was read is what had been written, for formats with checksums; False is a silent loss.
    """
    tally, chance, whole = Tally(name), random.Random(f"{name} {seed}"), path.read_bytes()
    for number in range(effort):
        content = mutate(whole, chance)
        path.write_bytes(content)
        began = time.monotonic()
        try:
            value = read()
            outcome = "survived" if same is None or content == whole or same(value) else "lost"
            example = f"case {number}"
        except InputError as error:
            outcome = "said" if "\n" not in str(error).strip() and len(str(error)) < 2000 else "traceback"
            example = f"case {number}: {str(error)[:300]!r}"
        except Exception:  # what a user would see as a traceback
            outcome, example = "traceback", f"case {number}: {traceback.format_exc().splitlines()[-1][:300]}"
        if time.monotonic() - began > SLOWEST:
            outcome, example = "hang", f"case {number}: {time.monotonic() - began:.0f} s"
        tally.add(outcome, example)
    path.write_bytes(whole)
    return tally


CONFIG = ("training.steps=4", "checkpoint_every=2", "log_every=1", "keep=2")


def small_run(folder, steps=4):
    train(small_config(*CONFIG), folder, device="cpu", stop_after=steps, quiet=True)
    return folder


def weights_equal(value, original):
    return all(torch.equal(value[0][name], tensor) for name, tensor in original[0].items())


def damaged_runs(effort, seed, folder):
    """Files of a training run. Checkpoints have checksums: what is read has to be what was written."""
    run = small_run(folder / "run", 2)
    step = run / "step-00000002"
    original = checkpoints.read_weights(step / "ema.safetensors")
    tallies = [damage("weights file alone", step / "ema.safetensors",
                      lambda: checkpoints.read_weights(step / "ema.safetensors"), effort, seed,
                      lambda value: weights_equal(value, original))]
    for file in (*checkpoints.FILES, checkpoints.MANIFEST_FILE):
        content = {name: (step / name).read_bytes() for name in checkpoints.FILES}
        tallies.append(damage(
            f"checkpoint: {file}", step / file, lambda: newest_whole(run, say=lambda text: None), effort, seed,
            lambda _, content=content: all((step / name).read_bytes() == data for name, data in content.items())))
    tallies += [
        damage("configuration of a run", run / "config.yaml", lambda: checkpoints.read_config(run / "config.yaml"),
               effort, seed),
        damage("training state alone", step / "training.pt", lambda: checkpoints._read_state(step / "training.pt"),
               effort, seed),
        damage("log", run / "log.jsonl", lambda: RunLog(run, 2, quiet=True).close(), effort, seed),
        damage("provenance", run / "provenance.jsonl", lambda: read_provenance(run), effort, seed),
    ]
    return tallies


def damaged_texts(effort, seed, folder):
    """Files that people write: configurations, protocols, prompts; and manifests of samples and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"size.yaml": ROOT / "hpdm" / "configs" / "nano.yaml",
               "prompts.yaml": ROOT / "hpdm" / "prompts" / "ucf101.yaml"}
    for name, source in sources.items():
        shutil.copy(source, folder / name)
    shutil.copy(next((ROOT / "hpdm_eval" / "protocols").glob("*.yaml")), folder / "protocol.yaml")
    settings = {"format": "npy", "seed": 0, "steps": [1, 2]}
    SamplesFolder(folder / "samples", settings, {}).write_manifest()
    pin = {"sha256": "0" * 64, "bytes": 3, "trust": "first-use", "date": "2026-01-01"}
    write_json(folder / "pins.json", {"net.pt": pin})
    return [
        damage("configuration", folder / "size.yaml", lambda: load_config(folder / "size.yaml"), effort, seed),
        damage("protocol", folder / "protocol.yaml", lambda: load_protocol(folder / "protocol.yaml").hash(), effort,
               seed),
        damage("prompts", folder / "prompts.yaml", lambda: read_prompts(folder / "prompts.yaml"), effort, seed),
        damage("manifest of samples", folder / "samples" / "samples.json",
               lambda: SamplesFolder(folder / "samples", settings, {}), effort, seed),
        damage("pinned weights", folder / "pins.json", lambda: read_pins(folder), effort, seed),
    ]


ROOT = Path(__file__).resolve().parent.parent.parent


def damaged_results(effort, seed, folder):
    """Records, statistics, features and cached features."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "records" / "record.json"
    record.parent.mkdir()
    shutil.copy(ROOT / "tests" / "records" / "fvd-shapes3d-procedural.json", record)

    def report():
        for section in make_sections(collect_records([record.parent])):
            for table in section.tables:
                markdown(table), latex(table), csv_text(table)

    rng = np.random.default_rng(0)
    backbone = load_backbone("shapes3d")
    features = rng.normal(size=(8, backbone.feature_dim)).astype(np.float32)
    FeatureSet(features=features, names=[str(n) for n in range(8)], probabilities=features[:, :12],
               manifest={"backbone": backbone.describe()}).save(folder / "features.npz")
    from hpdm_eval.metrics.frechet import Moments

    protocol = load_protocol("native", backbone="shapes3d")
    summary = {"path": "clips", "sha256": "0" * 64, "clips": 8, "rejected": []}
    Statistics(moments=Moments.of(features), protocol=protocol.to_dict(), backbone=backbone.describe(), source=summary,
               seed=0).save(folder / "stats.npz")
    moments = Statistics.load(folder / "stats.npz").moments

    def statistics():
        loaded = Statistics.load(folder / "stats.npz")
        loaded.check_match(protocol, backbone.describe(), "stats.npz")
        return loaded

    cache = FeatureCache(backbone, folder / "cache")
    cache.put("ab" * 32, features[0], features[0, :12])
    torch.save({"a": torch.arange(100.0), "b": torch.zeros(3, 4)}, folder / "net.pt")
    shipped = shutil.copy(ROOT / "hpdm_eval" / "backbones" / "weights" / "shapes3d.safetensors", folder / "net.st")
    return [
        damage("record", record, lambda: load_record(record), effort, seed),
        damage("report of a record", record, report, effort, seed),
        damage("statistics", folder / "stats.npz", statistics, effort, seed,
               lambda value: np.array_equal(value.moments.mean, moments.mean)
               and np.array_equal(value.moments.cov(), moments.cov())),
        damage("features", folder / "features.npz", lambda: FeatureSet.load(folder / "features.npz"), effort, seed,
               lambda value: np.array_equal(value.features, features)),
        damage("cached features", cache.path("ab" * 32), lambda: cache.get("ab" * 32), effort, seed,
               lambda value: value is None or np.array_equal(value[0], features[0])),
        damage("state dict", folder / "net.pt", lambda: read_tensors(folder / "net.pt"), effort, seed),
        damage("weights of shapes3d", Path(shipped),
               lambda: load_backbone("shapes3d", weights=shipped, unverified=True, optimize=False),
               max(1, effort // 10), seed),
    ]


# Kills


def in_child(work):
    """The process id of a child that does work() and ends; nothing of it gets back but through files."""
    process = os.fork()
    if process:
        return process
    try:
        torch.set_num_threads(1)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def fate(process):
    """The exit code of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def weights_of(run):
    return {file: (checkpoints.latest_checkpoint(run) / file).read_bytes() for file in checkpoints.FILES}


@contextmanager
def dying_at(count, calls):
    """Within the block the process kills itself before the `count`-th of the calls [(object, name), ...]."""
    left = [count]

    def dying(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call

    before = [(owner, name, getattr(owner, name)) for owner, name in calls]
    for owner, name, function in before:
        setattr(owner, name, dying(function))
    try:
        yield left
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


CALLS = [(os, name) for name in ("fsync", "replace", "unlink", "open", "mkdir", "rmdir", "chmod", "symlink", "rename",
                                 "ftruncate", "close")]


def killed_training(effort, seed, folder):
    """Training killed at random moments and before chosen system calls: the next start ends as one never stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    config = small_config(*CONFIG)
    reference = weights_of(small_run(folder / "never-stopped"))
    tallies = []
    chance = random.Random(seed)
    began = time.monotonic()
    fate(in_child(lambda: train(config, folder / "timed", device="cpu", quiet=True)))
    length = time.monotonic() - began

    def by_time(number, run):
        process = in_child(lambda: train(config, run, device="cpu", quiet=True))
        time.sleep(chance.random() * length)
        os.kill(process, signal.SIGKILL)
        fate(process)

    def by_call(number, run):
        def work():
            with dying_at(1 + number * stride, CALLS):
                train(config, run, device="cpu", quiet=True)
        fate(in_child(work))

    with dying_at(-1, CALLS) as left:
        train(config, folder / "counted", device="cpu", quiet=True)
    stride = max(1, (-1 - left[0]) // max(1, effort))
    for name, kill in (("training, at random moments", by_time), ("training, before system calls", by_call)):
        tally = Tally(name)
        for number in range(effort):
            run = folder / f"{name}-{number}"
            kill(number, run)
            code = fate(in_child(lambda: train(config, run, device="cpu", quiet=True)))
            if code:
                tally.add("traceback", f"case {number}: the next start ended with {code}")
            else:
                leftovers = list(run.glob(".*"))
                whole = weights_of(run) == reference and not leftovers
                tally.add("survived" if whole else "lost", f"case {number}: {leftovers}")
            shutil.rmtree(run, ignore_errors=True)
        tallies.append(tally)
    return tallies


def killed_sampling(effort, seed, folder):
    """Sampling killed at random moments: the next start completes the folder with the same bytes."""
    from hpdm.sampling.cli import sample

    run = small_run(folder / "run", 2)

    def make(out):
        sample.main(["--checkpoint", str(run), "--num", "12", "--out", str(out), "--device", "cpu", "--quiet",
                     "--format", "npy", "--steps", "2,1", "--batch", "2"], standalone_mode=False)

    def content(out):
        return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".npy"}

    began = time.monotonic()
    fate(in_child(lambda: make(folder / "whole")))
    length, chance, tally = time.monotonic() - began, random.Random(seed), Tally("sampling, at random moments")
    for number in range(effort):
        out = folder / f"out{number}"
        process = in_child(lambda: make(out))
        time.sleep(chance.random() * length)
        os.kill(process, signal.SIGKILL)
        fate(process)
        code = fate(in_child(lambda: make(out)))
        leftovers = [path for path in out.glob(".*") if path.name != ".samples.lock"]
        good = code == 0 and content(out) == content(folder / "whole") and not leftovers
        tally.add("survived" if good else "traceback" if code else "lost", f"case {number}: code {code}, {leftovers}")
        shutil.rmtree(out, ignore_errors=True)
    return [tally]


def killed_evaluation(effort, seed, folder):
    """Evaluation killed or terminated at random moments: the next one, with its cache, gives the same record."""
    import json

    from hpdm_eval.cli import main

    clips = folder / "clips"
    clips.mkdir(parents=True)
    for index in range(24):
        np.save(clips / f"{index:02d}.npy", np.random.default_rng(index).integers(0, 255, (16, 32, 32, 3), np.uint8))

    def make(out):
        os.environ["HPDM_EVAL_CACHE"] = str(out / "cache")
        main.main(["fvd", "--samples", str(clips), "--reference", str(clips), "--backbone", "shapes3d", "--protocol",
                   "native", "--device", "cpu", "--workers", "0", "--quiet", "--record", str(out / "records")],
                  standalone_mode=False)

    def value(out):
        (path,) = (out / "records").glob("*.json")
        record = json.loads(path.read_text())
        return record["value"], record["ci95"], record["details"]

    began = time.monotonic()
    fate(in_child(lambda: make(folder / "whole")))
    length, chance, tally = time.monotonic() - began, random.Random(seed), Tally("evaluation, at random moments")
    for number in range(effort):
        out = folder / f"out{number}"
        process = in_child(lambda: make(out))
        time.sleep(chance.random() * length)
        os.kill(process, chance.choice([signal.SIGKILL, signal.SIGTERM]))
        fate(process)
        code = fate(in_child(lambda: make(out)))
        leftovers = list(out.rglob("*.part")) if code == 0 else []
        good = code == 0 and value(out) == value(folder / "whole")
        tally.add("survived" if good else "traceback" if code else "lost", f"case {number}: code {code}, {leftovers}")
        shutil.rmtree(out, ignore_errors=True)
    return [tally]


RANKS = 3


def torchrun(module, *words):
    """A started `torchrun` of RANKS processes of a module."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--master-port", "0",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", module, "--", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def children(process):
    """Process ids of the workers that a torchrun has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process.pid:
                found.append(int(entry.name))
    return found


def kill_one(process, ready, chance):
    """Kill one worker of a torchrun at a random moment after ready() has become true; returns whether one was."""
    while process.poll() is None and not ready():
        time.sleep(0.05)
    time.sleep(chance.random() * 0.5)
    workers = children(process)
    if not workers or process.poll() is not None:
        return False
    with suppress(OSError):
        os.kill(chance.choice(workers), signal.SIGKILL)
    process.wait(timeout=300)
    return True


def killed_rank(effort, seed, folder):
    """One process of three under torchrun killed: all end, and the next start completes what a whole run makes."""
    folder.mkdir(parents=True)
    chance, size = random.Random(seed), folder / "size.yaml"
    write_small(size)
    training = ["--size", size, "--device", "cpu", "--set", "training.steps=30", "--set", "training.batch=6", "--set",
                "checkpoint_every=3", "--set", "log_every=1"]
    torchrun("hpdm.training", *training, "--out", folder / "whole").wait(timeout=600)
    expected = weights_of(folder / "whole")
    tallies = [Tally("training, one of three processes"), Tally("sampling, one of three processes")]
    for number in range(effort):
        run = folder / f"run{number}"
        kill_one(torchrun("hpdm.training", *training, "--out", run), (run / "latest").exists, chance)
        code = torchrun("hpdm.training", *training, "--out", run).wait(timeout=600)
        good = code == 0 and weights_of(run) == expected
        tallies[0].add("survived" if good else "traceback" if code else "lost", f"case {number}: code {code}")
    sampling = ["--checkpoint", folder / "whole", "--num", "60", "--format", "npy", "--steps", "2,1", "--device", "cpu",
                "--batch", "2", "--quiet"]

    def content(out):
        return {path.name: path.read_bytes() for path in out.glob("*.npy")}

    torchrun("hpdm.sampling", *sampling, "--out", folder / "samples").wait(timeout=600)
    for number in range(effort):
        out = folder / f"out{number}"
        kill_one(torchrun("hpdm.sampling", *sampling, "--out", out), lambda out=out: any(out.glob("*.npy")), chance)
        code = torchrun("hpdm.sampling", *sampling, "--out", out).wait(timeout=600)
        good = code == 0 and len(content(out)) == 60 and content(out) == content(folder / "samples")
        tallies[1].add("survived" if good else "traceback" if code else "lost", f"case {number}: code {code}")
    return tallies


# Loss of power


class Disk:
    """Which files and folders the disk knows of: watches the calls that our writers make in this process."""

    def __init__(self):
        self.synced, self.faults, self.renames = {}, [], 0
        self.open_names = set()  # folders in which a name has changed since they were flushed

    @contextmanager
    def watched(self):
        fsync, replace = os.fsync, os.replace

        def watched_fsync(handle):
            fsync(handle)
            about = os.fstat(handle)
            self.synced[about.st_ino] = about.st_mtime_ns
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                self.open_names.discard(os.path.realpath(f"/proc/self/fd/{handle}"))

        def watched_replace(source, target):
            for path in [Path(source), *Path(source).rglob("*")] if not Path(source).is_symlink() else []:
                if path.is_file() and self.synced.get(path.stat().st_ino, 0) < path.stat().st_mtime_ns:
                    self.faults.append(f"{path.name} became {Path(target).name} before its content was on the disk")
            replace(source, target)
            self.renames += 1
            self.open_names.add(os.path.realpath(Path(target).parent))

        os.fsync, os.replace = watched_fsync, watched_replace
        try:
            yield self
        finally:
            os.fsync, os.replace = fsync, replace


def lost_power(effort, seed, folder):
    """Every rename of a training run, of samples and of a record: content first, then the name, then the folder."""
    tally = Tally("loss of power: renames whose content or folder was not flushed")
    with Disk().watched() as disk:
        small_run(folder / "run")
        write_json(folder / "records" / "record.json", {"a": 1})
        writer = SamplesFolder(folder / "samples", {"format": "npy"}, {})
        writer.write(0, 0, np.zeros((2, 4, 4, 3), np.uint8))
        writer.write_manifest()
    for _ in range(disk.renames):
        tally.add("survived")
    for fault in [*disk.faults, *(f"{name} was not flushed after a rename" for name in disk.open_names)]:
        tally.add("lost", fault)
    return [tally]


CAMPAIGNS = {
    # name: (function, effort in the gate, effort at length)
    "Damaged files of training runs": (damaged_runs, 25, 500),
    "Damaged configurations, protocols, prompts and manifests": (damaged_texts, 25, 500),
    "Damaged records, statistics, features and weights": (damaged_results, 25, 500),
    "Killed training": (killed_training, 2, 40),
    "Killed sampling": (killed_sampling, 2, 30),
    "Killed evaluation": (killed_evaluation, 1, 20),
    "Killed processes of several": (killed_rank, 0, 2),
    "Lost writes": (lost_power, 1, 1),
}
