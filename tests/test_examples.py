"""Every script in examples/ runs, and the package there brings its metric and its network to the commands."""

import importlib.metadata
import json
import os
import runpy
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

import hpdm_eval.evaluation.torch_metrics  # noqa: F401  before anything imports torchmetrics
from hpdm_eval.backbones import registry as backbones
from hpdm_eval.commands.entry import main
from hpdm_eval.metrics import registry as metrics
from tests.support.paths import ROOT
from tests.support.small_sets import draw, save

EXAMPLES = ROOT / "examples"
PRINTS = {
    "fvd_in_lightning": "FVD ",
    "fvd_in_training_loop": "FVD ",
    "judge_a_folder": "hpdm-eval fvd --samples",
    "own_backbone": "FVD[colour-motion] of dimmed ones",
    "own_metric": "sharpness of blurred clips",
}
NEEDS = {"fvd_in_lightning": "lightning"}


@pytest.fixture(autouse=True)
def own_registries(monkeypatch):
    monkeypatch.setattr(metrics, "_registered", {})
    monkeypatch.setattr(backbones, "_registered", {})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_runs(path, monkeypatch, capsys):
    for package in filter(None, [NEEDS.get(path.stem)]):
        pytest.importorskip(package, reason=f"the example is for {package}, which nothing else needs")
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert PRINTS.get(path.stem, "") in capsys.readouterr().out


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """Folder that the example package is installed in."""
    source = shutil.copytree(EXAMPLES / "plugin", tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return save(tmp_path_factory.mktemp("clips") / "clips", draw(6, frames=4))


def test_an_installed_metric_is_a_command(plugin, clips):
    words = ["flicker", "--samples", clips, "--protocol", "native", "--frames-apart", "2", "--workers", "0", "--json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(plugin), str(ROOT)])}
    result = subprocess.run(
        [sys.executable, "-m", "hpdm_eval", *map(str, words)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    levels = draw(6, frames=4).mean(axis=(2, 3, 4))
    assert record["value"] == pytest.approx(abs(levels[:, 2:] - levels[:, :-2]).mean(), abs=1e-9)
    assert (record["unit"], record["higher_is_better"], record["num_samples"]) == ("grey levels", False, 6)
    assert record["ci95"] and record["settings"] == {"frames_apart": 2}


def test_installed_metrics_and_networks_are_listed_and_used(plugin, clips, monkeypatch):
    monkeypatch.syspath_prepend(plugin)
    assert "flicker" in {point.name for point in importlib.metadata.entry_points(group=metrics.GROUP)}
    run = CliRunner().invoke
    for what, key, name in (("metrics", "metric", "flicker"), ("backbones", "name", "thumbnails")):
        listed = run(main, ["ls", what, "--json"])
        assert listed.exit_code == 0, listed.output
        assert [
            row["source" if what == "backbones" else "from"] for row in json.loads(listed.stdout) if row[key] == name
        ]
    words = ["kvd", "--samples", clips, "--reference", clips, "--backbone", "thumbnails", "--frames", "4", "--json"]
    result = run(main, [*map(str, words), "--workers", "0", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    backbone = json.loads(result.stdout)["backbone"]
    assert backbone["name"] == "thumbnails" and backbone["trust"] == "registered"
    for module in [name for name in sys.modules if name.startswith("hpdm_flicker")]:
        del sys.modules[module]  # what it registered is forgotten with this test
