"""Pages whose figures are looked up: lookups give what records hold, and no committed figure is typed by hand."""

import json
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.records.archive import layout, write_archive
from hpdm_eval.report.collect import collect_records
from hpdm_eval.report.numbers import FILTERS, Pages, render_pages
from tests.support.paths import ROOT
from tests.support.report_records import base_record, study_record

REPORTS = ROOT / "reports"
# Digits that are names, settings, labels or what others published, in the prose of templates: no figure of ours.
NAMES = (
    r"UCF-101|H200|I3D|fp16|bf16|FVD@N|table \d+|shapes3d",
    r"level \d|start at \d|seeds?,? (\d, )*\d and \d|\d+ %(?= interval| overlap)",
    r"\d+x\d+x\d+|1,000( training)? steps|1,000|steps of 16|16 procedural|144 samples|levels\.\d",
    r"nano-T2V|T2V",
)


@pytest.fixture
def folder(tmp_path):
    records = [study_record(value=value, repeat=n, level=2) for n, value in enumerate((100.0, 110.0, 120.0))]
    records += [study_record("shallow", value=value, repeat=n, level=2) for n, value in enumerate((90.0, 102.0, 110.0))]
    records += [study_record("shallow", value=5.0, level=1, ci95=(4.0, 6.25))]
    write_archive(tmp_path / "a.jsonl", {f"{n}.json": layout(own.to_dict()) for n, own in enumerate(records)})
    loose = [base_record(), replace(base_record(), seed=8)]
    write_archive(tmp_path / "b.jsonl", {f"{n}.json": layout(own.to_dict()) for n, own in enumerate(loose)})
    lines = [{"item": "x", "value": 2.5, "settings": {"precision": precision}} for precision in ("fp16", "bf16")]
    (tmp_path / "gpu.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "timed.json").write_text('{"seconds": [1.5, 3]}')
    (tmp_path / "page.md").write_text(
        "| D | covers |\n|---|---:|\n| a | 94 % |\n| b | - |\n| ab | 1,100.5 [1, 2] |\n\n| other |\n|---|\n| x |\n"
    )
    return tmp_path


def rendered(folder, text):
    (folder / "P.md.jinja").write_text(text)
    return Pages(folder).render(folder / "P.md.jinja")


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{{ figure("a.jsonl", variant="deep", level=2) | ci }}', "110 [85, 135]"),
        ('{{ figure("a.jsonl", variant="shallow", level=1) | ci(2) }}', "5.00 [4.00, 6.25]"),
        ('{% set a, b = figure("a.jsonl", level=2, variant=["deep", "shallow"]) %}{{ difference(b, a) | ci(1) }}',
         "-9.3 [-12.2, -6.5]"),
        ('{{ figure("a.jsonl", level=2, variant=["deep", "shallow"]) | over(50) | span(2) }}', "2.01 to 2.20"),
        ('{{ [0.69, 0.5] | below | span }} {{ [1.31] | above | span }} {{ 0.734 | percent(1) }}', "31 to 50 31 73.4"),
        ('{{ result("gpu.jsonl", precision="fp16").value | fixed(1) }} {{ 12345.6 | fixed }}', "2.5 12,346"),
        ('{{ json("timed.json").seconds | max | signed }}', "+3"),
        ('{{ figure("b.jsonl", samples="generated", seed=8) | fixed(2) }}', "66.25"),
        ('{{ cells("page.md", "covers") | span(1) }}', "94.0 to 1,100.5"),
        ('{{ cells("page.md", "covers", D="a") }}', "[94.0]"),
        ('{{ published("table1", metric="memory", variant="full", clip="64x256x256") }}', "65.3"),
        ("{% if false %}x{% endif %}&<>", "&<>"),
    ],
)  # fmt: skip
def test_lookups(folder, text, expected):
    assert rendered(folder, text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ('{{ figure("a.jsonl", variant="deep", level=0) | ci }}', "no record with variant=deep, level=0"),
        ('{{ figure("a.jsonl", variant="shallow") | ci }}', "differ in level: 1, 2"),
        ('{{ figure("b.jsonl", metric="fvd") }}', "several records with metric=fvd: 0.json, 1.json"),
        ('{{ figure("none.jsonl") }}', "no such file"),
        ('{{ json("../x.json") }}', "outside of"),
        ('{{ result("gpu.jsonl", item="x") }}', "there are 2, a template needs one"),
        ('{{ cells("page.md", "none") }}', "there are 0"),
        ('{{ cells("page.md", "covers", D="b") }}', "no figure"),
        ("{{ unknown }}", "unknown"),
        ("{% for %}", "line 1"),
        ('{{ [1] | over(0) }}', "division"),
        ('{{ "".__class__.__mro__ }}', "unsafe|undefined|sandbox"),
    ],
)  # fmt: skip
def test_what_a_template_may_not_ask_for(folder, text, message):
    with pytest.raises(InputError, match=rf"P.md.jinja.*({message})"):
        rendered(folder, text)


def test_the_command(folder):
    def call(*words):
        return CliRunner().invoke(main, ["records", "render", str(folder), *words])

    assert call().exit_code == 2  # no template
    (folder / "sub").mkdir()
    (folder / "sub" / "P.md.jinja").write_text('FVD {{ figure("a.jsonl", variant="deep") | fixed }}\n')
    assert call("--check").exit_code == 1 and not (folder / "sub" / "P.md").exists()
    assert call().exit_code == 0 and (folder / "sub" / "P.md").read_text() == "FVD 110\n"
    assert call("--check").exit_code == 0 and call().stdout == ""
    (folder / "sub" / "P.md").write_text("FVD 109\n")
    result = call("--check")
    assert result.exit_code == 1 and "differs from its template" in result.stdout


def test_a_report_inside_a_page_is_that_of_the_command(folder, tmp_path):
    page = rendered(folder, '# Results\n\n{{ lead("a.jsonl") }}\n\n{{ report("a.jsonl") }}\n')
    result = CliRunner().invoke(main, ["report", "--records", str(folder / "a.jsonl"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and page == (tmp_path / "out" / "report.md").read_text()


def test_committed_pages_are_those_of_their_templates():
    assert len(Pages(REPORTS).templates) >= 5 and REPORTS / "README.md.jinja" in Pages(REPORTS).templates
    assert render_pages(REPORTS, check=True) == []


def prose(text):
    """A template without what is looked up, comments, code, addresses, and headings of its tables of contents."""
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    return re.sub("|".join(NAMES), "", text)


def test_no_figure_of_the_first_page_is_typed_by_hand():
    text = (REPORTS / "README.md.jinja").read_text()
    assert re.findall(r"[^\n]{0,30}\d[^\n]{0,30}", prose(text)) == []
    assert text.count("{{") > 40 and set(re.findall(r"\| (\w+)", text)) & set(FILTERS)
    figures = re.findall(r"\d", (REPORTS / "README.md").read_text())
    assert len(figures) > 200


def test_no_interval_of_any_page_is_typed_by_hand():
    for template in Pages(REPORTS).templates:
        assert re.findall(r"[^\n]{0,20}\d \[-?\d[^\n]{0,20}", prose(template.read_text())) == [], template


def test_figures_that_are_looked_up_are_those_of_the_records():
    """An independent reading: the mean of the records' values, straight from the archive."""
    items = collect_records([REPORTS / "ablations" / "records.jsonl"])
    values = [
        item.record.value
        for item in items
        if (item.get("study"), item.get("variant"), item.record.metric, item.get("level"))
        == ("table3", "deep", "fvd", 2)
    ]
    assert len(values) == 3
    assert f"FVD {sum(values) / 3:.0f} [" in (REPORTS / "README.md").read_text()
