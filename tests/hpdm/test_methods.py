"""Methods other than HPDM: how a configuration names one, and that training, checkpoints and sampling use it."""

import dataclasses
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.checkpoint.load import load_checkpoint
from hpdm.commands.entry import info, sample, train
from hpdm.config import config_from_dict, config_to_dict, load_config
from hpdm.config import method as registry
from hpdm.hierarchical import Hierarchical
from hpdm.methods import Method, MethodConfig, make_method, method_class
from hpdm.support.errors import InputError
from hpdm.training.log import read_log
from tests.support.small_training import write_small


@dataclass(frozen=True, kw_only=True)
class ScaledConfig(MethodConfig):
    factor: float = 3.0


class Scaled(Hierarchical):
    """HPDM with its loss times a factor, which samples one grey value."""

    settings = ScaledConfig

    @classmethod
    def configure(cls, config):
        return dataclasses.replace(config, method=cls.settings(name="scaled"))

    def loss(self, *arguments, **options):
        return self.config.method.factor * super().loss(*arguments, **options)

    def sampler(self, *arguments, **options):
        sampler = super().sampler(*arguments, **options)
        sample = sampler.sample
        sampler.sample = lambda *a, **k: [torch.full_like(video, 0.2) for video in sample(*a, **k)]
        return sampler


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    entry = SimpleNamespace(name="scaled", load=lambda: Scaled)
    monkeypatch.setattr(registry, "entry_points", lambda group, name="scaled": [entry] if name == "scaled" else [])


@pytest.fixture
def size(tmp_path):
    return str(write_small(tmp_path / "small.yaml"))


def test_hpdm_is_the_default_and_old_configurations_have_no_method():
    config = load_config("nano")
    assert type(make_method(config)) is Hierarchical
    values = config_to_dict(config)
    del values["method"]
    assert config_from_dict(values) == config


def test_a_method_brings_its_own_settings(size):
    config = load_config(size, ["method.factor=2", "training.lr=0.5"], method="scaled")
    assert config.method == ScaledConfig(name="scaled", factor=2.0) and config.training.lr == 0.5
    assert config_from_dict(config_to_dict(config)) == config
    assert isinstance(make_method(config), Scaled)
    assert load_config(size, ["factor=4"], method="scaled").method.factor == 4.0
    with pytest.raises(InputError, match="unknown key 'method.speed'"):
        load_config(size, ["method.speed=2"], method="scaled")
    with pytest.raises(InputError, match="unknown key 'factor'"):
        load_config(size, ["factor=2"])
    with pytest.raises(InputError, match="unknown key 'speed'"):
        config_from_dict(config_to_dict(config) | {"method": {"name": "scaled", "speed": 1}})


def test_unknown_methods_are_named(size, tmp_path):
    arguments = ["--size", size, "--out", str(tmp_path / "run"), "--baseline", "magic"]
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 2 and "unknown method 'magic'; there are hpdm, scaled" in result.output
    assert not (tmp_path / "run").exists()


def test_training_checkpoints_and_sampling_use_the_method(size, tmp_path):
    arguments = ["--size", size, "--device", "cpu", "--quiet", "--steps", "2"]
    for name, options in {"plain": [], "scaled": ["--baseline", "scaled"]}.items():
        result = CliRunner().invoke(train, [*arguments, *options, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    first = {name: read_log(tmp_path / name)[0]["loss"] for name in ("plain", "scaled")}
    assert first["scaled"] == pytest.approx(3 * first["plain"])

    loaded = load_checkpoint(tmp_path / "scaled")
    assert isinstance(loaded.method, Scaled) and loaded.config.method.factor == 3.0
    result = CliRunner().invoke(
        sample,
        [
            "--checkpoint",
            str(tmp_path / "scaled"),
            "--num",
            "1",
            "--out",
            str(tmp_path / "out"),
            "--steps",
            "1,1",
            "--format",
            "npy",
            "--device",
            "cpu",
        ],
    )
    assert result.exit_code == 0, result.output
    assert np.unique(np.load(tmp_path / "out" / "00000_c000.npy")).tolist() == [153]


def test_a_run_does_not_continue_as_another_method(size, tmp_path):
    arguments = ["--size", size, "--device", "cpu", "--quiet", "--out", str(tmp_path / "run"), "--stop-after", "1"]
    assert CliRunner().invoke(train, arguments).exit_code == 0
    result = CliRunner().invoke(train, [*arguments, "--baseline", "scaled"])
    assert result.exit_code == 2 and "method.name was 'hpdm', now 'scaled'" in result.output


def test_info_knows_methods(size):
    result = CliRunner().invoke(info, ["--size", size, "--baseline", "scaled", "--json"])
    assert result.exit_code == 0 and '"flops_per_sample"' in result.output


def test_a_source_tree_that_is_not_installed_says_so(monkeypatch):
    """As where only PYTHONPATH leads to the program: no entry point is known."""

    def unknown(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("hpdm.config.method.distribution", unknown)
    monkeypatch.setattr("hpdm.config.method.entry_points", lambda **group: [])
    with pytest.raises(InputError, match="unknown method 'cascade'; there are hpdm; .* pip install -e"):
        method_class("cascade")


def test_methods_offer_what_the_protocol_says():
    wanted = {name for name in {*vars(Method), *Method.__annotations__} if not name.startswith("_")} - {"config"}
    assert {"make_network", "loss", "sampler", "settings", "makes_videos"} <= wanted
    for method in (Hierarchical, Scaled):
        assert not wanted - set(dir(method)), method
