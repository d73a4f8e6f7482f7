"""Branching pyramids: a tree of windows per sample that shares the coarse ones, against every path on its own."""

import dataclasses
import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
import yaml

from hpdm.config import coarsest_levels, load_config
from hpdm.methods import make_method
from hpdm.pyramid import Pyramid, _cumulated, sample_windows, window_levels
from hpdm.support.errors import InputError
from hpdm.training.log import read_log
from hpdm.training.loss import draw, joint_loss
from hpdm.training.plan import make_plan
from hpdm.training.provenance import read_provenance
from tests.support.small_hpdm import PYRAMID, SMALL, small_network
from tests.support.small_training import SMALL as SMALL_RUN
from tests.support.small_training import batch_of, run, small_config

TREES = [(1, 2, 4), (1, 1, 2), (1, 3, 3), (2, 2, 4)]


def paths(branching):
    """The windows on the way to each finest one, by their places among all windows."""
    first = [sum(branching[:level]) for level in range(len(branching))]
    finest = branching[-1]
    return [[first[level] + leaf * count // finest for level, count in enumerate(branching)] for leaf in range(finest)]


def chain_law(r, levels):
    """{starts of all levels along an axis: probability} under finest-first, by its definition, exactly."""
    law = Counter()
    last = r * (2 ** (levels - 1) - 1)
    for finest in range(last + 1):
        partial = {(finest,): Fraction(1, last + 1)}
        for level in range(levels - 2, -1, -1):
            grown = {}
            for chain, likely in partial.items():
                parents = [p for p in range(r * (2**level - 1) + 1) if 2 * p <= chain[0] <= 2 * p + r]
                for parent in parents:
                    grown[(parent, *chain)] = likely / len(parents)
            partial = grown
        law.update(partial)
    return law


@pytest.mark.parametrize("r, levels", [(1, 2), (2, 3), (4, 3), (3, 4)])
def test_the_chain_from_coarse_to_fine_has_the_law_of_the_one_from_fine_to_coarse(r, levels):
    law = chain_law(r, levels)
    assert sum(law.values()) == 1
    tables = [None] + [
        torch.diff(
            _cumulated(r, levels, level),
            prepend=torch.zeros(1, dtype=torch.float64).expand(len(_cumulated(r, levels, level)), 1),
        )
        for level in range(1, levels)
    ]
    found = {(0,): 1.0}
    for level in range(1, levels):
        found = {
            (*chain, 2 * chain[-1] + j): likely * tables[level][chain[-1], j].item()
            for chain, likely in found.items()
            for j in range(r + 1)
        }
    found = {chain: likely for chain, likely in found.items() if likely > 0}
    assert found.keys() == law.keys()
    for chain, likely in law.items():
        assert found[chain] == pytest.approx(float(likely), abs=1e-14)


@pytest.mark.parametrize("order", ["coarse-first", "finest-first"])
@pytest.mark.parametrize("split", ["fhw", "hw"])
@pytest.mark.parametrize("branching", TREES)
def test_every_path_of_a_tree_is_a_chain(order, split, branching):
    """Windows lie in their parents, and every finest window is where one of a chain would be, equally often."""
    pyramid, count = Pyramid(levels=3, patch=(2, 2, 4), split=split), 4000
    windows = sample_windows(pyramid, count, torch.Generator().manual_seed(2), order, branching)
    assert windows.shape == (count, sum(branching), 3) and windows.dtype == torch.int64
    step, patch = torch.tensor(pyramid.factors(1)), torch.tensor(pyramid.patch)
    for path in paths(branching):
        chain = windows[:, path]
        assert not chain[:, 0].any()
        for coarse, fine in itertools.pairwise(chain.unbind(1)):
            assert ((step * coarse <= fine) & (fine <= step * coarse + patch * (step - 1))).all()
        for axis, name in enumerate("fhw"):
            if name not in split:
                assert not chain[..., axis].any()
                continue
            law = chain_law(pyramid.patch[axis], 3) if order == "finest-first" else uniform_chain(pyramid.patch[axis])
            seen = Counter(map(tuple, chain[..., axis].tolist()))
            assert seen.keys() <= law.keys()
            # Chi-squared over all chains; its mean is the number of chains less one.
            expected = np.array([float(p) * count for p in law.values()])
            off = np.array([seen[chain] for chain in law]) - expected
            degrees = len(law) - 1
            assert (off**2 / expected).sum() < degrees + 5 * np.sqrt(2 * degrees)


def uniform_chain(r):
    return {(0, x, 2 * x + j): Fraction(1, (r + 1) ** 2) for x in range(r + 1) for j in range(r + 1)}


def test_siblings_differ_and_are_independent_given_their_parent():
    pyramid = Pyramid(levels=2, patch=(2, 8, 8))
    windows = sample_windows(pyramid, 3000, torch.Generator().manual_seed(0), "coarse-first", (1, 2)).double()
    one, other = windows[:, 1, 1], windows[:, 2, 1]
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 4.5 / 3000**0.5


def random_inputs(branching, batch=2):
    generator = torch.Generator().manual_seed(1)
    count = sum(branching)
    windows = sample_windows(PYRAMID, batch, generator, "finest-first", branching)
    patches = [torch.randn(batch, 3, *PYRAMID.patch, generator=generator, dtype=torch.float64) for _ in range(count)]
    c_noise = torch.randn(batch, count, generator=generator, dtype=torch.float64)
    targets = [torch.randn(patches[0].shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    latents = [torch.randn(batch, 5, 12, generator=generator, dtype=torch.float64) for _ in range(count)]
    return patches, c_noise, windows, torch.tensor([0, 3]), latents, targets


def gradients_of(network, loss):
    return torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)


@pytest.mark.parametrize("fusion", ["deep", "shallow", "detached", "none"])
@pytest.mark.parametrize("branching", TREES)
def test_a_tree_gives_what_its_paths_give_alone_gradients_too(fusion, branching):
    """In float64 against the network on one chain after the other: its loss is the mean over the finest windows."""
    network = small_network(fusion=fusion)
    patches, c_noise, windows, labels, latents, targets = random_inputs(branching)
    outputs, left = network(patches, c_noise, windows, labels, latents, branching=branching)
    losses = torch.stack([(F - v).square().mean() for F, v in zip(outputs, targets, strict=True)])
    tree = torch.stack([own.mean() for own in losses.split(list(branching))]).mean()
    chains = 0.0
    for path in paths(branching):
        alone, left_alone = network(
            [patches[i] for i in path], c_noise[:, path], windows[:, path], labels, [latents[i] for i in path]
        )
        for i, output, state in zip(path, alone, left_alone, strict=True):
            torch.testing.assert_close(outputs[i], output, atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(left[i], state, atol=1e-10, rtol=1e-10)
        chains += sum((F - targets[i]).square().mean() for i, F in zip(path, alone, strict=True)) / 3 / branching[-1]
    torch.testing.assert_close(tree, chains, atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(gradients_of(network, tree), gradients_of(network, chains), strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, atol=1e-12, rtol=1e-9)


def test_recomputed_activations_change_nothing():
    network, found = small_network(), []
    *arguments, targets = random_inputs((1, 2, 4))
    for network.checkpoint_blocks in (False, True):
        outputs, _ = network(*arguments, branching=(1, 2, 4))
        found.append(gradients_of(network, sum((F * v).sum() for F, v in zip(outputs, targets, strict=True))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None)


def test_latents_alone_are_those_of_a_whole_pass():
    network = small_network()
    *arguments, _ = random_inputs((1, 2, 4))
    nothing, left = network(*arguments, branching=(1, 2, 4), outputs=False)
    assert nothing is None
    assert all(torch.equal(a, b) for a, b in zip(left, network(*arguments, branching=(1, 2, 4))[1], strict=True))


def test_the_training_loss_is_the_mean_over_paths():
    config = small_config(
        "training.branching=[1,3]", "label_dropout=0.5", "self_conditioning_rate=0.5", "network.dropout=0.0"
    )
    one = small_config("label_dropout=0.5", "self_conditioning_rate=0.5", "network.dropout=0.0")
    torch.manual_seed(0)
    network = make_method(config).make_network().train()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    video, labels = batch_of(config, 8)
    draws = draw(config, step=0, positions=range(8))
    assert draws.eps.shape == (8, 4, 3, 2, 4, 4) and draws.sigma.shape == (8, 4)
    losses = joint_loss(network, video, labels, draws, config)
    assert losses.shape == (8, 2) and 0 < draws.self_condition.sum() < 8
    each = [
        joint_loss(
            network,
            video,
            labels,
            dataclasses.replace(
                draws, windows=draws.windows[:, path], sigma=draws.sigma[:, path], eps=draws.eps[:, path]
            ),
            one,
        )
        for path in paths((1, 3))
    ]
    torch.testing.assert_close(losses, sum(each) / 3, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("order", ["coarse-first", "finest-first"])
def test_draws_of_a_tree_do_not_depend_on_how_the_batch_is_split(order):
    config = small_config("training.branching=[1,2]", f"training.window_order={order}")
    whole = draw(config, step=3, positions=range(8))
    parts = [draw(config, step=3, positions=range(i, i + 2)) for i in (0, 2, 4, 6)]
    for name in ("windows", "sigma", "eps", "no_label", "self_condition"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
    assert len({tuple(noise.flatten().tolist()) for noise in whole.eps.flatten(0, 1)}) == 24
    assert len(whole.sigma.unique()) == 24


def test_one_window_per_level_draws_what_no_branching_draws():
    named, silent = (draw(small_config(*own), step=1, positions=range(8)) for own in (["training.branching=[1,1]"], []))
    assert all(torch.equal(getattr(named, f.name), getattr(silent, f.name)) for f in dataclasses.fields(named))


def test_a_run_with_branches_in_any_passes_with_sheets_and_a_change_that_is_noted(tmp_path):
    settings = "training.branching=[1,2]", "network.dropout=0.3", "window_order=finest-first"
    run(tmp_path / "whole", *settings, "micro_batch=8", "training.steps=3")
    run(
        tmp_path / "passes",
        *settings,
        "micro_batch=3",
        "training.steps=3",
        "sheet_every=3",
        "activation_checkpointing=true",
    )
    whole, passes = ([line["loss_per_level"] for line in read_log(tmp_path / name)] for name in ("whole", "passes"))
    np.testing.assert_allclose(passes, whole, rtol=1e-6)
    assert len(whole[0]) == 2 and (tmp_path / "passes" / "sheets" / "step-00000003.png").exists()
    run(tmp_path / "whole", *settings[1:], "micro_batch=8", "training.steps=4")
    assert read_provenance(tmp_path / "whole")[-1]["changed"]["training.branching"] == [[1, 2], None]


def test_flops_and_memory_know_the_windows():
    one, tree = (make_plan(small_config(*own)) for own in ([], ["training.branching=[1,3]"]))
    recomputed = make_plan(small_config("training.branching=[1,3]", "activation_checkpointing=true"))
    for before, after in zip(one.flops, tree.flops, strict=True):
        assert after["flops"] == (1, 3)[after["level"]] * before["flops"] > 0
    assert tree.flops_outside_blocks == pytest.approx(2 * one.flops_outside_blocks, rel=0.01)
    assert [entry["windows"] for entry in tree.levels] == [1, 3] and [e["windows"] for e in one.levels] == [1, 1]
    # Three windows of the finest level for far less than three chains.
    assert 3 * one.flops_per_training_sample / tree.flops_per_training_sample > 1.4
    assert 1.3 < tree.memory["activations"] / one.memory["activations"] < 2.1
    assert recomputed.memory["activations"] < tree.memory["activations"]
    assert recomputed.flops_per_training_sample > tree.flops_per_training_sample


@pytest.mark.parametrize(
    "branching, words",
    [
        ("[1,2]", "one number of windows per level: 3, not 2"),
        ("[1,2,3]", "must divide the next"),
        ("[2,1,1]", "must divide the next"),
        ("[0,0,0]", "at least 1"),
        ("[]", "per level"),
        ("[1,1,1000000000]", "at most"),
        ("[1,2,x]", "must be"),
    ],
)
def test_impossible_branching_is_refused(branching, words):
    with pytest.raises(InputError, match=words):
        load_config("nano", [f"training.branching={branching}"])


def test_methods_with_a_loss_of_their_own_refuse_branches():
    config = load_config("nano", ["training.branching=[1,2,4]"], method="cascade")
    with pytest.raises(InputError, match="cascade draws one window per level"):
        make_method(config)


def test_a_single_level_has_no_branches(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(SMALL_RUN | {"training": SMALL_RUN["training"] | {"branching": [1, 2]}})
    )
    for name in ("full-resolution", "patch-diffusion", "latent"):
        config = load_config(tmp_path / "mine.yaml", method=name)
        assert config.training.branching is None and make_method(config).losses == 1


def test_fewer_levels_keep_the_branches_they_have():
    config = coarsest_levels(load_config("nano", ["training.branching=[1,2,4]"]), 2)
    assert config.training.branching == (1, 2) and SMALL.levels_per_block
    assert window_levels((1, 2, 4)) == (0, 1, 1, 2, 2, 2, 2)
