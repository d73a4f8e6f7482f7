"""C3D against what TGANv2's own network answers, in each form that its weights come in."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from hpdm.support.errors import InputError
from hpdm_eval.backbones import c3d, load_backbone
from hpdm_eval.backbones.preprocess import to_unit_range
from hpdm_eval.backbones.weights import add
from hpdm_eval.commands.entry import main
from hpdm_eval.features.extraction import FeatureSet


@pytest.fixture(scope="module")
def parity(shared, tmp_path_factory):
    """(folder with weights.pt, mean.npz and clips.npy, expected outputs)."""
    spec = importlib.util.spec_from_file_location("make_weights", shared / "parity" / "make_weights.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    folder = tmp_path_factory.mktemp("c3d")
    mean, state = make.c3d_weights()
    torch.save(state, folder / "weights.pt")
    np.savez(folder / "mean.npz", mean=mean)
    np.save(folder / "clips.npy", make.clip(2, 16))
    yield folder, np.load(shared / "parity" / "c3d_expected.npz")
    (folder / "weights.pt").unlink()  # 313 MB


@pytest.fixture(scope="module")
def backbone(parity):
    folder, _ = parity
    return load_backbone("c3d", weights=folder / "weights.pt", c3d_mean=folder / "mean.npz", unverified=True)


@torch.inference_mode()
def test_logits_probabilities_and_hidden_layer_are_those_of_tganv2(parity, backbone):
    folder, expected = parity
    clips = torch.from_numpy(np.load(folder / "clips.npy"))
    network = backbone.network
    hidden = torch.relu(network.fc6(network.pool5(network.preprocess(to_unit_range(clips)))))
    np.testing.assert_allclose(hidden.numpy(), expected["v224_fc6"], atol=1e-4, rtol=0)
    features, probabilities = backbone.extract(clips)
    np.testing.assert_allclose(features.numpy(), expected["v224_fc8"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(probabilities.numpy(), expected["v224_prob"], atol=1e-5, rtol=0)


def test_command_writes_the_same(parity, tmp_path):
    folder, expected = parity
    words = [
        "features",
        "--samples",
        folder / "clips.npy",
        "--backbone",
        "c3d",
        "--weights",
        folder / "weights.pt",
        "--c3d-mean",
        folder / "mean.npz",
        "--unverified",
        "--out",
        tmp_path / "f.npz",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--json",
        "--quiet",
    ]
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    found = FeatureSet.load(tmp_path / "f.npz")
    np.testing.assert_allclose(found.features, expected["v224_fc8"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.probabilities, expected["v224_prob"], atol=1e-5, rtol=0)
    entry = json.loads(done.stdout)["backbone"]
    assert entry["name"] == "c3d-ucf101" and entry["verified"] is False
    assert len(entry["mean_sha256"]) == 64 and entry["resize"] == "bilinear-align-corners"


def test_chainer_layout_is_the_same_network(parity, backbone):
    folder, _ = parity
    state = torch.load(folder / "weights.pt", weights_only=True, mmap=True)
    arrays = {key.replace(".weight", "/W").replace(".bias", "/b"): value.numpy() for key, value in state.items()}
    network = c3d.build(arrays, c3d.read_mean(folder / "mean.npz"), "conv3d_deepnetA_ucf.npz")
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


@pytest.mark.parametrize("state", [[1, 2], {"state_dict": {"conv1a.weight": torch.ones(2)}}, {"conv1a.weight": "text"}])
def test_what_holds_no_tensors_is_refused(state):
    with pytest.raises(InputError, match="w.pt: not a C3D for UCF-101: it holds no tensors by name"):
        c3d.build(state, torch.zeros(c3d.MEAN_SHAPE), "w.pt")


def test_preprocessing_by_hand():
    """One pixel at a time in float64: corners aligned, BGR, times 128, plus 128 minus the mean from [8, 8]."""
    random = np.random.default_rng(0)
    mean = torch.from_numpy(random.uniform(0, 255, c3d.MEAN_SHAPE).astype(np.float32))
    with torch.device("meta"):
        network = c3d.C3D(mean)
    network.mean = mean[:, :, 8:120, 8:120]
    video = random.uniform(-1, 1, (1, 3, 16, 90, 130))
    found = network.preprocess(torch.from_numpy(video.astype(np.float32))).numpy()
    for channel, frame, row, column in random.integers(0, [3, 16, 112, 112], (200, 4)):
        y, x = row * 89 / 111, column * 129 / 111
        top, left = min(int(y), 88), min(int(x), 128)
        corners = video[0, 2 - channel, frame, top : top + 2, left : left + 2]
        value = np.array([1 - (y - top), y - top]) @ corners @ np.array([1 - (x - left), x - left])
        expected = 128 * value + 128 - mean[channel, frame, 8 + row, 8 + column].item()
        assert abs(found[0, channel, frame, row, column] - expected) < 1e-3


def test_torchscript_gets_bytes_and_its_probabilities_come_through(tmp_path):
    class Stub(nn.Module):
        def forward(self, x):
            if x.dtype != torch.uint8:
                raise ValueError("bytes are expected")
            return torch.softmax(x[:, :, 0, 0].float() / 16, dim=2)[:, 1, :5]

    path = tmp_path / "c3d_ucf101.pt"
    torch.jit.script(Stub()).save(str(path))
    with pytest.raises(InputError, match="--unverified"):
        load_backbone("c3d", weights=path)
    backbone = load_backbone("c3d", weights=path, unverified=True)
    clips = torch.randint(0, 256, (3, 16, 20, 30, 3), dtype=torch.uint8)
    features, probabilities = backbone.extract(clips)
    expected = (clips[:, 0, 0, :, 1].double() / 16).softmax(dim=1)[:, :5]
    torch.testing.assert_close(probabilities.double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(features.exp(), probabilities)
    assert features.isfinite().all()


@pytest.mark.parametrize("frames, message", [(8, "at least 16"), (64, "takes 16: its layers fit no other number")])
def test_only_sixteen_frames(tmp_path, frames, message):
    path = tmp_path / "c3d.pt"
    torch.jit.script(nn.Identity()).save(str(path))
    backbone = load_backbone("c3d", weights=path, unverified=True)
    with pytest.raises(InputError, match=message):
        backbone.extract(torch.zeros(1, frames, 8, 8, 3, dtype=torch.uint8))


def test_sixty_four_frames_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "c3d.pt"
    torch.jit.script(nn.Identity()).save(str(path))
    np.save(tmp_path / "clips.npy", np.zeros((2, 64, 8, 8, 3), np.uint8))
    for more in (["--protocol", "hpdm-64f"], ["--protocol", "native"]):
        words = ["is", "--samples", tmp_path / "clips.npy", "--weights", path, "--unverified", "--workers", "0", *more]
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 2
        assert "64 frames; c3d-ucf101 takes 16" in result.stderr and "--frames 16" in result.stderr


def test_the_reason_does_not_wait_for_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", str(tmp_path))
    np.save(tmp_path / "clips.npy", np.zeros((2, 64, 8, 8, 3), np.uint8))
    result = CliRunner().invoke(main, ["is", "--samples", str(tmp_path / "clips.npy"), "--frames", "64"])
    assert result.exit_code == 2 and "64 frames; c3d-ucf101 takes 16" in result.stderr


def test_mean_video_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", str(tmp_path / "empty"))
    np.savez(tmp_path / "weights.npz", **{"conv1a/W": np.zeros(3)})
    np.savez(tmp_path / "mean.npz", mean=np.zeros((3, 16, 112, 112)))
    np.savez(tmp_path / "other.npz", average=np.zeros(3))
    np.savez(tmp_path / "good.npz", mean=np.zeros(c3d.MEAN_SHAPE, np.float32))
    damaged = bytearray((tmp_path / "other.npz").read_bytes())
    damaged[damaged.index(b"PK\x01\x02") + 6] = ord("~")  # the version of zip that the directory's entry asks for
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(InputError, match="--c3d-mean"):
        load_backbone("c3d", weights=tmp_path / "weights.npz", unverified=True)
    for name, message in (
        ("mean", "expected .3, 16, 128, 171"),
        ("other", "holds no `mean`"),
        ("damaged", "not a readable .npz file"),
        ("good", "not a C3D for UCF-101: conv1a.bias is missing"),
    ):
        with pytest.raises(InputError, match=message):
            load_backbone("c3d", weights=tmp_path / "weights.npz", c3d_mean=tmp_path / f"{name}.npz", unverified=True)


@pytest.fixture
def pinned_weights(tmp_path, monkeypatch):
    """A function that loads c3d from weights pinned in the cache, with a mean video of one value."""
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(c3d, "build", lambda state, mean, file: nn.Identity())  # the weights would be 300 MB
    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **{"conv1a/W": np.zeros(3)})
    assert add(tmp_path / "conv3d_deepnetA_ucf.npz").trust == "first-use"

    def load(value, **options):
        path = tmp_path / f"mean-{value}.npz"
        np.savez(path, mean=np.full(c3d.MEAN_SHAPE, value, np.float32))
        return load_backbone("c3d", c3d_mean=path, **options).describe()

    return load


def test_mean_video_is_pinned_at_first_use(pinned_weights, tmp_path):
    entry = pinned_weights(1)
    assert entry["trust"] == "first-use" and entry["verified"] is False
    assert pinned_weights(1) == entry
    assert load_backbone("c3d").describe() == entry
    with pytest.raises(InputError, match="mean-2.npz: not the known mean2.npz.*seen first on.*--unverified"):
        pinned_weights(2)
    assert load_backbone("c3d").describe() == entry


def test_what_is_no_mean_video_is_not_pinned(pinned_weights, tmp_path):
    np.savez(tmp_path / "small.npz", mean=np.zeros(3))
    with pytest.raises(InputError, match="expected .3, 16, 128, 171"):
        load_backbone("c3d", c3d_mean=tmp_path / "small.npz")
    assert "mean2.npz" not in (tmp_path / "cache" / "pins.json").read_text()


def test_record_says_the_worse_trust_of_weights_and_mean(pinned_weights, tmp_path):
    entry = pinned_weights(1, unverified=True)
    assert entry["trust"] == "unverified"
    assert not (tmp_path / "cache" / "mean2.npz").exists()  # what is only put up with becomes nobody's first use
    pinned_weights(2)
    assert pinned_weights(1, unverified=True) == entry
    assert pinned_weights(2, unverified=True)["trust"] == "first-use"


def test_mean_video_chooses_the_weights_that_need_one(pinned_weights, tmp_path):
    torch.jit.script(nn.Identity()).save(str(tmp_path / "c3d_ucf101.pt"))
    add(tmp_path / "c3d_ucf101.pt")
    assert load_backbone("c3d").describe()["file"] == "c3d_ucf101.pt"
    assert pinned_weights(1)["file"] == "conv3d_deepnetA_ucf.npz"
