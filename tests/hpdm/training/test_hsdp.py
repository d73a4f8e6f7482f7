"""Sharded copies (HSDP): two of two processes each give float64's gradients and train as one process."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from hpdm.checkpoint.folder import check_files
from hpdm.config import load_config
from hpdm.methods import make_method
from hpdm.support.errors import InputError
from hpdm.training.loop import train
from hpdm.training.plan import _sharing_lines
from hpdm.training.sharing import plan_sharing, sharing_memory, step_traffic
from hpdm_eval.studies.recipe_check.gradients import wrong
from tests.support.hsdp_worker import COMBINATIONS, SETTINGS
from tests.support.paths import ROOT, SUPPORT
from tests.support.small_training import saved_weights, small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hsdp")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, str(SUPPORT / "hsdp_worker.py"), str(folder)], env=environment, check=True, timeout=1500
    )
    return folder


def test_gradients_are_those_of_one_process_in_float64(folder):
    rows = json.loads((folder / "gradients.json").read_text())
    assert len(rows) == len(COMBINATIONS) and wrong(rows) == [], rows


def test_training_is_that_of_one_process_and_each_part_is_saved_once(folder, tmp_path):
    step = folder / "hsdp" / "step-00000002"
    assert check_files(step)
    whole = sum(value.nbytes for value in saved_weights(step).values())
    parts = sum(path.stat().st_size for path in step.glob("model-*.safetensors"))
    assert whole < parts < 1.6 * whole  # headers included: what both copies hold is in one file
    shutil.copytree(folder / "hsdp", tmp_path / "hsdp", symlinks=True)
    train(small_config(*SETTINGS), tmp_path / "one", device="cpu", quiet=True, stop_after=2)
    for run in ("hsdp", "one"):
        train(small_config(*SETTINGS), tmp_path / run, device="cpu", quiet=True)
    for number in (2, 3):
        for kind in ("model", "ema"):
            ours, theirs = (saved_weights(tmp_path / run / f"step-{number:08d}", kind) for run in ("hsdp", "one"))
            for name in ours:
                torch.testing.assert_close(
                    ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
                )


@pytest.mark.parametrize(
    ("settings", "processes", "local", "expected"),
    [
        (("parallel=ddp",), 16, "8", (1, 16)),
        (("parallel=fsdp",), 16, "8", (16, 1)),
        (("parallel=hsdp",), 16, "8", (8, 2)),
        (("parallel=hsdp", "shard_size=4"), 16, "8", (4, 4)),
        (("parallel=hsdp",), 8, "8", (8, 1)),
        (("parallel=hsdp",), 6, None, (6, 1)),
        (("parallel=hsdp",), 1, None, (1, 1)),
    ],
)
def test_groups(monkeypatch, settings, processes, local, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local) if local else monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    sharing = plan_sharing(small_config(*settings).training, processes)
    assert (sharing.shards, sharing.copies) == expected


def test_processes_that_cannot_be_grouped(monkeypatch, tmp_path):
    training = small_config("parallel=hsdp", "shard_size=4").training
    with pytest.raises(InputError, match=r"6 processes cannot be split into groups of 4, training\.shard_size"):
        plan_sharing(training, 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(InputError, match=r"shards nothing.*parallel=ddp"):
        plan_sharing(small_config("parallel=hsdp").training, 4)
    with pytest.raises(InputError, match="at least 2"):
        small_config("shard_size=1")


def plan_of(settings, processes):
    """(memory, traffic, parameters, those of the blocks) of the small network."""
    config = small_config(*settings)
    network = make_method(config).make_network()
    sharing = plan_sharing(config.training, processes)
    passes = -(-8 // (processes * config.training.micro_batch))
    blocks = [sum(p.numel() for p in block.parameters()) for block in network.blocks]
    return (
        sharing_memory(sharing, config.training, network, passes),
        step_traffic(sharing, config.training, network, passes, first_pass=True),
        sum(p.numel() for p in network.parameters()),
        blocks,
    )


def test_memory_counts_whole_weights_and_whole_gradients():
    assert plan_of(("parallel=ddp",), 2)[0] == {}
    memory, _, whole, blocks = plan_of(("parallel=fsdp", "micro_batch=1"), 4)
    around = whole - sum(blocks) + 2 * max(blocks)
    assert memory == {"gathered_weights": 4 * min(around, whole), "unsharded_gradients": 4 * whole}  # two passes
    one_pass = plan_of(("parallel=fsdp", "micro_batch=2"), 4)[0]
    assert one_pass["unsharded_gradients"] == 4 * min(around, whole)
    copies = plan_of(("parallel=hsdp", "shard_size=2", "micro_batch=1"), 4)[0]
    assert copies["unsharded_gradients"] == 4 * min(around, whole)
    assert plan_of(("parallel=fsdp", "reshard=false"), 4)[0]["gathered_weights"] == 4 * whole


def test_traffic_of_a_step():
    _, ddp, whole, blocks = plan_of(("parallel=ddp",), 4)
    assert ddp == {"within_copy": 0, "between_copies": 4 * 2 * whole * 3 // 4}
    _, fsdp, *_ = plan_of(("parallel=fsdp", "micro_batch=1"), 4)
    outside = whole - sum(blocks)
    assert fsdp == {"within_copy": 4 * (2 * (3 * sum(blocks) + outside) + whole) * 3 // 4, "between_copies": 0}
    _, hsdp, *_ = plan_of(("parallel=hsdp", "shard_size=2", "micro_batch=1"), 4)
    assert hsdp == {
        "within_copy": 4 * (2 * (3 * sum(blocks) + outside) + 2 * whole) // 2,
        "between_copies": 2 * 4 * whole // 4,
    }


def test_t2v_over_64_processes():
    """Three terabytes per process and step with one copy; a few gigabytes between nodes with one per node."""
    with torch.device("meta"):
        network = make_method(load_config("T2V")).make_network()
    whole = sum(p.numel() for p in network.parameters())
    one = load_config("T2V", ["parallel=fsdp"]).training
    sharing = plan_sharing(one, 64)
    assert step_traffic(sharing, one, network, 64, first_pass=True)["within_copy"] == pytest.approx(2.9e12, rel=0.02)
    assert sharing_memory(sharing, one, network, 64)["unsharded_gradients"] == 4 * whole
    eight = load_config("T2V", ["parallel=hsdp", "shard_size=8"]).training
    traffic = step_traffic(plan_sharing(eight, 64), eight, network, 64, first_pass=True)
    assert traffic["between_copies"] == pytest.approx(3.4e9, rel=0.02)
    assert _sharing_lines({"processes": 64, "shards": 8, **traffic}) == [
        "8 copies of the weights, each over 8 processes; each receives 3.45e+03 GB per step within its copy, 3.41 GB "
        "from other copies"
    ]
