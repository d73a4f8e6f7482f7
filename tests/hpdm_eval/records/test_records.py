"""Records: what is written, what is refused, and what a later version may add."""

import json
import shlex
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from hpdm.support.console import Group
from hpdm.support.errors import InputError
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.records.record import command_line, load_record, save_record
from tests.support.example_records import some_record

CONTRACT_KEYS = {
    "schema",
    "metric",
    "value",
    "ci95",
    "unit",
    "higher_is_better",
    "protocol",
    "num_samples",
    "num_reference",
    "samples",
    "reference",
    "backbone",
    "seed",
    "command",
    "versions",
    "hardware",
    "git",
    "seconds",
    "created",
}


def test_keys_and_surroundings(tmp_path):
    path = save_record(some_record(), tmp_path)
    written = json.loads(path.read_text())
    assert set(written) >= CONTRACT_KEYS
    assert next(iter(written)) == "schema" and written["schema"] == 1
    assert written["ci95"] is None and written["unit"] is None and written["details"] == []
    assert written["protocol"]["frames"] == 16 and written["protocol"]["overrides"] == ["resolution=64x64"]
    assert {"python", "torch", "numpy"} <= set(written["versions"])
    assert 2 <= written["seconds"] < 60
    assert abs(time.mktime(time.strptime(written["created"], "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(time.gmtime())) < 60


def test_round_trip(tmp_path):
    record = some_record(ci95=(1.0, 2.5), details=({"axis": "w", "excess": 0.2},), warnings=("few clips",))
    assert load_record(save_record(record, tmp_path)) == record


def test_keys_of_a_later_version_survive(tmp_path):
    path = save_record(some_record(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "energy": {"joules": 5}}))
    record = load_record(path)
    assert record.extra["energy"] == {"joules": 5}
    assert record.to_dict() == json.loads(path.read_text())


def test_file_name_is_readable_and_names_the_question(tmp_path):
    record = some_record()
    name = record.file_name()
    assert name.startswith("fvd-shapes3d-hpdm-16f-generated-vs-real-clips-") and name.endswith(".json")
    later = replace(record, value=1.0, created="2030-01-01T00:00:00Z", seconds=9.0)
    assert later.file_name() == name
    for other in (
        replace(record, seed=4),
        replace(record, samples={**record.samples, "sha256": "f" * 64}),
        replace(record, backbone={**record.backbone, "sha256": "f" * 64}),
        replace(record, backbone={**record.backbone, "precision": "bf16"}),
        replace(record, extra={"settings": {"splits": 5}}),
        replace(record, protocol={**record.protocol, "hash": "f" * 12}),
    ):
        assert other.file_name() != name
    assert save_record(record, tmp_path) == save_record(later, tmp_path)
    assert load_record(tmp_path / name).value == 1.0


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not a readable record"),
        ("[1]", "schema"),
        ('{"schema": 2}', '"schema" is 2'),
        ('{"schema": 1, "metric": "fvd"}', "lacks value"),
    ],
)
def test_files_that_are_no_records(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_record(path)
    assert "r.json" in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="none.json"):
        load_record(tmp_path / "none.json")


@pytest.mark.parametrize(
    "key, value",
    [
        ("value", "66"),
        ("value", None),
        ("value", True),
        ("ci95", [1.0]),
        ("higher_is_better", 1),
        ("protocol", {}),
        ("num_samples", -1),
        ("num_samples", 2.5),
        ("samples", {"path": "a"}),
        ("backbone", {"name": "x"}),
        ("details", {"a": 1}),
        ("created", "yesterday"),
        ("seed", None),
        ("warnings", [1]),
        ("versions", []),
    ],
)
def test_wrong_values_are_named(tmp_path, key, value):
    path = save_record(some_record(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=f"'{key}' must be"):
        load_record(path)


def test_a_figure_that_is_not_a_number_is_never_written():
    with pytest.raises(InputError, match="finite"):
        some_record(value=float("nan"))


def test_command_line_of_a_command_called_from_python():
    seen = []

    @click.group(cls=Group)
    def main():
        pass

    @main.command("fvd", cls=RecordedCommand)
    @click.option("--samples")
    @click.option("--resolution")
    @click.option("--json", "as_json", is_flag=True)
    def fvd(**_):
        seen.append(command_line())

    words = ["--samples", "my clips", "--resolution", "64x64", "--json"]
    assert CliRunner().invoke(main, ["fvd", *words]).exit_code == 0
    assert CliRunner().invoke(fvd, words).exit_code == 0
    assert [shlex.split(line) for line in seen] == [["hpdm-eval", "fvd", *words]] * 2


def test_command_line_outside_a_command(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/hpdm-eval", "bench", "a b"])
    monkeypatch.setattr(main, "__spec__", None)
    assert command_line() == "hpdm-eval bench 'a b'"
    for name, module in (
        ("hpdm_eval.studies.text_to_video.study", "hpdm_eval.studies.text_to_video.study"),
        ("hpdm.training.__main__", "hpdm.training"),
    ):
        monkeypatch.setattr(main, "__spec__", SimpleNamespace(name=name))
        assert command_line() == f"python -m {module} bench 'a b'"


def test_a_file_name_that_is_no_utf8_survives(tmp_path):
    record = some_record()
    odd = "bad\udcff.avi"  # as Python reads the bytes b"bad\xff.avi"
    record = replace(record, samples={**record.samples, "rejected": [{"path": odd, "reason": "empty"}]})
    assert load_record(save_record(record, tmp_path)).samples["rejected"][0]["path"] == odd
