"""The Fréchet distance against closed forms, 50-digit arithmetic, scipy and torch-fidelity."""

import warnings

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.frechet import FewSamplesWarning, frechet_distance, frechet_from_features, frechet_from_moments

pytestmark = pytest.mark.filterwarnings("ignore::hpdm_eval.metrics.frechet.FewSamplesWarning")

ROUTES = {
    "features": frechet_from_features,
    "moments": lambda x, y, ddof=1: frechet_from_moments(Moments.of(x), Moments.of(y), ddof),
    "mixed": lambda x, y, ddof=1: frechet_distance(x, Moments.of(y), ddof=ddof),
}
every_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)


def random_rotation(rng, dimension):
    return np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]


def features_with(rng, n, mean, variances, rotation):
    """n features whose sample mean and covariance over n - 1 are exactly the given ones."""
    white = np.linalg.qr(np.column_stack([np.ones(n), rng.normal(size=(n, len(variances)))]))[0][:, 1:]
    return np.sqrt(n - 1) * (white * np.sqrt(variances)) @ rotation.T + mean


def distance_in_50_digits(x, y, ddof=1):
    """(distance, sum of traces) by symmetric square roots in mpmath."""

    def moments(features):
        n, dimension = features.shape
        matrix = mpmath.matrix(features.tolist())
        mean = [mpmath.fsum(matrix[i, j] for i in range(n)) / n for j in range(dimension)]
        centred = mpmath.matrix(n, dimension)
        for i in range(n):
            for j in range(dimension):
                centred[i, j] = matrix[i, j] - mean[j]
        return mean, centred.T * centred / (n - ddof)

    with mpmath.workdps(50):
        (mean_x, cov_x), (mean_y, cov_y) = moments(x), moments(y)
        values, vectors = mpmath.eigsy(cov_x)
        root = vectors * mpmath.diag([mpmath.sqrt(max(v, mpmath.mpf(0))) for v in values]) * vectors.T
        overlap = mpmath.fsum(
            mpmath.sqrt(max(v, mpmath.mpf(0))) for v in mpmath.eigsy(root * cov_y * root, eigvals_only=True)
        )
        traces = mpmath.fsum(cov_x[i, i] + cov_y[i, i] for i in range(len(mean_x)))
        shift = mpmath.fsum((a - b) ** 2 for a, b in zip(mean_x, mean_y))
        return shift + traces - 2 * overlap, float(traces)


@every_route
@pytest.mark.parametrize("spread", [1, 1e6, 1e12])
def test_50_digit_reference(route, spread):
    rng = np.random.default_rng(0)
    scale = np.sqrt(np.geomspace(1, 1 / spread, 8))
    x = (rng.normal(size=(20, 8)) * scale) @ random_rotation(rng, 8) + 3
    y = (rng.normal(size=(24, 8)) * scale) @ random_rotation(rng, 8) + 2
    expected, traces = distance_in_50_digits(x, y)
    assert abs(float(route(x, y) - expected)) < 1e-14 * traces


@every_route
@pytest.mark.parametrize("n", [2, 5, 9])
def test_50_digit_reference_with_fewer_clips_than_dimensions(route, n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 10)), rng.normal(size=(n + 1, 10)) + 0.5
    expected, traces = distance_in_50_digits(x, y)
    assert abs(float(route(x, y) - expected)) < 1e-14 * traces


@pytest.mark.parametrize(
    "spread, from_features, from_moments",
    [(1, 1e-14, 1e-14), (1e6, 1e-14, 1e-14), (1e9, 1e-14, 1e-13), (1e12, 1e-14, 1e-11)],
)
def test_commuting_covariances_at_full_size(spread, from_features, from_moments):
    """Equal eigenvectors: |shift|² + sum (sqrt(a) - sqrt(b))². These are the errors that the module states."""
    rng = np.random.default_rng(0)
    rotation, shift = random_rotation(rng, 400), rng.normal(size=400) / 10
    a = np.geomspace(1, 1 / spread, 400)
    for b in (np.roll(a, 7), a[::-1], np.ones(400)):
        expected, traces = shift @ shift + np.square(np.sqrt(a) - np.sqrt(b)).sum(), a.sum() + b.sum()
        x, y = features_with(rng, 600, 0, a, rotation), features_with(rng, 500, shift, b, rotation)
        assert abs(frechet_from_features(x, y) - expected) < from_features * traces
        for stored in (Moments.of(y), Moments.from_arrays(shift, (rotation * b) @ rotation.T, 500)):
            assert abs(frechet_from_moments(Moments.of(x), stored) - expected) < from_moments * traces


@every_route
@given(mean=st.floats(-100, 100), a=st.floats(0.01, 10), b=st.floats(0.01, 10), n=st.integers(2, 50))
def test_one_dimension(route, mean, a, b, n):
    rng = np.random.default_rng(n)
    x, y = features_with(rng, n, mean, [a * a], np.eye(1)), features_with(rng, n + 3, 0, [b * b], np.eye(1))
    assert route(x, y) == pytest.approx(mean**2 + (a - b) ** 2, rel=1e-10, abs=1e-12 * (mean**2 + a * a + b * b))


@every_route
def test_rank_one_covariances(route):
    """S_x = a² u uᵀ, S_y = b² v vᵀ: the traces less 2 a b |u·v|; nothing is shared where u and v are orthogonal."""
    rng = np.random.default_rng(1)
    u, v = random_rotation(rng, 30)[:, :2].T
    w = 0.6 * u + 0.8 * v
    for direction, cosine in ((v, 0.0), (w, 0.6), (-u, 1.0)):
        x = np.outer([-1.0, 0.0, 1.0], 2 * u)
        y = np.outer([-1.0, 0.0, 1.0], 3 * direction)
        assert route(x, y) == pytest.approx(4 + 9 - 2 * 6 * cosine, rel=1e-12)


@every_route
@given(
    n=st.integers(2, 40), dimension=st.integers(1, 30), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1, 1e4])
)
def test_identical_sets_are_at_exactly_zero(route, n, dimension, seed, scale):
    x = np.random.default_rng(seed).normal(size=(n, dimension)) * scale + scale
    assert route(x, x.copy()) == 0


def test_identical_sets_at_full_size():
    x = np.random.default_rng(0).normal(size=(450, 400)) * np.geomspace(1, 1e-6, 400)
    for route in ROUTES.values():
        assert route(x, x) == 0
    assert frechet_from_features(x[:50], x[:50]) == 0


def test_a_small_shift_is_not_lost_in_the_traces():
    x = np.random.default_rng(0).normal(size=(50, 5))
    assert frechet_from_features(x, x + 2.0**-20) == pytest.approx(5 * 2.0**-40, rel=1e-6)


@given(seed=st.integers(0, 999), ddof=st.sampled_from([0, 1]))
def test_symmetry_rotation_and_scaling(seed, ddof):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 6)), 2 * rng.normal(size=(9, 6)) + 1
    distance = frechet_from_features(x, y, ddof)
    rotation = random_rotation(rng, 6)
    assert frechet_from_features(y, x, ddof) == pytest.approx(distance, rel=1e-12)
    assert frechet_from_features(x @ rotation + 7, y @ rotation + 7, ddof) == pytest.approx(distance, rel=1e-11)
    assert frechet_from_features(3 * x, 3 * y, ddof) == pytest.approx(9 * distance, rel=1e-12)


def test_ddof_divides_by_n():
    x, y = np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]])
    assert frechet_from_features(x, y, ddof=0) == pytest.approx((1 - 2) ** 2 + 1)
    assert frechet_from_features(x, y, ddof=1) == pytest.approx(2 * (1 - 2) ** 2 + 1)


@every_route
def test_equals_torch_fidelity_and_scipy(route):
    import_torchvision()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    rng = np.random.default_rng(3)
    mixing = np.eye(64) + rng.normal(size=(64, 64)) / 16
    x, y = rng.normal(size=(500, 64)) @ mixing, rng.normal(size=(600, 64)) + 0.2
    one, two = (fid_features_to_statistics(torch.from_numpy(side)) for side in (x, y))
    fidelity = fid_statistics_to_metric(one, two, verbose=False)["frechet_inception_distance"]
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    shift = x.mean(axis=0) - y.mean(axis=0)
    roots = scipy.linalg.sqrtm(cov_x @ cov_y).real
    by_scipy = shift @ shift + np.trace(cov_x + cov_y - 2 * roots)
    assert route(x, y) == pytest.approx(fidelity, rel=1e-6)
    assert route(x, y) == pytest.approx(by_scipy, rel=1e-6)


def svd_route_by_hand(x, y, dtype):
    """tr of the root of S_x^(1/2) S_y S_x^(1/2) in numpy, every step in `dtype`."""

    def root(matrix):
        u, s, v = np.linalg.svd(matrix)
        return (u * np.where(s < 1e-10, s, np.sqrt(s))) @ v

    x, y = x.astype(dtype), y.astype(dtype)
    centred = [side - side.mean(axis=0) for side in (x, y)]
    cov_x, cov_y = (side.T @ side / dtype(len(side) - 1) for side in centred)
    root_x = root(cov_x)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(cov_x + cov_y) - 2 * np.trace(root(root_x @ (cov_y @ root_x))))


def test_legacy_roots():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(300, 40)), rng.normal(size=(300, 40)) * 1.5
    exact = frechet_from_features(x, y)
    assert frechet_distance(x, y, root="fp64-svd") == pytest.approx(exact, rel=1e-10)
    assert frechet_distance(x, y, root="scipy-sqrtm") == exact
    single = frechet_distance(x, y, root="fp32-svd")
    assert single == pytest.approx(svd_route_by_hand(x, y, np.float32), rel=1e-5)
    assert single == pytest.approx(exact, rel=1e-4) and single != exact
    assert frechet_distance(Moments.of(x), Moments.of(y), root="fp32-svd") == pytest.approx(exact, rel=1e-4)


def test_single_precision_misses_zero_for_features_of_low_rank():
    x = np.random.default_rng(0).normal(size=(300, 20)) @ np.random.default_rng(1).normal(size=(20, 200))
    assert frechet_from_features(x, x) == 0
    assert abs(frechet_distance(x, x, root="fp32-svd")) > 0.01


@given(splits=st.lists(st.integers(0, 40), max_size=5), offset=st.sampled_from([0.0, 1e4]), seed=st.integers(0, 99))
def test_streaming_and_merging_equal_one_pass(splits, offset, seed):
    x = np.random.default_rng(seed).normal(size=(41, 5)) + offset
    streamed, merged = Moments(5), Moments(5)
    for part in np.split(x, sorted(splits)):
        if len(part):
            streamed.update(part)
            merged.merge(Moments.of(part))
    for moments in (streamed, merged):
        assert moments.n == 41
        np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(moments.cov(), np.cov(x, rowvar=False), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.cov(ddof=0), np.cov(x, rowvar=False, ddof=0), rtol=1e-9, atol=1e-12)


def test_moments_take_tensors_of_any_float_type_and_round_trip():
    x = torch.randn(20, 4)
    moments = Moments.of(x.to(torch.bfloat16)).merge(Moments(4)).update(x[:3])
    again = Moments.from_arrays(**moments.to_arrays())
    assert again.n == 23 and again.mean.dtype == np.float64
    np.testing.assert_allclose(again.scatter, moments.scatter, rtol=1e-14)
    assert frechet_from_moments(moments, again) == 0


def test_few_samples_warn_and_enough_do_not():
    x = np.random.default_rng(0).normal(size=(11, 10))
    with pytest.warns(FewSamplesWarning, match="10 clips for 10 features"):
        frechet_from_features(x, x[:10])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_from_features(x, x)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2 clips"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "3 and 4 features"),
        (np.zeros(5), np.zeros((5, 4)), "shape"),
        (np.array([[0.0], [np.nan], [1.0]]), np.zeros((3, 1)), "clip 1 are not finite"),
    ],
)
def test_bad_input(x, y, message):
    with pytest.raises(InputError, match=message):
        frechet_from_features(x, y)


def test_unknown_root_and_wrong_dimension():
    x = np.zeros((5, 3))
    with pytest.raises(InputError, match="qr-nuclear"):
        frechet_distance(x, x, root="newton")
    with pytest.raises(InputError, match="same backbone"):
        Moments(4).update(x)
