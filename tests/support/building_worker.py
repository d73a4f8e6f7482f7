"""What each of the two processes of test_building.py runs, with arguments FOLDER RANK PORT PORT."""

import json
import os
import resource
import sys
from pathlib import Path

from hpdm.checkpoint.folder import _whole
from hpdm.config import config_from_dict, override_config
from hpdm.methods import make_method
from hpdm.training.distributed import processes
from hpdm.training.loop import train
from hpdm.training.start import build_network
from tests.support.small_text import SMALL_TEXT

# Large enough that a whole copy of it shows in the memory of a process; no parameter has more than 3 % of it.
LARGE = override_config(
    config_from_dict(SMALL_TEXT),
    [
        "network.token_width=320",
        "network.latent_width=640",
        "network.levels_per_block=[1, 2, 2]",
        "network.compute_layers=2",
    ],
)
# run's folder → settings
RUNS = {"ddp": [], "fsdp": ["parallel=fsdp"], "finetuned": ["parallel=fsdp", "init_from=coarse"]}


def peak():
    """Most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(folder, rank, first, *ports):
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": first}
    os.chdir(folder)
    with processes("cpu") as here:
        build_network(make_method(config_from_dict(SMALL_TEXT)), here, sharded=True, seed=5)  # imports
        before = peak()
        network = build_network(make_method(LARGE), here, sharded=True, seed=5)
        grown = peak() - before
        held = sum(p.to_local().nbytes for p in network.parameters())
        sums = {name: value.double().sum().item() for name, value in _whole(network.named_parameters(), True).items()}
        figures = {"grown": grown, "held": held, "sums": sums, "scale": network.noise_level.scale.tolist()}
        Path(f"built-{rank}.json").write_text(json.dumps(figures))
    for (name, settings), port in zip(RUNS.items(), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        train(override_config(config_from_dict(SMALL_TEXT), settings), name, device="cpu", quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
