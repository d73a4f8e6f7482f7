"""Metrics on pixels from Python: the records of their commands, and a command that says the same."""

import json
import shlex

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation.api import record_of
from hpdm_eval.evaluation.pixels import measure_clips
from hpdm_eval.evaluation.seams import find_plan
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.protocols import load_protocol
from tests.support.small_network import random_shapes3d

OF_THE_RUN = ("command", "seconds", "created", "threads")
CASES = {
    "seams": {"patch": (4, 16, 16), "overlap": "hw", "levels": 3, "lossless": True},
    "dead-tokens": {"token": "1x8x8"},
    "pyramid": {"levels": 2},
    "positions": {"patch": "4x16x16", "tiles": 2},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`samples` and `real`, ten clips each, and `levels`, a pyramid of two."""
    root = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("samples", "real")):
        clips = np.stack([procedural_clip(seed, index, 8, 48, 48)[0] for index in range(10)])
        (root / name).mkdir()
        np.save(root / name / "clips.npy", clips)
    for level, size in enumerate((16, 32)):
        clips = np.stack([procedural_clip(0, index, size // 4, size, size)[0] for index in range(4)])
        (root / "levels" / f"level{level}").mkdir(parents=True)
        np.save(root / "levels" / f"level{level}" / "clips.npy", clips)
    return root


def evaluation(folders, name, weights):
    samples = folders / ("levels" if name == "pyramid" else "samples")
    common = {"samples": samples, "workers": 0, "device": "cpu", "quiet": True, "seed": 3}
    if name == "positions":
        protocol = load_protocol("native", backbone="shapes3d")
        return Evaluation(protocol=protocol, reference=folders / "real", weights=weights, unverified=True, **common)
    return Evaluation(protocol=load_protocol("native"), **common)


@pytest.mark.parametrize("name", CASES)
def test_the_record_is_that_of_the_command_it_names(folders, name, tmp_path):
    weights = tmp_path / "random.safetensors"
    random_shapes3d(weights)
    record = record_of(name, evaluation(folders, name, weights), CASES[name]).to_dict()
    words = shlex.split(record["command"])
    assert words[:2] == ["hpdm-eval", name]
    result = CliRunner().invoke(main, [*words[1:], "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)
    assert {key: again[key] for key in again if key not in OF_THE_RUN} == {
        key: record[key] for key in record if key not in OF_THE_RUN
    }


def test_unknown_options_and_values_are_refused(folders):
    chosen = Evaluation(protocol=load_protocol("native"), samples=folders / "samples")
    for name, options, message in (
        ("seams", {"tile": "4x4x4"}, "has no option 'tile'"),
        ("seams", {"overlap": "wh"}, "overlap is 'wh'"),
        ("seams", {"patch": (4, 16)}, "4x16"),
        ("dead-tokens", {"token": "square"}, "square"),
        ("pyramid", {"levels": 1}, "levels is 1"),
    ):
        with pytest.raises(InputError, match=message):
            record_of(name, chosen, options)


def test_a_limit_is_kept_and_said(folders):
    chosen = Evaluation(protocol=load_protocol("native"), samples=folders / "samples", limit=3, workers=0, quiet=True)
    record = record_of("dead-tokens", chosen, {})
    assert record.num_samples == 3 and record.extra["limit"] == 3 and "limited to 3 clips" in record.warnings[0]
    assert "--limit 3" in record.command


def test_clips_are_measured_in_order_and_not_kept(folders):
    chosen = Evaluation(protocol=load_protocol("native", frames=4), samples=folders / "samples", workers=0, quiet=True)
    shapes, summary = measure_clips(chosen, "samples", lambda clip: (clip.number, clip.video.shape))
    assert shapes == [(index, (4, 48, 48, 3)) for index in range(10)] and summary["clips"] == 10


def test_a_patch_may_be_text_or_three_numbers(folders):
    assert find_plan(folders / "samples", "4x16x8") == find_plan(folders / "samples", (4, 16, 8))
