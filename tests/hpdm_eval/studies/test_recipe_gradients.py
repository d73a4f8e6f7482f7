"""Gradients of the large sizes' own settings: all there, and equal to float64's, however they are computed."""

import pytest
import torch

from hpdm.training.distributed import Processes
from hpdm.training.precision import MissingGradients, check_gradients, mixed_precision
from hpdm_eval.studies.recipe_check.gradients import BASE, WORLDS, combinations, compare, measure, wrong

HERE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def rows():
    return measure(quick=True)


def test_every_combination_has_all_gradients_and_the_right_ones(rows):
    assert len(rows) == sum(len(combinations(world, quick=True)) for world in WORLDS)
    assert wrong(rows) == []


def test_the_quick_combinations_show_every_setting_in_bf16(rows):
    for world in WORLDS:
        chosen = [row for row in rows if row["processes"] == world]
        assert {row["precision"] for row in chosen} == {"fp32", "bf16"}
        for name in ("self_conditioning", "checkpointing", "reshard"):
            assert {row[name] for row in chosen if row["precision"] == "bf16"} == {True, False}
    assert any(row["compile"] for row in rows)
    assert len(combinations(2, quick=False)) == 2 * (8 + 16)


class Twice(torch.nn.Module):
    """Two passes of one layer, the first without gradient, as in latent self-conditioning."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            first = self.layer(x)
        return self.layer(x + first)


def test_a_pass_without_gradient_takes_none_from_the_next():
    """Autocast's own cache loses the graph where the cast weights of the first pass serve the second."""
    network = Twice()
    with mixed_precision("cpu", "bf16"):
        out = network(torch.randn(2, 4))
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    check_gradients(network, HERE)
    assert mixed_precision("cpu", "fp32").__enter__() is None


def test_missing_and_infinite_gradients_are_named():
    network = Twice()
    network.spare = torch.nn.Linear(2, 2)
    network.frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    network(torch.randn(2, 4)).square().mean().backward()
    with pytest.raises(MissingGradients, match=r"2 of 4 trainable tensors have no gradient.*: spare\.weight, spare\.b"):
        check_gradients(network, HERE)
    for parameter in network.spare.parameters():
        parameter.grad = torch.zeros_like(parameter)
    check_gradients(network, HERE)
    network.layer.bias.grad[1] = torch.inf
    with pytest.raises(MissingGradients, match=r"1 of 4 .* not finite .*: layer\.bias$"):
        check_gradients(network, HERE)
    check_gradients(network, HERE, finite=False)


def test_figures_of_a_comparison():
    reference = {"a": torch.tensor([3.0, 0.0]).double(), "b": torch.tensor([[4.0]]).double()}
    whole = compare({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}, reference)
    assert (whole["missing"], whole["error"], whole["worst"]) == (0, 0, 0)
    lacking = compare({"a": torch.tensor([3.0, 0.0]), "b": None}, reference)
    assert (lacking["missing"], lacking["missing_share"]) == (1, pytest.approx(1 / 3))
    assert (lacking["error"], lacking["worst"]) == (pytest.approx(0.8), 1.0)
    assert wrong([{**BASE, "precision": "bf16", **lacking}, {**BASE, "precision": "fp32", **whole}]) == [
        {**BASE, "precision": "bf16", **lacking}
    ]
