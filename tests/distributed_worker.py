"""What each of the two processes of test_distributed.py runs: `python distributed_worker.py FOLDER RANK PORT PORT ...`."""

import os
import sys
from pathlib import Path

from small_training import small_config

from hpdm.training.loop import train

# run's folder → (settings, stop_after); a run named "from-..." continues what one process saved after two steps
SCENARIOS = {
    "ddp": (("parallel=ddp",), None),
    "fsdp": (("parallel=fsdp",), None),
    "ddp-passes": (("parallel=ddp", "micro_batch=1", "training.batch=8"), None),
    "fsdp-passes": (("parallel=fsdp", "micro_batch=1", "training.batch=8"), None),
    "one-then-ddp": (("parallel=ddp",), None),
    "one-then-fsdp": (("parallel=fsdp",), None),
    "ddp-then-one": (("parallel=ddp",), 2),
    "fsdp-then-one": (("parallel=fsdp",), 2),
    "fsdp-adamw": (("parallel=fsdp", "optimizer=adamw", "sheet_every=2"), None),
}


def main(folder, rank, *ports):
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    for (name, (settings, stop_after)), port in zip(SCENARIOS.items(), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        train(small_config(*settings), Path(folder) / name, device="cpu", stop_after=stop_after, quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
