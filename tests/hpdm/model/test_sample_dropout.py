"""Dropout masks follow samples: the same whatever the micro-batch, in recomputed activations, in compiled code."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hpdm.model.network import HPDM
from hpdm.model.rin import SampleDropout, seed_samples
from hpdm.training.loss import seed_dropout
from tests.support.small_training import small_config

P = 0.25


def layer(seeds=(3, 5, 7), p=P):
    made = SampleDropout(p).train()
    seed_samples(made, seeds)
    return made


def test_a_mask_is_its_sample_s_and_its_level_s():
    x = torch.randn(6, 4, 8)  # two levels of three samples
    whole = layer()(x)
    assert torch.equal(whole, layer()(x))
    assert torch.equal(layer((5,))(x[[1, 4]]), whole[[1, 4]])
    assert torch.equal(layer((7, 3))(x[[2, 0, 5, 3]]), whole[[2, 0, 5, 3]])
    masks = {tuple((row == 0).flatten().tolist()) for row in layer(range(3))(torch.ones(6, 4, 8))}
    assert len(masks) == 6


def test_layers_passes_and_steps_have_masks_of_their_own():
    x = torch.ones(1, 64, 64)
    layers = torch.nn.ModuleList([SampleDropout(P), SampleDropout(P)]).train()
    seed_dropout(0, 0, range(1), layers)
    found = [each(x) for each in layers]
    with torch.no_grad():
        found += [each(x) for each in layers]
    for seed, step, position in ((0, 1, 0), (1, 0, 0), (0, 0, 1)):
        seed_dropout(seed, step, range(position, position + 1), layers)
        found.append(layers[0](x))
    for number, one in enumerate(found):
        for other in found[:number]:
            agreement = ((one == 0) == (other == 0)).double().mean().item()
            assert agreement == pytest.approx(P**2 + (1 - P) ** 2, abs=0.04)  # 5 standard deviations of 4,096 draws


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_dropped_at_the_rate_and_the_others_grow(dtype):
    x = torch.ones(4, 100, 100, dtype=dtype)
    out = layer((1, 2), p=0.1)(x)
    assert out.dtype == dtype and set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.9, dtype=dtype).item()}
    assert (out == 0).double().mean().item() == pytest.approx(0.1, abs=5 * 0.3 / 200)
    assert torch.equal(layer((1,), p=0.0)(x), x) and torch.equal(layer((1,)).eval()(x), x)


def test_gradients_pass_through_what_is_kept_and_recomputation_keeps_the_same():
    x = torch.randn(3, 4, 8, requires_grad=True)
    module = layer()
    out = module(x)
    (kept,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(kept != 0, out != 0) and kept.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    torch.manual_seed(9)  # whatever the global generator does in between
    again = checkpoint(lambda y: module(y).square(), x, use_reentrant=False)
    torch.manual_seed(1)
    (recomputed,) = torch.autograd.grad(again.sum(), x)
    torch.testing.assert_close(recomputed, 2 * out.detach() * kept)


def test_compiled_code_draws_the_same_masks_without_compiling_anew():
    x = torch.randn(3, 4, 8)
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), SampleDropout(P), torch.nn.Linear(8, 8)).train()
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph

    compiled = torch.compile(module, backend=backend)
    for seeds in ((3, 5, 7), (2, 4, 6)):
        seed_samples(module, seeds)
        torch.testing.assert_close(compiled(x), module(x))
    assert len(traced) == 1


def test_without_seeds_masks_come_from_the_global_generator():
    x = torch.ones(2, 50, 50)
    module = SampleDropout(P).train()
    torch.manual_seed(4)
    found = module(x)
    torch.manual_seed(4)
    assert torch.equal(found, torch.nn.functional.dropout(x, P)) and not torch.equal(found, module(x))


def test_seeding_reaches_every_dropout_of_a_network():
    config = small_config()
    network = HPDM(config.network, config.pyramid)
    seed_dropout(0, 3, range(2, 5), network)
    layers = [module for module in network.modules() if isinstance(module, SampleDropout) and module.p > 0]
    assert len(layers) == 2 and len({tuple(each.seeds.tolist()) for each in layers}) == 2
    whole = [each.seeds for each in layers]
    seed_dropout(0, 3, range(3, 4), network)
    assert all(torch.equal(each.seeds, seeds[1:2]) for each, seeds in zip(layers, whole, strict=True))
