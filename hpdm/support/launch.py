"""Commands as modules, for `torchrun -m`: hpdm.training, hpdm.sampling, hpdm_eval and baselines.reconstruct.

torchrun takes some of a command's options for its own, `--num` for one; after `--` it takes none:

    torchrun --nproc-per-node 8 -m hpdm.sampling -- --checkpoint runs/L --num 2048 --out samples/
"""

import importlib
import sys

from hpdm.support.interrupts import ends_at_once
from hpdm.support.openmp import wait_passively


def launch(module: str, name: str, program: str) -> None:
    """Run the command `name` of a module as the console script `program` would."""
    words = sys.argv[1:]
    if words[:1] == ["--"]:  # newer argparse hands it on
        words = words[1:]
    sys.argv = [program, *words]
    wait_passively()
    with ends_at_once():
        command = getattr(importlib.import_module(module), name)
    command.main(words, prog_name=program)
