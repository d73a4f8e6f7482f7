"""`hpdm-eval report`: means and intervals, what may be claimed, marks, and the three languages of tables."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from baselines.published import load_published
from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.report.aggregate import aggregate, order
from hpdm_eval.report.collect import collect_records
from hpdm_eval.report.conditions import conditions, differences, question
from hpdm_eval.report.figures import bars, render
from hpdm_eval.report.layouts import expand, parse_layout
from hpdm_eval.report.markup import csv_text, escape_latex, latex, markdown
from hpdm_eval.report.model import format_number
from hpdm_eval.report.pictures import study_pictures
from hpdm_eval.report.published import published_table
from hpdm_eval.report.single import single_tables
from hpdm_eval.report.studies import Study, study_groups
from hpdm_eval.report.write import make_sections
from tests.support.example_records import some_record
from tests.support.report_records import base_record, found, save_records, study_record, study_records


def values(*numbers, **changes):
    return aggregate(
        found([study_record(value=value, repeat=repeat, **changes) for repeat, value in enumerate(numbers)])
    )


def study(records, number=0):
    (name, tier, machine), own = study_groups(found(records))[number]
    return Study(name, tier, machine, own)


def cells(table):
    return {row.heads[0]: dict(zip(table.columns, row.cells, strict=True)) for row in table.rows}


def test_interval_is_students():
    """Against the textbook's factor for three values: t = 4.3027 with two degrees of freedom."""
    figure = values(9.0, 10.0, 11.0)
    assert figure.value == 10 and figure.spread == 1 and figure.trainings == 3
    assert figure.interval == pytest.approx((10 - 4.3027 / 3**0.5, 10 + 4.3027 / 3**0.5), abs=1e-4)


def test_interval_keeps_within_what_the_metric_can_be():
    assert values(0.8, 0.9, 1.0, metric="accuracy").interval[1] == 1
    assert values(1.0, 9.0, 2.0).interval[0] == 0 and values(1.0, 9.0, 2.0, metric="kvd").interval[0] < 0


def test_interval_of_few_trainings():
    assert values(9.0, 11.0).interval is None and values(9.0, 11.0).spread == pytest.approx(2**0.5)
    assert values(9.0).interval is None and values(9.0).spread is None
    assert values(9.0, ci95=(8.0, 10.5)).interval == (8.0, 10.5)


def test_counted_figures_are_exact():
    figure = values(402412, 402412, 402412, metric="parameters")
    assert figure.exact and figure.interval == (402412, 402412)
    assert values(80.5, metric="memory", basis="computed").exact
    assert not values(80.5, metric="memory", basis="measured").exact


def test_no_order_where_intervals_overlap_or_lack():
    low, high = values(1.0, ci95=(0.5, 1.5)), values(3.0, ci95=(2.5, 3.5))
    touching = values(2.0, ci95=(1.5, 2.5))
    assert order(low, high) == -1 and order(high, low) == 1
    assert order(low, touching) is None and order(touching, high) is None and order(low, values(9.0)) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=6), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=6))
def test_order_is_antisymmetric_and_follows_the_means(first, second):
    a, b = values(*first), values(*second)
    known = order(a, b)
    assert order(b, a) == (None if known is None else -known)
    assert known is None or known == np.sign(a.value - b.value)


def test_table_of_a_study_and_the_orders_it_claims():
    main_table, orders, _, published = study(study_records()).tables()
    body, claims = cells(main_table), cells(orders)
    assert [row.heads[0] for row in main_table.rows] == [
        "deep fusion (default)",
        "shallow fusion",
        "no adaptive computation",
    ]
    assert main_table.columns[:3] == ("FVD level 0", "FVD level 1", "FVD level 2")
    assert re.fullmatch(r"4\d\d\.\d\d ± \d\.\d\d", body["shallow fusion"]["FVD level 2"].text)
    assert body["shallow fusion"]["parameters"].text == "402k"
    # 300 and 470 stand far above 280 and 380 with a spread of 2; 372 and 371 do not stand apart from 370
    assert claims["shallow fusion"]["FVD level 0"].text == claims["shallow fusion"]["FVD level 2"].text == "higher"
    assert claims["shallow fusion"]["FVD level 0"].interval == "as published"
    assert claims["shallow fusion"]["FVD level 1"].text == "open"
    assert claims["shallow fusion"]["FVD level 1"].interval == "published: higher"
    assert claims["no adaptive computation"]["parameters"].text == "equal"
    assert published.published and published.name == "published-table3"


def test_an_order_against_the_published_one_is_said():
    records = study_records(spread=0.1)
    records = [
        replace(record, value=record.value - 60)
        if record.extra["variant"] == "shallow" and record.extra.get("level") == 0
        else record
        for record in records
    ]
    claims = cells(study(records).tables()[1])
    cell = claims["shallow fusion"]["FVD level 0"]
    assert (cell.text, cell.interval) == ("lower", "published: the other way")


def test_differences_within_seeds_take_out_what_seeds_do_to_all():
    """Three seeds that move all figures by tens, and variants that differ by 2, 3 and 4: against scipy's paired t."""
    records = [
        study_record(variant=variant, repeat=repeat, value=value, level=2)
        for variant, values in (("deep", (300.0, 340.0, 310.0)), ("shallow", (302.0, 343.0, 314.0)))
        for repeat, value in enumerate(values)
    ]
    table = next(table for table in study(records).tables() if table.name.endswith("-differences"))
    (row,), (column,) = table.rows, table.columns
    low, high = stats.ttest_rel([302.0, 343.0, 314.0], [300.0, 340.0, 310.0]).confidence_interval(0.95)
    assert (row.heads, row.cells[0].text) == (("shallow fusion",), "+3.00")
    assert row.cells[0].interval == f"[+{low:.3f}, +{high:.2f}]"
    assert cells(study(records).tables()[1])["shallow fusion"][column].text == "open"
    few = [record for record in records if record.extra["repeat"] < 2]
    assert not [table for table in study(few).tables() if table.name.endswith("-differences")]


def test_clips_that_were_judged_again_for_every_seed_count_once():
    records = [study_record(variant="real", repeat=repeat, value=7.0, ci95=(5.0, 9.0), level=2) for repeat in range(3)]
    figure = study([*records, *study_records()]).figure("real", study(study_records()).columns[2])
    assert figure.trainings == 1 and figure.interval == (5.0, 9.0)


def test_every_table_says_where_it_is_from():
    for section in make_sections(found([*study_records(), replace(base_record(), git=None)])):
        for table in section.tables:
            if table.published:
                assert "Table 3 of Skorokhodov" in table.origin
            else:
                assert re.search(r"\d{4}-\d\d-\d\d", table.origin) and "Commit" in table.origin
                assert ("AMD EPYC" if "table3" in table.name else "cores") in table.origin


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"backbone": {"name": "i3d-kinetics400", "sha256": "9" * 64}}, "backbone i3d-kinetics400"),
        ({"num_samples": 2048}, "samples 2048"),
        (
            {"reference": {"path": "c", "sha256": "8" * 64, "clips": 20, "rejected": []}},
            "another set of reference clips",
        ),
    ],
)
def test_figures_made_otherwise_are_marked(changes, words):
    records = study_records()
    odd = next(
        index
        for index, record in enumerate(records)
        if record.extra["variant"] == "not-adaptive" and record.extra.get("level") == 2
    )
    records[odd] = replace(records[odd], **changes)
    table = study(records).tables()[0]
    marked = [
        (row, column)
        for row, own in cells(table).items()
        for column, cell in own.items()
        if any(words in table.notes[mark - 1] for mark in cell.marks)
    ]
    assert marked == [("no adaptive computation", "FVD level 2")]


def test_no_published_figure_is_in_a_table_of_ours():
    """Published values are nowhere but in the tables that say so."""
    printed = {f"{figure.value:.10g}" for figure in load_published("table3").figures}
    for section in make_sections(found([*study_records(), base_record()]), published=["table2"]):
        for table in section.tables:
            texts = {cell.text.split(" ")[0] for row in table.rows for cell in row.cells}
            assert table.published or not texts & printed
            assert all((cell.figure is None) or not table.published for row in table.rows for cell in row.cells)


def test_different_questions_have_tables_of_their_own():
    record = base_record()
    i3d = replace(record, backbone={"name": "i3d-kinetics400", "sha256": "3" * 64})
    other = replace(record, protocol={**record.protocol, "frames": 64})
    again = replace(record, samples={**record.samples, "path": "b/generated", "sha256": "5" * 64})
    tables = [table for _, table in single_tables(found([record, i3d, other, again]))]
    assert sorted(len(table.rows) for table in tables) == [1, 1, 2]
    largest = max(tables, key=lambda table: len(table.rows))
    assert [row.heads[0] for row in largest.rows] == ["a/generated", "b/generated"]
    assert len({table.name for table in tables}) == 3
    sections = make_sections(found([i3d]))
    assert sections[-1].tables[0].name == "published-table6" and "shown apart" in sections[-1].text


def test_numbers_of_samples_are_pointed_out():
    record = base_record()
    records = [record, replace(record, num_samples=2048, samples={**record.samples, "path": "more"})]
    ((_, table),) = single_tables(found(records))
    note = next(number for number, text in enumerate(table.notes, 1) if "number of samples" in text)
    assert all(note in row.cells[0].marks for row in table.rows)


def test_machines_that_disagree_have_tables_of_their_own():
    cpu = [study_record("deep", "throughput", 4.0), study_record("deep", "parameters", 100)]
    gpu = [replace(cpu[0], value=90.0, hardware="NVIDIA H200, 139 GiB")]
    groups = study_groups(found(cpu + gpu))
    assert [key[2] for key, _ in groups] == ["AMD EPYC", "NVIDIA H200"]
    assert [sorted(item.record.value for item in own) for _, own in groups] == [[4.0, 100], [90.0, 100]]


def test_the_newer_of_two_records_counts_and_the_older_is_named():
    old = study_record("deep", "throughput", 4.0)
    new = replace(old, value=5.0, created="2026-04-01T10:00:00Z")
    table = study([new, old]).tables()[0]
    assert cells(table)["deep fusion (default)"]["videos/s"].text == "5.00"
    assert "001.json is passed over for the newer 000.json." in table.remarks


def test_columns_for_every_step_and_count():
    layout = parse_layout(
        "mine",
        "title: t\nrows: {a: A}\ncolumns:\n"
        "  - {metric: fvd, each: [step, num_samples], heading: 'step {step}, {num_samples}'}\n",
    )
    records = [study_record("a", step=step, num_samples=count) for step in (10, 9) for count in (256, 64)]
    columns = expand(layout.columns, found(records))
    assert [column.heading for column in columns] == ["step 9, 64", "step 9, 256", "step 10, 64", "step 10, 256"]
    assert all(sum(column.takes(item) for item in found(records)) == 1 for column in columns)


def test_what_differs_within_a_variant_is_a_column_of_its_own():
    layout = parse_layout("mine", "title: t\nrows: {a: A}\ncolumns:\n  - {metric: fvd, heading: FVD}\n")
    records = [study_record("a", num_samples=count) for count in (256, 64)]
    assert [column.heading for column in expand(layout.columns, found(records))] == [
        "FVD, num samples 64",
        "FVD, num samples 256",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("title: t\nrows: {}\ncolumns: []\ncolour: red", "unknown key 'colour'"),
        ("title: t\nrows: {}\ncolumns: [{metric: fvd, heading: a, lvl: 1}]", "unknown key 'lvl'"),
        ("title: t\nrows: {}\ncolumns: [{metric: fvd}]", "heading is missing"),
        ("title: t\ncolumns: []", "rows is missing"),
        ("title: t\nrows: {}\ncolumns: [{metric: fvd, heading: a, each: [colour]}]", "'colour' is none of"),
    ],
)
def test_wrong_layouts(text, message):
    with pytest.raises(InputError, match=message):
        parse_layout("mine", text)


@pytest.mark.parametrize("value, text", [(177_867_056, "178M"), (402_412, "402k"), (999, "999"), (1.47e14, "147T")])
def test_counts_are_written_with_a_prefix(value, text):
    assert format_number(value, "parameters") == text


def nasty_table():
    samples = {"path": r"a_b/50%_{x}&y#$~^\z" + "-long" * 30, "sha256": "0" * 64, "clips": 12, "rejected": []}
    record = replace(base_record(), samples=samples, warnings=("<script>alert(1)</script> | a*b_c",))
    return single_tables(found([record]))[0][1]


def test_latex_is_escaped_and_breakable():
    text = latex(nasty_table())
    body = re.sub(r"\\[\\{}$&#%_]", "", text)  # what is escaped
    assert body.count("{") == body.count("}")
    assert text.count("\\begin{") == text.count("\\end{") == 3
    assert not re.search(r"(?<!\\)(#|%(?!\n))", text.split("\n", 1)[1])
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "&" in line]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) == 1
    for word in re.split(r"\\allowbreak\{\}|[ {}]", escape_latex("0123456789abcdef" * 8)):
        assert len(word) <= 20
    assert r"\toprule" in text and r"\bottomrule" in text and "<" not in text


def test_latex_compiles_within_the_line(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex: Debian's packages texlive-latex-base and texlive-latex-recommended")
    tables = [nasty_table(), *study(study_records()).tables(), published_table(load_published("table1"))]
    document = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    document += "\n\\clearpage\n".join(map(latex, tables)) + r"\end{document}"
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert done.returncode == 0 and "Output written on tables.pdf (6 pages" in done.stdout, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "multiply defined" not in done.stdout


def test_markdown_has_one_cell_per_column():
    text = markdown(nasty_table())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script>" not in text


def test_csv_keeps_the_unrounded_figures():
    table = study(study_records()).tables()[0]
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert len(rows) == len(table.rows) * len(table.columns)
    row = next(row for row in rows if row["row"] == "shallow fusion" and row["column"] == "FVD level 2")
    figure = cells(table)["shallow fusion"]["FVD level 2"].figure
    assert float(row["value"]) == figure.value and float(row["low"]) == figure.interval[0] and row["trainings"] == "3"


def report(*words):
    return CliRunner().invoke(main, ["report", *map(str, words)])


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_records_give_equal_bytes(tmp_path):
    records = [*study_records(), base_record()]
    for place in ("a", "b"):
        save_records(tmp_path / place / "records", records)
        result = report("--records", tmp_path / place / "records", "--out", tmp_path / place / "out", "--quiet")
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(tmp_path / place / "out" / "index.html")
    first, second = files(tmp_path / "a/out"), files(tmp_path / "b/out")
    assert first == second
    names = set(first)
    assert {
        "index.html",
        "report.md",
        "tables/table3-cpu.tex",
        "tables/table3-cpu.csv",
        "tables/published-table3.md",
        "figures/table3-cpu-bars.svg",
        "figures/table3-cpu-bars.pdf",
        "figures/table3-cpu-seams.svg",
        "figures/table3-cpu-phases.svg",
        "tables/fvd-shapes3d-hpdm-16f.md",
    } <= names
    assert str(tmp_path).encode() not in b"".join(first.values())


def test_records_are_found_below_and_other_json_is_passed_over(tmp_path):
    save_records(tmp_path / "deep" / "er", [base_record()])
    (tmp_path / "samples.json").write_text('{"schema": 1, "samples": []}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    assert [item.name for item in collect_records([tmp_path])] == ["deep/er/000.json"]
    assert len(collect_records([tmp_path, tmp_path / "deep"])) == 1


def test_what_the_command_refuses(tmp_path):
    folder = save_records(tmp_path / "records", [base_record()])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for words, message in (
        (["--records", tmp_path / "mine", "--out", tmp_path / "o"], "no record in"),
        (["--records", tmp_path / "none", "--out", tmp_path / "o"], "no such folder"),
        (["--records", folder, "--out", tmp_path / "mine"], "no report made"),
        (["--records", folder, "--out", tmp_path / "o", "--videos", "nano"], "NAME=DIR"),
        (["--records", folder, "--out", tmp_path / "o", "--videos", f"a={tmp_path}/none"], "does not exist"),
        (["--records", folder, "--out", tmp_path / "o", "--published", "table99"], "no published table"),
    ):
        result = report(*words)
        assert result.exit_code == 2 and message in result.stderr, result.output
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious" and not (tmp_path / "o").exists()
    assert report("--records", folder, "--out", tmp_path / "out").exit_code == 0
    save_records(tmp_path / "out" / "records", [base_record()])
    result = report("--records", tmp_path / "out" / "records", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "would replace" in result.stderr


def test_settings_of_a_metric_are_part_of_its_question():
    """Scores of other numbers of splits are two tables; a record of before settings were kept joins either."""
    ten, five, bare = (
        some_record(metric="is", extra=extra)
        for extra in ({"settings": {"splits": 10}}, {"settings": {"splits": 5}}, {})
    )
    assert question(ten) != question(five)
    assert question(some_record()) == question(some_record(extra={"settings": {"at": [64], "interval_over": "both"}}))
    slow, fast = (
        some_record(backbone={"name": "shapes3d", "sha256": "2" * 64, "precision": precision})
        for precision in ("fp32", "bf16")
    )
    assert question(slow) != question(fast)
    first, second, third = (conditions(found([record])[0]) for record in (ten, five, bare))
    assert differences(second, first) == "splits 5 where others have 10" and differences(third, first) == ""


def test_levels_are_those_of_the_records():
    """A size of four levels has its own columns; the finest level of studies that judge no other has no number."""
    records = [
        study_record(variant, "fvd", value=10.0 + level, repeat=0, level=level)
        for variant in ("deep", "shallow")
        for level in range(4)
    ]
    columns = Study("table3", "cpu", None, found(records)).columns
    assert [column.heading for column in columns] == [f"FVD level {level}" for level in range(4)]
    records = [study_record(name, "fvd", study="levels", level=3) for name in ("2", "3")]
    assert [column.heading for column in Study("levels", "cpu", None, found(records)).columns] == ["FVD finest level"]


def test_targets_of_the_efficiency_study_are_those_of_the_records(tmp_path):
    counted = {
        "study": "efficiency",
        "backbone": None,
        "reference": None,
        "num_reference": None,
        "num_samples": 0,
        "basis": "computed",
    }
    records = [
        study_record("full", metric, 5.0, target=target, **counted)
        for metric in ("memory", "flops")
        for target in ("128x64x64", "16x32x32")
    ]
    study = Study("efficiency", "cpu", None, found(records))
    headings = [column.heading for column in study.columns]
    assert headings[:2] == ["GiB at 16x32x32, counted", "GiB at 128x64x64, counted"]
    assert len(study.columns) == 4 and study.left_out == []


def test_records_without_a_place_are_named(tmp_path):
    records = [study_record("deep", "fvd", level=0), study_record("deep", "new-metric")]
    save_records(tmp_path / "some", records)
    result = CliRunner().invoke(main, ["report", "--records", str(tmp_path / "some"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and result.stderr.count("has no place in its study's table") == 1
    save_records(tmp_path / "none", records[1:])
    result = CliRunner().invoke(main, ["report", "--records", str(tmp_path / "none"), "--out", str(tmp_path / "empty")])
    assert result.exit_code == 2 and "none of the 1 records" in result.stderr and not (tmp_path / "empty").exists()


def test_budgets_are_counted_and_claim_no_order():
    records = [
        study_record(variant, "compute", value, repeat, study="baselines")
        for variant, value in (("hpdm", 13.03), ("cascade", 13.09))
        for repeat in range(3)
    ]
    study = Study("baselines", "cpu", None, found(records))
    (figure,) = [study.figure("hpdm", column) for column in study.columns]
    assert figure.exact and not study._orders()[0].columns


def test_a_users_matplotlibrc_does_not_change_the_bytes():
    def draw():
        return bars(["a", "b"], [("FVD", [("a", 1.0, (0.5, 1.5)), ("b", 2.0, None)])])

    usual = render(draw)
    with matplotlib.rc_context({"axes.edgecolor": "red", "xtick.direction": "in", "figure.dpi": 30}):
        assert render(draw) == usual
        assert matplotlib.rcParams["axes.edgecolor"] == "red"


def test_seams_of_several_trainings_say_which_are_drawn():
    study = Study("table3", "cpu", None, found(study_records()))
    (picture,) = [picture for picture in study_pictures(study) if picture.name.endswith("-seams")]
    assert picture.caption.endswith("Of several trainings the first.")
