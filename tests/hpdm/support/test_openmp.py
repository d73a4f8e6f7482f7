"""How threads wait, said before PyTorch is there, and what a run keeps of memory."""

import os
import subprocess
import sys

import pytest

from hpdm.support import openmp
from hpdm_eval.support import heap
from tests.support.paths import ROOT

COMMANDS = {
    "hpdm-eval": "from hpdm_eval.commands.entry import main; main.get_command(None, 'fvd'); import torch",
    "hpdm-sample": "from hpdm.commands.entry import sample; import torch",
}


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}, {"KMP_BLOCKTIME": "1"}])
@pytest.mark.parametrize("torch_is_there", [False, True])
def test_threads_sleep_unless_the_user_says_otherwise(monkeypatch, given, torch_is_there):
    for name in openmp.RECORDED:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if not torch_is_there:
        monkeypatch.delitem(sys.modules, "torch")
    openmp.wait_passively()
    ours = {"OMP_WAIT_POLICY": "PASSIVE"} if not given and not torch_is_there else {}
    assert openmp.settings() == given | ours


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_say_it_before_they_import_torch(command):
    """What the environment is at the moment when torch is first looked for."""
    look = """
import os, sys
class Look:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Look())
"""
    environment = {key: value for key, value in os.environ.items() if key not in openmp.RECORDED}
    done = subprocess.run(
        [sys.executable, "-c", look + COMMANDS[command]],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["PASSIVE"], done.stderr


def test_free_memory_goes_back_every_other_second(monkeypatch):
    now, given = [0.0], []
    monkeypatch.setattr(heap, "_malloc_trim", lambda: given.append)
    tidied = heap.Heap(clock=lambda: now[0])
    for _ in range(100):
        now[0] += 0.125
        tidied.tidy()
    assert given == [0] * 6
    monkeypatch.setattr(heap, "_malloc_trim", lambda: None)
    now[0] += 5
    tidied.tidy()
    assert len(given) == 6
