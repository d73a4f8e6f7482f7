"""Tables: labels, marks and alignment."""

from dataclasses import replace

import pytest

from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.report.tables import markdown_table, text_table
from tests.support.example_records import some_record


def plain_record(**changes):
    """A record that needs no note."""
    record = some_record()
    protocol = {**record.protocol, "overrides": [], "num_samples": 12, "num_reference": None}
    no_rejects = {"rejected": []}
    return replace(
        record,
        protocol=protocol,
        samples={**record.samples, **no_rejects},
        reference={**record.reference, **no_rejects},
        **changes,
    )


def test_labels_say_network_and_settings():
    record = plain_record()
    assert metric_label(record) == "fvd[shapes3d]"
    assert metric_label(replace(record, backbone={"name": "i3d-kinetics400", "sha256": "a"})) == "fvd[i3d-kinetics400]"
    assert metric_label(replace(record, metric="seams", backbone=None)) == "seams"
    assert protocol_label(record) == f"hpdm-16f@{record.protocol['hash']}"


@pytest.mark.parametrize(
    "value, text", [(66.318, "66.32"), (0, "0.00"), (0.012345, "0.0123"), (-3.2, "-3.20"), (1234.5, "1234.50")]
)
def test_values(value, text):
    assert format_value(value) == text


def test_plain_record_has_no_notes():
    lines = markdown_table([plain_record()]).splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:2] == ["fvd[shapes3d]", "66.25"] and cells[3:] == ["12", "20", "3"]
    assert len(text_table([plain_record()]).splitlines()) == 3


def test_markdown_has_one_cell_per_column_in_every_row():
    records = [plain_record(), some_record(), plain_record(ci95=(60.0, 70.5), num_reference=None)]
    table = markdown_table(records, names=["a", "b|c", "d"]).split("\n\n")[0].splitlines()
    assert {line.replace("\\|", "").count("|") for line in table} == {8}
    assert "66.25 [60.00, 70.50]" in table[4] and "| - |" in table[4]


def test_terminal_columns_line_up():
    lines = text_table([plain_record(), plain_record(value=1.5)], names=["first", "the second"]).splitlines()
    assert lines[2].index("66.25") + 5 == lines[3].index("1.50") + 4
    assert lines[0].index("protocol") == lines[2].index("hpdm-16f") == lines[3].index("hpdm-16f")


@pytest.mark.parametrize(
    "changes, column, note",
    [
        (
            {"backbone": {"name": "i3d-kinetics400", "sha256": "2" * 64, "verified": False, "trust": "first-use"}},
            0,
            "weights not verified (first-use), SHA-256 222222222222",
        ),
        ({"warnings": ("12 clips for 128 features",)}, 1, "12 clips for 128 features"),
    ],
)
def test_marks_point_to_notes(changes, column, note):
    for table in (markdown_table([plain_record(**changes)]), text_table([plain_record(**changes)])):
        assert table.count("[1]") == 2 and note in table.splitlines()[-1]
    cells = markdown_table([plain_record(**changes)]).splitlines()[2].strip("|").split("|")
    assert cells[column].strip().endswith("[1]")


def test_changed_settings_rejects_and_shortfalls_are_noted():
    record = some_record()
    table = markdown_table([record])
    assert "hpdm-16f with resolution=64x64" in table
    assert "1 of the samples rejected" in table and "1 of the reference rejected" in table
    assert "the protocol wants 10000" in table


def test_equal_notes_share_a_mark():
    table = text_table([plain_record(warnings=(text,)) for text in ("few", "few", "other")])
    assert table.count("[1]") == 3 and table.count("[2]") == 2 and "[3]" not in table
