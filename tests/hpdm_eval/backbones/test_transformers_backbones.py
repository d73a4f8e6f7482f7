"""VideoMAE and V-JEPA from a folder, against transformers' own forward; tiny networks with random weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.backbones import backbone_name, load_backbone
from hpdm_eval.commands.entry import main
from hpdm_eval.features.cache import FeatureCache

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])


@pytest.fixture(scope="module")
def library():
    import_torchvision()  # transformers imports it
    return pytest.importorskip("transformers", reason="needs the extra `video`")


@pytest.fixture(scope="module")
def folders(library, tmp_path_factory):
    """Name → folder of a network with 5 classes or without a classifier."""
    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    mae = library.VideoMAEConfig(
        image_size=32,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_labels=5,
        num_attention_heads=2,
        intermediate_size=32,
        num_frames=16,
    )
    jepa = library.VJEPA2Config(
        crop_size=32,
        patch_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_labels=5,
        num_attention_heads=2,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        num_pooler_layers=1,
    )
    models = {
        "mae-classifier": library.VideoMAEForVideoClassification(mae),
        "mae-encoder": library.VideoMAEModel(mae),
        "mae-pretraining": library.VideoMAEForPreTraining(mae),
        "jepa-classifier": library.VJEPA2ForVideoClassification(jepa),
        "jepa-encoder": library.VJEPA2Model(jepa),
    }
    for name, model in models.items():
        for parameter in model.parameters():  # fresh networks have zero biases, which hide mistakes
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(root / name)
        normalisation = {"image_mean": MEAN.tolist(), "image_std": STD.tolist()}
        (root / name / "preprocessor_config.json").write_text(json.dumps(normalisation))
    return root


def clips(frames=16):
    """uint8 [2, T, 32, 32, 3]: the network's size, so that no resizing enters."""
    return torch.from_numpy(np.stack([procedural_clip(0, index, frames, 32, 32)[0] for index in range(2)]))


def normalised(video):
    """uint8 [B, T, H, W, 3] → float32 [B, T, 3, H, W]"""
    return ((video.float() / 255 - MEAN) / STD).permute(0, 1, 4, 2, 3)


def test_videomae_with_classifier(library, folders):
    backbone = load_backbone(f"videomae:{folders / 'mae-classifier'}")
    features, probabilities = backbone.extract(clips())
    model = library.VideoMAEForVideoClassification.from_pretrained(folders / "mae-classifier").eval()
    seen = []
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = model(normalised(clips())).logits
    assert torch.allclose(features, seen[0], atol=1e-5) and features.shape == (2, 16)
    assert torch.allclose(probabilities, logits.softmax(dim=1), atol=1e-5) and probabilities.shape == (2, 5)


@pytest.mark.parametrize("name", ["mae-encoder", "mae-pretraining"])
def test_videomae_without_classifier_averages_the_tokens(library, folders, name):
    features, probabilities = load_backbone(f"videomae:{folders / name}").extract(clips())
    model = library.VideoMAEModel.from_pretrained(folders / name).eval()
    with torch.inference_mode():
        expected = model(normalised(clips())).last_hidden_state.mean(dim=1)
    assert torch.allclose(features, expected, atol=1e-5) and probabilities.shape == (2, 0)


def test_vjepa_with_and_without_classifier(library, folders):
    features, probabilities = load_backbone(f"vjepa:{folders / 'jepa-classifier'}").extract(clips(9))
    model = library.VJEPA2ForVideoClassification.from_pretrained(folders / "jepa-classifier").eval()
    seen = []
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = model(normalised(clips(9))[:, :8]).logits  # the ninth frame has no partner
    assert torch.allclose(features, seen[0], atol=1e-5)
    assert torch.allclose(probabilities, logits.softmax(dim=1), atol=1e-5)
    features, _ = load_backbone(f"vjepa:{folders / 'jepa-encoder'}").extract(clips())
    encoder = library.VJEPA2Model.from_pretrained(folders / "jepa-encoder").eval()
    with torch.inference_mode():
        expected = encoder.get_vision_features(normalised(clips())).mean(dim=1)
    assert torch.allclose(features, expected, atol=1e-5) and features.shape == (2, 24)


def test_description_names_and_marks_the_weights(folders, tmp_path):
    description = load_backbone(f"videomae:{folders / 'mae-encoder'}").describe()
    assert description["name"] == "videomae-mae-encoder" and description["verified"] is False
    changed = tmp_path / "mae-encoder"
    shutil.copytree(folders / "mae-encoder", changed)
    assert load_backbone(f"videomae:{changed}").describe() == description
    state = load_file(changed / "model.safetensors")
    key = min(state)
    save_file({**state, key: state[key] + 1}, changed / "model.safetensors", {"format": "pt"})
    assert load_backbone(f"videomae:{changed}").describe()["sha256"] != description["sha256"]


@pytest.mark.parametrize(
    "name, file", [("mae-encoder", "preprocessor_config.json"), ("jepa-encoder", "video_preprocessor_config.json")]
)
def test_normalisation_is_part_of_the_network(folders, tmp_path, name, file):
    family = {"mae": "videomae", "jepa": "vjepa"}[name.partition("-")[0]]
    before = load_backbone(f"{family}:{folders / name}")
    assert before.describe()["image_mean"] == pytest.approx(MEAN.tolist())
    assert before.describe()["image_std"] == pytest.approx(STD.tolist())
    changed = tmp_path / name
    shutil.copytree(folders / name, changed)
    (changed / file).write_text(json.dumps({"image_mean": [0.5] * 3}))
    after = load_backbone(f"{family}:{changed}")
    assert after.describe()["image_mean"] == [0.5] * 3 and after.describe()["image_std"][0] == pytest.approx(0.229)
    assert after.describe()["sha256"] != before.describe()["sha256"]
    assert FeatureCache(after, tmp_path).folder != FeatureCache(before, tmp_path).folder


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"image_mean": None},
        {"image_std": None},
        {"image_std": [0.5]},
        {"image_std": [1, 0, 1]},
        {"image_mean": [0, "x", 0]},
    ],
)
def test_normalisation_that_is_none_is_refused(folders, tmp_path, content):
    folder = tmp_path / "net"
    shutil.copytree(folders / "mae-encoder", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="preprocessor_config.json: image_mean and image_std have to be three numbers"):
        load_backbone(f"videomae:{folder}")


def test_bf16_is_close(folders):
    name = f"videomae:{folders / 'mae-encoder'}"
    exact, _ = load_backbone(name).extract(clips())
    fast, _ = load_backbone(name, precision="bf16").extract(clips())
    assert fast.dtype == torch.float32 and not torch.equal(fast, exact)
    assert torch.linalg.vector_norm(fast - exact) < 0.05 * torch.linalg.vector_norm(exact)


def test_on_the_command_line(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(("fake", "real")):
        (tmp_path / name).mkdir()
        videos = [procedural_clip(number, index, 16, 32, 32)[0] for index in range(5)]
        np.save(tmp_path / name / "clips.npy", np.stack(videos))
    shared = [
        "--samples",
        str(tmp_path / "fake"),
        "--reference",
        str(tmp_path / "real"),
        "--protocol",
        "native",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    mae = ["--backbone", f"videomae:{folders / 'mae-classifier'}"]
    result = CliRunner().invoke(main, ["fvd", *shared, *mae])
    assert result.exit_code == 0, result.output
    assert "fvd[videomae-mae-classifier]" in result.stdout and "weights not verified" in result.stdout
    jepa = ["--backbone", f"vjepa:{folders / 'jepa-encoder'}", "--variant", "jedi", "--json"]
    result = CliRunner().invoke(main, ["kvd", *shared, *jepa])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["backbone"]["name"] == "vjepa-jepa-encoder" and record["value"] > 0
    result = CliRunner().invoke(main, ["fvd", *shared, *mae, "--frames", "8"])
    assert result.exit_code == 2 and "needs at least 16 frames" in result.stderr
    result = CliRunner().invoke(main, ["fvd", *shared, *mae, "--frames", "24", "--short", "loop"])
    assert result.exit_code == 2 and "takes 16" in result.stderr


def test_files_that_do_not_fit_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="is of 'vjepa2'"):
        load_backbone(f"videomae:{folders / 'jepa-encoder'}")
    with pytest.raises(InputError, match="not for this backbone"):
        load_backbone(f"videomae:{folders / 'mae-encoder'}", weights=tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folders / "mae-encoder", broken)
    state = load_file(broken / "model.safetensors")
    save_file(
        {key: value for key, value in state.items() if "layer.1" not in key},
        broken / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(InputError, match="the weights lack"):
        load_backbone(f"videomae:{broken}")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not readable as VideoMAEModel"):
        load_backbone(f"videomae:{broken}")
    (broken / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no .safetensors files"):
        load_backbone(f"videomae:{broken}")


def test_names(monkeypatch):
    assert backbone_name("vjepa:a/b") == "vjepa:a/b"
    with pytest.raises(InputError, match="videomae:WHERE"):
        backbone_name("videomea:a/b")
    with pytest.raises(InputError, match="needs a folder or an id"):
        load_backbone("videomae:")
    monkeypatch.setattr("hpdm.support.pretrained.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'hpdm\[video\]'"):
        load_backbone("videomae:a/b")


def test_places_that_do_not_exist(library, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="neither a folder nor an id"):
        load_backbone("videomae:/no/such/folder")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="Download it elsewhere"):
        load_backbone("videomae:nobody/nothing")
