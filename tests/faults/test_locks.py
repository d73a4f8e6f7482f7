"""One program at a time in a folder of results, whichever command it is."""

import threading
import time

import pytest
from click.testing import CliRunner

from hpdm.support.errors import InputError
from hpdm.support.lock import LOCK_FILE, hold
from hpdm_eval.commands.entry import main
from hpdm_eval.studies.recipe_check.study import main as recipe_check

COMMANDS = {
    "efficiency": "efficiency --out {out}",
    "report": "report --records {other} --out {out}",
    "curve": "curve --samples {other} --reference {other} --out {out}",
    "compare-protocols": "compare-protocols --samples {other} --reference {other} --out {out}",
    "compare": "compare --samples a={other} --samples b={other} --reference {other} --report {out}",
    "seams-power": "seams-power --samples {other} --patch 4x8x8 --out {out}",
    "bench gpu": "bench gpu --rehearse --out {out}",
    "quickstart": "quickstart --out {out}",
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_folder_in_use_is_refused(words, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    with hold(out):
        result = CliRunner().invoke(main, words.format(out=out, other=other).split())
        assert (result.exit_code, "in use by process" in result.stderr) == (2, True), result.output
        assert [path.name for path in out.iterdir()] == [LOCK_FILE]


def test_a_study_in_use_is_refused(tmp_path):
    with hold(tmp_path):
        result = CliRunner().invoke(recipe_check, ["--out", str(tmp_path)])
        assert result.exit_code == 2 and "in use by process" in result.stderr


def test_calls_that_share_a_study_wait_for_each_other_to_begin(tmp_path, monkeypatch):
    """They work on one folder together, but neither may find it half set up."""
    monkeypatch.setattr("hpdm_eval.studies.ablations.run.PATIENCE", 0.3)
    words = ["ablations", "--tier", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    with hold(tmp_path):
        result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "in use by process" in result.stderr


def test_patience(tmp_path):
    held, done = threading.Event(), threading.Event()

    def owner():
        with hold(tmp_path):
            held.set()
            done.wait(20)

    thread = threading.Thread(target=owner)
    thread.start()
    held.wait(20)
    began = time.monotonic()
    with pytest.raises(InputError, match="in use"), hold(tmp_path, patience=0.5):
        pass
    assert time.monotonic() - began >= 0.5
    threading.Timer(0.5, done.set).start()
    with hold(tmp_path, patience=20):
        assert done.is_set()
    thread.join()


def test_a_folder_that_was_replaced_keeps_the_lock_of_its_new_owner(tmp_path):
    out = tmp_path / "out"
    with hold(out):
        out.rename(tmp_path / "old")
        out.mkdir()
        (out / LOCK_FILE).write_text("another's")
    assert (out / LOCK_FILE).read_text() == "another's"
