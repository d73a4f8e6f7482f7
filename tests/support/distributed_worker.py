"""What each of the two processes of test_distributed.py runs, with arguments FOLDER RANK PORT PORT ..."""

import os
import sys
from pathlib import Path

from hpdm.data.loader import Loader
from hpdm.support.errors import InputError
from hpdm.training.loop import train
from tests.support.small_training import small_config

# run's folder → (settings, stop_after); "one-then-..." continues what one process saved after two steps
SCENARIOS = {
    "ddp": (("parallel=ddp", "checkpoint_every=1"), None),
    "fsdp": (("parallel=fsdp", "checkpoint_every=1"), None),
    "one-then-ddp": (("parallel=ddp",), 4),
    "one-then-fsdp": (("parallel=fsdp",), 4),
    "ddp-then-one": (("parallel=ddp",), 2),
    "fsdp-then-one": (("parallel=fsdp",), 2),
    "fsdp-adamw": (("parallel=fsdp", "optimizer=adamw", "sheet_every=2"), None),
    # One sample a pass, of which half use the first pass: it is often made for one process alone.
    "fsdp-branches": (
        (
            "parallel=fsdp",
            *(BRANCHES := ("branching=[1,2]", "self_conditioning_rate=0.5", "micro_batch=1", "training.steps=3")),
        ),
        None,
    ),
    "ddp-branches": (("parallel=ddp", *BRANCHES), None),
    "no-clips": (("parallel=fsdp",), None),
}
FAILS = "no-clips"  # the second process gets no clips in its third step


def main(folder, rank, *ports):
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    for (name, (settings, stop_after)), port in zip(SCENARIOS.items(), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        config, run = small_config(*settings), Path(folder) / name
        if name != FAILS:
            train(config, run, device="cpu", stop_after=stop_after, quiet=True)
            continue
        lose_clips(after=2 if rank == "1" else None)
        try:
            train(config, run, device="cpu", quiet=True)
        except InputError as error:
            (Path(folder) / f"{name}-{rank}.txt").write_text(str(error), encoding="utf-8")


def lose_clips(after):
    """Let deliveries of this process fail after so many; None for never."""
    deliver, counted = Loader.__next__, []

    def failing(self):
        counted.append(None)
        if after is not None and len(counted) > after:
            raise OSError("no route to host")
        return deliver(self)

    Loader.__next__ = failing


if __name__ == "__main__":
    main(*sys.argv[1:])
