"""What each of the two processes of test_evaluation.py runs, with arguments FOLDER RANK SCENARIO=PORT ...

Exchanges time out after fewer seconds than the judge takes, so waiting for it in one would end the run.
"""

import os
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from hpdm.training.loop import train
from tests.support.small_training import small_config

TIMEOUT, JUDGING = 12, 15  # seconds
SETTINGS = ("training.steps=4", "micro_batch=4", "keep_weights_every=2", "power_ema=[0.05, 0.1]")
EVALUATED = ("eval_every=2", "eval.num=3", "eval.steps=[2, 2]")
# run's folder → settings
SCENARIOS = {
    "ddp": (*SETTINGS, *EVALUATED, "parallel=ddp"),
    "fsdp": (*SETTINGS, *EVALUATED, "parallel=fsdp"),
    "fsdp-not-evaluated": (*SETTINGS, "parallel=fsdp"),
}


class Keeps:
    """An evaluator that keeps the samples and takes its time on the last step."""

    def __init__(self, folder, last=4, seconds=0):
        self.folder, self.last, self.seconds = Path(folder), last, seconds

    def __call__(self, samples, step, draw_reference, stopped):
        shutil.copytree(samples, self.folder / f"samples-{step}")
        time.sleep(self.seconds if step == self.last else 0)
        return {"fvd": {"value": float(step), "ci95": [step - 1.0, step + 1.0]}}


def main(folder, rank, *scenarios):
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    for name, port in (scenario.split("=") for scenario in scenarios):
        settings, os.environ["MASTER_PORT"] = SCENARIOS[name], port
        dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
        if name == "fsdp":  # evaluated from the second start on: step 2 before any forward pass
            train(
                small_config(*SCENARIOS["fsdp-not-evaluated"]),
                Path(folder) / name,
                device="cpu",
                quiet=True,
                stop_after=2,
            )
        evaluator = Keeps(Path(folder) / f"{name}-samples", seconds=JUDGING if name == "fsdp" else 0)
        train(small_config(*settings), Path(folder) / name, device="cpu", quiet=True, evaluator=evaluator)
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
