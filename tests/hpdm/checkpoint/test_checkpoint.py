"""Checkpoints: what goes in comes out, whole or not at all, and never runs code."""

import os
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hpdm.checkpoint import folder as checkpoint
from hpdm.checkpoint.folder import (
    latest_checkpoint,
    load_training_state,
    read_config,
    read_weights,
    remove_leftovers,
    save_checkpoint,
)
from hpdm.model.network import HPDM
from hpdm.support.errors import InputError
from hpdm.training.ema import EMA
from hpdm.training.optimizer import make_optimizer
from tests.support.small_training import small_config


class State:
    """Network, average and optimizer after `steps` steps on random gradients."""

    def __init__(self, *overrides, steps=0, seed=0):
        torch.manual_seed(seed)
        self.config = small_config(*overrides)
        self.network = HPDM(self.config.network, self.config.pyramid)
        self.ema = EMA(self.network, 5.0, 1.0)
        self.optimizer = make_optimizer(self.network, self.config.training)
        for step in range(steps):
            self.step(step + 1)

    def step(self, update):
        for p in self.network.parameters():
            p.grad = torch.randn_like(p)
        self.optimizer.step()
        self.ema.update(update)

    def save(self, run, step, **arguments):
        return save_checkpoint(
            run,
            step=step,
            network=self.network,
            ema=self.ema,
            optimizer=self.optimizer,
            config=self.config,
            progress={"sums": torch.tensor([1.0, 2.0]), "nonfinite": 3},
            **arguments,
        )

    def load(self, folder):
        return load_training_state(folder, network=self.network, ema=self.ema, optimizer=self.optimizer)


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_a_loaded_state_goes_on_bit_for_bit(tmp_path, optimizer):
    original = State(f"optimizer={optimizer}", steps=3)
    folder = original.save(tmp_path, 3)
    loaded = State(f"optimizer={optimizer}", seed=1)
    state = loaded.load(folder)
    assert state["step"] == 3 and state["progress"]["nonfinite"] == 3
    assert torch.equal(state["progress"]["sums"], torch.tensor([1.0, 2.0]))
    for each in (original, loaded):
        torch.manual_seed(7)
        each.step(4)
    for mine, theirs in zip(original.network.parameters(), loaded.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(original.ema.average, loaded.ema.average, strict=True):
        assert torch.equal(mine, theirs)


def test_layout_and_what_a_weights_file_carries(tmp_path):
    state = State(steps=1)
    folder = state.save(tmp_path, 1000)
    assert folder.name == "step-00001000" and latest_checkpoint(tmp_path) == folder
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "ema.safetensors",
        "manifest.json",
        "model.safetensors",
        "training.pt",
    }
    assert len({p.stat().st_mode for p in folder.iterdir()}) == 1
    assert read_config(folder / "config.yaml") == state.config
    weights, config, step = read_weights(folder / "ema.safetensors")
    assert (config, step) == (state.config, 1000)
    for name, average in state.ema.named_averages():
        assert torch.equal(weights[name], average)


def test_saving_again_gives_the_same_bytes(tmp_path):
    first, second = State(steps=2).save(tmp_path / "a", 2), State(steps=2).save(tmp_path / "b", 2)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_only_the_newest_are_kept(tmp_path):
    state = State()
    for step in (5, 10, 15, 20):
        state.save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000015", "step-00000020"]
    assert os.readlink(tmp_path / "latest") == "step-00000020"  # relative: a moved run keeps working


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    state = State()
    good = state.save(tmp_path, 5)

    def fails(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        state.save(tmp_path, 10)
    assert latest_checkpoint(tmp_path) == good
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000005"]


def test_what_a_killed_save_left_is_removed(tmp_path):
    (tmp_path / ".step-00000010.abc.part").mkdir()
    State().save(tmp_path, 5)
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000005"]


def test_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "absent") is None


def test_code_in_the_training_state_is_not_run(tmp_path):
    folder = State().save(tmp_path, 1)
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    (folder / "training.pt").write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(InputError, match="cannot be read"):
        State().load(folder)
    assert not marker.exists()


def test_damaged_and_foreign_files_are_named(tmp_path):
    folder = State().save(tmp_path, 1)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(InputError, match="foreign.safetensors is not a weights file"):
        read_weights(foreign)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="model.safetensors is not a weights file"):
        State().load(folder)


def test_weights_of_another_network_are_refused(tmp_path):
    folder = State().save(tmp_path, 1)
    with pytest.raises(InputError, match=r"latents is \[4, 16\], the network has \[5, 16\]"):
        State("num_latents=5").load(folder)
    with pytest.raises(InputError, match="in one and not in the other"):
        State("self_conditioning=false").load(folder)


def test_header_has_one_key(tmp_path):
    """The order of several keys changes from run to run, and with it the file."""
    folder = State().save(tmp_path, 1)
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        assert list(opened.metadata()) == ["hpdm"]
    assert load_file(folder / "model.safetensors").keys() == dict(State().network.named_parameters()).keys()
