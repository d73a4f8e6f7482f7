"""The average of all weights: its recursion, half-life, ramp-up, and standing in for the weights."""

import pytest
import torch

from hpdm.training.ema import EMA


def network():
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Embedding(4, 5))


def test_follows_the_recursion_in_float64():
    net = network()
    ema = EMA(net, half_life=4.0, ramp_up=0.5)
    expected = [p.detach().double() for p in net.parameters()]
    for update in range(1, 12):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        ema.update(update)
        decay = 0.5 ** (1 / min(4.0, 0.5 * update))
        weights = [p.detach().double() for p in net.parameters()]
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights, strict=True)]
    averages = dict(ema.named_averages())
    assert list(averages) == [name for name, _ in net.named_parameters()]
    for average, e in zip(averages.values(), expected, strict=True):
        assert average.dtype == torch.float32
        torch.testing.assert_close(average.double(), e, rtol=1e-5, atol=1e-6)


def test_half_life_is_what_it_says():
    """After `half_life` updates with constant weights, half of the distance to them is left."""
    net = network()
    ema = EMA(net, half_life=50.0, ramp_up=1e9)
    start = [average.clone() for average in ema.average]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    for update in range(1, 51):
        ema.update(update)
    for average, before in zip(ema.average, start, strict=True):
        torch.testing.assert_close(average - before, torch.full_like(before, 0.5), rtol=1e-4, atol=1e-5)


def test_ramp_up_forgets_the_start():
    ema = EMA(network(), half_life=6000.0, ramp_up=0.05)
    assert ema.decay(1) == pytest.approx(0.5**20)
    assert ema.decay(1000) == pytest.approx(0.5 ** (1 / 50))
    assert ema.decay(10**7) == pytest.approx(0.5 ** (1 / 6000))
    assert EMA(network(), half_life=10.0, ramp_up=0.0).decay(5) == 0.0


def test_keeps_fp32_for_weights_in_bf16():
    net = network().to(torch.bfloat16)
    ema = EMA(net, half_life=1000.0, ramp_up=1e9)
    before = ema.average[0].clone()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    ema.update(1)
    moved = (ema.average[0] - before).mean()
    assert ema.average[0].dtype == torch.float32
    assert moved == pytest.approx(1 - 0.5 ** (1 / 1000), rel=0.02)  # far below what bf16 resolves


def test_applied_gives_the_weights_back_bit_for_bit():
    net = network()
    ema = EMA(net, half_life=4.0, ramp_up=0.5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        assert all(torch.equal(p, a) for p, a in zip(net.parameters(), ema.average, strict=True))
        raise RuntimeError("inside")
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
