"""Going on with a run: what may change, what a run with a NaN leaves, what a signal in a step of many passes does."""

import os
import shutil
import signal

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.checkpoint.folder import latest_checkpoint
from hpdm.commands.entry import train as command
from hpdm.data.loader import Loader, LoadingStopped
from hpdm.hierarchical import Hierarchical
from hpdm.support.errors import InputError
from hpdm.training import loop
from hpdm.training.log import read_log
from hpdm.training.provenance import read_provenance
from hpdm.training.resume import describe_changes, digest, find_checkpoint
from hpdm.training.signals import StopRequest
from tests.support.small_training import small_config, write_small

FILES = ("model.safetensors", "ema.safetensors", "training.pt")


def run(folder, *overrides, **arguments):
    return loop.train(small_config(*overrides), folder, device="cpu", quiet=True, **arguments)


def losses(folder):
    return [line["loss_per_level"] for line in read_log(folder)]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A run of two steps of six; tests copy it."""
    folder = tmp_path_factory.mktemp("started") / "run"
    run(folder, stop_after=2)
    return folder


@pytest.fixture
def copy(started, tmp_path):
    return shutil.copytree(started, tmp_path / "run", symlinks=True)


CHANGES = [
    ("training.lr=0.001", "training.lr", 0.003, 0.001),
    ("training.steps=9", "training.steps", 6, 9),
    ("training.clip_norm=null", "training.clip_norm", 1.0, None),
    ("precision=bf16", "training.precision", "fp32", "bf16"),
    ("training.batch=5", "training.batch", 8, 5),
    ("warmup=3", "training.warmup", 2, 3),
    ("schedule=constant", "training.schedule", "cosine", "constant"),
]


@pytest.mark.parametrize(("setting", "name", "old", "new"), CHANGES)
def test_settings_of_what_is_still_to_learn_may_change_and_are_noted(copy, capsys, setting, name, old, new):
    loop.train(small_config(setting), copy, device="cpu", stop_after=3)
    assert f"from here on with other settings: {name} was {old!r}, now {new!r}" in capsys.readouterr().err
    first, second = read_provenance(copy)
    assert "changed" not in first and second["changed"] == {name: [old, new]} and second["step"] == 2
    loop.train(small_config(setting), copy, device="cpu", stop_after=4)
    assert "changed" not in read_provenance(copy)[-1]


def test_another_batch_goes_on_with_the_clips_that_follow(copy, monkeypatch):
    asked = []
    real = loop.make_loader
    monkeypatch.setattr(loop, "make_loader", lambda *a, **o: asked.append(o["first"]) or real(*a, **o))
    run(copy, "training.batch=5", stop_after=4)
    run(copy, "training.batch=3", stop_after=5)
    assert asked == [16, 26]
    assert [line["samples"] for line in read_log(copy)] == [8, 16, 21, 26, 29]


def test_a_finished_run_may_grow_but_not_shrink(copy):
    run(copy)
    assert run(copy, "training.steps=8").step == 8
    with pytest.raises(InputError, match=r"training.steps=7, but .* has made 8 steps"):
        run(copy, "training.steps=7")
    assert len(losses(copy)) == 8


@pytest.mark.parametrize(
    "setting",
    [
        "training.seed=1",
        "optimizer=adamw",
        "ema_half_life=2.0",
        "network.dropout=0.0",
        "diffusion.p_mean=-1.0",
        "window_order=finest-first",
        "weight_decay=0.1",
        "data.procedural_seed=4",
        "label_dropout=0.2",
    ],
)
def test_what_changes_the_meaning_of_what_was_learnt_is_refused(copy, setting):
    before = sorted(path.name for path in copy.rglob("*"))
    with pytest.raises(InputError, match="was trained with other settings.*this could change"):
        run(copy, setting, "training.lr=0.001")
    assert sorted(path.name for path in copy.rglob("*")) == before


def test_a_run_that_met_too_many_nans_goes_on_from_there(tmp_path, monkeypatch):
    loss, bad = Hierarchical.loss, [2, 3]

    def sometimes_nan(self, *arguments, step, **options):
        losses = loss(self, *arguments, step=step, **options)
        return losses * float("nan") if step in bad else losses

    monkeypatch.setattr(Hierarchical, "loss", sometimes_nan)
    with pytest.raises(loop.NonFiniteLoss, match=r"stopped at step 4: 2 steps .* saved.*training\.lr"):
        run(tmp_path / "run", "max_nonfinite=2", "checkpoint_every=1", "keep=1")
    assert latest_checkpoint(tmp_path / "run").name == "step-00000004"
    assert len(list((tmp_path / "run").glob("step-*"))) == 2  # one before it is still there to go back to
    assert run(tmp_path / "run", "max_nonfinite=2", "training.lr=0.001").step == 6
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 5, 6]
    assert read_log(tmp_path / "run")[-1]["nonfinite"] == 2


def test_the_command_says_what_to_do_about_nans(tmp_path):
    size = write_small(tmp_path / "small.yaml")
    options = [
        "--size",
        str(size),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--set",
        "optimizer=adamw",
        "--set",
        "warmup=0",
        "--set",
        "max_nonfinite=1",
    ]
    result = CliRunner().invoke(command, [*options, "--set", "lr=1e30"])
    assert result.exit_code == 1 and "may change training.lr" in result.stderr


def killed_in(monkeypatch, step, after, number=signal.SIGTERM):
    """The signal comes in the pass of `step` that follows `after` others."""
    loss, passes = Hierarchical.loss, []

    def interrupted(self, *arguments, **options):
        passes.append(options["step"])
        if passes.count(step) == after + 1 and passes[-1] == step:
            os.kill(os.getpid(), number)
        return loss(self, *arguments, **options)

    monkeypatch.setattr(Hierarchical, "loss", interrupted)
    return passes


def goes_on_as_if_nothing_had_happened(tmp_path):
    """The run of six steps in "run", which ended early, against one that was left alone, bit for bit."""
    assert run(tmp_path / "run").step == 6
    run(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    for file in FILES:
        ours, theirs = (tmp_path / name / "latest" / file for name in ("run", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), file


@pytest.mark.parametrize("after", [0, 2, 3])
def test_sigterm_drops_the_step_in_progress_and_saves_what_was_made(tmp_path, monkeypatch, after):
    with monkeypatch.context() as patch:
        passes = killed_in(patch, step=3, after=after)
        outcome = run(tmp_path / "run")
    assert outcome.interrupted and outcome.step == (3 if after < 3 else 4)
    assert passes.count(3) == after + 1  # of four, but for the one that was running
    assert latest_checkpoint(tmp_path / "run").name == f"step-{outcome.step:08d}"
    goes_on_as_if_nothing_had_happened(tmp_path)


@pytest.mark.parametrize("error", [InputError("8 videos in a row cannot be decoded"), OSError("no route to host")])
def test_clips_that_come_no_longer_end_the_run_with_its_steps_saved(tmp_path, monkeypatch, error):
    """In the second of the four passes of step 3, as where the network to the shards is down for good."""
    deliver, delivered = Loader.__next__, []

    def failing(self):
        delivered.append(len(delivered))
        if len(delivered) == 3 * 4 + 2:
            raise error
        return deliver(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "__next__", failing)
        with pytest.raises(InputError, match=f"{error}. The 3 steps made before are saved"):
            run(tmp_path / "run")
    assert latest_checkpoint(tmp_path / "run").name == "step-00000003"
    goes_on_as_if_nothing_had_happened(tmp_path)


def test_a_clip_that_does_not_come_before_the_end_is_named(tmp_path, monkeypatch, capsys):
    """The loader gives up waiting where the run was asked to stop: that is no failure of the clips."""
    deliver, delivered = Loader.__next__, []

    def waiting(self):
        delivered.append(None)
        if len(delivered) == 3 * 4 + 2:
            raise LoadingStopped("gave up waiting for a.mp4")
        return deliver(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "__next__", waiting)
        outcome = loop.train(small_config(), tmp_path / "run", device="cpu")
    assert outcome.interrupted and outcome.step == 3
    assert "step 4 is not made: gave up waiting for a.mp4" in capsys.readouterr().err
    goes_on_as_if_nothing_had_happened(tmp_path)


def test_ctrl_c_finishes_the_step_unless_torchrun_is_about_to_kill(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_in(patch, step=3, after=0, number=signal.SIGINT)
        assert run(tmp_path / "alone").step == 4
    with monkeypatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "x")
        killed_in(patch, step=3, after=0, number=signal.SIGINT)
        assert run(tmp_path / "torchrun").step == 3


def test_sigterm_before_the_first_step_saves_nothing_and_leaves_the_run_as_it_was(copy, monkeypatch):
    real = StopRequest.__init__
    monkeypatch.setattr(StopRequest, "__init__", lambda self: real(self) or setattr(self, "at_once", True))
    outcome = run(copy)
    assert outcome.interrupted and outcome.step == 2
    assert latest_checkpoint(copy).name == "step-00000002"


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    """Forty seconds a step: one is saved in the second step after each, which is a minute or more later."""
    clock = iter(range(0, 100_000, 40))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    run(tmp_path / "run", "checkpoint_minutes=1.5")
    saved = sorted(int(path.name.removeprefix("step-")) for path in (tmp_path / "run").glob("step-*"))
    assert saved[-1] == 6 and len(saved) > 1 and np.diff(saved).max() <= 3
    with pytest.raises(InputError, match="checkpoint_minutes"):
        small_config("checkpoint_minutes=0")


def test_a_copy_without_links_is_found(started, tmp_path):
    copy = shutil.copytree(started, tmp_path / "run")  # `latest` is now a folder
    assert find_checkpoint(copy, small_config(), resume=True) == copy / "latest"


def test_a_digest_tells_checkpoints_apart(copy):
    folder = latest_checkpoint(copy)
    before = digest(folder)
    assert before == digest(folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert digest(folder) != before
    with pytest.raises(InputError, match="differs from its checksum"):
        find_checkpoint(copy, small_config(), resume=True)
    assert describe_changes({"training.lr": (1, 2)}) == "training.lr was 1, now 2"
