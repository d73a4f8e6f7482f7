"""How much of the public functions is annotated, counted from the sources, and what it may not fall below."""

import ast
from collections import Counter

import pytest

from tests.support.annotations import annotated_shares, count_annotations
from tests.support.paths import ROOT


def test_public_functions_are_annotated():
    below = {name: shares for name, shares in annotated_shares(ROOT).items() if min(shares) < 1}
    assert not below, "annotate the arguments and returns of public functions; python -m tests.support.annotations"


def test_no_module_is_passed_over():
    for package in ("hpdm", "hpdm_eval"):
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert {f"{package}.{name}" for name in folders} <= annotated_shares(ROOT).keys()
        assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize(
    "source, arguments, returns",
    [
        ("def f(a: int, b, *, c: str = '', **d: int) -> int: ...", (3, 4), (1, 1)),
        ("def f(*rows): ...", (0, 1), (0, 1)),
        ("def _private(a): ...", (0, 0), (0, 0)),
        ("class A:\n    def f(self, a: int): ...\n    def _g(self, b): ...", (1, 1), (0, 1)),
        ("class A:\n    def __init__(self, a) -> None: ...", (0, 1), (1, 1)),
        ("class A:\n    @staticmethod\n    def f(a): ...", (0, 1), (0, 1)),
        ("class _A:\n    def f(self, a): ...", (0, 0), (0, 0)),
        ("def f() -> None:\n    def inner(a): ...", (0, 0), (1, 1)),
        ("if True:\n    def f(a: int) -> int: ...", (1, 1), (1, 1)),
    ],
)
def test_what_counts(source, arguments, returns):
    counts = Counter(count_annotations(ast.parse(source)))
    assert (counts["arguments annotated"], counts["arguments"]) == arguments
    assert (counts["returns annotated"], counts["returns"]) == returns
