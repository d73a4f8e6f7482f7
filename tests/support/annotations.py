"""Counts the annotations of public functions: `python -m tests.support.annotations [ROOT]` prints them by package."""

import ast
import sys
from collections import Counter, defaultdict
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("hpdm", "hpdm_eval", "baselines")


def count_annotations(node: ast.AST, in_class: bool = False) -> Counter:
    """Arguments and returns of public functions and methods, and how many of each are annotated.

    Functions within functions are private, and so is what stands in a private class; methods like `__init__` are
    public. `self` and `cls` are no arguments.
    """
    counts: Counter = Counter()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            if not child.name.startswith("_"):
                counts += count_annotations(child, in_class=True)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not child.name.startswith("_") or child.name.endswith("__"):
                counts += _count_function(child, in_class)
        elif isinstance(child, ast.stmt):
            counts += count_annotations(child, in_class)
    return counts


def _count_function(function, in_class):
    spec = function.args
    arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    static = any(isinstance(word, ast.Name) and word.id == "staticmethod" for word in function.decorator_list)
    if in_class and not static:
        arguments = arguments[1:]
    return Counter(
        {
            "arguments": len(arguments),
            "arguments annotated": sum(argument.annotation is not None for argument in arguments),
            "returns": 1,
            "returns annotated": int(function.returns is not None),
        }
    )


def count_by_package(root: Path) -> dict[str, Counter]:
    """{package: counts} of the packages below the top ones, whose own modules count under the top name."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).parts
            counts[".".join(parts[: min(2, len(parts) - 1)])] += count_annotations(
                ast.parse(path.read_text(encoding="utf-8"))
            )
    return counts


def annotated_shares(root: Path) -> dict[str, tuple[float, float]]:
    """{package: (share of arguments, share of returns)}; 1 where there are none."""
    return {
        name: tuple(
            counts[f"{kind} annotated"] / counts[kind] if counts[kind] else 1.0 for kind in ("arguments", "returns")
        )
        for name, counts in count_by_package(root).items()
    }


def main():
    """Print a table."""
    counts = count_by_package(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    counts["all"] = sum(counts.values(), Counter())
    for name, own in counts.items():
        cells = [f"{own[f'{kind} annotated']:>5} of {own[kind]:>5} {kind}" for kind in ("arguments", "returns")]
        print(f"{name:<24}", *cells)


if __name__ == "__main__":
    main()
