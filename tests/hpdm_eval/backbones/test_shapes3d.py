"""The shipped classifier: its network, its training script, and the weights where they are present."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from hpdm.data.procedural import CLASS_NAMES, procedural_clip
from hpdm.support.errors import InputError
from hpdm_eval.backbones import load_backbone
from hpdm_eval.backbones.preprocess import to_unit_range
from hpdm_eval.backbones.shapes3d import FEATURE_DIM, Shapes3D
from hpdm_eval.studies.shipped.train_shapes3d import ATTRIBUTES, TrainingBatches, degrade, main


def randomise_batchnorm(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.2)
    return network.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights after ten steps, twice with the same command."""
    files = []
    for name in ("a", "b"):
        path = tmp_path_factory.mktemp(name) / "shapes3d.safetensors"
        arguments = [
            "--out",
            str(path),
            "--steps",
            "10",
            "--batch",
            "4",
            "--held-out",
            "12",
            "--workers",
            "0",
            "--quiet",
        ]
        CliRunner().invoke(main, arguments, standalone_mode=False, catch_exceptions=False)
        files.append(path)
    return files


@torch.inference_mode()
def test_folding_keeps_the_function():
    network = randomise_batchnorm(Shapes3D(12))
    video = torch.randn(2, 3, 8, 64, 64)
    expected = network(video)
    torch.testing.assert_close(network.fold()(video), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [4, 5, 16])
def test_any_length_from_four_frames(frames):
    assert Shapes3D(12).eval().features(torch.randn(1, 3, frames, 64, 64)).shape == (1, FEATURE_DIM)


def test_size_fits_the_package():
    assert 0.5e6 < sum(parameter.numel() for parameter in Shapes3D(12).parameters()) < 0.7e6


def test_training_is_seeded_and_documented(trained):
    first, second = trained
    assert first.stat().st_size < 3e6
    with safe_open(first, "pt") as a, safe_open(second, "pt") as b:
        assert all(torch.equal(a.get_tensor(name), b.get_tensor(name)) for name in a.keys())  # noqa: SIM118, no dict
        assert json.loads(a.metadata()["classes"]) == list(CLASS_NAMES)
        facts = json.loads(a.metadata()["training"])
    assert facts["steps"] == 10 and [row["size"] for row in facts["held_out"]] == [64, 32, 64, 32]
    card = first.with_suffix(".md").read_text()
    assert "--steps 10" in card or facts["command"] in card
    assert all(name in card for name in CLASS_NAMES)


def test_batches_are_functions_of_seed_and_step():
    def batch(seed, step):
        return TrainingBatches(seed, 8, 3)[step]

    video, targets = batch(5, 2)
    again, same = batch(5, 2)
    assert torch.equal(video, again) and torch.equal(targets, same)
    assert not torch.equal(targets[:, 1:], batch(6, 2)[1][:, 1:])
    assert video.dtype == torch.float32 and video.shape[1] == 3 and video.shape[-2:] == (64, 64)
    assert targets[:, 0].tolist() == [6, 7, 8]  # the class is the clip's index modulo twelve
    limits = torch.tensor([len(CLASS_NAMES), *map(len, ATTRIBUTES.values())])
    assert (targets >= 0).all() and (targets < limits).all()


def test_degrading_moves_pixels_but_keeps_the_picture():
    clean = to_unit_range(torch.from_numpy(procedural_clip(0, 5, 8)[0])[None])[0]
    random = np.random.default_rng(0)
    for _ in range(20):
        worse = degrade(clean, random)
        assert worse.shape == clean.shape and torch.isfinite(worse).all()
        correlation = torch.corrcoef(torch.stack([clean.flatten(), worse.flatten()]))[0, 1]
        assert correlation > 0.8 and not torch.equal(worse, clean)


def test_weights_of_ones_own_need_unverified_and_mark_the_record(trained):
    with pytest.raises(InputError, match="--unverified"):
        load_backbone("shapes3d", weights=trained[0])
    backbone = load_backbone("shapes3d", weights=trained[0], unverified=True)
    assert backbone.describe()["verified"] is False
    clips = torch.randint(0, 256, (2, 6, 48, 80, 3), dtype=torch.uint8)
    features, probabilities = backbone.extract(clips)
    assert features.shape == (2, FEATURE_DIM) and (features >= 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    plain, _ = load_backbone("shapes3d", weights=trained[0], unverified=True, optimize=False).extract(clips)
    torch.testing.assert_close(features, plain, rtol=1e-4, atol=1e-5)
    coarse, _ = load_backbone("shapes3d", weights=trained[0], unverified=True, precision="bf16").extract(clips)
    assert 0 < (coarse - features).norm() / features.norm() < 0.05


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_backbone("shapes3d", weights=path, unverified=True)


@pytest.mark.parametrize("size", [64, 32])
def test_shipped_weights_know_their_classes(size):
    backbone = load_backbone("shapes3d")
    assert backbone.describe()["verified"] is True
    videos = np.stack([procedural_clip(123_456_789, index, 16, size, size)[0] for index in range(24)])
    _, probabilities = backbone.extract(torch.from_numpy(videos))
    predicted = probabilities.argmax(1)
    assert (predicted == torch.arange(24) % 12).float().mean() >= 0.9
