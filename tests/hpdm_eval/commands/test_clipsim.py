"""CLIPSIM with a tiny random CLIP, against transformers' own forward; the protocol of zero-shot evaluation."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm.data.scene_captions import sample_prompts
from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.backbones.clip_network import MEAN, STD, Clip
from hpdm_eval.commands.entry import main
from hpdm_eval.metrics.clip_similarity import clip_similarity
from hpdm_eval.protocols import load_protocol
from tests.support.small_text import WORDS

PROMPTS = sample_prompts(0, 2)


@pytest.fixture(scope="module")
def library():
    import_torchvision()
    return pytest.importorskip("transformers", reason="needs the extra `video`")


@pytest.fixture(scope="module")
def folder(library, tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {word: number for number, word in enumerate(["<start>", *WORDS, "<end>"])}
    end = vocabulary["<end>"]
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", end)]
    )
    library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<end>", eos_token="<end>").save_pretrained(
        folder
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = library.CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 20,
            "eos_token_id": end,
            "bos_token_id": 0,
        },
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    network = library.CLIPModel(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    return folder


def write_samples(folder, prompts=PROMPTS):
    folder.mkdir()
    for index in range(4):
        np.save(folder / f"{index:05d}_c{index % 2:03d}.npy", procedural_clip(0, index, 3, 16, 16)[0])
    (folder / "samples.json").write_text(json.dumps({"settings": {"prompts": prompts}}))
    return folder


def test_similarity_of_known_vectors():
    assert clip_similarity([[2, 0], [0, 3]], [5, 0]) == pytest.approx(50)
    assert clip_similarity([[1, 1]], [1, 0]) == pytest.approx(100 / math.sqrt(2))


def test_the_command_agrees_with_transformers(library, folder, tmp_path):
    samples = write_samples(tmp_path / "samples")
    result = CliRunner().invoke(
        main,
        [
            "clipsim",
            "--samples",
            str(samples),
            "--clip",
            str(folder),
            "--json",
            "--quiet",
            "--device",
            "cpu",
            "--workers",
            "0",
        ],
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    network = library.CLIPModel.from_pretrained(folder).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    values = []
    for index in range(4):
        frames = torch.from_numpy(procedural_clip(0, index, 3, 16, 16)[0]).permute(0, 3, 1, 2).float() / 255
        pixels = (frames - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with torch.no_grad():
            out = network(
                pixel_values=pixels,
                **{
                    key: value
                    for key, value in tokenizer([PROMPTS[index % 2]], return_tensors="pt").items()
                    if key in ("input_ids", "attention_mask")
                },
            )
        values.append((out.image_embeds @ out.text_embeds.T).mean().item() * 100)
    assert record["value"] == pytest.approx(np.mean(values), abs=1e-3)
    assert record["metric"] == "clipsim" and record["num_samples"] == 4 and record["higher_is_better"]
    assert [entry["prompt"] for entry in record["details"]] == PROMPTS
    assert record["details"][0]["value"] == pytest.approx((values[0] + values[2]) / 2, abs=1e-3)


def test_wide_frames_are_cut_in_the_middle(folder):
    network = Clip(str(folder))
    wide = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 16, 40, 3), dtype=np.uint8))
    torch.testing.assert_close(network.frames(wide), network.frames(wide[:, :, 12:28]), atol=1e-4, rtol=1e-4)


def test_the_record_tells_tokenizers_apart(folder, tmp_path):
    before = Clip(str(folder)).about
    changed = tmp_path / folder.name
    shutil.copytree(folder, changed)
    assert Clip(str(changed)).about == before
    words = json.loads((changed / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = list(vocabulary)[1:3]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (changed / "tokenizer.json").write_text(json.dumps(words))
    assert Clip(str(changed)).about["sha256"] != before["sha256"]


def test_what_is_missing_is_said(folder, tmp_path, monkeypatch):
    samples = write_samples(tmp_path / "samples")
    words = ["clipsim", "--samples", str(samples), "--quiet", "--device", "cpu", "--workers", "0", "--clip"]
    (samples / "samples.json").write_text("{}")
    result = CliRunner().invoke(main, [*words, str(folder)])
    assert result.exit_code == 2 and "names no prompts" in result.output
    with pytest.raises(InputError, match="neither a folder nor an id"):
        Clip("/no/such/folder")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(InputError, match="needs a clip"):
        Clip(str(tmp_path))
    monkeypatch.setattr("hpdm.support.pretrained.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"hpdm\[video\]"):
        Clip(str(folder))


def test_zero_shot_protocol_is_the_paper_s_with_its_sample_count():
    protocol, base = load_protocol("hpdm-zero-shot"), load_protocol("hpdm-16f")
    assert (protocol.num_samples, protocol.split, protocol.frames) == (10_000, "ucf101-train-01", 16)
    assert protocol.differences(base) == {"samples_selection": ("shuffled", "class-balanced")}
