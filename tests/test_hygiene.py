"""What the tests themselves keep to: none imports another, and nothing outside the repository is read but `shared`."""

import ast

import pytest

from tests.support.paths import ROOT, TESTS

SOURCES = sorted(TESTS.rglob("*.py"))
STARTS = {"ROOT", "TESTS", "SUPPORT", "__file__"}
FOLDERS = ("/home/", "/root", "/work", "/mnt/", "../shared")
MAY_CLIMB = ("conftest.py", "support/paths.py", "faults/run.py", "test_hygiene.py")  # the last has examples


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of_tests(tree):
    """Test modules that a module imports; `test_` in the name of an object is none."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES if path.match("test_*.py")}
    return sorted(name for name in imported_modules(tree) if name in modules or name.split(".")[0].startswith("test_"))


def ways_out(tree):
    """Expressions that climb above the repository or start in a folder of some machine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("parent", "parents"):
            if STARTS & {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}:
                yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(FOLDERS):
            yield repr(node.value)


def test_no_test_imports_another_and_none_leaves_the_repository():
    importing, leaving = {}, {}
    for path in SOURCES:
        tree, name = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(TESTS).as_posix()
        importing[name] = imports_of_tests(tree)
        leaving[name] = [] if name in MAY_CLIMB else list(ways_out(tree))
    assert not {name: found for name, found in importing.items() if found}, "move what tests share into tests/support"
    assert not {name: found for name, found in leaving.items() if found}, "use the fixture `shared`, or ROOT"


@pytest.mark.parametrize(
    "source, imports, leaves",
    [
        ("from tests.hpdm.test_pyramid import windows", 1, 0),
        ("from tests.hpdm import test_pyramid", 1, 0),
        ("import tests.hpdm.test_pyramid as other", 1, 0),
        ("from test_pyramid import windows", 2, 0),
        ("from tests.support.paths import ROOT\nfile = ROOT / 'README.md'", 0, 0),
        ("from hpdm_eval.metrics.seam_tests import test_seams", 0, 0),
        ("from tests.support.paths import ROOT\nfolder = ROOT.parent / 'shared'", 0, 1),
        ("folder = Path(__file__).parents[3]", 0, 1),
        ("folder = '/mnt/clips'", 0, 1),
    ],
)
def test_the_rules_see_what_breaks_them(source, imports, leaves):
    tree = ast.parse(source)
    assert len(imports_of_tests(tree)) == imports and len(list(ways_out(tree))) == leaves
