"""I3D against the public PyTorch network's own outputs, and its fast form against its plain one."""

import importlib.util
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm_eval.backbones import i3d, load_backbone
from hpdm_eval.backbones.preprocess import resize, to_unit_range

ATOL = 5e-5


@pytest.fixture(scope="session")
def parity(shared, tmp_path_factory):
    """(module that makes weights and clips, expected outputs, folder with the state dict)."""
    spec = importlib.util.spec_from_file_location("make_weights", shared / "parity" / "make_weights.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    folder = tmp_path_factory.mktemp("i3d")
    torch.save(make.i3d_weights(), folder / "random.pt")
    return make, np.load(shared / "parity" / "i3d_expected.npz"), folder


@pytest.fixture(scope="session")
def state(parity):
    return torch.load(parity[2] / "random.pt", weights_only=True)


@pytest.fixture(scope="session")
def backbone(parity):
    return load_backbone("i3d", weights=parity[2] / "random.pt", unverified=True)


def clips(parity, n, frames, size=224, seed=0):
    return torch.from_numpy(parity[0].clip(n, frames, size=size, seed=seed))


def test_parameter_names_shapes_and_count_are_the_public_ones(shared):
    with torch.device("meta"):
        network = i3d.InceptionI3D()
    ours = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == json.loads((shared / "parity" / "i3d_state_dict_keys.json").read_text())
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_697_264


def test_folded_network_equals_the_public_one(parity, backbone):
    features, probabilities = backbone.extract(clips(parity, 2, 16))
    expected = parity[1]["logits_eps1e-3"]
    np.testing.assert_allclose(features.numpy(), expected, atol=ATOL, rtol=0)
    np.testing.assert_allclose(probabilities.numpy(), torch.from_numpy(expected).softmax(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("frames", [9, 32])
def test_other_lengths(parity, backbone, frames):
    features, _ = backbone.extract(clips(parity, 1, frames, seed=100 + frames))
    np.testing.assert_allclose(features.numpy(), parity[1][f"logits_eps1e-3_T{frames}"], atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("bilinear", "logits256_bilinear_acF"),
        ("short-side", "logits256_bilinear_acF"),
        ("bilinear-antialias", "logits256_bilinear_acF_antialias"),
    ],
)
def test_resizing_from_256(parity, backbone, rule, key):
    video = resize(to_unit_range(clips(parity, 2, 16, size=256, seed=5))[:1], (224, 224), rule)
    np.testing.assert_allclose(backbone.forward(video)[0].numpy(), parity[1][key][:1], atol=ATOL, rtol=0)


@torch.inference_mode()
def test_epsilon_of_the_videogpt_lineage_and_plain_network(parity, state):
    plain = i3d.load_state(i3d.InceptionI3D(epsilon=1e-5), state, "state")
    video = to_unit_range(clips(parity, 2, 16))
    np.testing.assert_allclose(plain(video[:1]).numpy(), parity[1]["logits_eps1e-5"][:1], atol=ATOL, rtol=0)
    folded = i3d.FoldedI3D(plain)
    np.testing.assert_allclose(folded(video[1:]).numpy(), parity[1]["logits_eps1e-5"][1:], atol=ATOL, rtol=0)


@torch.inference_mode()
def test_pool_before_the_logits(parity, state):
    plain = i3d.load_state(i3d.InceptionI3D(), state, "state")
    pooled = plain.pool(to_unit_range(clips(parity, 2, 16))[:1]).mean(2)
    expected = parity[1]["pool1024_eps1e-3"][:1]  # up to 1.5e4 with these weights, so the tolerance is relative to that
    np.testing.assert_allclose(pooled.numpy(), expected, atol=2e-6 * expected.max(), rtol=0)


@pytest.mark.slow
def test_bfloat16_is_close_and_not_equal(parity):
    backbone = load_backbone("i3d", weights=parity[2] / "random.pt", unverified=True, precision="bf16")
    expected = torch.from_numpy(parity[1]["logits_eps1e-3_T9"])
    features, _ = backbone.extract(clips(parity, 1, 9, seed=109))
    error = (features - expected).norm() / expected.norm()
    assert 1e-5 < error < 0.02


@torch.inference_mode()
def test_fast_form_equals_the_plain_network_with_weights_of_our_own():
    plain = i3d.InceptionI3D().eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.1)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    video = torch.randn(1, 3, 10, 224, 224)
    expected = plain(video)
    torch.testing.assert_close(i3d.FoldedI3D(plain)(video), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@given(size=st.integers(1, 40), kernel=st.integers(1, 7), stride=st.integers(1, 2))
def test_same_padding_gives_tensorflows_output_size(size, kernel, stride):
    front, back = i3d.same_padding(size, kernel, stride)
    out = (size + front + back - kernel) // stride + 1
    assert 0 <= back - front <= 1
    if stride <= kernel:
        assert out == -(-size // stride)  # TensorFlow: ceil(size / stride)
        assert front + back == max((out - 1) * stride + kernel - size, 0)


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    seed=st.integers(0, 99),
    window=st.sampled_from(
        [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))]
    ),
)
def test_fast_max_pool_equals_padding_with_zeros(shape, seed, window):
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(seed))
    x = x.contiguous(memory_format=torch.channels_last_3d)
    pool = i3d.MaxPoolSame(*window)
    torch.testing.assert_close(i3d.FoldedMaxPool(pool)(x), pool(x), rtol=0, atol=0)


def test_multiply_adds():
    assert i3d.multiply_adds(16) == pytest.approx(55.6e9 / 2, rel=1e-3)


def test_eight_frames_are_refused(backbone):
    with pytest.raises(InputError, match="8 frames; .* at least 9 frames"):
        backbone.extract(torch.zeros(1, 8, 32, 32, 3, dtype=torch.uint8))


def test_wrong_state_dicts_are_named(state, tmp_path):
    incomplete = {key: value for key, value in state.items() if key != "Mixed_4c.b1b.bn.running_var"}
    with pytest.raises(InputError, match="Mixed_4c.b1b.bn.running_var is missing"):
        i3d.load_state(i3d.InceptionI3D(), incomplete, "x.pt")
    with pytest.raises(InputError, match=r"logits.conv3d.weight has shape \(600, 1024, 1, 1, 1\)"):
        i3d.load_state(i3d.InceptionI3D(), {**state, "logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}, "x.pt")
    with pytest.raises(InputError, match="not finite"):
        i3d.load_state(i3d.InceptionI3D(), {**state, "logits.conv3d.bias": torch.full((400,), torch.nan)}, "x.pt")


class Trap:
    """Unpickling it would call `print`."""

    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("content", ["pickle", "text", "empty"])
def test_files_that_are_not_tensors_are_refused_and_nothing_in_them_runs(tmp_path, capsys, content):
    path = tmp_path / "weights.pt"
    if content == "pickle":
        torch.save({"a": Trap()}, path)
    else:
        path.write_text("" if content == "empty" else "<html>not found</html>")
    with pytest.raises(InputError, match="not a readable state dict"):
        load_backbone("i3d", weights=path, unverified=True)
    assert "executed" not in capsys.readouterr().out


class Script(torch.nn.Module):
    """Stands in for the published TorchScript file: answers with what it was given."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        answer = torch.zeros(x.shape[0], 400)
        answer[:, 0] = float(rescale)
        answer[:, 1] = float(resize)
        answer[:, 2] = float(return_features)
        answer[:, 3] = x.shape[-1]
        answer[:, 4] = x.max()
        return answer


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_file_runs_as_it_is(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(Script()).save(str(path))
    with pytest.raises(InputError, match="--unverified"):
        load_backbone("i3d", weights=path)
    video = torch.full((2, 9, 32, 48, 3), 255, dtype=torch.uint8)
    features, _ = load_backbone("i3d", weights=path, unverified=True).extract(video)
    assert features[:, :5].tolist() == [[1, 1, 1, 48, 255]] * 2
    cropped = load_backbone("i3d", weights=path, unverified=True, resize_rule="short-side")
    assert cropped.extract(video)[0][:, :5].tolist() == [[0, 0, 1, 224, 1]] * 2
    assert cropped.describe()["file"] == "i3d_torchscript.pt"
    with pytest.raises(InputError, match="its own BatchNorm epsilon"):
        load_backbone("i3d", weights=path, unverified=True, bn_epsilon=1e-5)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (128, 128), (7, 5)])
def test_short_side_rule_is_an_interpolation_and_a_centre_crop(height, width):
    video = torch.rand(1, 3, 2, height, width)
    scale = 224 / min(height, width)
    size = [int(np.ceil(round(length * scale, 6))) for length in (height, width)]
    frames = F.interpolate(video[0].transpose(0, 1), size, mode="bilinear")
    top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
    expected = frames[..., top : top + 224, left : left + 224].transpose(0, 1)[None]
    torch.testing.assert_close(resize(video, (224, 224), "short-side"), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (37, 300)])
def test_tensorflow_1_rule_against_its_definition(height, width):
    video = torch.rand(1, 3, 1, height, width)
    source = video[0, 0, 0].double()
    expected = torch.empty(224, 224, dtype=torch.float64)
    for row in range(224):
        y = row * height / 224
        y0, y1 = int(y), min(int(y) + 1, height - 1)
        line = source[y0] * (1 - y + y0) + source[y1] * (y - y0)
        x = torch.arange(224, dtype=torch.float64) * width / 224
        x0 = x.long()
        expected[row] = line[x0] * (1 - x + x0) + line[(x0 + 1).clamp(max=width - 1)] * (x - x0)
    torch.testing.assert_close(resize(video, (224, 224), "tf1-bilinear")[0, 0, 0].double(), expected, rtol=0, atol=5e-5)


def test_unknown_rule_is_refused():
    with pytest.raises(InputError, match="unknown resize rule 'nearest'"):
        load_backbone("i3d", resize_rule="nearest")


def test_range_covers_minus_one_to_one():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1).expand(-1, -1, -1, -1, 3)
    expected = torch.arange(256, dtype=torch.float64) / 255 * 2 - 1
    torch.testing.assert_close(to_unit_range(values)[0, 0].flatten().double(), expected, rtol=0, atol=1e-7)
