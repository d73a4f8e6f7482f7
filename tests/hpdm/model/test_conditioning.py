"""Condition tokens: text with its mask, learned nulls, figures of the video; and the text-to-video sizes."""

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner

from hpdm.commands.entry import info
from hpdm.config import config_from_dict, load_config
from hpdm.config.network import NetworkConfig
from hpdm.model.conditioning import as_conditions, drop_conditions, guidance_branches, no_conditions
from hpdm.model.network import HPDM
from hpdm.pyramid import Pyramid, sample_windows
from hpdm.support.errors import InputError
from tests.support.small_text import conditions

PYRAMID = Pyramid(levels=4, patch=(2, 3, 8))
TEXT = NetworkConfig(
    token=(1, 3, 4),
    token_width=16,
    latent_width=12,
    num_latents=5,
    levels_per_block=(1, 2, 3, 4),
    compute_layers=1,
    io_heads=2,
    io_head_width=4,
    compute_heads=2,
    compute_head_width=6,
    condition_width=8,
    noise_frequencies=8,
    num_classes=0,
    dropout=0.0,
    text_width=10,
    text_tokens=6,
    measures=("fps", "height"),
)
WORDS = dataclasses.replace(TEXT, text_vocabulary=9, text_layers=1)


def network_of(config, pyramid=PYRAMID):
    torch.manual_seed(0)
    network = HPDM(config, pyramid).double()
    for parameter in network.parameters():  # the untrained network predicts zero, which would hide everything
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def run(network, told, pyramid=PYRAMID):
    generator = torch.Generator().manual_seed(1)
    windows = sample_windows(pyramid, 2, generator)
    patches = [torch.randn(2, 3, *pyramid.patch, generator=generator, dtype=torch.float64) for _ in range(4)]
    return torch.stack(network(patches, torch.zeros(2, 4, dtype=torch.float64), windows, told)[0])


def test_published_size_and_its_parts():
    plan = json.loads(CliRunner().invoke(info, ["--size", "T2V", "--json"]).output)
    assert abs(plan["parameters"] / 3.934e9 - 1) < 0.015
    assert sum(plan["parameters_by_part"].values()) == plan["parameters"]
    assert [entry["video"] for entry in plan["levels"]][-1] == [64, 288, 512]


def test_published_size_of_t2v_1k():
    config = load_config("T2V-1K")
    with torch.device("meta"):
        network = HPDM(config.network, config.pyramid)
    assert abs(sum(parameter.numel() for parameter in network.parameters()) / 3.934e9 - 1) < 0.015
    assert config.pyramid.resolution(3) == (16, 576, 1024)


def test_windows_of_t2v_1k_span_all_frames_and_halve_rows_and_columns():
    pyramid = load_config("T2V-1K").pyramid
    assert [pyramid.resolution(level)[0] for level in range(4)] == [16] * 4
    for order in ("coarse-first", "finest-first"):
        windows = sample_windows(pyramid, 64, torch.Generator().manual_seed(0), order)
        assert (windows[..., 0] == 0).all() and windows[:, 3, 1:].float().std(0).min() > 50


@pytest.mark.parametrize("config", [TEXT, WORDS], ids=["embeddings", "words"])
def test_tokens_behind_the_mask_are_not_seen_and_those_before_it_are(config):
    network, told = network_of(config), conditions(config)
    other = told.text.clone()
    other[~told.mask] = 1
    assert torch.equal(run(network, told), run(network, dataclasses.replace(told, text=other)))
    other[0, 1] = 3
    changed = (run(network, told) - run(network, dataclasses.replace(told, text=other))).abs().amax((0, 2, 3, 4, 5))
    assert changed[0] > 1e-6 and changed[1] == 0


@pytest.mark.parametrize("config", [TEXT, WORDS], ids=["embeddings", "words"])
def test_a_dropped_text_is_the_learned_null_whatever_it_said(config):
    network, told = network_of(config), conditions(config)
    dropped = drop_conditions(told, torch.tensor([True, False]), 0)
    null = no_conditions(config, 2)
    null = dataclasses.replace(null, measures=told.measures)
    first, second = run(network, dropped).unbind(1)
    torch.testing.assert_close(first, run(network, null)[:, 0], atol=0, rtol=0)
    assert torch.equal(second, run(network, told)[:, 1])
    with torch.no_grad():
        network.text.null += 1
    assert not torch.equal(first, run(network, dropped)[:, 0])
    assert torch.equal(second, run(network, told)[:, 1])


def test_frame_rate_and_size_matter_where_the_network_is_told_them():
    network, told = network_of(TEXT), conditions(TEXT)
    for column, matters in ((0, True), (1, True), (2, False)):
        measures = told.measures.clone()
        measures[:, column] *= 2
        measures[:, column] += 1
        assert torch.equal(run(network, told), run(network, dataclasses.replace(told, measures=measures))) != matters


def test_a_network_may_be_told_class_and_text():
    network, told = network_of(dataclasses.replace(TEXT, num_classes=3)), conditions(TEXT)
    assert network.condition_tokens == 1 + 1 + 2 + 6
    assert not torch.equal(run(network, told), run(network, dataclasses.replace(told, labels=torch.tensor([2, 2]))))


def test_branches_of_guidance_are_the_sample_and_the_sample_without_text():
    told = conditions(TEXT)
    branches = guidance_branches(told, 0, guided=True)
    assert branches.shape == (2, 2)
    assert torch.equal(branches[0, [0, 1]].text, told.text) and torch.equal(branches.mask[0], told.mask)
    assert not branches.mask[1].any() and torch.equal(branches.measures[1], told.measures)
    labels = as_conditions(torch.tensor([1, 2]))
    assert guidance_branches(labels, 7, guided=True).labels.tolist() == [[1, 2], [7, 7]]
    assert guidance_branches(labels, 7, guided=False).labels.tolist() == [[1, 2]]
    assert drop_conditions(
        as_conditions(torch.tensor([-1, 2, 3])), torch.tensor([False, True, False]), 7
    ).labels.tolist() == [7, 7, 3]


def test_one_level_at_a_time_equals_all_jointly_in_a_pyramid_that_splits_no_frames():
    pyramid = Pyramid(levels=4, patch=(2, 3, 8), split="hw")
    network, told = network_of(TEXT, pyramid), conditions(TEXT)
    generator = torch.Generator().manual_seed(1)
    windows = sample_windows(pyramid, 2, generator)
    patches = [torch.randn(2, 3, *pyramid.patch, generator=generator, dtype=torch.float64) for _ in range(4)]
    joint, _ = network(patches, torch.zeros(2, 4, dtype=torch.float64), windows, told)
    parents = []
    for level in range(4):
        constants = network.level_constants(level, windows[:, level], parents)
        zeros = torch.zeros(2, dtype=torch.float64)
        out = network.forward_level(level, patches[level], zeros, told, constants, keep_activations=True)
        torch.testing.assert_close(out.output, joint[level], atol=1e-9, rtol=0)
        parents.append((windows[:, level], out.activations))


def test_settings_that_cannot_be_are_refused():
    for changes in ({"measures": ("fps", "fps")}, {"measures": ("colour",)}, {"text_width": -1}):
        with pytest.raises(InputError):
            dataclasses.replace(TEXT, **changes)
    with pytest.raises(InputError, match="split"):
        config_from_dict({"size": "x", "pyramid": {"levels": 1, "patch": [1, 4, 4], "split": "wh"}})
