"""JSON nested without end, or with numbers that no computer has, in whatever reads it: one message, or a skip."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hpdm.config import load_config
from hpdm.data.captions import read_captions
from hpdm.data.quarantine import QUARANTINE_FILE, Quarantine
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm_eval.backbones import load_backbone
from hpdm_eval.backbones.weights import PINS, read_pins
from hpdm_eval.benchmarks.results import _read
from hpdm_eval.features.extraction import FeatureSet
from hpdm_eval.features.reference_statistics import Statistics
from hpdm_eval.records.record import load_record
from hpdm_eval.report.collect import collect_records
from hpdm_eval.studies.ablations.plan import Plan, load_tier
from hpdm_eval.studies.ablations.run import SETTINGS_FILE, check_settings
from hpdm_eval.studies.ablations.tasks import _read_count
from tests.support.paths import ROOT

HOSTILE = {
    "nested 100,000 deep": "[" * 100_000,
    "closed again": "[" * 100_000 + "]" * 100_000,
    "nested 300 deep": '{"a":' * 300 + "1" + "}" * 300,
    "digits": "9" * 5000,
    "a few more digits": "9" * 25,
    "as a value": '{"clips": ' + "9" * 400 + "}",
    "deep as a value": '{"videos": ' + "[" * 500 + "]" * 500 + "}",
}


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE)
def text(request):
    return request.param


def test_parser(text):
    for content in (text, text.encode()):
        with pytest.raises(ValueError, match="nested too deeply|a whole number of|limit"):
            parse_json(content)


def test_what_programs_write_is_read():
    value = {"a": [[[1, -(1 << 63), (1 << 64) - 1, 1e308, None]] * 300], "b": {str(n): {"c": []} for n in range(300)}}
    assert parse_json(json.dumps(value)) == value


def refuses(read):
    with pytest.raises(InputError) as error:
        read()
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_readers(text, tmp_path, capsys):
    for name in ("record.json", PINS, SETTINGS_FILE, "captions.jsonl"):
        (tmp_path / name).write_text(text)
    refuses(lambda: load_record(tmp_path / "record.json"))
    refuses(lambda: collect_records([tmp_path]))
    assert f"left out: {tmp_path / 'record.json'}" in capsys.readouterr().err
    refuses(lambda: read_pins(tmp_path))
    refuses(lambda: _read(tmp_path / "record.json"))
    refuses(lambda: check_settings(tmp_path, Plan(tier=load_tier("smoke"), base=load_config("nano"), judgements=())))
    refuses(lambda: read_captions(tmp_path / "captions.jsonl"))
    assert _read_count(tmp_path / "record.json", "clips") == 0


def test_readers_that_start_again(text, tmp_path):
    """What is only remembered is made again."""
    good = json.dumps({"path": "a.mp4", "reason": "broken", "clip": 3, "from": None})
    (tmp_path / QUARANTINE_FILE).write_text(f"{text}\n{good}\n")
    assert Quarantine(tmp_path / QUARANTINE_FILE).reason("a.mp4", 3)


def test_readers_of_arrays(text, tmp_path):
    np.savez(tmp_path / "f.npz", features=np.zeros((1, 2), np.float32), names=np.array(["a"]), manifest=np.array(text))
    refuses(lambda: FeatureSet.load(tmp_path / "f.npz"))
    np.savez(tmp_path / "s.npz", mean=np.zeros(2), cov=np.eye(2), n=3, manifest=np.array(text))
    refuses(lambda: Statistics.load(tmp_path / "s.npz"))
    save_file({"a": torch.zeros(1)}, tmp_path / "n.safetensors", metadata={"format": "shapes3d", "classes": text})
    refuses(lambda: load_backbone("shapes3d", weights=tmp_path / "n.safetensors", unverified=True))


def test_no_reader_of_files_parses_json_on_its_own():
    """Whatever reads a file goes by `hpdm.support.files`; what is left parses what this program has just made."""
    own = {
        "hpdm/support/json_files.py",
        "hpdm/support/environment.py",
        "hpdm/sampling/writer.py",
        "hpdm_eval/records/record.py",
        "hpdm_eval/evaluation/reproduce.py",
        "hpdm_eval/benchmarks/extraction.py",
        "hpdm_eval/studies/ablations/run.py",
        "hpdm_eval/studies/shipped/nano.py",
        "hpdm_eval/studies/recipe_check/gradients.py",
        "hpdm/data/pack.py",
        "hpdm_eval/benchmarks/index_cost.py",
    }
    found = {
        str(path.relative_to(ROOT))
        for package in ("hpdm", "hpdm_eval", "baselines")
        for path in (ROOT / package).rglob("*.py")
        if "json.load" in path.read_text(encoding="utf-8")
    }
    assert found - own == {path for path in found if path.startswith("hpdm_eval/benchmarks/gpu/")}
