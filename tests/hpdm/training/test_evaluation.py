"""Evaluation while training: it disturbs nothing, is logged once, survives failures and kills, and any processes."""

import importlib
import importlib.metadata
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.checkpoint.folder import step_folder, trace_kind
from hpdm.checkpoint.load import load_checkpoint
from hpdm.checkpoint.shard_files import index_file
from hpdm.commands.entry import sample, train
from hpdm.config import config_from_dict, override_config
from hpdm.support.errors import InputError
from hpdm.support.files import read_json
from hpdm.training import evaluation, log, loop
from hpdm.training.log import read_log
from hpdm.training.posthoc import write_average
from hpdm.training.verify import check
from hpdm_eval.evaluation.while_training import Evaluator, read_records
from tests.support.ema_worker import EVALUATED, SETTINGS, Keeps
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import free_ports
from tests.support.small_text import small_text
from tests.support.small_training import saved_weights, small_config, write_small

SHORT = ("training.steps=4", "micro_batch=8", "training.eval_every=2", "eval.num=2", "eval.steps=[1, 1]")


class Judge:
    """An evaluator that draws random numbers and does what the test wants."""

    def __init__(self, action=lambda step: None, **figure):
        self.steps, self.action, self.figure = [], action, figure or {"value": 1.5, "ci95": [1.0, 2.0]}

    def __call__(self, samples, step, draw_reference, stopped):
        self.stopped = stopped
        names = [path.suffix for path in Path(samples).iterdir() if path.name[0] != "."]
        assert sorted(names) == [".json", ".npy", ".npy"]
        torch.manual_seed(random.randrange(100))
        np.random.seed(7)  # noqa: NPY002
        torch.set_num_threads(2)
        self.steps.append(step)
        self.action(step)
        return {"fvd": self.figure}


def run(folder, *settings, evaluator=None, **arguments):
    return loop.train(small_config(*settings), folder, device="cpu", quiet=True, evaluator=evaluator, **arguments)


def of_steps(folder):
    return [
        {key: value for key, value in line.items() if "second" not in key}
        for line in read_log(folder)
        if not evaluation.is_evaluation(line)
    ]


def of_evaluations(folder):
    return [
        {key: value for key, value in line.items() if key != "evaluation_seconds"}
        for line in read_log(folder)
        if evaluation.is_evaluation(line)
    ]


def same_state(ours, theirs):
    """Weights, averages, optimizer and position are equal bit for bit; headers name other settings."""
    for kind in ("model", "ema"):
        a, b = saved_weights(ours, kind), saved_weights(theirs, kind)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert (ours / "training.pt").read_bytes() == (theirs / "training.pt").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(folder, "training.steps=4", "micro_batch=8")
    return folder


def test_training_is_the_same_bit_for_bit(plain, tmp_path):
    threads, judge = torch.get_num_threads(), Judge()
    run(tmp_path, *SHORT, evaluator=judge)
    assert judge.steps == [2, 4] and torch.get_num_threads() == threads
    same_state(tmp_path / "latest", plain / "latest")
    assert of_steps(tmp_path) == of_steps(plain)
    expected = {"fvd@2": 1.5, "fvd@2_ci95": [1.0, 2.0]}
    assert of_evaluations(tmp_path) == [{"step": 2, **expected}, {"step": 4, **expected}]
    assert not list((tmp_path / "evaluations").iterdir())  # samples are not kept


def test_untouched_puts_everything_back():
    def states():
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate()[1][:5], legacy, torch.get_rng_state().tolist()

    before, threads = states(), torch.get_num_threads()
    with pytest.raises(RuntimeError), evaluation.untouched(torch.device("cpu")):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        torch.set_num_threads(threads + 1)
        raise RuntimeError
    assert states() == before and torch.get_num_threads() == threads


def test_time_left_leaves_evaluations_out(tmp_path, monkeypatch):
    """The judge moves the clock by hours."""
    moved, clock = [0.0], types.SimpleNamespace(sleep=time.sleep)
    clock.perf_counter, clock.monotonic = lambda: time.perf_counter() + moved[0], lambda: time.monotonic() + moved[0]
    for module in (loop, evaluation):
        monkeypatch.setattr(module, "time", clock)

    def take_hours(step):
        moved[0] += 10_000

    run(tmp_path, *SHORT, "eval.minutes=1e6", evaluator=Judge(take_hours))
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    assert all(line.get("evaluation_seconds", 20_000) > 10_000 for line in lines)
    assert all(line.get("seconds_left", 0) < 1_000 and line.get("samples_per_second", 1) > 0.01 for line in lines)


def test_a_failure_is_said_and_counted_and_ends_nothing(plain, tmp_path, capsys):
    def fail(step):
        raise ValueError("no\nmemory")

    loop.train(small_config(*SHORT), tmp_path, device="cpu", evaluator=Judge(fail))
    assert of_evaluations(tmp_path) == [
        {"step": step, "evaluation_failed": "ValueError: no memory", "evaluations_failed": count}
        for step, count in ((2, 1), (4, 2))
    ]
    assert "step 4: the evaluation failed, 2 so far: ValueError: no memory" in capsys.readouterr().err
    same_state(tmp_path / "latest", plain / "latest")


def test_one_metric_of_several_fails(tmp_path):
    judge = Judge(failed="too few")
    run(tmp_path, *SHORT, "training.eval_every=4", evaluator=judge)
    assert of_evaluations(tmp_path) == [{"step": 4, "evaluation_failed": "too few", "evaluations_failed": 1}]


def test_a_judge_that_takes_too_long_is_given_up(tmp_path):
    judge = Judge()

    def hang(step):
        while not judge.stopped():
            time.sleep(0.01)

    judge.action = hang
    run(tmp_path, *SHORT, "training.eval_every=4", "eval.minutes=0.001", evaluator=judge)
    (line,) = of_evaluations(tmp_path)
    assert line["evaluation_failed"] == "not done after eval.minutes=0.001"


def test_too_little_memory_for_the_samples_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "whole_bytes", lambda network: 1 << 60)
    run(tmp_path, *SHORT, "training.eval_every=4", evaluator=Judge())
    assert "GiB, " in of_evaluations(tmp_path)[0]["evaluation_failed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_evaluation_which_is_made_later(plain, tmp_path, number):
    judge = Judge()

    def signalled(step):
        if judge.steps.count(step) == 1:
            os.kill(os.getpid(), number)
            if number == signal.SIGTERM:
                raise RuntimeError("the judge got the signal as well")
            while not judge.stopped():
                time.sleep(0.01)

    judge.action = signalled
    for step in (2, 4):
        outcome = run(tmp_path, *SHORT, evaluator=judge)
        assert (outcome.step, outcome.interrupted) == (step, True)
        assert [line["step"] for line in of_evaluations(tmp_path)] == [2, 4][: step // 2 - 1]
    assert not run(tmp_path, *SHORT, evaluator=judge).interrupted
    assert not run(tmp_path, *SHORT, evaluator=judge).interrupted  # nothing left to do
    assert judge.steps == [2, 2, 4, 4] and [line["step"] for line in of_evaluations(tmp_path)] == [2, 4]
    same_state(tmp_path / "latest", plain / "latest")
    assert of_steps(tmp_path) == of_steps(plain)


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_around_the_line_of_the_log_does_not_double_it(plain, tmp_path, monkeypatch, written):
    class Killed(BaseException):
        pass

    def killed(self, line):
        if evaluation.is_evaluation(line) and line["step"] == 2:
            if written:
                write(self, line)
            raise Killed
        write(self, line)

    write, judge = log.RunLog.write, Judge()
    with monkeypatch.context() as patch:
        patch.setattr(log.RunLog, "write", killed)
        with pytest.raises(Killed):
            run(tmp_path, *SHORT, evaluator=judge)
    run(tmp_path, *SHORT, evaluator=judge)
    assert judge.steps == ([2, 4] if written else [2, 2, 4])
    assert [line["step"] for line in of_evaluations(tmp_path)] == [2, 4]
    same_state(tmp_path / "latest", plain / "latest")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("eval.metrics=[fvd, beauty]",), "'beauty' is none of fvd, kvd"),
        (("eval.steps=[4]",), "2 levels need 2 numbers of steps"),
        (("eval.protocol=hpdm-64f",), "wants 64 frames, the videos have 4"),
        (("eval.part=test",), "no part that is held out"),
        (("eval.protocol=absent",), "absent"),
    ],
)
def test_what_cannot_be_evaluated_is_found_before_anything_is_written(tmp_path, settings, message):
    config = small_config(*SHORT[:3], *settings)
    with pytest.raises(InputError, match=message):
        loop.train(config, tmp_path / "run", device="cpu", evaluator=Evaluator(config, tmp_path / "evaluations"))
    assert not list(tmp_path.iterdir())


def test_without_an_evaluator_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "entry_points", lambda group: [])
    with pytest.raises(InputError, match="needs an evaluator"):
        run(tmp_path / "run", *SHORT)
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_get_the_figures_where_asked_for(tmp_path, monkeypatch):
    sent, options = [], {}
    fake = types.ModuleType("wandb")
    fake.run, fake.log, fake.finish = None, lambda numbers, step: sent.append((step, numbers)), lambda: None
    fake.init = lambda **given: options.update(given) or fake
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (tmp_path / "a").mkdir()
    log.RunLog(tmp_path / "a", 0, quiet=True).write({"step": 1, "loss": 2.0})
    assert not sent and not options
    monkeypatch.setenv("WANDB_PROJECT", "videos")
    board = log.RunLog(tmp_path / "a", 0, quiet=True)
    board.write({"step": 3, "fvd@2": 1.5, "fvd@2_ci95": [1.0, 2.0], "evaluation_failed": "text"})
    assert sent == [(3, {"step": 3, "fvd@2": 1.5, "fvd@2_ci95/0": 1.0, "fvd@2_ci95/1": 2.0})]
    assert options["name"] == "a" and options["resume"] == "allow"

    def broken(numbers, step):
        raise OSError("no network")

    fake.log = broken
    board.write({"step": 4, "loss": 1.0})
    board.write({"step": 5, "loss": 1.0})
    assert [line["step"] for line in read_log(tmp_path / "a")] == [3, 4, 5] and len(sent) == 1


def test_models_of_texts_are_evaluated_on_videos_and_their_captions(tmp_path):
    """Half of the data are pictures, which stand still: none is in the reference, nor is any sample told to be one."""
    asked, conditioner = [], evaluation.Evaluations._conditions
    config = override_config(
        config_from_dict(small_text()),
        ["training.steps=1", "training.eval_every=1", "eval.num=6", "eval.num_reference=5"],
    )

    def judge(samples, step, draw_reference, stopped):
        (tmp_path / "reference").mkdir()
        draw_reference(tmp_path / "reference")
        return {"fvd": {"value": 1.0, "ci95": None}}

    class Recorded(evaluation.Evaluations):
        def _conditions(self, *arguments):
            asked.append(conditioner(self, *arguments)[1])
            return [0] * len(arguments[0]), asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "Evaluations", Recorded)
        loop.train(config, tmp_path / "run", device="cpu", quiet=True, evaluator=judge)
    assert of_evaluations(tmp_path / "run") == [{"step": 1, "fvd@6": 1.0}]
    assert sum(len(told) for told in asked) == 6 and all((told.measures[:, 0] > 0).all() for told in asked)
    clips = [np.load(path) for path in sorted((tmp_path / "reference").iterdir())]
    assert len(clips) == 5 and all(clip.shape == (4, 8, 8, 3) and (clip[0] != clip[-1]).any() for clip in clips)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The scenarios of two processes, and one process of the same settings, with the samples that were judged."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "one", *SETTINGS, *EVALUATED, evaluator=Keeps(folder / "one-samples"))
    run_on_two(folder, "ddp", "fsdp")
    return folder


def run_on_two(folder, *names):
    """Run scenarios of ema_worker.py on two processes."""
    scenarios = [f"{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]
    command = [sys.executable, str(SUPPORT / "ema_worker.py"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen([*command, rank, *scenarios], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors


@pytest.mark.parametrize("name", ["one", "ddp", "fsdp"])
def test_samples_are_those_of_hpdm_sample(runs, tmp_path, name):
    """Judged are, to the bit, the videos that the checkpoint's averaged weights make."""
    for step in (2, 4):
        made = CliRunner().invoke(
            sample,
            [
                "--checkpoint",
                str(step_folder(runs / name, step)),
                "--num",
                "3",
                "--out",
                str(tmp_path / str(step)),
                "--steps",
                "2,2",
                "--format",
                "npy",
                "--device",
                "cpu",
                "--quiet",
            ],
        )
        assert made.exit_code == 0, made.stderr
        judged = runs / f"{name}-samples" / f"samples-{step}"
        names = sorted(path.name for path in judged.glob("*.npy"))
        assert names == sorted(path.name for path in (tmp_path / str(step)).glob("*.npy")) and len(names) == 3
        for file in names:
            assert np.array_equal(np.load(judged / file), np.load(tmp_path / str(step) / file)), (step, file)
        ours, theirs = read_json(judged / "samples.json"), read_json(tmp_path / str(step) / "samples.json")
        for key in ("patch", "factors", "resolution", "count"):
            assert ours[key] == theirs[key]
        assert all(ours["settings"][key] == theirs["settings"][key] for key in ("levels", "overlap", "steps", "canvas"))


def test_waiting_for_the_judge_times_out_nowhere(runs):
    for name in ("one", "ddp", "fsdp"):
        assert [(line["step"], line["fvd@3"]) for line in of_evaluations(runs / name)] == [(2, 2.0), (4, 4.0)]


@pytest.mark.slow
def test_evaluation_leaves_sharded_training_as_it_is_to_the_bit(runs):
    run_on_two(runs, "fsdp-not-evaluated")
    same_state(runs / "fsdp" / "latest", runs / "fsdp-not-evaluated" / "latest")
    assert of_steps(runs / "fsdp") == of_steps(runs / "fsdp-not-evaluated")


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.parametrize("place", ["latest", "snapshots/step-00000004", "snapshots/step-00000002"])
def test_traces_of_two_processes_equal_those_of_one(runs, name, place):
    for kind in (trace_kind(0.05), trace_kind(0.1), "ema"):
        ours, theirs = (saved_weights(runs / run / place, kind) for run in (name, "one"))
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_sharded_snapshots_make_the_average_that_one_process_makes(runs, tmp_path):
    kinds = ("ema", trace_kind(0.05), trace_kind(0.1))
    snapshot = shutil.copytree(runs / "fsdp" / "snapshots" / "step-00000004", tmp_path / "copy" / "step-00000004")
    assert {path.name for path in snapshot.iterdir()} == {
        *(f"{kind}-0000{rank}.safetensors" for kind in kinds for rank in (0, 1)),
        *(index_file(kind) for kind in kinds),
        "config.yaml",
        "manifest.json",
    }
    assert {row["state"] for row in check(runs / "fsdp")} == {"whole"}
    about = write_average(runs / "fsdp", tmp_path / "fsdp", length=0.08)
    assert {Path(entry["file"]).name for entry in about["snapshots"]} == {index_file(kind) for kind in kinds[1:]}
    assert write_average(runs / "one", tmp_path / "one", length=0.08)["profile_error"] == about["profile_error"]
    found, expected = (load_checkpoint(tmp_path / name).network.state_dict() for name in ("fsdp", "one"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    part = snapshot / f"{kinds[1]}-00001.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert [row["state"] for row in check(snapshot.parent)] == [f"damaged: {part.name} differs from its checksum"]


def hpdm_eval_here(self, words, stopped):
    """What a process of its own would print, without starting one."""
    result = CliRunner().invoke(importlib.import_module("hpdm_eval.commands.entry").main, words)
    assert result.exit_code == 0, result.stderr
    return read_records(words[0], result.stdout)


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_command_evaluates_with_hpdm_eval(tmp_path, monkeypatch, apart):
    if not importlib.metadata.entry_points(group=evaluation.GROUP):
        pytest.skip("the installed package is older than setup.py and names no evaluator: install it again")
    if not apart:
        monkeypatch.setattr(Evaluator, "_run", hpdm_eval_here)
    size, folder = write_small(tmp_path / "small.yaml"), tmp_path / "run"
    words = [
        "--size",
        str(size),
        "--out",
        str(folder),
        "--steps",
        "2",
        "--eval-every",
        "1",
        "--device",
        "cpu",
        "--set",
        "eval.num=16",
        "--set",
        "eval.num_reference=12",
        "--set",
        "eval.steps=[1, 1]",
        "--set",
        "eval.metrics=[fvd, kvd, prdc, is, fid, seams]",
    ]
    result = CliRunner().invoke(train, words)
    assert result.exit_code == 0, result.stderr
    assert len(lines := of_evaluations(folder)) == 2
    for line in lines:
        assert {f"{name}@16" for name in ("fvd", "kvd", "prdc", "is", "fid", "seams")} <= set(line)
        assert "seams@16_ci95" in line and evaluation.FAILED not in line
        assert f"step {line['step']}: fvd@16" in result.stderr
        records = folder / "evaluations" / f"step-{line['step']:08d}"
        record = read_json(records / "fvd.json")
        assert record["value"] == line["fvd@16"] and (record["num_samples"], record["num_reference"]) == (16, 12)
        assert record["backbone"]["name"] == "shapes3d"
        assert read_json(records / "seams.json")["value"] == line["seams@16"]
    found = list((folder / "evaluations").glob("reference-*.npz"))  # of clips, and of frames for fid
    (reference,) = (path for path in found if "features" in np.load(path))
    assert len(found) == 2
    clips = loop.open_clips(small_config().data, frames=4, height=8, width=8, seed=0)
    Path(tmp_path / "clips").mkdir()
    for number in range(12):  # the reference is what the network learns from
        np.save(tmp_path / "clips" / f"{number:06d}.npy", clips[number][0].permute(1, 2, 3, 0).numpy())
    made = CliRunner().invoke(
        importlib.import_module("hpdm_eval.commands.entry").main,
        [
            "stats",
            "--data",
            str(tmp_path / "clips"),
            "--out",
            str(tmp_path / "s.npz"),
            "--protocol",
            "native",
            "--backbone",
            "shapes3d",
            "--device",
            "cpu",
            "--no-cache",
        ],
    )
    assert made.exit_code == 0, made.stderr
    np.testing.assert_allclose(np.load(reference)["mean"], np.load(tmp_path / "s.npz")["mean"], rtol=1e-6)


def test_commands_run_apart_and_can_be_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")  # of the training: the judge is one process
    evaluator = Evaluator(small_config("eval.metrics=[dead-tokens]"), tmp_path)
    with pytest.raises(InputError, match="hpdm-eval absent ended with 2: .*absent"):
        evaluator._run(["absent"], lambda: False)
    with pytest.raises(InputError, match="was ended"):
        evaluator._run(["quickstart", "--out", str(tmp_path / "never")], lambda: True)
    figures = evaluator(tmp_path / "nothing", 3, None, lambda: False)
    assert "nothing" in figures["dead-tokens"]["failed"]
