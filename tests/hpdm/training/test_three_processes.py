"""Three processes that cannot share the batch equally: they equal one, stop together and see to it that they agree."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from hpdm.checkpoint.folder import step_folder
from hpdm.training.log import read_log
from hpdm.training.loop import train
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import free_ports
from tests.support.small_training import saved_weights, small_config
from tests.support.three_worker import RUNS, STEPS

RELATIVE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    train(small_config(STEPS), folder / "one", device="cpu", quiet=True)
    for name, seed in (("elsewhere", 0), ("elsewhere on node 2", 0)):
        train(small_config(STEPS, f"training.seed={seed}"), folder / name, device="cpu", quiet=True, stop_after=2)
    weights = step_folder(folder / "elsewhere on node 2", 2) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ports = [str(port) for port in free_ports(len(RUNS))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, str(SUPPORT / "three_worker.py"), str(folder), rank, *ports],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "012"
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=600)
        assert worker.returncode == 0, errors
    return folder


def said(folder, name):
    return [(folder / f"{name} {rank}.txt").read_text() for rank in "012"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp", "empty passes", "stopped"])
def test_losses_and_weights_equal_those_of_one_process(folder, name):
    ours, theirs = (np.array([line["loss_per_level"] for line in read_log(folder / run)]) for run in (name, "one"))
    assert ours.shape == (4, 2)
    np.testing.assert_allclose(ours, theirs, rtol=RELATIVE)
    for file in ("model", "ema"):
        ours, theirs = (saved_weights(step_folder(folder / run, 4), file) for run in (name, "one"))
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5, msg=lambda m, n=key: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model", "ema"])
def test_two_halves_are_the_whole_bit_for_bit(folder, file):
    """DDP would add up the first step's gradients in another order than all later ones."""
    whole, halves = (saved_weights(step_folder(folder / run, 4), file) for run in ("ddp", "half"))
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_within_the_step(folder):
    assert said(folder, "stopped") == ["2 True"] * 3
    assert step_folder(folder / "stopped", 2).is_dir() and not step_folder(folder / "stopped", 3).exists()
    assert said(folder, "stopped again") == ["4 False"] * 3


@pytest.mark.slow
def test_a_process_that_sees_another_folder_ends_the_run_on_all(folder):
    expected = (
        f"process 2 sees another folder {folder / 'elsewhere on node 2'} than process 0: there is another "
        f"step-00000002 on process 2"
    )
    assert said(folder, "elsewhere") == [expected] * 3
    assert len(read_log(folder / "elsewhere")) == 2
