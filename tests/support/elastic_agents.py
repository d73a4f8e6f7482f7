"""Nodes that come and go: torchrun agents of one process each, two, then one, then three, as `--nnodes 1:3` lets them.

    python tests/support/elastic_agents.py --out FOLDER --parallel fsdp --rounds 5

A round: two agents train; one is killed with its worker, and the other restarts its worker alone; two join, and
torchrun asks the worker to end and starts three; then all but one are killed. Prints a JSON object of counts, and how
far the final weights are from those of one process that nobody disturbed.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from hpdm.checkpoint.folder import steps_saved
from hpdm.training.provenance import read_provenance
from tests.support.elastic import distance, faults
from tests.support.paths import ROOT
from tests.support.small_training import write_small

# An agent that shares its store with its workers tells where it is in its first round only; who joins in a later round
# waits for that in vain (torch 2.13).
SHARED_STORE_OFF = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
SECONDS = 600.0


class Nodes:
    """Agents that meet at one address, each with its worker, in a group of processes of its own."""

    def __init__(self, run, options):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.run, self.options, self.agents, self.number = run, options, [], 0

    def join(self):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "1:3",
            "--nproc-per-node",
            "1",
            "--max-restarts",
            "1000",
            "--monitor-interval",
            "0.2",
            "--local-addr",
            "127.0.0.1",
            "--rdzv-id",
            "elastic",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            f"127.0.0.1:{self.port}",
            "--rdzv-conf",
            "last_call_timeout=3,is_host=" + ("0" if self.agents else "1"),
            "-m",
            "hpdm.training",
            "--",
            *self.options,
            "--out",
            str(self.run),
        ]
        self.number += 1
        with open(f"{self.run}-node-{self.number}.txt", "w") as log:
            self.agents.append(
                subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=os.environ | SHARED_STORE_OFF | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                )
            )

    def lose(self, index):
        """Kill an agent and its worker, as a node that loses power."""
        agent = self.agents.pop(index)
        for group in {agent.pid, *_groups_of_children(agent.pid)}:
            os.killpg(group, signal.SIGKILL)
        agent.wait()

    def until(self, ready):
        """Wait for something; raises TimeoutError where it does not come."""
        deadline = time.monotonic() + SECONDS
        while not ready():
            if time.monotonic() > deadline or all(agent.poll() is not None for agent in self.agents):
                raise TimeoutError(f"{[agent.poll() for agent in self.agents]}, {self.steps()} steps")
            time.sleep(0.1)

    def steps(self):
        return max(steps_saved(self.run), default=0)

    def go_on(self, processes, starts, chance):
        """Wait until as many processes have started again and saved a step, and a little longer."""
        self.until(lambda: len(lines := _starts(self.run)) > starts and lines[-1] == processes)
        before = self.steps()
        self.until(lambda: self.steps() > before)
        time.sleep(chance.uniform(0, 2))


def _groups_of_children(parent):
    """Ids of the process groups of a process' children: torchrun's workers lead sessions of their own."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == parent:
                found.add(int(words[2]))
        except (OSError, ValueError, IndexError):
            continue
    return found


def _starts(run):
    """How many processes each start of the run had."""
    return [line["processes"] for line in read_provenance(run)] if (run / "provenance.jsonl").exists() else []


def campaign(out, parallel, *, rounds, steps, seed):
    """See the text at the top of this file."""
    out.mkdir(parents=True)
    chance, size = random.Random(seed), write_small(out / "small.yaml")
    settings = {
        "training.steps": steps,
        "checkpoint_every": 1,
        "keep": 3,
        "optimizer": "adamw",
        "micro_batch": "null",
        "levels_per_block": "[2]",
        "parallel": parallel,
    }
    options = ["--size", str(size), "--device", "cpu"]
    options += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    whole = [sys.executable, "-m", "hpdm.training", *options, "--out", str(out / "whole"), "--quiet"]
    subprocess.run(whole, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    nodes = Nodes(out / "run", options)
    lost, killed = [], 0
    try:
        for number in range(rounds):
            starts = len(_starts(nodes.run))
            for _ in range(2 - len(nodes.agents)):
                nodes.join()
            nodes.go_on(2, starts, chance)
            for joining, processes in ((0, 1), (2, 3)):
                before, starts = nodes.steps(), len(_starts(nodes.run))
                if not joining:
                    nodes.lose(1)  # the first is where they meet
                    killed += 1
                for _ in range(joining):
                    nodes.join()
                nodes.go_on(processes, starts, chance)
                lost += faults(nodes.run, before)
            if number < rounds - 1:
                before = nodes.steps()
                nodes.lose(2)
                nodes.lose(1)
                killed += 2
                lost += faults(nodes.run, before)
        nodes.until(lambda: all(agent.poll() is not None for agent in nodes.agents))
    finally:
        for index in reversed(range(len(nodes.agents))):
            if nodes.agents[index].poll() is None:
                nodes.lose(index)
    return {
        "parallel": parallel,
        "tried": killed,
        "lost": len(lost),
        "faults": lost,
        "starts": _starts(nodes.run),
        "steps": nodes.steps(),
        "codes": [agent.returncode for agent in nodes.agents],
        "distance": {kind: distance(nodes.run, out / "whole", kind) for kind in ("model", "ema")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parallel", default="fsdp")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    print(json.dumps(campaign(arguments.pop("out"), arguments.pop("parallel"), **arguments), indent=2))


if __name__ == "__main__":
    main()
