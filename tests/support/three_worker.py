"""What each of the three processes of test_three_processes.py runs, with arguments FOLDER RANK PORT PORT ..."""

import os
import signal
import sys
from pathlib import Path

from hpdm.hierarchical import Hierarchical
from hpdm.support.errors import InputError
from hpdm.training import resume
from hpdm.training.loop import train
from tests.support.small_training import small_config

STEPS = "training.steps=4"
# Eight samples fall to three processes as 2, 3 and 3, in two passes; in passes of one sample one of them is empty.
RUNS = {
    "ddp": ("parallel=ddp",),
    "fsdp": ("parallel=fsdp",),
    "empty passes": ("parallel=fsdp", "micro_batch=1"),
    "stopped": ("parallel=fsdp",),
    "stopped again": ("parallel=fsdp",),
    "elsewhere": (),
    "half": ("parallel=ddp",),
    "other half": ("parallel=ddp",),
}
FOLDERS = {"stopped again": "stopped", "other half": "half"}


def main(folder, rank, *ports):
    os.environ |= {"WORLD_SIZE": "3", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    resume.PATIENCE = 1.0
    for (name, settings), port in zip(RUNS.items(), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        run = Path(folder) / FOLDERS.get(name, name)
        if name == "elsewhere" and rank == "2":
            run = Path(folder) / "elsewhere on node 2"
        if name == "stopped" and rank == "1":
            stop_in_step(2)
        try:
            outcome = train(
                small_config(STEPS, *settings), run, device="cpu", quiet=True, stop_after=2 if name == "half" else None
            )
            said = f"{outcome.step} {outcome.interrupted}"
        except InputError as error:
            said = str(error)
        (Path(folder) / f"{name} {rank}.txt").write_text(said)


def stop_in_step(wanted):
    """SIGTERM to this process in its first pass of step `wanted`."""
    loss = Hierarchical.loss

    def interrupted(self, *arguments, **options):
        if options["step"] == wanted:
            Hierarchical.loss = loss
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *arguments, **options)

    Hierarchical.loss = interrupted


if __name__ == "__main__":
    main(*sys.argv[1:])
