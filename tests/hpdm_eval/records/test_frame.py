"""Records as a tidy table."""

import json
from dataclasses import replace

import pandas
import pytest
from click.testing import CliRunner

from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.records.frame import COLUMNS, save_table, table_bytes, to_frame
from hpdm_eval.report.collect import collect_records
from tests.support.paths import ROOT
from tests.support.report_records import base_record, save_records, study_record


def records():
    """A headline alone, one repeated in its details, figures by axis, figures without a name, an odd path."""
    base = base_record()
    score = {"figure": "is", "value": 6.5, "std": 1.25, "n": 96}
    seam = {"axis": "w", "period": 8, "statistic": "step", "excess": 0.5, "ci95": [0.25, 0.75], "p_value": 0.125}
    classes = [
        {"class": "=disc", "accuracy": 1.0},
        {"class": "ring", "accuracy": None},
        {"class": "bar", "accuracy": 0.5},
    ]
    level = {"level": 1, "psnr": 30.25, "ci95": [29.0, None], "bias": 1.5, "error/signal 0-1/8": None}
    return [
        replace(base, value=12.5, ci95=(10.0, 15.25), seed=2**63 + 1, unit="=videos/s"),
        replace(base, metric="is", value=6.5, details=(score,), backbone=None),
        study_record("deep", "seams", 0.75, repeat=2, level=1, details=(seam,)),
        study_record("deep", "accuracy", 1.0, repeat=1, details=tuple(classes), level="all"),
        replace(base, metric="pyramid", reference=None, num_reference=None, details=(level, {"batch": 4})),
        replace(base, samples={**base.samples, "path": "bad\udcff"}, warnings=("few clips", "old network")),
    ]


def test_a_row_per_figure():
    frame = to_frame(records())
    assert tuple(frame.columns[: len(COLUMNS)]) == COLUMNS
    values = [None if pandas.isna(value) else value for value in frame["value"]]
    figures = list(zip(frame["metric"], frame["figure"], values, strict=True))
    assert figures == [
        ("fvd", "fvd", 12.5),
        ("is", "is", 6.5),
        ("seams", "seams", 0.75),
        ("seams", "excess", 0.5),
        ("accuracy", "accuracy", 1.0),
        ("accuracy", "accuracy", 1.0),
        ("accuracy", "accuracy", None),
        ("accuracy", "accuracy", 0.5),
        ("pyramid", "pyramid", 66.25),
        ("pyramid", "psnr", 30.25),
        ("pyramid", "bias", 1.5),
        ("pyramid", "error/signal 0-1/8", None),
        ("fvd", "fvd", 66.25),
    ]
    first = frame.iloc[0]
    assert (first.ci95_low, first.ci95_high, first.seed, first.higher_is_better) == (10.0, 15.25, 2**63 + 1, False)
    assert first.backbone == "shapes3d" and first.protocol == "hpdm-16f" and first.samples == "a/generated"
    score = frame[frame.metric == "is"].iloc[0]
    assert (score["detail.std"], score["detail.n"]) == (1.25, 96) and pandas.isna(score.backbone)
    seam = frame[frame.figure == "excess"].iloc[0]
    assert (seam["detail.axis"], seam["detail.period"], seam.p_value, seam.ci95_low) == ("w", 8, 0.125, 0.25)
    assert pandas.isna(seam.unit) and seam.variant == "deep" and seam["repeat"] == 2
    psnr, bias = (frame[frame.figure == name].iloc[0] for name in ("psnr", "bias"))
    assert psnr.ci95_low == 29.0 and pandas.isna(psnr.ci95_high) and pandas.isna(bias.ci95_low)
    assert psnr["detail.level"] == 1 and pandas.isna(psnr.num_reference)
    assert frame.iloc[-1].warnings == "few clips; old network" and frame.iloc[-1].samples == "bad\\udcff"
    assert list(frame["level"].dropna().unique()) == ["1", '"all"']  # of two types: JSON
    names = [f"{index}.json" for index in range(6)]
    assert to_frame(records(), names)["record"].drop_duplicates().tolist() == names


def test_no_records_make_an_empty_table_with_all_columns(tmp_path):
    frame = to_frame([])
    assert len(frame) == 0 and tuple(frame.columns) == COLUMNS
    save_table([], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
def test_tables_as_files(tmp_path, suffix):
    paths = [tmp_path / place / f"records.{suffix}" for place in ("a", "b")]
    for path in paths:
        save_table(records(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    frame = to_frame(records())
    if suffix == "parquet":
        again = pandas.read_parquet(paths[0])
        pandas.testing.assert_frame_equal(again, frame)
    elif suffix == "csv":
        again = pandas.read_csv(paths[0])
        assert again["value"].tolist()[0] == 12.5
        assert again["unit"].dropna().tolist() == ["'=videos/s"]  # no spreadsheet takes it for a formula
        assert again["detail.class"].dropna().tolist() == ["'=disc", "ring", "bar"]
    else:
        rows = json.loads(paths[0].read_text()) if suffix == "json" else None
        rows = rows or [json.loads(line) for line in paths[0].read_text().splitlines()]
        assert rows[0]["unit"] == "=videos/s" and rows[0]["value"] == 12.5 and rows[0]["num_reference"] == 20
        again = pandas.DataFrame(rows)
    assert list(again.columns) == list(frame.columns) and len(again) == len(frame)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match="one of .csv, .parquet"):
        save_table(records(), tmp_path / "a.xlsx")


def test_values_are_not_rounded():
    frame = to_frame([replace(base_record(), value=value) for value in (1 / 3, 1e-300, 12345678901234.567)])
    for suffix in (".csv", ".jsonl"):
        text = table_bytes(frame, suffix).decode()
        assert all(repr(value) in text for value in frame["value"])


def test_report_writes_the_table(tmp_path):
    folder = save_records(tmp_path / "records", [study_record(repeat=n, level=2) for n in range(3)])
    result = CliRunner().invoke(main, ["report", "--records", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    table = pandas.read_parquet(tmp_path / "out" / "records.parquet")
    assert table["record"].tolist() == ["000.json", "001.json", "002.json"] and table["repeat"].tolist() == [0, 1, 2]
    assert pandas.read_csv(tmp_path / "out" / "records.csv")["record"].tolist() == table["record"].tolist()


def test_all_committed_records_have_their_figures():
    items = collect_records([ROOT / "reports"])
    frame = to_frame([item.record for item in items], [item.name for item in items])
    headlines = frame.drop_duplicates("record")
    assert headlines["record"].tolist() == [item.name for item in items]
    assert headlines["value"].tolist() == [item.record.value for item in items]
    seams = [entry for item in items for entry in item.record.details if "excess" in entry]
    assert (frame["figure"] == "excess").sum() == len(seams) > 1000


def test_a_report_without_pyarrow_says_that_it_has_no_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr("hpdm_eval.report.write.find_spec", lambda name: None)
    folder = save_records(tmp_path / "records", [base_record()])
    result = CliRunner().invoke(main, ["report", "--records", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and "no records.parquet" in result.stderr
    assert (tmp_path / "out" / "records.csv").exists() and not (tmp_path / "out" / "records.parquet").exists()
