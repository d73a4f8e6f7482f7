"""`bench decoding`: it finds the frames of a reader that reads wrongly, and says nothing against one that does not."""

import json

import pytest
from click.testing import CliRunner

from hpdm_eval.benchmarks import numbered_videos
from hpdm_eval.benchmarks import reading as decoding
from hpdm_eval.benchmarks.numbered_videos import all_cases, write_case
from hpdm_eval.commands.entry import main


@pytest.fixture
def few_cases(monkeypatch):
    names = ("h264-g12-b3.mp4", "turned-90.mp4", "cut-b3.mp4")
    cases = tuple(case for case in all_cases() if case.name in names)
    monkeypatch.setattr(decoding, "all_cases", lambda: cases)
    monkeypatch.setattr(decoding, "TIMED_CASES", names[:1])
    return cases


def run(*arguments):
    result = CliRunner().invoke(main, ["bench", "decoding", "--json", "--quiet", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_reader_is_right_on_generated_files_and_on_files_at_hand(few_cases, tmp_path):
    for case in few_cases:
        write_case(case, tmp_path)
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    result = run(tmp_path)
    assert {"generated", "files", "timed"} == set(result["tables"])
    for name in ("generated", "files"):
        rows = result["tables"][name]
        assert sum(row["files"] for row in rows) == 3 and sum(row["readings"] for row in rows) == 24
        assert all(row["wrong"]["hpdm"] == 0 and not row["failed"].get("hpdm") for row in rows)
    assert [name for name, _ in result["unreadable"]] == ["bad.mp4"]


def test_wrong_frames_are_counted(few_cases, monkeypatch):
    """A matrix that claims other numbers than the files show must not pass."""

    def claim(case, folder):
        path, shown = write_case(case, folder)
        return path, [number + 1 for number in shown]

    monkeypatch.setattr(decoding, "write_case", claim)
    rows = decoding.check_generated(quiet=True)
    assert sum(row.wrong["hpdm"] for row in rows) == 24


def test_pictures_tell_turned_and_mirrored_ones_apart():
    picture = numbered_videos.numbered_picture(677, 72, 96)
    assert numbered_videos.number_of(picture) == 677
    for other in (picture[::-1], picture[:, ::-1], picture[::-1, ::-1], picture.swapaxes(0, 1)):
        assert numbered_videos.number_of(other) != 677
