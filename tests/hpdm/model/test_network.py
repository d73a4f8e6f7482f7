"""The network: published sizes, direction of information, adaptive computation, and one level at a time."""

import dataclasses

import pytest
import torch

from hpdm.config.network import NetworkConfig
from hpdm.model.network import HPDM
from hpdm.model.rin import patch_of, tokens_of
from hpdm.pyramid import Pyramid, sample_windows
from hpdm.support.errors import InputError
from tests.support.small_hpdm import PYRAMID, SMALL, small_network


def inputs(batch=2):
    generator = torch.Generator().manual_seed(1)
    windows = sample_windows(PYRAMID, batch, generator)
    patches = [torch.randn(batch, 3, *PYRAMID.patch, generator=generator, dtype=torch.float64) for _ in range(3)]
    c_noise = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
    return patches, c_noise, windows, torch.tensor([0, 3])


@pytest.mark.parametrize("latent_width, millions", [(256, 178), (512, 321), (1024, 725)])
def test_published_parameter_counts(latent_width, millions):
    with torch.device("meta"):
        network = HPDM(NetworkConfig(latent_width=latent_width), Pyramid(levels=3, patch=(16, 64, 64)))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert abs(count / 1e6 - millions) < 0.5
    assert sum(network.parameters_by_part().values()) == count


def test_non_adaptive_network_has_the_same_blocks_and_more_fusion():
    adaptive, full = small_network(), small_network(levels_per_block=(3, 3, 3))
    assert adaptive.parameters_by_part()["blocks"] == full.parameters_by_part()["blocks"]
    assert [block.fusion is not None for block in adaptive.blocks] == [False, True, True]
    assert all(block.fusion is not None for block in full.blocks)


@pytest.mark.parametrize("fusion", ["deep", "shallow", "detached", "no-coordinates", "none"])
def test_nothing_flows_from_fine_to_coarse(fusion):
    network = small_network(fusion=fusion)
    patches, c_noise, windows, labels = inputs()
    patches = [patch.requires_grad_() for patch in patches]
    outputs, latents = network(patches, c_noise, windows, labels)
    for level in range(3):
        for finer in range(level + 1, 3):
            (gradient,) = torch.autograd.grad(
                outputs[level].square().sum(), patches[finer], retain_graph=True, allow_unused=True
            )
            assert gradient is None or not gradient.any()

    changed = [patches[0], patches[1], patches[2] + 1]
    again, latents_again = network(changed, c_noise, windows, labels)
    for level in (0, 1):
        assert torch.equal(again[level], outputs[level]) and torch.equal(latents_again[level], latents[level])
    assert not torch.equal(again[2], outputs[2])


@pytest.mark.parametrize("fusion", ["deep", "shallow", "detached", "no-coordinates", "none"])
def test_coarse_levels_reach_fine_ones_unless_there_is_no_fusion(fusion):
    network = small_network(fusion=fusion)
    patches, c_noise, windows, labels = inputs()
    outputs, _ = network(patches, c_noise, windows, labels)
    changed, _ = network([patches[0], patches[1] + 1, patches[2]], c_noise, windows, labels)
    assert torch.equal(changed[0], outputs[0])
    assert torch.equal(changed[2], outputs[2]) == (fusion == "none")
    far, _ = network([patches[0] + 1, *patches[1:]], c_noise, windows, labels)
    # Shallow fusion sees the previous level's pixels and nothing further up.
    assert torch.equal(far[2], outputs[2]) == (fusion in ("none", "shallow"))


@pytest.mark.parametrize("fusion, reaches", [("deep", True), ("detached", False), ("no-coordinates", True)])
def test_fine_loss_trains_coarse_tokens_only_if_the_context_is_attached(fusion, reaches):
    network = small_network(fusion=fusion)
    patches, c_noise, windows, labels = inputs()
    coarse = patches[0].requires_grad_()
    outputs, _ = network(patches, c_noise, windows, labels)
    (gradient,) = torch.autograd.grad(outputs[2].square().sum(), coarse, allow_unused=True)
    assert (gradient is not None and bool(gradient.any())) == reaches


def test_early_blocks_never_see_fine_levels():
    network = small_network()
    seen = []
    for block in network.blocks:
        block.rin.register_forward_hook(lambda module, arguments, output: seen.append(len(arguments[0])))
    network(*inputs())
    assert seen == [2, 4, 6]


def test_fewer_levels_give_what_all_levels_give():
    network = small_network()
    patches, c_noise, windows, labels = inputs()
    outputs, latents = network(patches, c_noise, windows, labels)
    coarse, coarse_latents = network(patches[:2], c_noise, windows, labels)
    for level in range(2):
        torch.testing.assert_close(coarse[level], outputs[level], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(coarse_latents[level], latents[level], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("fusion", ["deep", "shallow", "no-coordinates", "none"])
@pytest.mark.parametrize("carried", [False, True])
def test_level_by_level_equals_joint(fusion, carried):
    network = small_network(fusion=fusion)
    patches, c_noise, windows, labels = inputs()
    previous = torch.randn(3, 2, 5, 12, dtype=torch.float64) if carried else None
    outputs, latents = network(patches, c_noise, windows, labels, previous)
    parents = []
    for level in range(3):
        start = windows[:, level]
        rgb = None
        if fusion == "shallow" and level:
            rgb = network.shallow_context(level, start, patches[level - 1], windows[:, level - 1])
        result = network.forward_level(
            level,
            patches[level],
            c_noise[:, level],
            labels,
            network.level_constants(level, start, parents),
            latents=previous[level] if carried else None,
            previous_rgb=rgb,
            keep_activations=True,
        )
        torch.testing.assert_close(result.output, outputs[level], atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(result.latents, latents[level], atol=1e-10, rtol=1e-10)
        assert [a is None for a in result.activations] == [block.levels <= level for block in network.blocks]
        parents.append((start, result.activations))


def test_activation_checkpointing_changes_no_gradient():
    network, gradients = small_network(), []
    for network.checkpoint_blocks in (False, True):
        network.zero_grad()
        outputs, _ = network(*inputs())
        sum(output.square().sum() for output in outputs).backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in network.parameters()])
    for without, with_checkpoints in zip(*gradients, strict=True):
        assert (without is None) == (with_checkpoints is None)
        assert without is None or torch.equal(without, with_checkpoints)


def test_class_and_noise_level_matter():
    network = small_network()
    patches, c_noise, windows, labels = inputs()
    outputs, _ = network(patches, c_noise, windows, labels)
    other_class, _ = network(patches, c_noise, windows, torch.tensor([1, 3]))
    assert not torch.allclose(other_class[0][0], outputs[0][0])
    assert torch.equal(other_class[0][1], outputs[0][1])
    other_noise, _ = network(patches, c_noise + torch.tensor([0.0, 0.5, 0.0]), windows, labels)
    assert torch.equal(other_noise[0], outputs[0]) and not torch.allclose(other_noise[1], outputs[1])


def test_untrained_network_predicts_zero_and_ignores_carried_latents():
    network = HPDM(SMALL, PYRAMID)
    patches, c_noise, windows, labels = inputs()
    patches = [patch.float() for patch in patches]
    outputs, _ = network(patches, c_noise.float(), windows, labels)
    assert not any(output.any() for output in outputs)
    assert torch.equal(network.start_latents(2, torch.randn(2, 5, 12)), network.start_latents(2))


def test_no_earlier_estimate_is_an_estimate_of_zeros():
    network = small_network()
    zeros = torch.zeros(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(network.start_latents(2), network.start_latents(2, zeros))
    assert not torch.allclose(network.start_latents(2), network.start_latents(2, zeros + torch.randn(12)))


def test_tokens_and_back():
    patch = torch.randn(2, 3, 2, 4, 8)
    tokens = tokens_of(patch, (1, 2, 4))
    assert tokens.shape == (2, 2 * 2 * 2, 3 * 8)
    torch.testing.assert_close(tokens[1, 3].view(3, 1, 2, 4), patch[1, :, 0:1, 2:4, 4:8])
    assert torch.equal(patch_of(tokens, (1, 2, 4), (2, 2, 2)), patch)


def test_no_decay_covers_biases_norms_and_embeddings():
    network = small_network()
    undecayed = network.no_decay_parameters()
    assert {"latents", "classes.weight", "tokenizer.positions.0", "tokenizer.norm.weight"} <= undecayed
    assert "blocks.0.rin.read.0.query.weight" not in undecayed
    assert "blocks.0.rin.read.0.query.bias" in undecayed


@pytest.mark.parametrize(
    "changes, word", [({"token": (1, 3, 4)}, "multiple"), ({"levels_per_block": (1, 2)}, "levels")]
)
def test_impossible_geometry_is_refused(changes, word):
    with pytest.raises(InputError, match=word):
        HPDM(dataclasses.replace(SMALL, **changes), PYRAMID)
