"""Sampling from texts: prompts and their proportions, oscillating guidance, dynamic thresholding, the whole command."""

import dataclasses
import json
import weakref

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hpdm.checkpoint.folder import write_weights
from hpdm.commands.entry import sample
from hpdm.config import config_from_dict
from hpdm.config.sampling import SamplingConfig
from hpdm.data.scene_captions import sample_prompts
from hpdm.diffusion import dynamic_threshold
from hpdm.model import text
from hpdm.model.conditioning import no_conditions
from hpdm.model.text import make_conditioner
from hpdm.sampling.prompts import Prompts, TextConditions, proportional_turns, read_prompts
from hpdm.sampling.tiled import TiledSampler
from hpdm.support.errors import InputError
from tests.support.sampling_models import tiny_network
from tests.support.small_text import SMALL_TEXT, make_t5, small_text

CONFIG = config_from_dict(
    {
        **SMALL_TEXT,
        "pyramid": {"levels": 4, "patch": [2, 2, 4]},
        "network": {**SMALL_TEXT["network"], "levels_per_block": [1, 2, 3, 4]},
        "sampling": {"steps": [3, 2, 1, 1], "overlap": "w"},
    }
)
PROMPTS = sample_prompts(0, 3)


def save(folder, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().contiguous() for name, value in tiny_network(config).named_parameters()}
    write_weights(folder / "ema.safetensors", weights, config=config, step=3, kind="ema")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("text") / "step")


def run(checkpoint, out, *options):
    words = ["--checkpoint", str(checkpoint), "--out", str(out), "--format", "npy", "--quiet", "--device", "cpu"]
    return CliRunner().invoke(sample, [*words, *map(str, options)])


def videos(folder):
    return {path.name: np.load(path) for path in sorted(folder.glob("*.npy"))}


def test_prompts_on_the_command_line_and_in_a_file_make_the_same_videos(checkpoint, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]) + "\n\n")
    spoken = [word for prompt in PROMPTS[:2] for word in ("--prompt", prompt)]
    assert run(checkpoint, tmp_path / "a", "--num", 3, *spoken).exit_code == 0
    listed = ["--prompts", tmp_path / "prompts.txt"]
    assert run(checkpoint, tmp_path / "b", "--num", 3, *listed, "--batch", 1).exit_code == 0
    first, second = videos(tmp_path / "a"), videos(tmp_path / "b")
    assert list(first) == ["00000_c000.npy", "00001_c001.npy", "00002_c000.npy"]
    assert all(video.shape == (16, 16, 32, 3) for video in first.values())
    assert all(np.array_equal(first[name], second[name]) for name in first)
    settings = json.loads((tmp_path / "a" / "samples.json").read_text())["settings"]
    assert settings["prompts"] == PROMPTS[:2]
    # The same sample under another text is another video; without text yet another.
    assert run(checkpoint, tmp_path / "c", "--num", 1, "--prompt", PROMPTS[2]).exit_code == 0
    assert run(checkpoint, tmp_path / "d", "--num", 1, "--classes", "none").exit_code == 0
    seen = [videos(tmp_path / name)["00000_c000.npy"] for name in "acd"]
    assert all(not np.array_equal(a, b) for a, b in ((seen[0], seen[1]), (seen[0], seen[2]), (seen[1], seen[2])))


def test_nothing_of_the_encoder_is_left_when_sampling_starts(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    config = config_from_dict({**small_text(text_vocabulary=0), "text": {"encoder": str(make_t5(tmp_path / "t5"))}})
    left, load = [], text.load_encoder

    def watched(*arguments):
        encoder = load(*arguments)
        encoder.network.itself = [encoder.network]  # a circle, which counting references does not free
        left.extend(weakref.ref(part) for part in (encoder, encoder.network, *encoder.network.parameters()))
        return encoder

    monkeypatch.setattr(text, "load_encoder", watched)
    asked = TextConditions(Prompts(texts=("a disc", "a ring") * 20), config, count=40, fps=25, device="cpu")
    assert len(left) > 5 and not any(part() is not None for part in left)
    told = asked.of([0, 1, 39])
    assert told.text.shape[0] == 3 and torch.equal(told.text[1], told.text[2])


def test_a_checkpoint_with_a_t5_samples_from_itself_alone_and_with_the_encoder_elsewhere(tmp_path):
    pytest.importorskip("tokenizers")
    t5 = make_t5(tmp_path / "t5")
    config = config_from_dict({**small_text(text_vocabulary=0), "text": {"encoder": str(t5)}})
    step = save(tmp_path / "step", config)
    assert run(step, tmp_path / "a", "--num", 1, "--prompt", PROMPTS[0]).exit_code == 0
    t5.rename(tmp_path / "moved")
    failed = run(step, tmp_path / "b", "--num", 1, "--prompt", PROMPTS[0])
    assert failed.exit_code == 2 and "neither a folder" in failed.output
    moved = run(step, tmp_path / "b", "--num", 1, "--prompt", PROMPTS[0], "--text-encoder", tmp_path / "moved")
    assert moved.exit_code == 0, moved.output
    assert np.array_equal(*(videos(tmp_path / name)["00000_c000.npy"] for name in "ab"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --prompt"),
        (["--prompt", "a", "--prompts", "ucf101"], "exclude"),
        (["--classes", "3"], "reads texts"),
        (["--prompts", "no/file"], "cannot be read"),
        (["--classes", "none", "--prompt", "a"], "alone"),
    ],
)
def test_what_cannot_be_asked_of_a_text_model(checkpoint, tmp_path, options, said):
    result = run(checkpoint, tmp_path / "x", "--num", 1, *options)
    assert result.exit_code == 2 and said in result.output and not (tmp_path / "x").exists()


def test_a_class_conditional_model_takes_no_prompts(tmp_path):
    result = run("nano", tmp_path, "--num", 1, "--prompt", "a")
    assert result.exit_code == 2 and "reads no text" in result.output


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 300))
def test_turns_have_the_proportions_at_every_beginning(frequencies, count):
    turns = proportional_turns(frequencies, count)
    shares = np.array(frequencies) / sum(frequencies)
    for end in {1, count // 2, count} - {0}:
        had = np.bincount(turns[:end], minlength=len(shares))
        assert np.abs(had - shares * end).max() < len(shares)
    assert np.array_equal(proportional_turns(frequencies, count + 7)[:count], turns)
    whole = np.bincount(proportional_turns(frequencies, sum(frequencies)), minlength=len(shares))
    assert np.array_equal(whole, frequencies)


def test_prompts_for_ucf101_name_its_classes_in_order(shared):
    prompts = read_prompts("ucf101")
    lists = shared / "data" / "ucf101-mini" / "ucfTrainTestlist"
    names = [line.split()[1] for line in (lists / "classInd.txt").read_text().splitlines() if line.strip()]
    listed = [line.split("/")[0] for line in (lists / "trainlist01.txt").read_text().splitlines() if line.strip()]
    assert len(prompts.texts) == len(set(prompts.texts)) == 101
    assert list(prompts.frequencies) == [listed.count(name) for name in names]
    turns = proportional_turns(prompts.frequencies, 10_000)
    assert np.abs(np.bincount(turns) / 10_000 - np.array(prompts.frequencies) / 9537).max() < 2e-4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\n\n"),
        ("a.yaml", "a: b"),
        ("a.yaml", "[1, 2]"),
        ("a.yaml", "['']"),
        ("a.yaml", "{prompts: [a, b], frequencies: [1]}"),
        ("a.yaml", "{prompts: {x: a}, frequencies: {y: 1}}"),
        ("a.yaml", "{prompts: [a], frequencies: [0]}"),
        ("a.yaml", "["),
    ],
)
def test_files_that_hold_no_prompts(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError):
        read_prompts(tmp_path / name)


def test_guidance_oscillates_behind_the_first_steps():
    constant = SamplingConfig(guidance=8.0)
    oscillating = SamplingConfig(guidance=8.0, guidance_low=2.0, guidance_hold=3)
    assert [constant.guidance_at(step) for step in range(4)] == [8.0] * 4
    assert [oscillating.guidance_at(step) for step in range(8)] == [8, 8, 8, 2, 8, 2, 8, 2]
    assert not SamplingConfig().guided and SamplingConfig(guidance_low=3.0).guided


@pytest.mark.parametrize("heun_levels", [0, 1])
def test_guidance_is_applied_per_step_of_each_level(heun_levels, monkeypatch):
    asked = []
    monkeypatch.setattr(SamplingConfig, "guidance_at", lambda self, step: asked.append(step) or 1.0)
    network = tiny_network(CONFIG)
    sampling = dataclasses.replace(CONFIG.sampling, guidance=3.0, heun_levels=heun_levels, steps=(3, 2, 1, 1))
    told = make_conditioner(CONFIG).of_prompts(PROMPTS[:1], 25.0)
    guided = TiledSampler(network, CONFIG.diffusion, sampling).sample([0], told, 0, levels=2)[1]
    assert asked == ([0, 0, 1, 1, 2] if heun_levels else [0, 1, 2]) + [0, 1]
    # At scale 1 the branch without text has no say.
    plain = dataclasses.replace(sampling, guidance=1.0)
    unguided = TiledSampler(network, CONFIG.diffusion, plain).sample([0], told, 0, levels=2)[1]
    torch.testing.assert_close(guided, unguided, atol=2e-4, rtol=1e-3)


def test_without_text_the_branches_agree_whatever_the_scale():
    network = tiny_network(CONFIG)
    null = no_conditions(CONFIG.network, 1)
    settings = [dataclasses.replace(CONFIG.sampling, guidance=scale) for scale in (1.0, 4.0)]
    results = [TiledSampler(network, CONFIG.diffusion, each).sample([0], null, 0, 2)[1] for each in settings]
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-3)


def test_dynamic_threshold_limits_each_sample_by_its_own_percentile():
    x = torch.stack([torch.linspace(-0.5, 0.5, 1001), torch.linspace(-4, 4, 1001)]).view(2, 1, 1, 7, 143)
    limited = dynamic_threshold(x, 90.0)
    torch.testing.assert_close(limited[0], x[0])
    expected = np.percentile(x[1].abs().numpy(), 90)
    torch.testing.assert_close(limited[1], x[1].clamp(-expected, expected) / expected, atol=0.01, rtol=0)
    assert limited.abs().max() == 1


def test_dynamic_threshold_changes_samples_where_it_bites(checkpoint, tmp_path):
    for name, options in (("a", []), ("b", ["--dynamic-threshold", 60]), ("c", ["--dynamic-threshold", 60])):
        words = ["--num", 1, "--prompt", PROMPTS[0], "--guidance", 6, "--guidance-low", 1, "--guidance-hold", 1]
        assert run(checkpoint, tmp_path / name, *words, *options).exit_code == 0
    a, b, c = (videos(tmp_path / name)["00000_c000.npy"] for name in "abc")
    assert np.array_equal(b, c) and not np.array_equal(a, b)
