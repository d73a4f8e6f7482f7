"""Two processes under gloo against one: the same losses, averages and checkpoints, with DDP and with FSDP2."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from hpdm.checkpoint.folder import latest_checkpoint, step_folder
from hpdm.model.network import HPDM
from hpdm.training.log import read_log
from hpdm.training.loop import train
from tests.support.distributed_worker import BRANCHES, SCENARIOS
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import free_ports
from tests.support.small_training import saved_weights, small_config

RELATIVE = 1e-5  # summing a batch in another order moves fp32 losses by less


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with one run per scenario of two processes, and what one process makes of the same settings."""
    folder = tmp_path_factory.mktemp("runs")
    train(small_config("checkpoint_every=1"), folder / "one", device="cpu", quiet=True)
    train(small_config("optimizer=adamw"), folder / "one-adamw", device="cpu", quiet=True)
    train(small_config(*BRANCHES, "micro_batch=4"), folder / "one-branches", device="cpu", quiet=True)
    train(small_config(), folder / "half", device="cpu", quiet=True, stop_after=2)
    for name in ("one-then-ddp", "one-then-fsdp"):
        shutil.copytree(folder / "half", folder / name, symlinks=True)

    ports = [str(port) for port in free_ports(len(SCENARIOS))]
    command = [sys.executable, str(SUPPORT / "distributed_worker.py"), str(folder)]
    root = str(ROOT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    workers = [
        subprocess.Popen([*command, rank, *ports], env=environment, stderr=subprocess.PIPE, text=True) for rank in "01"
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    for name in ("ddp-then-one", "fsdp-then-one"):
        train(small_config(), folder / name, device="cpu", quiet=True, stop_after=4)
    return folder


def losses(run):
    return np.array([line["loss_per_level"] for line in read_log(run)])


# run of two processes → (the run of one process it must equal, steps it has)
PAIRS = [
    ("ddp", "one", 6),
    ("fsdp", "one", 6),
    ("one-then-ddp", "one", 4),
    ("one-then-fsdp", "one", 4),
    ("ddp-then-one", "one", 4),
    ("fsdp-then-one", "one", 4),
    ("fsdp-adamw", "one-adamw", 6),
    ("fsdp-branches", "one-branches", 3),
    ("ddp-branches", "one-branches", 3),
]


@pytest.mark.parametrize(("run", "reference", "steps"), PAIRS)
def test_losses_equal_those_of_one_process(runs, run, reference, steps):
    assert losses(runs / run).shape == (steps, 2)
    np.testing.assert_allclose(losses(runs / run), losses(runs / reference)[:steps], rtol=RELATIVE)


@pytest.mark.parametrize(("run", "reference", "steps"), PAIRS)
@pytest.mark.parametrize("file", ["model", "ema"])
def test_weights_equal_those_of_one_process(runs, run, reference, steps, file):
    ours, theirs = (saved_weights(step_folder(runs / name, steps), file) for name in (run, reference))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("run", ["one", "ddp", "fsdp"])
def test_average_of_every_parameter_follows_the_saved_weights(runs, run):
    """Against the recursion in float64 over the weights saved after every step."""
    config = small_config()
    torch.manual_seed(config.training.seed)
    network = HPDM(config.network, config.pyramid)
    expected = {name: p.detach().double() for name, p in network.named_parameters()}
    for step in range(1, config.training.steps + 1):
        saved = saved_weights(step_folder(runs / run, step), "model")
        decay = 0.5 ** (1 / min(config.training.ema_half_life, config.training.ema_ramp_up * step))
        expected = {name: decay * value + (1 - decay) * saved[name] for name, value in expected.items()}
        averages = saved_weights(step_folder(runs / run, step), "ema")
        assert averages.keys() == expected.keys()
        for name, average in averages.items():
            torch.testing.assert_close(average.double(), expected[name], rtol=1e-5, atol=1e-7, msg=f"{name}, {step}")


def test_sheets_do_not_disturb_sharded_weights(runs):
    """Drawing with averaged weights in between leaves the losses as they are without: see the pair of fsdp-adamw."""
    assert sorted(path.name for path in (runs / "fsdp-adamw" / "sheets").iterdir()) == [
        f"step-{step:08d}.png" for step in (2, 4, 6)
    ]


def test_processes_save_together_where_one_gets_no_clips(runs):
    first, second = ((runs / f"no-clips-{rank}.txt").read_text(encoding="utf-8") for rank in "01")
    assert first.startswith("another process of the run got no clips") and second.startswith("no route to host")
    saved = int(latest_checkpoint(runs / "no-clips").name.removeprefix("step-"))
    assert 0 < saved < 6
    assert all(f"The {saved} steps made before are saved" in said for said in (first, second))
