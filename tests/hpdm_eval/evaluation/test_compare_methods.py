"""Comparisons of methods by the registry: metrics that a package brings get errors and tests as ours do."""

import numpy as np
import pytest

from hpdm.data.procedural import procedural_clip
from hpdm_eval.evaluation.compare_methods import Measuring, compare_methods
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.metrics import registry
from hpdm_eval.metrics.registry import register_metric
from hpdm_eval.protocols import load_protocol
from tests.support.small_network import random_shapes3d

COUNT = 44


@pytest.fixture
def brought(monkeypatch):
    """Metrics that are gone after the test: on features, on clips with a number each, on clips with one for all."""
    monkeypatch.setattr(registry, "_registered", {})

    @register_metric("first-feature", needs="features", higher_is_better=True)
    def first_feature(samples, reference, settings):
        return float(samples.features[:, 0].mean())

    @register_metric("brightness", needs="clips", higher_is_better=True, reference=False)
    def brightness(samples, reference, settings):
        return np.array([clip.video.mean() for clip in samples])

    @register_metric("frames", needs="clips", higher_is_better=False)
    def frames(samples, reference, settings):
        return sum(len(clip.video) for clip in samples) / len(samples)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Evaluations of `plain` and of `bright`, the same clips raised by ten grey levels."""
    root = tmp_path_factory.mktemp("sets")
    clips = np.stack([procedural_clip(1, index, 4, 16, 16)[0] for index in range(COUNT)])
    real = np.stack([procedural_clip(2, index, 4, 16, 16)[0] for index in range(COUNT)])
    for name, videos in (("plain", clips), ("bright", np.minimum(clips, 245) + 10), ("real", real)):
        (root / name).mkdir()
        np.save(root / name / "clips.npy", videos.astype(np.uint8))
    random_shapes3d(root / "random.safetensors")
    return {
        name: Evaluation(
            protocol=load_protocol("native", backbone="shapes3d"),
            samples=root / name,
            reference=root / "real",
            weights=root / "random.safetensors",
            unverified=True,
            device="cpu",
            workers=0,
            quiet=True,
        )
        for name in ("plain", "bright")
    }


def test_metrics_that_a_package_brings_are_compared_as_ours_are(sets, brought):
    names = ("fvd", "first-feature", "brightness", "frames")
    compared = compare_methods(sets, Measuring(metrics=names), "brightness")
    assert [method.name for method in compared.methods] == ["bright", "plain"]
    assert list(compared.figures) == list(names) and compared.figures["brightness"].higher_is_better
    (pair,) = compared.pairs["brightness"]
    assert pair.difference == pytest.approx(10, abs=0.5)
    assert len(compared.pairs["first-feature"]) == len(compared.pairs["fvd"]) == 1
    assert compared.pairs["frames"] == []  # one number for all clips: nothing says how sure it is
    method = compared.methods[1]
    # left out group by group, the error of a mean over independent clips is that of its standard error
    values = np.load(sets["plain"].samples / "clips.npy").mean(axis=(1, 2, 3, 4))
    expected = values.std(ddof=1) / np.sqrt(COUNT)
    assert method.value("brightness") == pytest.approx(values.mean())
    assert method.estimates["brightness"].standard_error == pytest.approx(expected, rel=0.4)
    assert method.interval("first-feature")[0] < method.value("first-feature") < method.interval("first-feature")[1]
    tests = {test["figure"] for record in compared.records for test in record.extra["pairs"]}
    assert tests == {"fvd", "first-feature", "brightness"}


def test_what_cannot_be_had_is_named_once(sets, brought, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", "nowhere")
    compared = compare_methods(sets)
    assert {"brightness", "first-feature", "fvd", "dead-tokens"} <= set(compared.figures)
    assert any(text.startswith("no seams") for text in compared.missing)
    assert len(compared.missing) == len(set(compared.missing))
