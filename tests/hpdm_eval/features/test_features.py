"""Extraction in batches, the features file, and the command, with a network whose answers are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from hpdm.data.procedural import CLASS_NAMES
from hpdm.support.errors import InputError
from hpdm_eval.backbones.shapes3d import FEATURE_DIM, Shapes3D
from hpdm_eval.commands.features import features as command
from hpdm_eval.features.extraction import FeatureSet, extract_features, iterate_features
from tests.support.damage import each_byte_flipped


class Means:
    """A backbone whose features are the mean of each channel and the number of frames."""

    name, feature_dim, min_frames, max_frames = "means", 4, 2, None

    def __init__(self):
        self.shapes = []

    def describe(self):
        return {"name": self.name, "sha256": "0" * 64, "verified": True}

    def extract(self, clips):
        self.shapes.append(tuple(clips.shape))
        frames = torch.full((len(clips), 1), clips.shape[1])
        features = torch.cat([clips.float().mean((1, 2, 3)), frames], 1)
        return features, features.softmax(1)


def clips(sizes, seed=0):
    random = np.random.default_rng(seed)
    return [
        SimpleNamespace(name=f"clip{index}", position=index, video=random.integers(0, 256, (*size, 3), np.uint8))
        for index, size in enumerate(sizes)
    ]


def expected(source):
    return np.array([[*clip.video.astype(np.float64).mean((0, 1, 2)), len(clip.video)] for clip in source])


@pytest.mark.parametrize("batch", [1, 3, 8, 100])
def test_order_and_values_do_not_depend_on_the_batch_or_on_mixed_sizes(batch):
    source = clips([(4, 8, 8), (6, 8, 8), (4, 8, 8), (4, 10, 8), (6, 8, 8), (2, 4, 4), (4, 8, 8)])
    seen = []
    result = extract_features(source, Means(), batch=batch, quiet=True, on_batch=lambda *part: seen.append(part))
    assert result.names == [clip.name for clip in source]
    np.testing.assert_allclose(result.features, expected(source), rtol=1e-6)
    assert result.features.dtype == np.float32 and result.probabilities.shape == (7, 4)
    assert max(len(names) for names, _, _ in seen) == min(batch, 7)
    assert result.manifest["backbone"]["name"] == "means"


def test_every_clip_is_a_call_of_its_own_on_a_cpu():
    """So that its features depend on no other clip's place or presence."""
    backbone = Means()
    source = clips([(16, 4, 4), (8, 4, 4), (16, 4, 4), (64, 4, 4), (64, 4, 4)])
    list(iterate_features(source, backbone, batch=5, quiet=True))
    shapes = [(1, 8, 4, 4, 3), (1, 16, 4, 4, 3), (1, 16, 4, 4, 3), (1, 64, 4, 4, 3), (1, 64, 4, 4, 3)]
    assert sorted(backbone.shapes) == shapes


def test_only_one_batch_is_read_ahead():
    taken = []

    class Source:
        def __len__(self):
            return 100

        def __iter__(self):
            for clip in clips([(2, 4, 4)] * 100):
                taken.append(clip.name)
                yield clip

    next(iterate_features(Source(), Means(), batch=4, quiet=True))
    assert len(taken) == 4


def test_too_short_clip_is_named():
    with pytest.raises(InputError, match="clip1: 1 frames; means needs at least 2"):
        extract_features(clips([(4, 4, 4), (1, 4, 4)]), Means(), quiet=True)


def test_file_keeps_everything(tmp_path):
    result = extract_features(clips([(4, 4, 4)] * 3), Means(), quiet=True)
    result.save(tmp_path / "f.npz")
    again = FeatureSet.load(tmp_path / "f.npz")
    np.testing.assert_array_equal(again.features, result.features)
    np.testing.assert_array_equal(again.probabilities, result.probabilities)
    assert again.names == result.names and again.manifest == result.manifest
    FeatureSet(features=result.features, names=result.names).save(tmp_path / "g.npz")
    assert FeatureSet.load(tmp_path / "g.npz").probabilities is None


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "foreign.npz", mean=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", features=np.zeros((1, 2)), names=np.array(["a", None], object), manifest="{}")
    np.savez(tmp_path / "uneven.npz", features=np.zeros((3, 2)), names=np.array(["a"]), manifest=np.array("{}"))
    for name, message in (
        ("text", "not a readable"),
        ("foreign", "it lacks 'features'"),
        ("pickled", "not a readable"),
        ("uneven", "damaged"),
        ("absent", "not a readable"),
    ):
        with pytest.raises(InputError, match=message):
            FeatureSet.load(tmp_path / f"{name}.npz")


def test_no_damage_gets_past_as_anything_but_a_message(tmp_path):
    path = tmp_path / "f.npz"
    FeatureSet(features=np.arange(4, dtype=np.float32)[None], names=["a"]).save(path)
    for content in each_byte_flipped(path.read_bytes(), masks=[255]):
        path.write_bytes(content)
        try:
            assert FeatureSet.load(path).features.tolist() == [[0, 1, 2, 3]]
        except InputError as error:
            assert str(path) in str(error)


def test_command_writes_features_of_an_array(tmp_path):
    weights = tmp_path / "w.safetensors"
    state = {key: value for key, value in Shapes3D(12).state_dict().items() if "num_batches" not in key}
    save_file(state, weights, {"format": "shapes3d", "classes": json.dumps(CLASS_NAMES)})
    videos = np.random.default_rng(0).integers(0, 256, (3, 8, 24, 32, 3), np.uint8)
    np.save(tmp_path / "videos.npy", videos)
    words = [
        "--samples",
        str(tmp_path / "videos.npy"),
        "--backbone",
        "shapes3d",
        "--weights",
        str(weights),
        "--out",
        str(tmp_path / "f.npz"),
        "--device",
        "cpu",
        "--workers",
        "0",
        "--quiet",
        "--json",
    ]
    refused = CliRunner().invoke(command, words)
    assert refused.exit_code == 2 and "--unverified" in refused.stderr
    done = CliRunner().invoke(command, [*words, "--unverified"])
    assert done.exit_code == 0, done.stderr
    result = FeatureSet.load(tmp_path / "f.npz")
    assert result.features.shape == (3, FEATURE_DIM) and result.probabilities.shape == (3, 12)
    assert len(result.names) == 3
    assert json.loads(done.stdout) == result.manifest
    assert result.manifest["backbone"]["verified"] is False and result.manifest["samples"]["clips"] == 3
    assert result.manifest["protocol"]["name"] == "native"
