"""A record decides nothing: what it names without a checksum is used only where the user allows it."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.support.errors import InputError
from hpdm.support.files import sha256_file, write_json
from hpdm_eval.backbones import weights
from hpdm_eval.backbones.i3d import random_network
from hpdm_eval.backbones.loading import load_backbone
from hpdm_eval.backbones.scripted import read_scripted
from hpdm_eval.commands.entry import main
from hpdm_eval.records.record import load_record
from tests.support.paths import TESTS
from tests.support.rerun import reproduce

COMMITTED = TESTS / "records" / "fvd-shapes3d-procedural.json"


class Evil(torch.nn.Module):
    """A program that leaves a file behind when it runs: TorchScript can save tensors anywhere."""

    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True):
        torch.save(x, "ran.pt")
        return x.mean(dim=[2, 3, 4])


@pytest.fixture
def place(tmp_path):
    """A folder of clips and a TorchScript file that nobody knows."""
    (tmp_path / "clips").mkdir()
    for index in range(3):
        np.save(tmp_path / "clips" / f"{index}.npy", np.full((16, 32, 32, 3), 40 * index, np.uint8))
    torch.jit.script(Evil()).save(str(tmp_path / "evil.pt"))
    return tmp_path


def record_of(folder, command):
    path = folder / "record.json"
    write_json(path, {**load_record(COMMITTED).to_dict(), "command": command})
    return path


def again(folder, command, *words):
    return CliRunner().invoke(main, ["reproduce", str(record_of(folder, command)), "--folder", str(folder), *words])


FVD = "hpdm-eval fvd --samples clips --reference clips --device cpu --workers 0 --protocol native"


@pytest.mark.parametrize(
    "way",
    [
        "--weights evil.pt --unverified",
        "--weights=evil.pt --unverified",
        "--unverified --weights ./evil.pt",
        "--weights evil.pt",
    ],
)
def test_weights_that_a_record_names_are_not_run(place, monkeypatch, way):
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the program was loaded"))
    result = again(place, f"{FVD} --backbone i3d {way}")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "unverified weights, a program" in result.stderr and "--allow" in result.stderr


@pytest.mark.parametrize("by", ["name", "sha256"])
def test_what_the_user_allows_by_name_is_run(place, monkeypatch, by):
    loaded = []
    monkeypatch.setattr(torch.jit, "load", lambda path, **k: loaded.append(path) or (_ for _ in ()).throw(OSError("x")))
    allowed = "evil.pt" if by == "name" else sha256_file(place / "evil.pt")
    result = again(place, f"{FVD} --backbone i3d --weights evil.pt --unverified", "--allow", allowed)
    assert loaded and "not a readable TorchScript" in result.stderr
    other = again(place, f"{FVD} --backbone i3d --weights evil.pt --unverified", "--allow", "other.pt")
    assert "unverified weights" in other.stderr and len(loaded) == 1


@pytest.mark.parametrize(
    "command",
    [
        f"{FVD} --backbone videomae:somebody/network",
        f"{FVD} --backbone vjepa:somebody/network",
        "hpdm-eval clipsim --samples clips --clip somebody/network --device cpu",
    ],
)
def test_the_hub_is_not_asked(place, monkeypatch, command):
    import huggingface_hub

    pytest.importorskip("transformers", reason="these networks need the extra `video`")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda where, **k: asked.append(where) or (_ for _ in ()).throw(OSError("offline")),
    )
    write_json(place / "clips" / "samples.json", {"settings": {"prompts": ["a"]}})
    refused = again(place, command)
    assert refused.exit_code == 2 and "from the hub" in refused.stderr and not asked
    again(place, command, "--allow", "somebody/network")
    assert asked == ["somebody/network"]


def test_a_protocol_file_that_a_record_names_cannot_ask_for_them_either(place, monkeypatch):
    import huggingface_hub

    pytest.importorskip("transformers", reason="these networks need the extra `video`")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    (place / "p.yaml").write_text("backbone: videomae:somebody/network\nframes: 16\n")
    result = again(place, FVD.replace("native", "p.yaml"))
    assert "from the hub" not in result.stderr  # the file is not read: a record holds its own protocol
    path = record_of(place, FVD)
    values = json.loads(path.read_text(encoding="utf-8"))
    values["protocol"]["backbone"] = "videomae:somebody/network"
    path.write_text(json.dumps(values), encoding="utf-8")
    result = CliRunner().invoke(main, ["reproduce", str(path), "--folder", str(place)])
    assert result.exit_code == 2 and "from the hub" in result.stderr


def test_nothing_is_pinned_by_a_record(place, monkeypatch, tmp_path):
    """A mean video is otherwise kept at first use."""
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", str(tmp_path / "cache"))
    np.savez(place / "mean.npz", mean=np.zeros((3, 16, 128, 171), np.float32))
    torch.save({}, place / "c3d.pt")
    command = "hpdm-eval is --samples clips --device cpu --workers 0 --weights c3d.pt --unverified --c3d-mean mean.npz"
    for words in ((), ("--allow", "c3d.pt"), ("--allow", "c3d.pt", "--allow", "mean.npz")):
        assert again(place, command, *words).exit_code == 2
        assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("words", ["--record out", "--record=out", "--match --record --record out", "--plots out"])
def test_nothing_is_written(place, words):
    command = "hpdm-eval seams --samples clips --patch 8x16x16 --lossless --workers 0" if "plots" in words else FVD
    again(place, f"{command} {words}")
    assert not (place / "out").exists()


def test_outside_of_a_record_the_users_own_words_count(place):
    info = weights.find("i3d-kinetics400", weights=place / "evil.pt", unverified=True)
    assert info.trust == "unverified"
    with pytest.raises(InputError, match="pass --unverified"):
        weights.find("i3d-kinetics400", weights=place / "evil.pt")


def test_the_library_asks_too(place):
    command = shlex.join(shlex.split(f"{FVD} --backbone i3d --weights evil.pt --unverified"))
    with pytest.raises(InputError, match=re.escape("--allow evil.pt")):
        reproduce(replace(load_record(COMMITTED), command=command), folder=place)


class Tree(torch.nn.Module):
    """A program with the tensors of a network somewhere in it."""

    def __init__(self, state):
        super().__init__()
        for name, tensor in state.items():
            *path, last = name.split(".")
            place = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, torch.nn.Module())
                place = getattr(place, part)
            place.register_buffer(last, tensor)

    def forward(self, x):
        torch.save(x, "ran.pt")
        return x


def test_tensors_are_read_without_running_the_program(tmp_path, monkeypatch):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).half()
    torch.jit.script(network).save(str(tmp_path / "net.pt"))
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the program was loaded"))
    state = read_scripted(tmp_path / "net.pt")
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    whole = (tmp_path / "net.pt").read_bytes()
    for place in range(0, len(whole), 37):
        (tmp_path / "net.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 65]) + whole[place + 1 :])
        try:
            read_scripted(tmp_path / "net.pt")
        except InputError as error:
            assert "\n" not in str(error)


def test_a_scripted_i3d_is_not_run(tmp_path, monkeypatch):
    state = {name: tensor for name, tensor in random_network(0).state_dict().items() if "num_batches" not in name}
    torch.jit.script(Tree({f"model.{name}": tensor for name, tensor in state.items()})).save(str(tmp_path / "net.pt"))
    torch.save(state, tmp_path / "state.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the program was loaded"))
    video = torch.randint(0, 256, (1, 9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, plain = (load_backbone("i3d", weights=tmp_path / name, unverified=True) for name in ("net.pt", "state.pt"))
    assert torch.equal(ours.extract(video)[0], plain.extract(video)[0])


def test_help_says_that_torchscript_is_a_program():
    text = " ".join(CliRunner().invoke(main, ["weights", "--help"]).stdout.split())
    assert "is a program" in text
    assert json.loads(json.dumps("--allow")) in CliRunner().invoke(main, ["reproduce", "--help"]).stdout
