"""Which checkpoint a run goes on from, and that nothing is lost on the way."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from hpdm.checkpoint.folder import FILES, Damaged, check_files, latest_checkpoint, read_weights
from hpdm.checkpoint.load import find_weights, load_checkpoint
from hpdm.checkpoint.recover import newest_whole
from hpdm.support.errors import InputError
from hpdm.training.log import LOG_FILE, read_log
from hpdm.training.loop import train
from hpdm.training.provenance import PROVENANCE_FILE, read_provenance
from tests.support.small_training import small_config

CONFIG = small_config("training.steps=6", "checkpoint_every=2", "log_every=1", "keep=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four of its six steps, with checkpoints of steps 2 and 4."""
    run = tmp_path_factory.mktemp("recover") / "run"
    train(CONFIG, run, device="cpu", stop_after=4, quiet=True)
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


@pytest.fixture
def said():
    return []


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4 if place is None else place] ^= 4
    path.write_bytes(content)


def go_on(run, capsys):
    outcome = train(CONFIG, run, device="cpu", quiet=False)
    return outcome.step, capsys.readouterr().err


def test_a_link_that_could_not_be_moved_is_moved_by_the_next_start(run, monkeypatch):
    """The last rename of a run fails, as over a network; the next start, which has nothing to do, makes up for it."""
    replace = os.replace

    def failing(source, target, **options):
        if Path(target).name == "latest":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(target))
        replace(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(InputError, match="step 6 is kept; the same command continues"):
            train(CONFIG, run, device="cpu", quiet=True)
    assert latest_checkpoint(run).name == "step-00000004" and list(run.glob(".latest.*"))
    train(CONFIG, run, device="cpu", quiet=True)
    assert latest_checkpoint(run).name == "step-00000006" and not list(run.glob(".*"))


def missing(link):
    link.unlink()


def dangling(link):
    link.unlink()
    link.symlink_to("step-00000099")


def plain_file(link):
    link.unlink()
    link.write_text("step-00000004")


@pytest.mark.parametrize("spoil", [missing, dangling, plain_file])
def test_without_latest_the_newest_whole_checkpoint_is_used_and_said(run, capsys, spoil):
    spoil(run / "latest")
    step, errors = go_on(run, capsys)
    assert step == 6 and "step-00000004" in errors and "continuing from" in errors
    assert [line["step"] for line in read_log(run)] == [1, 2, 3, 4, 5, 6]
    assert latest_checkpoint(run).name == "step-00000006"


def test_a_copy_without_links_is_used(run, capsys):
    (run / "latest").unlink()
    os.rename(run / "step-00000004", run / "latest")
    shutil.rmtree(run / "step-00000002")
    step, errors = go_on(run, capsys)
    assert step == 6 and "after 4 of 6" in errors and (run / "latest").is_symlink()


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_damaged_newest_one_falls_back_to_the_one_before(run, capsys, file):
    flip(run / "step-00000004" / file, 30 if file == "manifest.json" else None)
    step, errors = go_on(run, capsys)
    assert step == 6 and "step-00000004 is damaged" in errors and "after 2 of 6" in errors
    assert (run / "set-aside-step-00000004").is_dir() and "set aside" in errors
    assert [line["step"] for line in read_log(run)] == [1, 2, 3, 4, 5, 6]


def test_where_none_is_whole_nothing_starts_and_nothing_is_deleted(run):
    for step in (2, 4):
        flip(run / f"step-{step:08d}" / "model.safetensors")
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(InputError, match="no checkpoint that is whole"):
        train(CONFIG, run, device="cpu", quiet=True)
    assert sorted(path.name for path in run.iterdir()) == before


def test_latest_alone_without_checkpoints_is_no_new_run(run):
    for step in (2, 4):
        shutil.rmtree(run / f"step-{step:08d}")
    with pytest.raises(InputError, match="leads to no checkpoint"):
        train(CONFIG, run, device="cpu", quiet=True)
    assert len(read_log(run)) == 4


def test_going_back_by_hand_sets_later_ones_aside(run, capsys):
    (run / "latest").unlink()
    (run / "latest").symlink_to("step-00000002")
    step, errors = go_on(run, capsys)
    assert step == 6 and "after 2 of 6" in errors and (run / "set-aside-step-00000004").is_dir()


def test_a_run_that_ended_before_it_moved_the_link_uses_the_newer(run, said):
    (run / "latest").unlink()
    (run / "latest").symlink_to("step-00000002")
    os.utime(run / "latest", ns=(0, 1), follow_symlinks=False)
    assert newest_whole(run, say=said.append).name == "step-00000004" and "ended between" in said[0]


def test_names_that_only_look_like_checkpoints_are_never_deleted(run):
    shutil.copytree(run / "step-00000002", run / "step-00000002-mine")
    (run / "step-notes").mkdir()
    train(CONFIG, run, device="cpu", quiet=True)
    assert (run / "step-00000002-mine").is_dir() and (run / "step-notes").is_dir()
    assert not (run / "step-00000002").exists()


def test_an_older_one_is_kept_where_the_new_one_is_not_as_written(run, monkeypatch):
    from hpdm.checkpoint import folder as checkpoint

    def spoilt(folder, step, original=checkpoint.write_manifest):
        original(folder, step)
        flip(folder / "training.pt")

    monkeypatch.setattr(checkpoint, "write_manifest", spoilt)
    with pytest.raises(Damaged, match=r"step-00000006 is damaged: training\.pt"):
        train(CONFIG, run, device="cpu", quiet=True)
    assert newest_whole(run, say=print).name == "step-00000004" and (run / "step-00000002").is_dir()


def test_checkpoints_of_earlier_versions_still_load(run, capsys):
    for step in (2, 4):
        (run / f"step-{step:08d}" / "manifest.json").unlink()
    step, errors = go_on(run, capsys)
    assert step == 6 and "without checksums" in errors


def test_sampling_falls_back_too_and_says_so(run, said):
    flip(run / "step-00000004" / "ema.safetensors")
    flip(run / "step-00000004" / "training.pt")
    assert find_weights(run, say=said.append) == run / "step-00000002" / "ema.safetensors"
    assert "ema.safetensors differs" in said[0] and "step-00000002" in said[1]
    assert find_weights(run, raw=True, say=said.append).parent.name == "step-00000004"  # not its files
    with pytest.raises(InputError, match="differs from its checksum"):
        load_checkpoint(run / "step-00000004")


def test_every_flip_in_a_lone_weights_file_is_found(run, tmp_path):
    """Without its folder a weights file has the digest in its header alone."""
    file = shutil.copy(run / "step-00000004" / "ema.safetensors", tmp_path / "lone.safetensors")
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    read_weights(file)
    for place in range(8 + header, len(whole), max(1, (len(whole) - header) // 40)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(Damaged, match="differ from the checksum"):
            read_weights(file)
    for place in range(0, 8 + header, max(1, header // 200)):  # silent only where the header says the same
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            read_weights(file)
        except InputError as error:
            assert "\n" not in str(error)


def test_lines_of_the_log_survive_a_damaged_one(run, capsys):
    lines = (run / LOG_FILE).read_bytes().split(b"\n")
    lines[1] = b"\xff\xfe{" + lines[1][3:]
    (run / LOG_FILE).write_bytes(b"\n".join(lines))
    assert [line["step"] for line in read_log(run)] == [1, 3, 4]
    _, errors = go_on(run, capsys)
    assert [line["step"] for line in read_log(run)] == [1, 3, 4, 5, 6]
    assert "1 lines of" in errors and (run / "damaged-log.jsonl").read_bytes() == b"\n".join(lines)


def test_a_line_broken_off_by_a_kill_does_not_spoil_the_next(run):
    path = run / PROVENANCE_FILE
    path.write_bytes(path.read_bytes() + b'{"step": 4, "gi')
    train(CONFIG, run, device="cpu", quiet=True)
    assert [line["step"] for line in read_provenance(run)] == [0, 4]


def test_verify_names_what_is_damaged(run):
    from click.testing import CliRunner

    from hpdm.commands.entry import info

    whole = CliRunner().invoke(info, ["verify", str(run), str(run / "step-00000004" / "ema.safetensors"), "--json"])
    assert whole.exit_code == 0 and [row["state"] for row in json.loads(whole.stdout)] == ["whole"] * 3
    flip(run / "step-00000002" / "training.pt")
    bad = CliRunner().invoke(info, ["verify", str(run)])
    assert bad.exit_code == 2 and "step-00000002: damaged: training.pt differs" in bad.stdout
    assert bad.stderr.count("\n") == 1
    (run / "step-00000002" / "manifest.json").unlink()
    old = CliRunner().invoke(info, ["verify", str(run / "step-00000002")])
    assert old.exit_code == 0 and "not checked" in old.stdout
    assert CliRunner().invoke(info, ["verify", str(run / "sheets")]).exit_code == 2
    assert not check_files(run / "step-00000002")
