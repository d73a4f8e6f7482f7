"""What the four processes of test_hsdp.py run, as forks of this one, with the argument FOLDER."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from hpdm.training.distributed import Processes
from hpdm.training.loop import train
from hpdm_eval.studies.recipe_check.gradients import BASE, compare, config_of, gradients, reference_gradients
from tests.support.elastic import Forks
from tests.support.small_training import small_config

COMBINATIONS = [
    {**BASE, "processes": 4, "parallel": "hsdp", "precision": precision, **changed}
    for precision, changed in (("fp32", {}), ("bf16", {"reshard": False, "checkpointing": True}))
]
SETTINGS = ("parallel=hsdp", "shard_size=2", "training.steps=3", "levels_per_block=[2]", "optimizer=adamw")


def gradients_of_all(folder, rank, references):
    dist.init_process_group("gloo", rank=rank, world_size=4)
    here = Processes(rank=rank, world_size=4, device=torch.device("cpu"))
    rows = [{**one, **compare(gradients(one, here), references[index])} for index, one in enumerate(COMBINATIONS)]
    if rank == 0:
        (folder / "gradients.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def main(folder):
    torch.set_num_threads(1)
    # Before any gradient is computed here: threads do not survive a fork.
    attempt = Forks(
        4,
        lambda rank: train(small_config(*SETTINGS), folder / "hsdp", device="cpu", quiet=True, stop_after=2),
        folder / "train",
    )
    attempt.end(600)
    assert set(attempt.codes.values()) == {0}, attempt.codes
    references = Forks(
        1,
        lambda rank: torch.save(
            [reference_gradients(config_of(one)) for one in COMBINATIONS], folder / "references.pt"
        ),
        folder / "references",
    )
    references.end(600)
    loaded = torch.load(folder / "references.pt", weights_only=True)
    attempt = Forks(4, lambda rank: gradients_of_all(folder, rank, loaded), folder / "gradients")
    attempt.end(600)
    assert set(attempt.codes.values()) == {0}, attempt.codes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
