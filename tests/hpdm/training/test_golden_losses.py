"""Ten steps of a small network give the losses they have always given.

A change that is meant to change nothing must leave them as they are. One that is meant to move them comes with a new
file: `python tests/test_golden_losses.py` writes it.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from hpdm.training.log import read_log
from hpdm.training.loop import train
from tests.support.small_training import small_config

GOLDEN = Path(__file__).with_name("golden_losses.json")
RELATIVE = 1e-4  # other processors and versions of torch round differently; a changed formula moves 1e-3 or more


def ten_steps(folder):
    train(small_config("training.steps=10", "network.dropout=0.0"), folder, device="cpu", quiet=True)
    return [line["loss_per_level"] for line in read_log(folder)]


def test_ten_steps_give_the_stored_losses(tmp_path):
    stored = json.loads(GOLDEN.read_text(encoding="utf-8"))
    np.testing.assert_allclose(ten_steps(tmp_path / "run"), stored, rtol=RELATIVE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = ten_steps(Path(folder) / "run")
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}", file=sys.stderr)
