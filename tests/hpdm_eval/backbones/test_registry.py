"""Networks that other packages and scripts bring, and the names that the package itself imports when they are used."""

import doctest
import importlib.metadata
import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import hpdm_eval
from hpdm.support.errors import InputError
from hpdm_eval.backbones import backbone, loading, registered, registry
from hpdm_eval.commands.entry import main
from hpdm_eval.features.cache import cache_folder
from tests.support.paths import ROOT
from tests.support.small_sets import draw, save


class MeanFrames(nn.Module):
    """The mean of each colour and frame, times a weight."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, video):
        return video.mean(dim=(3, 4)).flatten(1) * self.weight


def mean_frames(device):
    return MeanFrames().to(device)


def heavier(device):
    return MeanFrames(2.0).to(device)


def classifier(device):
    return Classifier()


class Classifier(MeanFrames):
    def forward(self, video):
        features = super().forward(video)
        return features, features[:, :4]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def register(make=mean_frames, name="mean-frames", dimension=12, frames=4, size=(8, 6), **about):
    return hpdm_eval.register_backbone(name, dimension=dimension, frames=frames, size=size, **about)(make)


def test_a_function_becomes_a_backbone():
    register(license="none", caveat="sees colours")
    network = hpdm_eval.load_backbone("mean-frames")
    clips = torch.randint(0, 256, (2, 4, 16, 12, 3), dtype=torch.uint8)
    features, probabilities = network.extract(clips)
    assert features.shape == (2, 12) and probabilities.shape == (2, 0)
    expected = (clips.float() / 127.5 - 1).permute(0, 4, 1, 2, 3)
    expected = nn.functional.interpolate(expected, (4, 8, 6), mode="trilinear").mean((3, 4)).flatten(1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    about = network.describe()
    assert about["name"] == "mean-frames" and about["trust"] == "registered" and not about["verified"]
    assert about["sha256"] == registered.state_digest(MeanFrames()) != registered.state_digest(MeanFrames(2.0))
    assert [info.caveat for info in registry.all_backbones() if info.name == "mean-frames"] == ["sees colours"]


def test_a_classifier_gives_probabilities():
    register(classifier)
    probabilities = hpdm_eval.load_backbone("mean-frames").extract(torch.zeros(2, 4, 8, 6, 3, dtype=torch.uint8))[1]
    torch.testing.assert_close(probabilities, torch.full((2, 4), 0.25))


def test_commands_take_it_and_cache_its_features(tmp_path):
    register()
    save(tmp_path / "a", draw(6, seed=1, frames=4)), save(tmp_path / "b", draw(6, seed=2, frames=4))
    words = ["fvd", "--samples", tmp_path / "a", "--reference", tmp_path / "b", "--backbone", "mean-frames"]
    words = [*map(str, words), "--frames", "4", "--workers", "0", "--device", "cpu", "--json", "--no-interval"]
    results = [CliRunner().invoke(main, words) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0], results[0].output
    first, second = (json.loads(result.stdout) for result in results)
    assert first["value"] == second["value"] and first["backbone"]["sha256"] == registered.state_digest(MeanFrames())
    assert len([folder for folder in cache_folder().iterdir() if folder.name.startswith("mean-frames-")]) == 1
    python = hpdm_eval.evaluate(
        tmp_path / "a", tmp_path / "b", "fvd", backbone="mean-frames", frames=4, options={"fvd": {"interval": False}}
    )
    assert python["fvd"].value == first["value"]


def test_what_has_no_file_is_not_cached(tmp_path):
    scale = 2.0
    register(lambda device: MeanFrames(scale))
    network = hpdm_eval.load_backbone("mean-frames")
    assert not network.cacheable and network.describe()["code"] is None
    save(tmp_path / "a", draw(3, frames=4))
    hpdm_eval.evaluate(tmp_path / "a", tmp_path / "a", "kvd", backbone="mean-frames", frames=4, workers=0)
    assert not cache_folder().exists()


def test_names_are_taken_once():
    register()
    register()  # the same function again, as in a notebook
    with pytest.raises(InputError, match="is there already"):
        register(heavier)
    for name in ("i3d", "i3d-kinetics400", "videomae", "shapes3d"):
        with pytest.raises(InputError, match="comes with this package"):
            register(name=name)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "a:b"}, "neither spaces nor colons"),
        ({"dimension": 0}, "dimension is 0"),
        ({"dimension": 1.5}, "dimension is 1.5"),
        ({"frames": (4, 2)}, "frames is"),
        ({"frames": 0}, "frames is 0"),
        ({"size": (8,)}, "size is"),
    ],
)
def test_sizes_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        register(**settings)


@pytest.mark.parametrize(
    "make, settings, message",
    [
        (lambda device: 1 / 0, {}, "cannot be made: ZeroDivisionError"),
        (lambda device: "text", {}, "returned str, expected a torch.nn.Module"),
        (mean_frames, {"dimension": 13}, r"returned \[1, 12\], expected float \[1, 13\]"),
        (lambda device: nn.Flatten(0), {}, "returned "),
    ],
)
def test_networks_that_are_none(make, settings, message):
    register(make, **settings)
    with pytest.raises(InputError, match=message):
        hpdm_eval.load_backbone("mean-frames").extract(torch.zeros(1, 4, 8, 6, 3, dtype=torch.uint8))


def test_settings_that_it_does_not_have():
    register()
    for settings, message in (
        ({"weights": "file.pt"}, "--weights is not for a registered"),
        ({"precision": "bf16"}, "fp32 only"),
        ({"bn_epsilon": 1e-5}, "bn_epsilon"),
    ):
        with pytest.raises(InputError, match=message):
            hpdm_eval.load_backbone("mean-frames", **settings)
    with pytest.raises(InputError, match="needs at least 4 frames"):
        hpdm_eval.load_backbone("mean-frames").extract(torch.zeros(1, 3, 8, 6, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match="unknown backbone 'mine'.*mean-frames"):
        hpdm_eval.load_backbone("mine")


def test_entry_points(monkeypatch, tmp_path):
    (tmp_path / "networks_of_others.py").write_text(
        "import hpdm_eval, torch\n"
        "@hpdm_eval.register_backbone('theirs', dimension=3, frames=(1, None), size=4)\n"
        "def theirs(device):\n"
        "    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())\n"
    )
    (tmp_path / "broken_networks.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        importlib.metadata.EntryPoint("theirs", "networks_of_others", registry.GROUP),
        importlib.metadata.EntryPoint("absent", "networks_of_others", registry.GROUP),
        importlib.metadata.EntryPoint("broken", "broken_networks", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert loading.backbone_name("theirs") == "theirs"
    assert hpdm_eval.load_backbone("theirs").feature_dim == 3
    with pytest.raises(InputError, match="registers no backbone absent"):
        hpdm_eval.load_backbone("absent")
    with pytest.raises(InputError, match="broken of broken_networks cannot be imported"):
        hpdm_eval.load_backbone("broken")
    monkeypatch.setattr(registry, "entry_points", lambda group: points[:1])
    assert "theirs" in [info.name for info in registry.all_backbones()]


def test_what_is_listed_is_what_is_loaded():
    kinds = {info.name: info for info in registry.BUILTIN}
    for name, cls in {
        "i3d": backbone.I3DBackbone,
        "shapes3d": backbone.Shapes3DBackbone,
        "c3d": backbone.C3DBackbone,
        "inception": backbone.InceptionBackbone,
    }.items():
        info = kinds[name]
        assert (info.dimension, info.frames) == (cls.feature_dim, (cls.min_frames, cls.max_frames))
        assert info.size == tuple(cls.resolution)
    assert set(kinds) == set(loading.KNOWN)
    json.dumps([vars(info) for info in registry.all_backbones()])


def test_examples_in_docstrings():
    found = doctest.testmod(registry)
    assert found.attempted and not found.failed


NAMES = """
import sys
import hpdm_eval
assert not {"torch", "numpy", "pandas", "torchmetrics"} & set(sys.modules), sys.modules
assert set(hpdm_eval.__all__) == set(dir(hpdm_eval)), dir(hpdm_eval)
hpdm_eval.register_metric, hpdm_eval.register_backbone, hpdm_eval.MetricOption, hpdm_eval.__version__
from hpdm_eval import register_backbone
assert not {"torch", "numpy", "pandas", "torchmetrics"} & set(sys.modules)
try:
    hpdm_eval.nothing
except AttributeError as error:
    print(error)
"""


def test_the_package_imports_nothing_before_it_is_used():
    result = subprocess.run(
        [sys.executable, "-c", NAMES], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "nothing" in result.stdout


def test_the_names_of_the_contract_are_there():
    wanted = {
        *("evaluate", "FVD", "KVD", "PRDC", "InceptionScore", "FID", "open_clips", "load_backbone", "load_protocol"),
        *("Record", "Figure", "Result", "register_metric", "register_backbone", "MetricOption", "__version__"),
    }
    assert wanted <= set(hpdm_eval.__all__)
    for name in wanted:
        assert getattr(hpdm_eval, name)
