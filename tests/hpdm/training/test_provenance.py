"""An installed package knows the commit it was built from, and whether the tree was changed."""

import json
import shutil
import subprocess
import sys

import pytest

from hpdm.support.environment import BUILD_FILE, _built_from
from tests.support.paths import ROOT


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path):
    """A checkout with setup.py and the smallest package that it can build."""
    folder = tmp_path / "tree"
    for name in ("hpdm", "hpdm_eval", "baselines"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("")
    (folder / "hpdm" / "support").mkdir()
    for name in ("__init__.py", "errors.py", "environment.py"):
        shutil.copy(ROOT / "hpdm" / "support" / name, folder / "hpdm" / "support" / name)
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def build(folder, target):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(target)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "from hpdm.support.environment import git_revision; print(git_revision())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=target,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(target)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_commit_travels_with_the_package(tree, tmp_path):
    commit = git(tree, "rev-parse", "HEAD")
    assert build(tree, tmp_path / "clean") == commit
    (tree / "hpdm" / "__init__.py").write_text("# changed\n")
    assert build(tree, tmp_path / "dirty") == commit + "-dirty"
    assert git(tree, "status", "--porcelain").splitlines() in ([" M hpdm/__init__.py"], ["M hpdm/__init__.py"])


def test_a_source_archive_keeps_it_and_a_bare_tree_has_none(tree, tmp_path):
    commit = git(tree, "rev-parse", "HEAD")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path / "dist")],
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "dist").iterdir()
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert json.loads((source / "hpdm" / BUILD_FILE).read_text()) == {"git": commit}
    assert build(source, tmp_path / "from-archive") == commit
    (source / "hpdm" / BUILD_FILE).unlink()
    assert build(source, tmp_path / "without") == "None"


def test_a_damaged_file_is_no_commit(tmp_path):
    for text in ("", "[]", "{}", "{"):
        (tmp_path / "b.json").write_text(text)
        assert _built_from(tmp_path / "b.json") is None
    assert _built_from(tmp_path / "none.json") is None
