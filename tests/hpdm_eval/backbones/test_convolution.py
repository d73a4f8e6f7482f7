"""Convolution and ReLU as one call, against PyTorch's own in float64."""

import pytest
import torch
import torch.nn.functional as F

from hpdm_eval.backbones import convolution
from hpdm_eval.backbones.convolution import apart, conv3d_relu


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    "inputs, outputs, kernel, stride, padding",
    [
        (3, 8, (7, 7, 7), (2, 2, 2), (0, 0, 0)),
        (16, 24, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        (5, 7, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        (4, 4, (3, 1, 1), (2, 1, 1), (1, 0, 0)),
    ],
)
def test_equals_a_convolution_and_a_relu(memory, inputs, outputs, kernel, stride, padding):
    torch.manual_seed(0)
    x = torch.randn(2, inputs, 9, 20, 18).to(memory_format=memory)
    weight, bias = torch.randn(outputs, inputs, *kernel).to(memory_format=memory), torch.randn(outputs)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), stride, padding).relu()
    with torch.inference_mode():
        found = conv3d_relu(x, weight, bias, stride, padding)
        with apart():
            other = conv3d_relu(x, weight, bias, stride, padding)
    for result in (found, other):
        assert result.shape == expected.shape and (result.double() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_gradients_and_other_types_go_the_usual_way(monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(convolution.torch.ops.mkldnn, "_convolution_pointwise", refuse)
    x, weight, bias = torch.randn(1, 2, 4, 5, 5), torch.randn(3, 2, 3, 3, 3, requires_grad=True), torch.zeros(3)
    conv3d_relu(x, weight, bias, (1, 1, 1), (1, 1, 1)).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        half = conv3d_relu(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), (1, 1, 1), (1, 1, 1))
    assert half.dtype == torch.bfloat16
