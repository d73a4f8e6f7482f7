"""Processes that are killed: training, sampling and evaluation, alone and one of several."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from hpdm.checkpoint import folder as checkpoints
from hpdm.training.loop import train
from tests.faults.tally import CONFIG, Tally, small_run
from tests.support.paths import ROOT
from tests.support.small_training import small_config, write_small


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


CALLS = [
    (os, name)
    for name in (
        "fsync",
        "replace",
        "unlink",
        "open",
        "mkdir",
        "rmdir",
        "chmod",
        "symlink",
        "rename",
        "ftruncate",
        "close",
    )
]


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
    from hpdm.commands.sample import sample

    run = small_run(folder / "run", 2)

    def make(out):
        sample.main(
            [
                "--checkpoint",
                str(run),
                "--num",
                "12",
                "--out",
                str(out),
                "--device",
                "cpu",
                "--quiet",
                "--format",
                "npy",
                "--steps",
                "2,1",
                "--batch",
                "2",
            ],
            standalone_mode=False,
        )

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
    from hpdm_eval.commands.entry import main

    clips = folder / "clips"
    clips.mkdir(parents=True)
    for index in range(24):
        np.save(clips / f"{index:02d}.npy", np.random.default_rng(index).integers(0, 255, (16, 32, 32, 3), np.uint8))

    def make(out):
        os.environ["HPDM_EVAL_CACHE"] = str(out / "cache")
        main.main(
            [
                "fvd",
                "--samples",
                str(clips),
                "--reference",
                str(clips),
                "--backbone",
                "shapes3d",
                "--protocol",
                "native",
                "--device",
                "cpu",
                "--workers",
                "0",
                "--quiet",
                "--record",
                str(out / "records"),
            ],
            standalone_mode=False,
        )

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
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(RANKS),
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        module,
        "--",
        *map(str, words),
    ]
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
    """Kill one worker of a torchrun at a random moment after ready() has become true.

    Returns the seconds in which all others then ended; None where none was killed.
    """
    while process.poll() is None and not ready():
        time.sleep(0.05)
    time.sleep(chance.random() * 0.5)
    workers = children(process)
    if not workers or process.poll() is not None:
        process.wait(timeout=ENDING)
        return None
    began = time.monotonic()
    with suppress(OSError):
        os.kill(chance.choice(workers), signal.SIGKILL)
    process.wait(timeout=ENDING)
    return time.monotonic() - began


ENDING, ENDING_SOON = 300, 60  # seconds until processes, one of which was killed, have ended: at most, as they should


def killed_rank(effort, seed, folder):
    """One process of three under torchrun killed: all end, and the next start completes what a whole run makes."""
    folder.mkdir(parents=True)
    chance, size = random.Random(seed), folder / "size.yaml"
    write_small(size)
    training = [
        "--size",
        size,
        "--device",
        "cpu",
        "--set",
        "training.steps=30",
        "--set",
        "training.batch=6",
        "--set",
        "checkpoint_every=3",
        "--set",
        "log_every=1",
    ]
    torchrun("hpdm.training", *training, "--out", folder / "whole").wait(timeout=600)
    expected = weights_of(folder / "whole")
    tallies = [Tally("training, one of three processes"), Tally("sampling, one of three processes")]
    ended = Tally(f"the two others end within {ENDING_SOON} s")

    def kill(process, ready):
        seconds = kill_one(process, ready, chance)
        if seconds is not None:
            ended.add("survived" if seconds < ENDING_SOON else "hang", f"{seconds:.0f} s")

    for number in range(effort):
        run = folder / f"run{number}"
        kill(torchrun("hpdm.training", *training, "--out", run), (run / "latest").exists)
        code = torchrun("hpdm.training", *training, "--out", run).wait(timeout=600)
        good = code == 0 and weights_of(run) == expected
        tallies[0].add("survived" if good else "traceback" if code else "lost", f"case {number}: code {code}")
    sampling = [
        "--checkpoint",
        folder / "whole",
        "--num",
        "60",
        "--format",
        "npy",
        "--steps",
        "2,1",
        "--device",
        "cpu",
        "--batch",
        "2",
        "--quiet",
    ]

    def content(out):
        return {path.name: path.read_bytes() for path in out.glob("*.npy")}

    torchrun("hpdm.sampling", *sampling, "--out", folder / "samples").wait(timeout=600)
    for number in range(effort):
        out = folder / f"out{number}"
        kill(torchrun("hpdm.sampling", *sampling, "--out", out), lambda out=out: any(out.glob("*.npy")))
        code = torchrun("hpdm.sampling", *sampling, "--out", out).wait(timeout=600)
        good = code == 0 and len(content(out)) == 60 and content(out) == content(folder / "samples")
        tallies[1].add("survived" if good else "traceback" if code else "lost", f"case {number}: code {code}")
    clips = folder / "clips"
    clips.mkdir()
    for index in range(48):
        np.save(clips / f"{index:02d}.npy", np.random.default_rng(index).integers(0, 255, (16, 64, 64, 3), np.uint8))
    judging = [
        "fvd",
        "--samples",
        clips,
        "--reference",
        clips,
        "--backbone",
        "shapes3d",
        "--protocol",
        "native",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--quiet",
        "--record",
    ]
    cache = folder / "cache"

    def judged(name, killed):
        os.environ["HPDM_EVAL_CACHE"] = str(cache)
        if killed:
            kill(torchrun("hpdm_eval", *judging, folder / name), lambda: any(cache.rglob("*.features")))
        code = torchrun("hpdm_eval", *judging, folder / name).wait(timeout=600)
        values = [json.loads(path.read_text()) for path in (folder / name).glob("*.json")] if not code else []
        return code, [(record["value"], record["ci95"], record["details"]) for record in values]

    expected = judged("record", False)
    tallies.append(Tally("evaluation, one of three processes"))
    for number in range(effort):
        shutil.rmtree(cache, ignore_errors=True)
        found = judged(f"record{number}", True)
        tallies[2].add(
            "survived" if found == expected else "traceback" if found[0] else "lost",
            f"case {number}: {found}, {expected}",
        )
    return [*tallies, ended]
