"""Rejected clips are counted by reason, and nothing is said twice in a command."""

import json

import click
import numpy as np
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm_eval.clips.rejections import reason_counts, rejection_lines
from hpdm_eval.commands.entry import main
from hpdm_eval.commands.recorded import RememberingCommand
from hpdm_eval.support.notes import note_once
from tests.support.small_network import random_shapes3d


def entries(*reasons):
    return [{"path": f"{index}.avi", "reason": reason} for index, reason in enumerate(reasons)]


def test_few_are_named_and_many_are_counted():
    short = [f"too short: {frames} frames, 64 needed" for frames in range(29, 49)]
    assert rejection_lines(entries("no frames")) == ["rejected 0.avi: no frames"]
    assert rejection_lines([]) == []
    lines = rejection_lines(entries(*short, "cannot be read (moov atom not found)"))
    assert lines == [
        "20 rejected: too short: 29 to 48 frames, 64 needed; the first is 0.avi",
        "1 rejected: cannot be read (moov atom not found); the first is 20.avi",
    ]
    assert reason_counts(entries(*short, "no frames")) == "20 too short: 29 to 48 frames, 64 needed; 1 no frames"
    assert reason_counts(entries("too short: 7 frames, 9 needed")) == "1 too short: 7 frames, 9 needed"


def test_reasons_that_name_their_clip_are_one():
    lines = rejection_lines([{"path": f"{k}.avi", "reason": f"{k}.avi is damaged"} for k in range(50)])
    assert len(lines) == 1 and lines[0].startswith("50 rejected: ")


def test_every_clip_is_counted_however_many_reasons_there_are():
    kinds = [chr(97 + k) * 3 for k in range(20)]
    lines = rejection_lines(entries(*(kind for k, kind in enumerate(kinds) for _ in range(k + 1))))
    assert len(lines) == 7 and sum(int(line.split()[0]) for line in lines) == 210


def test_a_command_says_a_thing_once():
    @click.command(cls=RememberingCommand)
    def command():
        for _ in range(5):
            note_once("again")
        note_once("never", quiet=True)

    assert CliRunner().invoke(command).stderr == "again\n" == CliRunner().invoke(command).stderr


def test_comparing_protocols_is_no_flood(tmp_path):
    """Of 210 lines of rejections (13 protocols, 12 short videos and their reasons) a handful are left."""
    for name, seed in (("fake", 0), ("real", 1)):
        for index in range(16):
            (tmp_path / name).mkdir(exist_ok=True)
            frames = 70 if index < 4 else 10 + index
            np.save(tmp_path / name / f"{index}.npy", procedural_clip(seed, index, frames, 32, 32)[0])
    words = [
        "compare-protocols",
        "--samples",
        tmp_path / "fake",
        "--reference",
        tmp_path / "real",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--protocols",
        "hpdm-64f,pvdm-16f,latte-16f",
        "--resolution",
        "32",
        "--out",
        tmp_path / "out",
        "--record",
        tmp_path / "records",
        *random_shapes3d(tmp_path / "w.safetensors"),
    ]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert sum("rejected: " in line for line in result.stderr.splitlines()) <= 4
    assert "12 rejected: too short: 14 to 25 frames, 64 needed" in result.stderr
    (record,) = [
        json.loads(path.read_text())
        for path in (tmp_path / "records").iterdir()
        if '"hpdm-64f"' in path.read_text() and '"numerics": "legacy"' in path.read_text()
    ]
    assert len(record["reference"]["rejected"]) == 12
