"""Inception Score against closed forms and torch-fidelity."""

import json
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.commands.entry import main
from hpdm_eval.metrics.inception_score import FewPerSplitWarning, inception_score, looped_score
from hpdm_eval.protocols import load_protocol

pytestmark = pytest.mark.filterwarnings("ignore::hpdm_eval.metrics.inception_score.FewPerSplitWarning")


def random_logits(n, classes, seed=0, scale=3):
    return np.random.default_rng(seed).normal(0, scale, (n, classes))


def softmax(logits):
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


@given(classes=st.integers(2, 12), copies=st.integers(1, 5))
def test_sure_and_varied_predictions_score_the_number_of_classes(classes, copies):
    one_hot = np.tile(np.eye(classes), (copies, 1))
    assert inception_score(one_hot, splits=1).mean == pytest.approx(classes)


def test_equal_predictions_score_one():
    result = inception_score(np.tile(softmax(random_logits(1, 7)), (30, 1)), splits=5)
    assert result.mean == pytest.approx(1) and result.std == pytest.approx(0, abs=1e-12)
    assert (result.n, result.splits) == (30, 5)


def test_two_classes_by_hand():
    p = np.array([[0.9, 0.1], [0.3, 0.7]])
    divergences = (p * np.log(p / np.array([0.6, 0.4]))).sum(axis=1)
    assert inception_score(p, splits=1).mean == pytest.approx(np.exp(divergences.mean()), rel=1e-12)


@pytest.mark.parametrize("n, splits", [(200, 10), (203, 10), (64, 1)])
def test_equals_torch_fidelity(n, splits):
    import_torchvision()
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = random_logits(n, 11)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits, shuffle=False)
    ours = inception_score(softmax(logits), splits, seed=None)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-8, abs=1e-12)


def test_shuffling_saves_clips_sorted_by_class():
    one_hot = np.repeat(np.eye(10), 50, axis=0)
    assert inception_score(one_hot, splits=10, seed=None).mean == pytest.approx(1)
    shuffled = inception_score(one_hot, splits=10, seed=0)
    assert 8 < shuffled.mean <= 10
    assert shuffled == inception_score(one_hot, splits=10, seed=0)
    assert shuffled != inception_score(one_hot, splits=10, seed=1)


def test_small_splits_score_lower():
    probabilities = softmax(random_logits(2000, 50, scale=4))
    assert inception_score(probabilities, 50).mean < inception_score(probabilities, 10).mean
    assert inception_score(probabilities, 10).mean < inception_score(probabilities, 1).mean


def test_several_sets_are_scored_each_and_averaged():
    """TGANv2: mean and spread over sets of one split; what is left over is not used."""
    probabilities = softmax(random_logits(1030, 12, scale=4))
    found = looped_score(probabilities, splits=1, loops=10, per_loop=100, seed=3)
    rows = np.random.default_rng(3).permutation(1030)[:1000].reshape(10, 100)
    scores = [inception_score(probabilities[own], 1, seed=None).mean for own in rows]
    assert (found.n, found.splits, found.loops) == (1000, 1, 10)
    assert (found.mean, found.std) == pytest.approx((np.mean(scores), np.std(scores)))
    fewer = looped_score(probabilities[:350], splits=1, loops=10, per_loop=100, seed=3)
    assert (fewer.n, fewer.loops) == (300, 3)
    assert looped_score(probabilities[:80], splits=2, loops=10, per_loop=100, seed=3) == inception_score(
        probabilities[:80], 2, seed=3
    )


@pytest.mark.parametrize(
    "name, samples, splits, loops", [("tgan2", 20480, 1, 10), ("styleganv", 2048, 10, 1), ("hpdm", 10000, 10, 1)]
)
def test_protocols_of_published_scores(name, samples, splits, loops):
    protocol = load_protocol(name)
    assert (protocol.num_samples, protocol.is_splits, protocol.is_loops) == (samples, splits, loops)
    assert (protocol.backbone, protocol.frames) == ("c3d", 16)
    assert "inferred" in protocol.title or "commit" in protocol.notes
    assert load_protocol(name, is_splits=splits + 1).hash() != protocol.hash()


def test_they_are_protocols_of_the_command(tmp_path):
    np.save(tmp_path / "clips.npy", np.stack([procedural_clip(0, k, 16, 32, 32)[0] for k in range(40)]))
    words = ["is", "--samples", str(tmp_path / "clips.npy"), "--backbone", "shapes3d", "--workers", "0", "--quiet"]

    def record(*more):
        result = CliRunner().invoke(main, [*words, *more, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    one = record("--protocol", "tgan2")
    assert one["settings"] == {"splits": 1, "sets": 1} and one["details"][0]["n"] == 40
    assert any("1 of the 10 sets that tgan2 averages over" in text for text in one["warnings"])
    two = record("--protocol", "tgan2", "--num-samples", "100")  # of which 40 are there: four sets of ten
    assert two["settings"] == {"splits": 1, "sets": 4} and two["protocol"]["hash"] != one["protocol"]["hash"]
    ten = record("--protocol", "styleganv")
    assert ten["settings"] == {"splits": 10} and ten["protocol"]["name"] == "styleganv"
    other = record("--protocol", "styleganv", "--splits", "4")
    assert other["settings"] == {"splits": 4} and "is_splits=4" in other["protocol"]["overrides"]
    assert other["protocol"]["hash"] != ten["protocol"]["hash"]
    assert record("--protocol", "native", "--splits", "4")["protocol"]["overrides"] == ["backbone=shapes3d"]
    real = ["--reference", str(tmp_path / "clips.npy")]
    wrong = CliRunner().invoke(main, ["fvd", *words[1:], *real, "--protocol", "hpdm"])
    assert wrong.exit_code == 2 and "use it with `hpdm-eval is`" in wrong.stderr


def test_warns_of_few_clips_a_split():
    probabilities = softmax(random_logits(600, 12))
    with pytest.warns(FewPerSplitWarning, match="600 clips in 20 splits are about 30 a split for 12 classes"):
        inception_score(probabilities, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inception_score(probabilities, 10)


@pytest.mark.parametrize(
    "probabilities, splits, message",
    [
        (np.eye(4), 5, "cannot be split into 5"),
        (np.full((4, 2), 0.7), 1, "sum to one"),
        (np.array([[1.5, -0.5]] * 3), 1, "non-negative"),
        (np.array([[np.nan, 1]] * 3), 1, "non-negative"),
        (np.ones(4), 1, "clips, classes"),
        (np.ones((4, 0)), 1, "features only"),
    ],
)
def test_bad_input(probabilities, splits, message):
    with pytest.raises(InputError, match=message):
        inception_score(probabilities, splits)
