"""What each of the two processes of test_baselines.py runs, with arguments FOLDER RUNS RANK PORT PORT ..."""

import os
import sys
from pathlib import Path

from hpdm.config import load_config
from hpdm.training.loop import train
from tests.support.small_baselines import options, small_config_file

SCENARIOS = (("cascade", "ddp"), ("patch-diffusion", "ddp"), ("latent", "ddp"), ("latent", "fsdp"))


def main(folder, runs, rank, *ports):
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    for (name, parallel), port in zip(SCENARIOS, ports, strict=True):
        os.environ["MASTER_PORT"] = port
        settings = ["training.steps=4", f"parallel={parallel}", *options(name, Path(runs))[3::2]]
        config = load_config(small_config_file(Path(runs)), settings, method=name)
        train(config, Path(folder) / f"{name}-{parallel}", device="cpu", stop_after=2, quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
