import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpdm.video.walk import natural_key, walk, walk_files


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_loops_end_and_nothing_counts_twice(tmp_path):
    root = tmp_path / "set"
    make(root, "a/1.mp4", "b/2.mp4", "b/deep/3.mp4", ".store/4.mp4")
    make(tmp_path, "outside/5.mp4", "outside/inner/6.mp4")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(root / "a")
    (root / "0").symlink_to(root / "b")  # comes before its target in order, and is still not its place
    (root / "c").symlink_to(root / "b" / "deep")
    (root / "hidden").symlink_to(root / ".store")
    (root / "x").symlink_to(tmp_path / "outside" / "inner")
    (root / "y").symlink_to(tmp_path / "outside")
    (root / "z").symlink_to(tmp_path / "outside")
    (root / "self").symlink_to(root / "self")
    (root / "gone").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe")
    folders = {folder.name: folder for folder in walk(root)}
    assert list(walk_files(root)) == ["a/1.mp4", "b/2.mp4", "b/deep/3.mp4", "hidden/4.mp4", "x/6.mp4", "y/5.mp4"]
    assert folders[""].irregular == ("gone", "pipe", "self")
    repeated = sorted(name for folder in folders.values() for name in folder.repeated)
    assert repeated == ["0", "a/here", "a/up", "c", "y/inner", "z"]


def test_two_folders_that_link_to_each_other_and_a_link_as_root(tmp_path):
    make(tmp_path, "one/1.mp4", "two/2.mp4")
    (tmp_path / "one" / "other").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "other").symlink_to(tmp_path / "one")
    assert list(walk_files(tmp_path / "one")) == ["1.mp4", "other/2.mp4"]
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert list(walk_files(tmp_path / "link")) == ["1.mp4", "other/2.mp4"]


def test_hidden_entries_and_those_of_archives_are_passed_over(tmp_path):
    make(tmp_path, "a.mp4", ".a.mp4", "__MACOSX/b.mp4", ".cache/c.mp4", "d/._a.mp4")
    assert list(walk_files(tmp_path)) == ["a.mp4"]


def test_natural_and_plain_order(tmp_path):
    make(tmp_path, "2/10.mp4", "2/9.mp4", "10/1.mp4", "x.mp4")
    assert list(walk_files(tmp_path)) == ["x.mp4", "10/1.mp4", "2/10.mp4", "2/9.mp4"]
    assert list(walk_files(tmp_path, natural_key)) == ["x.mp4", "2/9.mp4", "2/10.mp4", "10/1.mp4"]


def test_what_cannot_be_listed_says_so(tmp_path):
    assert [folder.error for folder in walk(tmp_path / "nowhere")] == ["cannot be listed (No such file or directory)"]
    make(tmp_path, "a.mp4")
    assert [folder.error for folder in walk(tmp_path / "a.mp4")] == ["cannot be listed (Not a directory)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_without_permission_costs_itself(tmp_path):
    make(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "a").chmod(0)
    try:
        assert list(walk_files(tmp_path)) == ["b/2.mp4"]
        errors = [folder.error for folder in walk(tmp_path)]
        assert errors == [None, "cannot be listed (Permission denied)", None]
    finally:
        (tmp_path / "a").chmod(0o755)


@settings(max_examples=60)
@given(links=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=12))
def test_any_links_list_every_real_folder_once(tmp_path_factory, links):
    base = tmp_path_factory.mktemp("walk")
    inside = ["", "a", "a/b", "a/b/c", "d", "d/e"]
    make(base, *(f"set/{name}/v.mp4" for name in inside), "out/v.mp4", "out/in/v.mp4")
    targets = [*(Path(base, "set", name) for name in inside), base / "out", base / "out/in"]
    for number, (place, target) in enumerate(links):
        (base / "set" / inside[place] / f"0link{number}").symlink_to(targets[target])
    found = list(walk_files(base / "set"))
    reals = [os.path.realpath(base / "set" / name) for name in found]
    assert len(reals) == len(set(reals))
    expected = {str(target / "v.mp4") for target in targets[:6]}
    if any(target == 6 for _, target in links):
        expected |= {str(targets[6] / "v.mp4"), str(targets[7] / "v.mp4")}
    elif any(target == 7 for _, target in links):
        expected |= {str(targets[7] / "v.mp4")}
    assert set(reals) == {os.path.realpath(path) for path in expected}
    assert {"v.mp4", "a/v.mp4", "a/b/v.mp4", "a/b/c/v.mp4", "d/v.mp4", "d/e/v.mp4"} <= set(found)
