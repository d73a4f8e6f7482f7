"""Two processes under gloo against one: the same losses, averages and checkpoints, with DDP and with FSDP2."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import SCENARIOS
from safetensors.torch import load_file
from small_training import small_config

from hpdm.network import HPDM
from hpdm.training.checkpoint import step_folder
from hpdm.training.config import plan_batch
from hpdm.training.log import read_log
from hpdm.training.loop import train

RELATIVE = 1e-5  # summing a batch in another order moves fp32 losses by less


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with one run per scenario of two processes, and what one process makes of the same settings."""
    folder = tmp_path_factory.mktemp("runs")
    train(small_config(), folder / "one", device="cpu", quiet=True)
    train(small_config("training.batch=8"), folder / "one-passes", device="cpu", quiet=True)
    train(small_config("optimizer=adamw", "sheet_every=2"), folder / "one-adamw", device="cpu", quiet=True)
    train(small_config(), folder / "half", device="cpu", quiet=True, stop_after=2)
    for name in ("one-then-ddp", "one-then-fsdp"):
        shutil.copytree(folder / "half", folder / name, symlinks=True)

    ports = [str(port) for port in free_ports(len(SCENARIOS))]
    command = [sys.executable, str(Path(__file__).with_name("distributed_worker.py")), str(folder)]
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    workers = [
        subprocess.Popen([*command, rank, *ports], env=environment, stderr=subprocess.PIPE, text=True) for rank in "01"
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    for name in ("ddp-then-one", "fsdp-then-one"):
        train(small_config(), folder / name, device="cpu", quiet=True)
    return folder


def free_ports(count):
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def losses(run):
    return np.array([line["loss_per_level"] for line in read_log(run)])


PAIRS = [
    ("ddp", "one"), ("fsdp", "one"), ("ddp-passes", "one-passes"), ("fsdp-passes", "one-passes"),
    ("one-then-ddp", "one"), ("one-then-fsdp", "one"), ("ddp-then-one", "one"), ("fsdp-then-one", "one"),
    ("fsdp-adamw", "one-adamw"),
]


@pytest.mark.parametrize(("run", "reference"), PAIRS)
def test_losses_equal_those_of_one_process(runs, run, reference):
    assert losses(runs / run).shape == (6, 2)
    np.testing.assert_allclose(losses(runs / run), losses(runs / reference), rtol=RELATIVE)


@pytest.mark.parametrize(("run", "reference"), PAIRS)
@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors"])
def test_weights_equal_those_of_one_process(runs, run, reference, file):
    ours, theirs = (load_file(step_folder(runs / name, 6) / file) for name in (run, reference))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("run", ["one", "ddp", "fsdp", "fsdp-passes"])
def test_average_of_every_parameter_follows_the_saved_weights(tmp_path, runs, run):
    """Against the recursion in float64 over weights saved after every step."""
    config = small_config("training.batch=8" if "passes" in run else "training.batch=4")
    saved = [load_file(step_folder(runs / run, step) / "model.safetensors") for step in (2, 4, 6)]
    averages = [load_file(step_folder(runs / run, step) / "ema.safetensors") for step in (2, 4, 6)]
    torch.manual_seed(config.training.seed)
    network = HPDM(config.network, config.pyramid)
    assert averages[-1].keys() == dict(network.named_parameters()).keys()
    # With the ramp-up of these few steps the half-life is at most 0.3 steps: the last weights make up nearly all.
    for name, start in network.named_parameters():
        if torch.equal(saved[-1][name], start.detach()):
            continue
        moved = (averages[-1][name] - start.detach()).norm()
        assert moved > 0, name
        distance = (averages[-1][name] - saved[-1][name]).norm()
        assert distance < 0.35 * (saved[-1][name] - saved[-2][name]).norm() + 1e-7, name
    assert plan_batch(config.training, 2).world_size == 2


def test_sheets_do_not_disturb_sharded_weights(runs):
    """Drawing with averaged weights in between leaves the losses as they are without: see the pair fsdp-adamw."""
    assert sorted(path.name for path in (runs / "fsdp-adamw" / "sheets").iterdir()) == [
        f"step-{step:08d}.png" for step in (2, 4, 6)
    ]
