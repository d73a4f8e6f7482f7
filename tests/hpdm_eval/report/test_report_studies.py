"""What tables and figures of studies say: for other numbers of levels, of pairs within seeds, of single trainings."""

import pytest

from hpdm_eval.report.markup import latex, markdown
from hpdm_eval.report.pictures import study_pictures
from hpdm_eval.report.studies import Study
from tests.support.report_records import found, study_record, study_records


def cells(table):
    return {row.heads[0]: dict(zip(table.columns, row.cells, strict=True)) for row in table.rows}


def table_of(study, ending):
    return next(table for table in study.tables() if table.name.endswith(ending))


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_published_orders_are_of_pyramids_of_as_many_levels(levels):
    """Level 1 is the finest of two levels, which the paper's level 1 of three is not."""
    records = [
        study_record(variant, value=value + repeat, repeat=repeat, level=level)
        for variant, value in (("deep", 100.0), ("shallow", 200.0))
        for repeat in range(3)
        for level in range(levels)
    ]
    orders = table_of(Study("table3", "cpu", None, found(records)), "-orders")
    own = cells(orders)["shallow fusion"]
    assert [cell.text for cell in own.values()] == ["higher"] * levels
    assert {cell.interval for cell in own.values()} == {"as published" if levels == 3 else None}
    assert any("Table 3 of the paper" in text for text in orders.remarks) == (levels == 3)


def test_records_without_a_level_have_no_published_order():
    records = [study_record(variant, value=value) for variant, value in (("deep", 100.0), ("shallow", 200.0))]
    (cell,) = table_of(Study("table3", "cpu", None, found(records)), "-orders").rows[0].cells
    assert (cell.text, cell.interval) == ("open", None)


def test_a_table_that_publishes_no_such_order_is_not_said_to():
    records = [
        study_record(variant, value=value + repeat, repeat=repeat, study="table6", num_samples=count)
        for variant, value in (("short", 100.0), ("whole", 200.0))
        for repeat in range(3)
        for count in (64, 256)
    ]
    study = Study("table6", "cpu", None, found(records))
    assert not any("of the paper" in text for text in table_of(study, "-orders").remarks)
    assert study.tables()[-1].name == "published-table6"


def test_notes_name_no_level_that_another_size_lacks():
    for name in ("table3", "shrinking", "input-scale", "self-conditioning"):
        notes = " ".join(Study(name, "cpu", None, found([study_record(study=name, level=0)])).layout.notes)
        assert "level 2" not in notes and "Levels 0 and 1" not in notes, name


@pytest.mark.parametrize("name, words", [("table6", "HPDM-L"), ("figure8", "Fewer samples give higher values")])
def test_the_published_counterpart_is_a_table_of_its_own(name, words):
    records = [
        study_record("whole" if name == "table6" else "deep", study=name, step=500, num_samples=count)
        for count in (64, 256)
    ]
    ours, *_, published = Study(name, "cpu", None, found(records)).tables()
    assert published.published and not ours.published
    for write in (markdown, latex):
        assert words in write(published) and words not in write(ours)
        assert "backbone" in write(published)


def test_what_rows_of_one_seed_share():
    table = table_of(Study("table3", "cpu", None, found(study_records())), "-differences")
    (text,) = (remark for remark in table.remarks if "Rows of one seed" in remark)
    assert "same clips in the same order" in text and "where their patches are alike" in text and "weights" not in text


def test_seams_of_a_study_are_of_its_first_training_and_say_so():
    records = [
        study_record(
            "deep",
            "seams",
            0.1,
            repeat,
            num_samples=12,
            details=({"axis": "w", "period": 8, "statistic": "step", "excess": float(repeat), "ci95": [0.0, 20.0]},),
        )
        for repeat in (10, 9)
    ]  # the file of 10 comes first
    (picture,) = study_pictures(Study("table3", "cpu", None, found(records)))
    assert "95 % intervals over clips" in picture.caption and "single trainings" in picture.caption
    (panel,) = [axes for axes in picture.draw().axes if axes.get_title()]
    assert [list(line.get_xdata()) for line in panel.lines if line.get_marker() == "o"] == [[9.0]]
    (alone,) = study_pictures(Study("table3", "cpu", None, found(records[:1])))
    assert "single trainings" not in alone.caption
