"""What the two processes of test_sharded.py run, as forks of this one, with the argument FOLDER."""

import errno
import os
import sys
import threading
import time
from pathlib import Path

from hpdm.hierarchical import Hierarchical
from hpdm.training import saving
from hpdm.training.loop import train
from hpdm.training.sharded import ShardWriter
from tests.support.elastic import Forks
from tests.support.small_training import small_config

SETTINGS = ("parallel=fsdp", "micro_batch=null", "training.steps=4", "optimizer=adamw", "levels_per_block=[2]")


def run(folder, name, *settings, **options):
    return train(small_config(*SETTINGS, *settings), folder / name, device="cpu", quiet=True, **options)


def plain(folder, rank):
    """The save of step 2 ends only when step 3 has begun: if training waited for it, it would never end."""
    write, loss, made = ShardWriter.write_data, Hierarchical.loss, threading.Event()

    def slow(self, *arguments):
        if "step-00000002" in str(self.folder):
            assert made.wait(120), "training waits for the save"
        return write(self, *arguments)

    def counted(self, *arguments, **options):
        if options["step"] == 2:
            made.set()
        return loss(self, *arguments, **options)

    ShardWriter.write_data, Hierarchical.loss = slow, counted
    run(folder, "plain", "checkpoint_every=1", "keep=2", stop_after=3)


def full_disk(folder, rank):
    """There is no room for what process 1 saves after step 2."""
    write = ShardWriter.write_data

    def fails(self, *arguments):
        if "step-00000002" in str(self.folder) and rank == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / "model-00001.safetensors"))
        return write(self, *arguments)

    ShardWriter.write_data = fails
    run(folder, "full disk", "checkpoint_every=1", stop_after=3)


def elsewhere(folder, rank):
    saving.PATIENCE = 0.5
    run(folder, f"elsewhere {rank}")


def main(folder):
    for scenario in (plain, full_disk, elsewhere):
        began = time.monotonic()
        attempt = Forks(2, lambda rank, scenario=scenario: scenario(folder, rank), folder / scenario.__name__)
        attempt.end(300)
        (folder / f"{scenario.__name__}.codes").write_text(f"{attempt.codes[0]} {attempt.codes[1]}")
        print(scenario.__name__, attempt.codes, f"{time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
