"""Every baseline from the command line: it trains, resumes bit for bit, and samples from its checkpoint alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.image import imread
from safetensors.torch import load_file

from baselines.latent import LatentNetwork
from hpdm.checkpoint.folder import latest_checkpoint
from hpdm.checkpoint.load import load_checkpoint
from hpdm.commands.entry import info, sample, train
from hpdm.config import load_config
from hpdm.methods import Method, make_method, method_class, method_names
from hpdm.training.log import read_log
from tests.support.baselines_worker import SCENARIOS
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import free_ports
from tests.support.small_baselines import BASELINES, options, small_config_file, train_small

ALL = ("autoencoder", *BASELINES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of each baseline of four steps, and one that was stopped after two and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ALL:
        result = train_small(folder, name, name, "--set", "sheet_every=4")
        assert result.exit_code == 0, result.output
    moved = folder / "autoencoder-moved"
    for name in ALL:
        assert train_small(folder, f"{name}-resumed", name, "--stop-after", "2").exit_code == 0
    shutil.move(folder / "autoencoder", moved)  # a resumed run has no need of it
    for name in ALL:
        result = train_small(folder, f"{name}-resumed", name)
        assert result.exit_code == 0, result.output
    shutil.move(moved, folder / "autoencoder")
    return folder


def sample_small(checkpoint, out, *more):
    return CliRunner().invoke(
        sample,
        [
            "--checkpoint",
            str(checkpoint),
            "--num",
            "3",
            "--out",
            str(out),
            "--format",
            "npy",
            "--device",
            "cpu",
            "--steps",
            "2,2",
            "--quiet",
            *more,
        ],
    )


def arrays(folder):
    return {path.name: np.load(path) for path in sorted(Path(folder).glob("*.npy"))}


def test_all_are_registered():
    assert set(method_names()) == set(ALL)


def test_all_offer_what_the_protocol_says():
    wanted = {name for name in {*vars(Method), *Method.__annotations__} if not name.startswith("_")} - {"config"}
    assert {name: wanted - set(dir(method_class(name))) for name in ALL} == dict.fromkeys(ALL, set())


@pytest.mark.parametrize("name", ALL)
def test_a_resumed_run_equals_one_that_was_never_stopped(runs, name):
    whole, resumed = latest_checkpoint(runs / name), latest_checkpoint(runs / f"{name}-resumed")
    for file in ("model.safetensors", "ema.safetensors"):
        ours, theirs = load_file(whole / file), load_file(resumed / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    losses = [[line["loss"] for line in read_log(runs / run)] for run in (name, f"{name}-resumed")]
    assert losses[0] == losses[1] and len(losses[0]) == 4 and np.isfinite(losses[0]).all()


@pytest.mark.parametrize("name", ALL)
def test_steps_move_what_is_trained_and_nothing_else(runs, name):
    loaded = load_checkpoint(runs / name, raw=True)
    torch.manual_seed(0)
    start = dict(make_method(loaded.config).make_network().named_parameters())
    trained = dict(loaded.network.named_parameters())
    still = {key for key in start if torch.equal(start[key], trained[key])}
    assert not {key for key in still if not key.startswith("autoencoder.") and key.endswith("weight")}
    if isinstance(loaded.network, LatentNetwork):
        whole = load_file(latest_checkpoint(runs / "autoencoder") / "ema.safetensors")
        for kind in ("model", "ema"):
            own = load_file(latest_checkpoint(runs / name) / f"{kind}.safetensors")
            assert all(torch.equal(own[f"autoencoder.{key}"], value) for key, value in whole.items())
            assert (own["latent_deviation"] != 1).all() and (own["latent_mean"] != 0).all()


@pytest.mark.parametrize("name", ALL)
def test_a_sheet_is_drawn(runs, name):
    picture = imread(runs / name / "sheets" / "step-00000004.png")
    rows = 4 * (2 if name == "cascade" else 1)
    columns = 2 if name == "autoencoder" else 5
    assert picture.shape[0] % rows == 0 and picture.shape[1] % columns == 0
    assert 0.05 < picture.std() < 0.5


@pytest.mark.parametrize("name", BASELINES)
def test_samples_come_from_the_checkpoint_alone_and_do_not_depend_on_the_batch(runs, name, tmp_path):
    shutil.copy(latest_checkpoint(runs / name) / "ema.safetensors", tmp_path / "weights.safetensors")
    first = sample_small(tmp_path / "weights.safetensors", tmp_path / "one", "--batch", "1")
    assert first.exit_code == 0, first.output
    assert sample_small(tmp_path / "weights.safetensors", tmp_path / "three", "--batch", "3").exit_code == 0
    one, three = arrays(tmp_path / "one"), arrays(tmp_path / "three")
    assert list(one) == ["00000_c000.npy", "00001_c001.npy", "00002_c002.npy"] == list(three)
    for key, clip in one.items():
        assert clip.shape == (4, 8, 8, 3) and clip.dtype == np.uint8 and clip.std() > 1
        assert np.array_equal(clip, three[key])
    assert len({clip.tobytes() for clip in one.values()}) == 3
    about = json.loads((tmp_path / "one" / "samples.json").read_text())
    assert about["resolution"] == [4, 8, 8] and about["checkpoint"]["step"] == 4
    # in pixels, also where the network works on latents
    assert [n * factor for n, factor in zip(about["patch"], about["factors"], strict=True)] == about["resolution"]


def test_an_autoencoder_makes_no_videos(runs, tmp_path):
    result = sample_small(runs / "autoencoder", tmp_path / "out")
    assert result.exit_code == 2 and "autoencoder makes no videos" in result.output
    assert not (tmp_path / "out").exists()


def test_latent_says_what_it_lacks(runs, tmp_path):
    size = small_config_file(tmp_path)
    arguments = ["--size", str(size), "--out", str(tmp_path / "run"), "--device", "cpu", "--baseline", "latent"]
    for more, told in (
        ([], "hpdm-train --baseline autoencoder"),
        (["--set", f"method.autoencoder={runs / 'cascade'}"], "is a run of cascade"),
        (["--set", f"method.autoencoder={runs / 'autoencoder'}"], "--set method.width=4"),
        (["--set", "method.latent_channels=3"], "network.channels=3"),
    ):
        result = CliRunner().invoke(train, [*arguments, *more])
        assert result.exit_code == 2 and told in result.output, result.output
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ALL)
def test_info_knows_it(name, tmp_path):
    size = small_config_file(tmp_path)
    chosen = options(name, tmp_path)
    result = CliRunner().invoke(info, ["--size", str(size), "--json", *chosen])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)
    network = make_method(load_config(size, chosen[3::2], method=name)).make_network()
    assert figures["parameters"] == sum(p.numel() for p in network.parameters())
    assert figures["parameters"] == sum(figures["parameters_by_part"].values())
    assert figures["memory"]["activations"] > 0


@pytest.mark.parametrize("name", ["autoencoder", "cascade"])
def test_a_dry_run_prints_a_network_with_and_without_levels(name, tmp_path):
    result = CliRunner().invoke(train, ["--size", str(small_config_file(tmp_path)), "--dry-run", "--baseline", name])
    assert result.exit_code == 0, result.output
    assert f"name: {name}" in result.output and "one training sample" in result.output
    assert ("level 1" in result.output) == (name == "cascade")


def test_two_processes_train_as_one(runs, tmp_path):
    """DDP, and FSDP with the frozen autoencoder left whole."""
    ports = [str(port) for port in free_ports(len(SCENARIOS))]
    worker = [sys.executable, str(SUPPORT / "baselines_worker.py"), str(tmp_path), str(runs)]
    root = str(ROOT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    started = [
        subprocess.Popen([*worker, rank, *ports], env=environment, stderr=subprocess.PIPE, text=True) for rank in "01"
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    for name, parallel in SCENARIOS:
        two, one = tmp_path / f"{name}-{parallel}", runs / name
        ours, theirs = ([line["loss"] for line in read_log(run)] for run in (two, one))
        np.testing.assert_allclose(ours, theirs[:2], rtol=1e-5)
