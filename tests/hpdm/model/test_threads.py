"""Threads by the size of the work: how many are chosen, when the environment decides, and that they come back."""

import pytest
import torch

import hpdm
from hpdm.config import load_config
from hpdm.model import threads as policy
from hpdm.model.threads import product_size, threads, threads_by_work, threads_for
from hpdm.training.loop import train
from tests.support.small_training import small_config


@pytest.fixture
def eight_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with threads(8):
        yield


def test_small_products_get_few_threads_and_large_ones_all():
    works = [10**k for k in range(3, 13)]
    chosen = [threads_for(work, 64) for work in works]
    assert chosen[0] == 1 and chosen[-1] == 64 and chosen == sorted(chosen)
    assert threads_for(product_size(load_config("nano"), 1), 64) == 1
    assert threads_for(product_size(load_config("S"), 1), 64) == 64
    assert product_size(load_config("nano"), 3) == 3 * (4 * 4 * 4) * 96**2


@pytest.mark.parametrize(
    ("device", "variable", "inside"), [("cpu", None, 2), ("cpu", "8", 8), ("cuda", None, 8), ("meta", None, 8)]
)
def test_the_environment_and_other_devices_leave_threads_alone(eight_threads, monkeypatch, device, variable, inside):
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with threads_by_work(2.5 * policy.WORK_PER_THREAD, device):
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == 8
    with pytest.raises(ValueError), threads_by_work(1, device):
        raise ValueError
    assert torch.get_num_threads() == 8


def test_sampling_and_training_take_them_and_give_them_back(eight_threads, monkeypatch, tmp_path):
    seen, forward = set(), torch.nn.Linear.forward

    def watched(self, x):
        seen.add(torch.get_num_threads())
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    hpdm.load("nano").sample(num=1, classes=[0], steps=(1, 1, 1), overlap="none")
    assert max(seen) <= threads_for(product_size(load_config("nano"), 16), 8) and torch.get_num_threads() == 8
    seen.clear()
    train(small_config("training.steps=1"), tmp_path / "run", device="cpu", quiet=True)
    assert seen == {1} and torch.get_num_threads() == 8
