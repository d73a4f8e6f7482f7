"""A run is killed at random instants and goes on with another number of processes: nothing is lost, see elastic.py."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT, SUPPORT

RELATIVE = 1e-6  # sums of a batch change with the number of processes


def campaign(folder, *options, timeout, script="elastic.py"):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SUPPORT / script), "--out", str(folder), *map(str, options)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout, check=True)
    return json.loads(done.stdout)


def check(result, kills, relative):
    assert result["tried"] >= kills and result["lost"] == 0, result
    assert result["killed_after_grace"] == 0 and result["ways"].keys() <= {"all", "one", "term", "ended before"}, result
    assert max(result["distance"].values()) <= relative, result


@pytest.mark.slow
def test_two_then_one_then_three_processes_of_either_kind(tmp_path):
    """FSDP on two, DDP's checkpoint of one, FSDP on three, and DDP on two to the end."""
    check(campaign(tmp_path, "--kills", 3, "--steps", 6, "--parallel", "fsdp", "ddp", timeout=1200), 3, RELATIVE)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(("sizes", "relative"), [([2, 1, 3], RELATIVE), ([2], 0.0)])
def test_many_kills(tmp_path, parallel, sizes, relative):
    """Bit-equal where the number of processes stays the same."""
    result = campaign(tmp_path, "--kills", 25, "--steps", 150, "--parallel", parallel, "--sizes", *sizes, timeout=7200)
    check(result, 25, relative)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_nodes_that_leave_and_join_under_torchrun(tmp_path, parallel):
    """Two agents, then one, then three, in one run of torchrun."""
    result = campaign(
        tmp_path / "agents",
        "--parallel",
        parallel,
        "--rounds",
        1,
        "--steps",
        150,
        timeout=3600,
        script="elastic_agents.py",
    )
    assert result["lost"] == 0 and result["steps"] == 150 and result["tried"] == 1, result
    starts = result["starts"]
    changes = [starts[0], *(now for before, now in zip(starts, starts[1:], strict=False) if now != before)]
    assert changes[-3:] == [2, 1, 3], result
    assert max(result["distance"].values()) <= RELATIVE, result
