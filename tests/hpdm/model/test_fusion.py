"""Separable resampling against F.grid_sample, and the fusion modes' differences."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hpdm.model.fusion import FUSIONS, DeepFusion, Geometry, band_width, interpolation_matrix, resample
from hpdm.model.rin import Tokenizer
from hpdm.pyramid import Pyramid, parent_coordinates, sample_windows

GRID = (4, 4, 5)
PYRAMID = Pyramid(levels=3, patch=(8, 8, 10))


def grid_sample(tokens, u):
    """The reference: tokens [B, F, H, W, d] at u (three [B, n] in [0, 1]) by F.grid_sample."""
    f, h, w = (2 * axis - 1 for axis in u)
    shape = (len(f), f.shape[1], h.shape[1], w.shape[1])
    places = [w[:, None, None, :].expand(shape), h[:, None, :, None].expand(shape), f[:, :, None, None].expand(shape)]
    grid = torch.stack(places, dim=-1)
    sampled = F.grid_sample(tokens.movedim(-1, 1), grid, align_corners=False, padding_mode="border")
    return sampled.movedim(1, -1)


@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 6)] * 3))
def test_resampling_is_grid_sample_forward_and_backward(seed, size, places):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, *size, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    # Places beyond [0, 1] check the border rule.
    u = [torch.rand(2, n, generator=generator, dtype=torch.float64) * 1.2 - 0.1 for n in places]
    weights = torch.randn(2, *places, 3, generator=generator, dtype=torch.float64)

    ours = resample(tokens, [interpolation_matrix(axis, n) for axis, n in zip(u, size)])
    theirs = grid_sample(tokens, u)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    (our_gradient,) = torch.autograd.grad((ours * weights).sum(), tokens)
    (their_gradient,) = torch.autograd.grad((theirs * weights).sum(), tokens)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-10, rtol=0)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2))
def test_band_holds_all_that_a_window_touches(seed, size, places, gap):
    u = torch.rand(3, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * (1 - 2**-gap)
    u = u + (torch.arange(places) + 0.5) / places / 2**gap
    first, matrix = interpolation_matrix(u, size, band_width(places, size, gap))
    _, whole = interpolation_matrix(u, size)
    for sample in range(3):
        padded = torch.zeros_like(whole[sample])
        padded[:, first[sample] : first[sample] + matrix.shape[2]] = matrix[sample]
        torch.testing.assert_close(padded, whole[sample], atol=1e-12, rtol=0)


def test_resampling_a_band_is_resampling_the_whole_forward_and_backward():
    windows = sample_windows(PYRAMID, 4, torch.Generator().manual_seed(5))
    places = parent_coordinates(windows[:, 2], 2, windows[:, 1], 1, PYRAMID, PYRAMID.patch)
    tokens = torch.randn(4, *PYRAMID.patch, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, *PYRAMID.patch, 3, dtype=torch.float64)
    results = []
    for gap in (1, None):
        axes = [interpolation_matrix(u, n, gap and band_width(n, n, gap)) for u, n in zip(places, PYRAMID.patch)]
        if gap:
            assert all(matrix.shape[2] < n for (_, matrix), n in zip(axes, PYRAMID.patch))
        output = resample(tokens, axes)
        results.append((output, *torch.autograd.grad((output * weights).sum(), tokens)))
    for cut, whole in zip(*results):
        torch.testing.assert_close(cut, whole, atol=1e-12, rtol=0)


def test_geometry_reads_a_parents_coordinates_at_the_childs_places():
    windows = sample_windows(PYRAMID, 16, torch.Generator().manual_seed(3))
    geometry = Geometry(PYRAMID, windows.unbind(1), GRID, dtype=torch.float64)
    for level, parent in ((1, 0), (2, 0), (2, 1)):
        read = geometry.resample(geometry.coordinates(parent), level, parent)
        expected = geometry.coordinates(level)
        # Coordinates are linear, so interpolation gives them back exactly, but for the parent's border half-tokens.
        lowest = geometry.coordinates(parent).amin(1, keepdim=True)
        highest = geometry.coordinates(parent).amax(1, keepdim=True)
        torch.testing.assert_close(read, expected.maximum(lowest).minimum(highest), atol=1e-12, rtol=0)


def test_coordinates_span_the_video_in_token_order():
    geometry = Geometry(Pyramid(levels=1, patch=(2, 4, 6)), [torch.zeros(1, 3, dtype=torch.int64)], (1, 2, 3))
    f, h, w = geometry.coordinates(0)[0].T
    assert f.tolist() == [0] * 6
    assert h.tolist() == [-0.5] * 3 + [0.5] * 3
    torch.testing.assert_close(w, torch.tensor([-2 / 3, 0, 2 / 3] * 2))


def test_context_is_the_mean_over_coarser_levels():
    windows = sample_windows(PYRAMID, 2, torch.Generator().manual_seed(0))
    geometry = Geometry(PYRAMID, windows.unbind(1), GRID)
    a, b = torch.randn(2, 2, 80, 7)
    context = FUSIONS["deep"](7).gather([a, b], 2, geometry)
    torch.testing.assert_close(context, (geometry.resample(a, 2, 0) + geometry.resample(b, 2, 1)) / 2)


@pytest.mark.parametrize("mode", ["deep", "detached", "no-coordinates", "shallow"])
def test_fusion_is_one_linear_layer_on_the_concatenation(mode):
    torch.manual_seed(0)
    fusion = FUSIONS[mode](5)
    tokens, context, coordinates = torch.randn(2, 4, 5), torch.randn(2, 4, 5), torch.randn(2, 4, 3)
    inputs, weights = [tokens], [fusion.tokens.weight]
    if mode != "shallow":
        inputs.append(context)
        weights.append(fusion.context.weight)
    if mode != "no-coordinates":
        inputs.append(coordinates)
        weights.append(fusion.coordinates.weight)
    expected = F.linear(torch.cat(inputs, -1), torch.cat(weights, 1), fusion.tokens.bias)
    constant = fusion.constant(None if mode == "shallow" else context, coordinates)
    torch.testing.assert_close(fusion(tokens, constant), expected)


@pytest.mark.parametrize("mode", FUSIONS)
def test_fresh_fusion_leaves_a_level_without_context_alone(mode):
    fusion = FUSIONS[mode](5)
    fusion.reset()
    tokens = torch.randn(2, 4, 5)
    torch.testing.assert_close(fusion(tokens, fusion.constant(None, torch.randn(2, 4, 3))), tokens)


@pytest.mark.parametrize("how", ["autocast", "bf16 weights"])
def test_coordinates_keep_their_place_in_bf16(how):
    """Of a video of 64x1024x1024 pixels, to a hundredth of a pixel; rounded to bf16 they move by up to two."""
    pyramid = Pyramid(levels=5, patch=(4, 64, 64))
    fusion = DeepFusion(3)
    fusion.reset()
    torch.nn.init.eye_(fusion.coordinates.weight)
    start = torch.tensor([[50, 937, 411]])
    starts = [start // 2 ** (4 - level) for level in range(5)]
    dtype = torch.bfloat16 if how == "bf16 weights" else torch.float32
    geometry = Geometry(pyramid, starts, (4, 16, 16), dtype)
    exact = Geometry(pyramid, starts, (4, 16, 16), torch.float64).coordinates(4)
    assert (geometry.coordinates(4) - exact).abs().max() * 512 < 0.01
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        placed = fusion.to(dtype).constant(None, geometry.coordinates(4))
    assert placed.dtype == dtype
    if how == "autocast":
        assert (placed - exact).abs().max() * 512 < 0.01


def test_the_tokenizer_sees_low_noise_in_bf16():
    """Pixels near 1 with noise of 0.001: bf16 rounds them to steps of 0.004."""
    tokenizer = Tokenizer(1, (1, 1, 1), (1, 1, 8), 8)
    torch.nn.init.eye_(tokenizer.project.weight)
    tokenizer.norm = torch.nn.Identity()
    for table in tokenizer.positions:
        torch.nn.init.zeros_(table)
    patch = 1 + 0.001 * torch.randn(1, 1, 1, 1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = tokenizer(patch)
    bias = tokenizer.project.bias[0]
    torch.testing.assert_close(tokens[0, :, 0] - bias, patch.flatten(), atol=1e-6, rtol=0)
