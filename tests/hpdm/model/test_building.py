"""Networks that start in shards or from another run: what each process holds, and what the weights then are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.checkpoint.load import load_checkpoint
from hpdm.commands.entry import train as command
from hpdm.config import coarsest_levels, config_from_dict, load_config, override_config
from hpdm.data.loader import open_clips
from hpdm.model.network import HPDM
from hpdm.pyramid import extract_patches, sample_windows
from hpdm.support.errors import InputError
from hpdm.training.log import read_log
from hpdm.training.loop import train
from hpdm.training.start import start_from
from tests.support.building_worker import LARGE, RUNS
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import free_ports
from tests.support.small_text import SMALL_TEXT, conditions

BASE = config_from_dict(SMALL_TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of the coarsest level, fine-tuned by one process and by two, which also report on building."""
    folder = tmp_path_factory.mktemp("building")
    coarse = override_config(coarsest_levels(BASE, 1), ["sampling.steps=[2]"])
    train(coarse, folder / "coarse", device="cpu", quiet=True)
    train(BASE, folder / "one", device="cpu", quiet=True)
    here = os.getcwd()
    os.chdir(folder)
    try:
        train(override_config(BASE, ["init_from=coarse"]), "one-finetuned", device="cpu", quiet=True)
    finally:
        os.chdir(here)
    ports = [str(port) for port in free_ports(1 + len(RUNS))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, str(SUPPORT / "building_worker.py"), str(folder), rank, *ports],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    return folder


def test_no_process_ever_holds_the_network_whole(folder):
    with torch.device("meta"):
        whole = sum(p.nbytes for p in HPDM(LARGE.network, LARGE.pyramid).parameters())
    for rank in "01":
        figures = json.loads((folder / f"built-{rank}.json").read_text())
        assert 0.49 < figures["held"] / whole < 0.52
        assert figures["grown"] < 0.9 * whole  # its shards, and a few parameters at a time


def test_shards_start_as_one_process_would(folder):
    torch.manual_seed(5)
    network = HPDM(LARGE.network, LARGE.pyramid)
    expected = {name: p.double().sum().item() for name, p in network.named_parameters()}
    for rank in "01":
        figures = json.loads((folder / f"built-{rank}.json").read_text())
        assert figures["sums"] == expected
        assert figures["scale"] == network.noise_level.scale.tolist()


@pytest.mark.parametrize(("run", "reference"), [("ddp", "one"), ("fsdp", "one"), ("finetuned", "one-finetuned")])
def test_text_training_of_two_processes_equals_that_of_one(folder, run, reference):
    ours, theirs = (np.array([line["loss_per_level"] for line in read_log(folder / name)]) for name in (run, reference))
    assert ours.shape == (4, 2)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_coarsest_level_is_the_generator_s_at_step_0(folder):
    source = load_checkpoint(folder / "coarse")
    network = HPDM(BASE.network, BASE.pyramid).eval()
    told = conditions(BASE.network)
    told = told.each(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    windows = sample_windows(BASE.pyramid, 2, torch.Generator().manual_seed(0))
    patches = [torch.randn(2, 3, *BASE.pyramid.patch) for _ in range(2)]
    c_noise = torch.randn(2, 2)
    (expected,), (latents,) = source.network(patches[:1], c_noise, windows, told)
    before = network(patches[:1], c_noise, windows, told)[0][0]
    assert not torch.equal(before, expected)
    start_from(network, folder / "coarse")
    (ours,), (our_latents,) = network(patches[:1], c_noise, windows, told)
    assert torch.equal(ours, expected) and torch.equal(our_latents, latents)
    jointly = network(patches, c_noise, windows, told)[0]
    torch.testing.assert_close(jointly[0], expected, atol=1e-5, rtol=1e-5)
    assert jointly[1].abs().max() > 0


def test_a_network_of_another_kind_is_no_start(folder):
    for changes, said in (
        ({"latent_width": 8}, "another shape"),
        ({"measures": []}, "has no place here"),
        ({"num_classes": 3}, "is missing there"),
    ):
        other = config_from_dict({**SMALL_TEXT, "network": {**SMALL_TEXT["network"], **changes}})
        with pytest.raises(InputError, match=said):
            start_from(HPDM(other.network, other.pyramid), folder / "coarse")


def test_the_coarsest_level_alone_sees_what_it_sees_among_all_levels():
    config = coarsest_levels(BASE, 1)
    assert config.network.levels_per_block == (1, 1) and config.pyramid.resolution(0) == BASE.pyramid.resolution(0)
    alone, whole = (
        open_clips(
            c.data, seed=0, **dict(zip(("frames", "height", "width"), c.pyramid.resolution(c.pyramid.levels - 1)))
        )
        for c in (config, BASE)
    )
    windows = torch.zeros(1, 2, 3, dtype=torch.int64)
    for number in range(4):
        level = extract_patches(whole[number][0][None].float(), windows)[0][0]
        assert (alone[number][0] - level).abs().max() <= 0.5 + 1e-3
        assert alone[number][1]["caption"] == whole[number][1]["caption"]
    assert coarsest_levels(load_config("T2V-1K"), 1).data.shrink == (1, 8, 8)
    assert coarsest_levels(load_config("T2V"), 2).data.shrink == (4, 4, 4)
    assert coarsest_levels(load_config("nano"), 2).diffusion.sigma_max == (20.0, 28.0)


def test_levels_and_init_from_on_the_command_line(tmp_path):
    size = tmp_path / "small.yaml"
    size.write_text(json.dumps(SMALL_TEXT))
    options = ["--size", str(size), "--quiet", "--device", "cpu", "--steps", "2"]
    for words in (["--out", "low", "--levels", "1"], ["--out", "high", "--init-from", str(tmp_path / "low")]):
        words = [word if word.startswith("-") or word == "1" or "/" in word else str(tmp_path / word) for word in words]
        result = CliRunner().invoke(command, [*options, *words])
        assert result.exit_code == 0, result.output
    assert len(read_log(tmp_path / "low")[0]["loss_per_level"]) == 1
    assert len(read_log(tmp_path / "high")[0]["loss_per_level"]) == 2
    for words, said in ((["--levels", "3"], "2 levels"), (["--init-from", "nowhere"], "no such checkpoint")):
        result = CliRunner().invoke(command, [*options, "--out", str(tmp_path / "other"), *words])
        assert result.exit_code == 2 and said in result.output
    assert not (tmp_path / "other").exists()
