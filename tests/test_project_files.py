"""The files about the project say what the project is: layers, moved modules, versions, the same lint everywhere."""

import configparser
import re
import tomllib
from importlib.util import find_spec

import yaml

from tests.support.paths import ROOT


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def settings():
    return tomllib.loads(text("pyproject.toml"))


def setup_lists():
    """Names of the distributions that setup.py asks for."""
    return set(re.findall(r'"([A-Za-z][\w.-]*)(?:>=|<)', text("setup.py")))


def pinned():
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    return {_normal(line.split("==")[0]): line.split("==")[1] for line in lines}


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_layers_are_drawn_as_they_are_checked():
    layers = {
        contract["containers"][0]: contract["layers"]
        for contract in settings()["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    }
    picture = text("CONTRIBUTING.md").split("## Layers")[1].split("```")[1].splitlines()[2:]
    left = [line[:43].strip() for line in picture]
    right = [line[43:].strip() for line in picture]
    for drawn, checked in ((left, layers["hpdm"]), (right, layers["hpdm_eval"])):
        names = [re.split(r" {2,}", line)[0] for line in drawn if line]
        assert names == checked


def test_modules_that_moved_are_where_the_table_says():
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", text("CHANGELOG.md"), re.MULTILINE)
    assert len(rows) > 50
    assert not {new for _, new in rows if find_spec(new) is None}


def test_every_dependency_has_a_tested_version():
    assert {"torch", "torchmetrics", "click"} <= setup_lists()
    tools = settings()["dependency-groups"]["lint"]
    assert not {_normal(name) for name in (*setup_lists(), *tools)} - pinned().keys()
    assert "+" not in pinned()["torch"], "a local version cannot be had everywhere"


def test_only_extras_bring_torchvision():
    """A plain install must not exchange the PyTorch of its environment, which each release of torchvision would."""
    plain = text("setup.py").split("install_requires=[")[1].split("]")[0]
    assert not re.search("torchvision|torch-fidelity|TORCH_FIDELITY|timm", plain)
    assert '"torch>=2.6"' in plain


def test_citation_names_the_version_and_the_paper():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and {"title", "authors", "message", "license"} <= citation.keys()
    assert f'version="{citation["version"]}"' in text("setup.py")
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Skorokhodov",
        "Menapace",
        "Siarohin",
        "Tulyakov",
    ]


def test_the_hooks_are_the_lint_of_tox():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read_string(text("tox.ini"))
    commands = tox["testenv:lint"]["commands"].split("\n")
    hooks = [hook for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert [hook["name"] for hook in hooks] == [
        re.sub(r" (--check|--no-cache|\.)", "", command).strip() for command in commands if command
    ]


def test_the_commands_of_the_readme_install_tested_versions():
    readme = text("README.md")
    assert "pip install -q -c constraints.txt . &&" in readme
    command = readme.split("<!-- test-command -->")[1].split("<!-- /test-command -->")[0]
    assert "tox -e lint,py" in command  # one interpreter's suite, whatever others there are


def test_no_page_says_the_same_twice():
    """Merges leave such things: five lines in a row that stand elsewhere in the page as well."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        lines = [line.strip() for line in text(name).splitlines() if line.strip()]
        runs = ["\n".join(lines[at : at + 5]) for at in range(len(lines) - 4)]
        assert not sorted(run for run in set(runs) if runs.count(run) > 1), name


def test_links_of_all_pages_lead_somewhere():
    pages = [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "reports").rglob("*.md"),
    ]
    missing = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert len(pages) > 20 and missing == []
