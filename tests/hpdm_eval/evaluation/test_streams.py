"""Evaluations of loaders, generators and tensors against those of the same clips in files."""

import doctest

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import hpdm_eval
from hpdm.support.errors import InputError
from hpdm_eval.backbones.backbone import Shapes3DBackbone
from hpdm_eval.evaluation import api, incoming
from hpdm_eval.metrics import registry
from tests.support.small_sets import FEW, SMALL, draw, save, without_surroundings

METRICS = ("fvd", "kvd", "prdc", "fid", "flicker-test")
WITHIN = {**SMALL, "workers": 0}


def flicker(samples, reference, settings):
    """Mean change between frames."""
    return [float(np.abs(np.diff(clip.video.astype(float), axis=0)).mean()) for clip in samples]


@pytest.fixture(autouse=True)
def flicker_metric(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    hpdm_eval.register_metric("flicker-test", needs="clips", higher_is_better=False, reference=False)(flicker)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """(samples uint8 [7, 7, 26, 22, 3], their folder, reference, its folder)."""
    folder = tmp_path_factory.mktemp("sets")
    samples, reference = draw(FEW, seed=1), draw(FEW, seed=2)
    return samples, save(folder / "samples", samples), reference, save(folder / "reference", reference)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def shared_cache(cache, own_feature_cache, monkeypatch):
    """The reference is looked at once by all tests."""
    monkeypatch.setenv("HPDM_EVAL_CACHE", str(cache))


@pytest.fixture(scope="module")
def of_files(sets):
    with pytest.MonkeyPatch.context() as patch:  # a fixture of the module outlives what one test registers
        patch.setattr(registry, "_registered", {})
        hpdm_eval.register_metric("flicker-test", needs="clips", higher_is_better=False, reference=False)(flicker)
        return hpdm_eval.evaluate(sets[1], sets[3], METRICS, cache=False, **WITHIN)


FORMS = {
    "tensor": torch.from_numpy,
    "array": lambda clips: clips,
    "floats": lambda clips: [torch.from_numpy(clips).permute(0, 4, 1, 2, 3) / 127.5 - 1],
    "loader": lambda clips: DataLoader(TensorDataset(torch.from_numpy(clips), torch.arange(FEW)), batch_size=4),
    "generator": lambda clips: (clips[start : start + 3] for start in range(0, FEW, 3)),
    "clips": list,
    "dicts": lambda clips: [{"video": clips[:4], "label": 3}, {"label": 3, "video": clips[4:]}],
    "lists of clips": lambda clips: [list(clips[:4]), tuple(clips[4:])],
}


@pytest.mark.parametrize("form", FORMS)
def test_equals_files(sets, of_files, form):
    metrics = METRICS if form == "generator" else ("fvd", "flicker-test")
    result = hpdm_eval.evaluate(FORMS[form](sets[0]), sets[3], metrics, **WITHIN)
    assert list(result) == list(metrics) and not result.missing
    for name in metrics:
        assert result[name].value == of_files[name].value
        assert without_surroundings(result[name].record) == without_surroundings(of_files[name].record)


def test_every_clip_goes_once_through_each_network(sets, monkeypatch):
    calls = []
    run = Shapes3DBackbone.run
    monkeypatch.setattr(Shapes3DBackbone, "run", lambda self, video: (calls.append(len(video)), run(self, video))[1])
    incoming._networks.clear()
    hpdm_eval.evaluate(iter(sets[0]), iter(sets[2]), ("fvd", "kvd", "prdc"), **WITHIN)
    assert calls == [1] * 2 * FEW


def test_a_reference_may_be_a_stream(sets, of_files):
    result = hpdm_eval.evaluate(sets[0], iter(sets[2]), "fvd", **WITHIN)
    assert without_surroundings(result["fvd"].record) == without_surroundings(of_files["fvd"].record)
    assert result["fvd"].record.reference["path"] == "<memory>"


def test_only_as_many_are_taken_as_are_wanted(sets):
    drawn = []

    def forever():
        while True:
            for clip in sets[0]:
                drawn.append(len(drawn))
                yield clip[None]

    record = hpdm_eval.evaluate(forever(), sets[3], ("fvd", "flicker-test"), num_samples=5, **WITHIN)["fvd"].record
    assert record.num_samples == 5 and len(drawn) == 6  # one more says that there are more
    assert record.protocol["samples_selection"] == "sorted"
    exactly = hpdm_eval.evaluate(list(sets[0][:5]), sets[3], ("fvd", "flicker-test"), num_samples=5, **WITHIN)
    assert exactly["fvd"].record.protocol["samples_selection"] == "class-balanced"
    assert exactly["fvd"].value == record.value and exactly["flicker-test"].record.num_samples == 5
    limited = hpdm_eval.evaluate(list(sets[0]), sets[3], "fvd", limit=5, **WITHIN)["fvd"].record
    assert limited.num_samples == 5 and limited.extra["limit"] == 5
    assert any("limited to 5" in warning for warning in limited.warnings)


def test_short_clips_are_listed(sets):
    samples = [*sets[0][:4], sets[0][4][:2], *sets[0][5:]]
    result = hpdm_eval.evaluate(samples, sets[3], ("fvd", "flicker-test"), **WITHIN)
    for figure in result.values():
        assert figure.record.num_samples == FEW - 1
        assert [entry["path"] for entry in figure.record.samples["rejected"]] == ["<memory>#4"]


def test_all_names_what_cannot_be_had(sets):
    result = hpdm_eval.evaluate(sets[0], sets[3], "all", **WITHIN)
    assert {"fvd", "kvd", "prdc", "fid", "flicker-test"} <= set(result)
    without = hpdm_eval.evaluate(sets[0], None, "all", **WITHIN)
    assert "flicker-test" in without and "real clips" in without.missing["fvd"]


def test_the_command_of_a_record_is_the_running_one(sets, of_files):
    record = hpdm_eval.evaluate(sets[0], sets[3], "fvd", **WITHIN)["fvd"].record
    assert not record.command.startswith("hpdm-eval") and of_files["fvd"].record.command.startswith("hpdm-eval fvd")


BAD = {
    "nothing": (lambda clips: [], {}, "nothing came"),
    "a number": (lambda clips: 7, {}, "samples are int"),
    "paths": (lambda clips: ["a.mp4"], {}, "videos are str"),
    "a shape": (lambda clips: [torch.zeros(3, 4)], {}, r"shape \[3, 4\]"),
    "NaN": (lambda clips: torch.full((2, 3, 7, 9, 9), float("nan")), {}, "not finite"),
    "a range": (lambda clips: torch.from_numpy(clips).float(), {}, "outside of -1..1"),
    "an empty dict": (lambda clips: [{}], {}, "empty dict"),
    "an empty list": (lambda clips: [[]], {}, "batch is empty"),
    "short clips": (lambda clips: clips[:, :2], {}, "no usable clip.*too short"),
    "a grid": (lambda clips: clips, {"grid": "1x2"}, "grid is a setting of samples in files"),
    "a batch of none": (lambda clips: clips, {"batch": 0}, "batch is 0"),
    "seams": (lambda clips: clips, {"metrics": "seams"}, "seams needs .* a stream does not have"),
    "clipsim": (lambda clips: clips, {"metrics": "clipsim"}, "clipsim needs .* texts"),
    "no reference": (lambda clips: clips, {"reference": None}, "give reference"),
    "no such reference": (lambda clips: clips, {"reference": "does/not/exist"}, "does not exist"),
    "an unknown word": (lambda clips: clips, {"foo": 1}, "unknown setting 'foo'"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_take_one_line(sets, case):
    make, settings, message = BAD[case]
    with pytest.raises(InputError, match=message) as error:
        hpdm_eval.evaluate(make(sets[0]), **{"reference": sets[3], "metrics": "fvd", **WITHIN, **settings})
    assert "\n" not in str(error.value)


def test_a_mistake_of_the_stream_itself_is_raised(sets):
    def breaks():
        yield sets[0][:2]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        hpdm_eval.evaluate(breaks(), sets[3], "fvd", **WITHIN)
    with pytest.raises(ValueError):  # not in silence where clips are spooled either
        hpdm_eval.evaluate([sets[0][:2], torch.full((1, 3, 7, 9, 9), float("nan"))], None, "flicker-test", **WITHIN)


@pytest.mark.parametrize("module", [api, registry], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
