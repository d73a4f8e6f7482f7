"""Exit codes and files: what every command promises."""

import errno
import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hpdm.support.console import Command, Group, OutputFile, OutputFolder, common_options
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, atomic_folder, sha256_file, write_json


@click.group(cls=Group)
def tool():
    pass


@tool.command()
@click.argument("outcome")
@common_options
def act(outcome, device, seed, quiet):
    if outcome == "bad":
        raise InputError("clips/: no video; name a folder with videos")
    if outcome == "broken":
        raise RuntimeError("a fault")
    if outcome == "interrupted":
        raise KeyboardInterrupt
    if outcome == "code":
        return 7
    click.echo("result")


@pytest.mark.parametrize("outcome, code", [("fine", 0), ("bad", 2), ("broken", 1), ("interrupted", 130), ("code", 7)])
def test_exit_codes(outcome, code):
    result = CliRunner().invoke(tool, ["act", outcome])
    assert result.exit_code == code
    assert ("Traceback" in result.stderr) == (outcome == "broken")


def test_bad_input_is_one_line_on_stderr():
    result = CliRunner().invoke(tool, ["act", "bad"])
    assert result.stdout == "" and result.stderr == "error: clips/: no video; name a folder with videos\n"


def test_wrong_usage_is_2_and_help_is_0():
    assert CliRunner().invoke(tool, ["act", "fine", "--seed", "-1"]).exit_code == 2
    assert CliRunner().invoke(tool, ["act"]).exit_code == 2
    assert CliRunner().invoke(tool, ["nothing"]).exit_code == 2
    assert CliRunner().invoke(tool, ["act", "--help"]).exit_code == 0


def test_commands_know_their_class():
    assert isinstance(tool.commands["act"], Command)


def test_atomic_file_leaves_the_old_one_on_error(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path, "w") as file:
        file.write("old\n")
    with pytest.raises(RuntimeError), atomic_file(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_bytes() == b"old\n" and list(path.parent.iterdir()) == [path]


def test_atomic_folder_replaces_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    for text in ("first", "second"):
        with atomic_folder(path) as folder:
            (folder / text).write_text(text)
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / "third").write_text("x")
        raise RuntimeError
    assert [entry.name for entry in path.iterdir()] == ["second"] and list(tmp_path.iterdir()) == [path]


def test_json_and_digest(tmp_path):
    write_json(tmp_path / "a.json", {"ü": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ü": 1\n}\n'
    (tmp_path / "b").write_bytes(b"abc")
    assert sha256_file(tmp_path / "b") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@tool.command()
@click.option("--out", type=OutputFolder(path_type=Path))
@click.option("--file", type=OutputFile())
def write(out, file):
    click.echo(f"worked for {out} {file}")


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "afile").write_text("x")
    for option, place in (("--out", "afile"), ("--out", "afile/sub/deep"), ("--file", "afile/sub.npz")):
        result = CliRunner().invoke(tool, ["write", option, str(tmp_path / place)])
        assert result.exit_code == 2 and "worked" not in result.stdout and "afile" in result.stderr, place
    result = CliRunner().invoke(tool, ["write", "--file", str(tmp_path)])
    assert result.exit_code == 2 and "is a directory" in result.stderr
    result = CliRunner().invoke(tool, ["write", "--out", str(tmp_path / "new/deep"), "--file", str(tmp_path / "n/a")])
    assert result.exit_code == 0 and not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    result = CliRunner().invoke(tool, ["write", "--out", str(tmp_path / "closed/new")])
    assert result.exit_code == 2 and "no permission to write in" in result.stderr


@tool.command()
@click.argument("number", type=int)
@click.option("--path")
def fail(number, path):
    raise OSError(number, "some words", path)


def test_faults_of_the_disk_are_one_line_and_others_keep_their_traceback():
    full = CliRunner().invoke(tool, ["fail", str(errno.ENOSPC), "--path", "out/record.json"])
    assert full.exit_code == 2 and full.stderr == f"error: out/record.json: {os.strerror(errno.ENOSPC)}\n"
    for words in ([str(errno.ENOSPC)], [str(errno.ENOENT), "--path", "a"]):
        result = CliRunner().invoke(tool, ["fail", *words])
        assert result.exit_code == 1 and "Traceback" in result.stderr


@tool.command()
def odd():
    click.echo("bad\udcff.avi")


def test_file_names_that_are_no_utf8_can_be_printed():
    result = CliRunner().invoke(tool, ["odd"])
    assert result.exit_code == 0 and result.stdout == "bad\\udcff.avi\n"
