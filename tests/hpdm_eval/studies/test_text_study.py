"""Attribute accuracy against closed forms and real clips, and the study `text` at its smallest."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from hpdm.config import load_config
from hpdm.data.procedural import CLASS_NAMES
from hpdm.data.scene_captions import caption_words
from hpdm_eval.backbones import load_backbone
from hpdm_eval.metrics.attributes import attribute_accuracy, fit_readout
from hpdm_eval.records.record import load_record
from hpdm_eval.studies.text_to_video.study import VARIANTS, RealText, TextStudy, main, prompt_interval


def test_readout_finds_linear_attributes_and_ignores_dead_dimensions():
    random = np.random.default_rng(0)
    labels = [("red", "green", "blue")[index % 3] for index in range(300)]
    centres = {"red": (3, 0), "green": (0, 3), "blue": (-3, -3)}
    noise = np.array([1, 1, 0, 1]) * random.normal(size=(300, 4))
    features = np.array([[*centres[label], 7, 0] for label in labels]) + noise
    readout = fit_readout(features[:200], labels[:200])
    assert readout.values == ("blue", "green", "red")
    seen = readout(features[200:])
    assert np.mean([a == b for a, b in zip(seen, labels[200:])]) > 0.95
    # Without any information nothing beats the most frequent value by much.
    noise = random.normal(size=(600, 4))
    shuffled = list(random.permutation(labels * 2))
    seen = fit_readout(noise[:300], shuffled[:300])(noise[300:])
    assert np.mean([a == b for a, b in zip(seen, shuffled[300:])]) < 0.45


def test_readout_is_the_ridge_solution_of_torch():
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(40, 5)), ["a" if value > 0 else "b" for value in random.normal(size=40)]
    readout = fit_readout(features, labels, penalty=0.1)
    normed = torch.tensor((features - features.mean(0)) / features.std(0))
    targets = torch.tensor([[label == "a", label == "b"] for label in labels], dtype=torch.float64)
    weights = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        errors = torch.cat([normed, torch.ones(40, 1)], 1) @ weights - targets
        value = errors.square().sum() + 4 * weights[:5].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    scores = (normed @ weights[:5] + weights[5]).detach().numpy()  # of targets 0 and 1; scikit-learn's are -1 and 1
    np.testing.assert_allclose(readout.classifier.decision_function(features), 2 * scores[:, 1] - 1, atol=1e-6)
    assert readout(features) == [("a", "b")[index] for index in scores.argmax(1)]


def test_attributes_that_a_text_leaves_open_do_not_count():
    figures = attribute_accuracy(["a", "b", "c", "a"], ["a", None, "b", "a"])
    assert figures["accuracy"] == 2 / 3 and figures["samples"] == 3 and figures["low"] < 2 / 3 < figures["high"]
    with pytest.raises(ValueError, match="no sample"):
        attribute_accuracy(["a"], [None])


def test_intervals_are_for_prompts_also_where_all_samples_are_right():
    """Wilson's interval of 48 of 48 is [0.926, 1]; of as many samples as two a prompt it would be [0.962, 1]."""
    assert prompt_interval(np.ones(48), 0) == pytest.approx((0.926, 1.0), abs=5e-4)
    assert prompt_interval(np.zeros(48), 0) == pytest.approx((0.0, 0.074), abs=5e-4)
    low, high = prompt_interval(np.tile([0.5, 1.0, 1.0], 16), 0)
    assert 0.926 > low > 0.7 and low < 5 / 6 < high < 1


def test_readouts_see_the_attributes_of_real_clips():
    config = load_config("nano-T2V", ["data.image_share=0.0"])
    real = RealText(config, 480, load_backbone("shapes3d"), quiet=True)
    assert real.ceiling["shape"] > 0.9 and real.ceiling["motion"] > 0.9 and real.ceiling["colour"] > 0.8
    assert real.summary["clips"] == 480


def test_nano_t2v_knows_all_words_of_the_captions():
    config = load_config("nano-T2V")
    assert list(config.text.words) == caption_words() and config.pyramid.levels == 4
    _, rows, columns = config.pyramid.patch
    assert rows != columns and len(CLASS_NAMES) == 12


@pytest.mark.slow
def test_the_study_from_the_command_line_and_again(tmp_path):
    for _ in range(2):
        result = CliRunner().invoke(main, ["--tier", "smoke", "--out", str(tmp_path), "--quiet", "--device", "cpu"])
        assert result.exit_code == 0, result.output
    records = [load_record(path) for path in sorted((tmp_path / "records").glob("*.json"))]
    found = {(record.extra["variant"], record.metric) for record in records}
    assert found == {(variant, metric) for variant in VARIANTS for metric in ("attributes", "fvd")}
    assert all(record.extra["study"] == "text" and record.num_samples == 12 for record in records)
    for record in records:
        if record.metric == "attributes":
            attribute = record.extra["attribute"]
            names = ["shape", "motion", "colour"] if attribute == "mean" else [attribute]
            assert [entry["attribute"] for entry in record.details] == names
            assert record.value == pytest.approx(np.mean([entry["accuracy"] for entry in record.details]))
            assert record.ci95 is None or 0 <= record.ci95[0] <= record.value <= record.ci95[1] <= 1
            assert all(entry["real"] > entry["chance"] for entry in record.details)
    with Image.open(tmp_path / "prompts.png") as picture:
        assert picture.width > picture.height > 300  # six prompts by three variants
    runs = {path.parent.parent.name for path in (tmp_path / "runs").glob("*/repeat0/log.jsonl")}
    assert runs == {"joint", "video-only", "fine-tuned", "low-resolution"}
    steps = {
        name: json.loads((tmp_path / "runs" / name / "repeat0" / "log.jsonl").read_text().splitlines()[-1])["step"]
        for name in runs
    }
    assert steps == {"joint": 4, "video-only": 4, "fine-tuned": 2, "low-resolution": 6}  # equal FLOPs
    study = TextStudy("smoke", tmp_path, torch.device("cpu"), True)
    assert study.configure("video-only", 0).data.image_share == 0
    assert study.configure("joint", 0).data.image_share == 0.5
