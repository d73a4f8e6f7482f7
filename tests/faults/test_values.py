"""Values that nobody expects: in --set, configurations, protocols, numbers on the command line; names in reports."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from click.testing import CliRunner

from hpdm.commands.entry import sample, train
from hpdm.config import config_from_dict, load_config, override_config
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json, read_json, write_json
from hpdm.support.yaml_text import parse_yaml
from hpdm_eval.commands.entry import main
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import load_record, parse_record, save_record
from hpdm_eval.report.markup import csv_text, latex, markdown
from hpdm_eval.report.model import Cell, Row, Table
from tests.support.example_records import some_record
from tests.support.small_training import SMALL, small_config

LAUGHS = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefghij", "bcdefghijk")
)


@pytest.mark.parametrize(
    "text, message",
    [
        (LAUGHS, "references make more than"),
        ("a: &x [*x]", "refers to itself"),
        ("[" * 100_000, "nested more than 50"),
        ("- " * 100_000, "nested more than 50"),
        ("[" * 60 + "]" * 60, "nested more than 50"),
        ("a: " + "9" * 5000, "whole number of 5000 digits"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: [", "not valid YAML"),
        ("{[1]: 2}", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("? {a: 1}\n: b", "not valid YAML"),
        ("a: !!int x", "not valid YAML"),
        ("<<: 3", "not valid YAML"),
    ],
)
def test_hostile_yaml_is_one_message(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_yaml(text, "it")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_dates_are_text_and_shared_parts_are_fine():
    assert parse_yaml("a: 2024-01-01\nb: 2024-13-45", "it") == {"a": "2024-01-01", "b": "2024-13-45"}
    assert parse_yaml("a: &x {c: 1}\nb: *x", "it") == {"a": {"c": 1}, "b": {"c": 1}}
    assert parse_yaml("", "it") is None


HOSTILE = [
    "training.lr=.nan",
    "training.lr=.inf",
    "training.lr=-.inf",
    "training.lr=1e999",
    "training.lr=2024-01-01",
    "training.betas=[.nan, 0.9]",
    f"training.steps={'9' * 400}",
    "pyramid.levels=1000000",
    "training.lr={}",
    "network.compute_layers=99999999",
    f"training.lr={'[' * 3000}",
    "network.token_width=99999999999",
    "training=3",
    "training.lr",
    "data.fps=.nan",
    "sampling.steps=[&a [*a]]",
    f"training.seed={'9' * 20}",
    "diffusion.rho=.nan",
    f"network.token_width={'x' * 5000}",
    "network.measures=[[fps]]",
    "method=[]",
    "method.name={}",
    "training.optimizer=[lamb]",
    "network.levels_per_block=[[1]]",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_settings_are_one_message_and_dry_run_finds_them(text):
    with pytest.raises(InputError) as error:
        override_config(small_config(), [text])
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    result = CliRunner().invoke(train, ["--size", "nano", "--dry-run", "--set", text])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_a_network_that_no_memory_holds_is_a_message():
    result = CliRunner().invoke(
        train,
        [
            "--size",
            "nano",
            "--dry-run",
            "--set",
            "network.token_width=9999936",
            "--set",
            "network.latent_width=9999936",
        ],
    )
    assert result.exit_code in (0, 2) and "Traceback" not in result.stderr


def test_files_of_settings_too(tmp_path):
    path = tmp_path / "size.yaml"
    for content in (b"\xff\xfe", b"", b"- 1", LAUGHS.encode(), b"training: 3", b"pyramid: {levels: .nan}", b"1: 2"):
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_config(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="finite"):
        config_from_dict({**SMALL, "training": {**SMALL["training"], "lr": float("nan")}})


@pytest.mark.parametrize(
    "line",
    [
        "frames: .nan",
        "frames: 1e400",
        f"frames: {'9' * 400}",
        "fps: .inf",
        "fps: 2024-01-01",
        "resolution: [.nan, 2]",
        "resolution: [99999999999, 1]",
        "start: []",
        "start: {a: 1}",
        f"frames: {'[' * 3000}",
        "overrides: 3",
        "legacy: [1]",
        "extends: [a]",
        "backbone: 3",
        "stride: true",
        "split: 2024-01-01",
        "name: {}",
    ],
)
def test_hostile_protocols_are_one_message(tmp_path, line):
    path = tmp_path / "own.yaml"
    path.write_text(line + "\n")
    with pytest.raises(InputError) as error:
        load_protocol(path).hash()
    assert "\n" not in str(error.value) and len(str(error.value)) < 800


@pytest.mark.parametrize(
    "words",
    [
        ["--num", "9" * 30],
        ["--num", "1", "--fps", "nan"],
        ["--num", "1", "--rho", "inf"],
        ["--num", "1", "--guidance", "nan"],
        ["--num", "1", "--seed", "9" * 30],
    ],
)
def test_hostile_numbers_on_the_command_line(tmp_path, words):
    result = CliRunner().invoke(sample, ["--checkpoint", "nano", "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2 and "Traceback" not in result.stderr and not (tmp_path / "out").exists()


def test_the_largest_seed_and_an_unlimited_noise_level_are_fine():
    from hpdm.support.console import Command

    seen = []
    import click

    command = click.command(cls=Command)(
        click.option("--s-max", type=float)(click.option("--seed", type=int)(lambda **values: seen.append(values)))
    )
    assert CliRunner().invoke(command, ["--s-max", "inf", "--seed", str(2**63 - 1)]).exit_code == 0 and seen


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_json_of_any_kind_is_one_message(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError):
        parse_json(content)
    with pytest.raises(InputError):
        load_record(tmp_path / "a.json")


# Reports


@pytest.mark.parametrize(
    "change",
    [
        {"value": "1"},
        {"value": 10**400},
        {"value": float("nan")},
        {"ci95": ["a", "b"]},
        {"ci95": [1]},
        {"details": [{"figure": "x", "value": "=1+1"}]},
        {"details": [{"figure": ["x"], "value": 1}]},
        {"details": [{"figure": "x", "value": 1, "ci95": ["a", "b"]}]},
        {"details": [3]},
        {"samples": {"path": 3}},
        {"backbone": {"name": ["x"], "sha256": "y"}},
        {"num_samples": 1.5},
        {"protocol": {"name": 3}},
        {"metric": ["fvd"]},
    ],
)
def test_records_whose_figures_are_no_figures_are_refused(change):
    with pytest.raises(InputError) as error:
        parse_record({**some_record().to_dict(), **change}, "record.json")
    assert "record.json" in str(error.value) and "\n" not in str(error.value)


HOSTILE_NAMES = [
    "=1+2",
    "@SUM(A1)",
    "-1+2",
    "+1",
    "|calc",
    "\tx",
    " =1",
    "$x_$ \\input{a} 100% & #1 ~^{}",
    "a|b\nc",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "Größe ß é",
    "日本語 мир ∑ 🎬",
    "&lt;b&gt;",
    "{0.__class__}",
    "%n",
    "''",
    '"quoted"',
    "`code`",
    "../../up",
    "A" * 300,
    "\u202eevil",
    "$\\frac",
]


def table_of(name):
    return Table(
        name="t",
        title=name,
        heads=(name,),
        columns=(name, "other"),
        notes=(name,),
        remarks=(name,),
        origin=name,
        rows=(Row(heads=(name,), cells=(Cell(text="1.00", marks=(1,)), Cell(text="-2.50"))),),
    )


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_spreadsheet_executes_nothing_and_figures_stay_figures(name):
    rows = list(csv.reader(io.StringIO(csv_text(table_of(name)))))
    for row in rows[1:]:
        for cell in row:
            assert not cell.lstrip().startswith(("=", "+", "@", "|")) and cell[:1] not in ("\t", "\r")
            assert not cell.startswith("-") or float(cell) == -2.5
    assert [row[3] for row in rows[1:]] == ["1.00", "-2.50"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_markdown_has_no_markup_of_others(name):
    text = markdown(table_of(name))
    assert "<script" not in text.replace("\\<", "") and not re.search(r"(?<!\\)\]\(", text) and "\n\nc" not in text


ALLOWED_COMMANDS = {
    "begin",
    "end",
    "centering",
    "caption",
    "label",
    "small",
    "toprule",
    "midrule",
    "bottomrule",
    "par",
    "smallskip",
    "footnotesize",
    "raggedright",
    "linewidth",
    "textbackslash",
    "textasciitilde",
    "textasciicircum",
    "textless",
    "textgreater",
    "textbar",
    "textasciigrave",
    "ldots",
    "pm",
    "times",
    "allowbreak",
    "resizebox",
    "shortstack",
    "scriptsize",
    "usepackage",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_latex_has_no_commands_of_others(name):
    """Everything that TeX would interpret is ours: balanced braces, known commands, letters that fonts have."""
    text = "\n".join(line for line in latex(table_of(name)).split("\n") if not line.startswith("%"))
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= ALLOWED_COMMANDS
    bare = re.sub(r"\\[\\{}$&#%_]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0 and not set(bare) & set("#~")
    assert all(ord(c) < 0x180 or c in "–—‘’“”•…€™" for c in text)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex; what TeX would see is checked without")
def test_tables_compile(tmp_path):
    body = "\n".join(latex(table_of(name)) for name in HOSTILE_NAMES)
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\usepackage[T1]{fontenc}"
        f"\\begin{{document}}\n{body}\\end{{document}}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_report_of_hostile_names(tmp_path):
    """Pages, tables and figures, through the command; no file leaves the folder."""
    records = tmp_path / "records"
    for number, name in enumerate(HOSTILE_NAMES[:17]):
        record = some_record(samples={"path": f"/x/{name}", "sha256": f"{number:064d}", "clips": 3, "rejected": []})
        extra = {"study": name, "tier": "smoke", "variant": name, "repeat": 0, "machine": None}
        write_json(records / f"{number}.json", record.to_dict())
        write_json(records / f"s{number}.json", {**record.to_dict(), **extra, "metric": name.strip() or "x"})
    before = set(tmp_path.rglob("*"))
    result = CliRunner().invoke(main, ["report", "--records", str(records), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output + str(result.exception)
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_records_are_saved_and_found_under_any_name(tmp_path):
    for name in HOSTILE_NAMES:
        record = replace(some_record(), samples={"path": name, "sha256": "0", "clips": 3, "rejected": []})
        path = save_record(record, tmp_path)
        assert path.parent == tmp_path and load_record(path).samples["path"] == name
