"""What each of the two processes of test_distributed.py runs, with arguments FOLDER RANK PORT PORT ..."""

import os
import sys
from pathlib import Path

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
}


def main(folder, rank, *ports):
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    for (name, (settings, stop_after)), port in zip(SCENARIOS.items(), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        train(small_config(*settings), Path(folder) / name, device="cpu", stop_after=stop_after, quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
