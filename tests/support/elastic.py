"""Kill a training run at random instants, go on with fewer or more processes, and see what is lost.

    python tests/support/elastic.py --out FOLDER --parallel fsdp --kills 100 --sizes 2 1 3

As torchrun would: all processes are killed, or one is and the others are asked to end, or all get SIGTERM. Processes
are forks of this one, which has imported everything, so that an attempt takes about as long as its steps. Sizes,
ways to kill and, where several are named, kinds of parallelism take turns. Prints a JSON object: how often each was
done, how many checkpoints were lost or damaged, and how far the final weights are from those of an undisturbed run.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import time
import traceback
from pathlib import Path

import torch

from hpdm.checkpoint.folder import check_files, latest_checkpoint, steps_saved
from hpdm.checkpoint.recover import newest_whole
from hpdm.support.errors import InputError
from hpdm.support.files import LEFTOVER
from hpdm.training.loop import train
from tests.support.small_training import saved_weights, small_config

WAYS = ("all", "one", "term")
GRACE = 60.0  # seconds that processes have to end when one of them is gone or all are asked to


class Forks:
    """Forks of this process, as torchrun would start processes; what they say goes to LOG-RANK.txt."""

    def __init__(self, size, work, log):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.alive = {}
        self.codes = {}
        for rank in range(size):
            child = os.fork()
            if child == 0:
                _work(work, rank, size, port, log)
            self.alive[child] = rank

    def poll(self) -> bool:
        """Whether some still run."""
        for child in list(self.alive):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                self.codes[self.alive.pop(child)] = os.waitstatus_to_exitcode(status)
        return bool(self.alive)

    def send(self, number, ranks=None):
        for child, rank in self.alive.items():
            if ranks is None or rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)

    def end(self, seconds=GRACE):
        """Wait for all, and kill what is left after some time; returns whether that was necessary."""
        deadline = time.monotonic() + seconds
        while self.poll() and time.monotonic() < deadline:
            time.sleep(0.02)
        late = self.poll()
        self.send(signal.SIGKILL)
        while self.poll():
            time.sleep(0.01)
        return late


def _work(work, rank, size, port, log):
    """In a fork: `work(rank)`, and the end of the process with a code as of a command."""
    code = 1
    try:
        with open(f"{log}-{rank}.txt", "a") as errors:
            os.dup2(errors.fileno(), 2)
        os.environ |= {
            "WORLD_SIZE": str(size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        outcome = work(rank)
        code = 130 if getattr(outcome, "interrupted", False) else 0
    except InputError as error:
        os.write(2, f"error: {error}\n".encode())
        code = 2
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def training(config, run, size):
    """The `Forks` that train in the folder `run`."""
    return Forks(size, lambda rank: train(config, run, device="cpu", quiet=True), f"{run}-log")


def undisturbed(config, run, size):
    """Train to the end; returns the seconds until the first step is saved, and per step after it."""
    began = time.monotonic()
    attempt = training(config, run, size)
    while attempt.poll() and not steps_saved(run):
        time.sleep(0.005)
    first = time.monotonic()
    assert not attempt.end(3600) and set(attempt.codes.values()) == {0}, attempt.codes
    return first - began, (time.monotonic() - first) / max(1, config.training.steps - 1)


def disturb(config, run, size, way, seconds, chance):
    """Kill a run while it starts or in one of its next steps; returns what was seen. seconds: as of `undisturbed`."""
    before = max(steps_saved(run), default=0)
    attempt = training(config, run, size)
    more = chance.randint(0, 2)
    wait_for, delay = before + more, chance.uniform(0, seconds[0] if more == 0 else 1.2 * seconds[1])
    while attempt.poll() and max(steps_saved(run), default=0) < wait_for:
        time.sleep(0.005)
    deadline = time.monotonic() + delay
    while attempt.poll() and time.monotonic() < deadline:
        time.sleep(0.002)
    if not attempt.alive:
        return {"way": "ended before", "codes": attempt.codes}
    saving = run.is_dir() and any(LEFTOVER.fullmatch(path.name) for path in run.iterdir())
    late = False
    if way == "all":
        attempt.send(signal.SIGKILL)
        attempt.end(10)
    else:
        if way == "one":
            attempt.send(signal.SIGKILL, {chance.randrange(size)})
        attempt.send(signal.SIGTERM)
        late = attempt.end()
    return {"way": way, "saving": saving, "late": late, "codes": attempt.codes}


def faults(run, before) -> list[str]:
    """What a kill has cost: checkpoints that are damaged, and steps that were saved before it and are not found."""
    found = []
    for folder in steps_saved(run).values():
        try:
            check_files(folder)
        except InputError as error:
            if folder.is_dir():  # or the run, which may still be going on, has deleted it meanwhile
                found.append(str(error))
    newest = newest_whole(run, say=lambda text: None)
    step = int(newest.name.removeprefix("step-")) if newest else 0
    if step < before:
        found.append(f"step {before} was saved, the newest is now {step}")
    return found


def distance(run, other, kind) -> float:
    """Norm of the difference of two runs' last weights over the norm of the second's."""
    ours, theirs = (saved_weights(latest_checkpoint(path), kind) for path in (run, other))
    assert ours.keys() == theirs.keys()
    difference = sum((ours[key].double() - theirs[key].double()).square().sum() for key in ours)
    return float((difference / sum(value.double().square().sum() for value in theirs.values())).sqrt())


def campaign(out, parallel, *, kills, sizes, steps, seed, settings=()) -> dict:
    """Kill a run `kills` times on the way to its end and count; see the text at the top of this file."""
    chance = random.Random(seed)
    configs = [
        small_config(
            f"training.steps={steps}",
            f"parallel={each}",
            "checkpoint_every=1",
            "keep=2",
            "optimizer=adamw",
            "micro_batch=null",
            "levels_per_block=[2]",
            *settings,
        )
        for each in parallel
    ]
    seconds = undisturbed(configs[0], out / "whole", sizes[0])
    run, counts, lost, ways = out / "disturbed", {}, [], list(WAYS)
    tried = number = saving = late = 0
    while tried < kills and max(steps_saved(run), default=0) < steps:
        before = max(steps_saved(run), default=0)
        seen = disturb(
            configs[number % len(configs)], run, sizes[number % len(sizes)], ways[number % len(ways)], seconds, chance
        )
        number += 1
        lost += faults(run, before)
        lost += [f"{seen['way']}: exit codes {seen['codes']}"] if 2 in seen["codes"].values() else []
        counts[seen["way"]] = counts.get(seen["way"], 0) + 1
        tried += seen["way"] in WAYS
        saving, late = saving + seen.get("saving", False), late + seen.get("late", False)
    if max(steps_saved(run), default=0) < steps:
        undisturbed(configs[number % len(configs)], run, sizes[number % len(sizes)])
    return {
        "parallel": parallel,
        "sizes": sizes,
        "tried": tried,
        "lost": len(lost),
        "faults": lost,
        "ways": counts,
        "while_saving": saving,
        "killed_after_grace": late,
        "distance": {kind: distance(run, out / "whole", kind) for kind in ("model", "ema")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parallel", nargs="+", default=["fsdp"])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 1, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    arguments = vars(parser.parse_args())
    out, parallel = arguments.pop("out"), arguments.pop("parallel")
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(campaign(out, parallel, **arguments), indent=2))


if __name__ == "__main__":
    main()
