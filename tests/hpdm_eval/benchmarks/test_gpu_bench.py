"""`hpdm-eval bench gpu`: what is run, what is left out, and what is kept when something goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner

from hpdm.methods import make_method
from hpdm.model.rin import Attention, set_attention_precision
from hpdm.support.errors import InputError
from hpdm_eval.benchmarks.gpu import gradients, table1, training
from hpdm_eval.benchmarks.gpu.bench import FAILED, LEFT_OUT, MEASURED, Bench, Item, Result, Settings, reason_of
from hpdm_eval.benchmarks.gpu.plan import plan
from hpdm_eval.benchmarks.gpu.run import RESERVE, Budget, ItemFailed, Journal, read_records, run_items
from hpdm_eval.benchmarks.gpu.sampling import extrapolate
from hpdm_eval.benchmarks.gpu.tables import page
from hpdm_eval.benchmarks.gpu.worker import Worker
from hpdm_eval.commands.entry import main
from tests.support import gpu_bench_items
from tests.support.paths import ROOT
from tests.support.small_training import small_config

REHEARSAL = Settings(device="cpu", rehearse=True, seed=0)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def item(name, cost, run=None):
    return Item(name=name, cost=cost, run=run)


def journal(tmp_path, said=None):
    say = [].append if said is None else said.append
    made = Journal(tmp_path / "out", seed=3, command="hpdm-eval bench gpu", say=say)
    made.place = {
        "device": {"name": "Example GPU", "type": "cuda", "memory_gib": 80.0},
        "versions": {"torch": "2.11", "cuda": "13.0"},
    }
    return made


def test_items_that_do_not_fit_are_named_and_cheaper_ones_still_run(tmp_path):
    clock, ran, said = Clock(), [], []
    budget = Budget(100 + RESERVE, clock)

    def execute(own, limit, facts):
        ran.append((own.name, limit))
        clock.now += 70
        yield Result(what="speed", settings={"batch": 8}, value=1.5, unit="videos/s")

    out = journal(tmp_path, said)
    run_items([item("a/first", 60), item("b/large", 40), item("c/small", 30)], execute, out, budget)
    assert ran == [("a/first", 100), ("c/small", 30)]  # at most what is left
    records = read_records(tmp_path / "out")
    assert [(record["item"], record["status"]) for record in records] == [
        ("a/first", MEASURED),
        ("b/large", LEFT_OUT),
        ("c/small", MEASURED),
    ]
    assert records[0]["seconds"] == 70 and records[0]["value"] == 1.5 and records[0]["seed"] == 3
    assert "40 s" in records[1]["reason"] and "30 s were left" in records[1]["reason"]
    assert any("left out for lack of time: b/large" in line for line in said)
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "## Left out" in text and "b/large" in text and "Example GPU" in text


def test_an_item_may_not_use_the_time_of_all_others(tmp_path):
    limits = []

    def execute(own, limit, facts):
        limits.append(limit)
        return iter(())

    run_items([item("a/quick", 10)], execute, journal(tmp_path), Budget(1000, Clock()))
    assert limits == [75]
    budget = Budget(1000 + RESERVE, Clock())
    run_items([item("a/quick", 10)], execute, journal(tmp_path / "patient"), budget, patient=True)
    assert limits == [75, 1000]  # a rehearsal may run on a busy machine


def test_a_failed_item_keeps_its_results_and_the_run_goes_on(tmp_path):
    def execute(own, limit, facts):
        yield Result(what="speed", settings={}, value=1.0, unit="x")
        if own.name == "a/breaks":
            raise ItemFailed("its process died (exit code -9)")

    run_items([item("a/breaks", 1), item("b/works", 1)], execute, journal(tmp_path), Budget(100, Clock()))
    records = read_records(tmp_path / "out")
    assert [record["status"] for record in records] == [MEASURED, FAILED, MEASURED]
    assert records[1]["reason"] == "its process died (exit code -9)"
    assert "its process died" in (tmp_path / "out" / "gpu.md").read_text()


def test_an_interruption_keeps_what_is_done(tmp_path):
    def execute(own, limit, facts):
        yield Result(what="speed", settings={}, value=float("nan"), unit="x", details={"loss": float("inf")})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_items([item("a/a", 1)], execute, journal(tmp_path), Budget(100, Clock()))
    with open(tmp_path / "out" / "records.jsonl", "a") as file:
        file.write('{"schema": 1, "cut')
    (record,) = read_records(tmp_path / "out")
    assert record["value"] is None and record["details"] == {"loss": None}  # JSON has neither


def test_records_of_another_run_are_not_mixed_in(tmp_path):
    out = journal(tmp_path)
    out.add(item("a/a", 1), Result(what="speed", settings={}), 0)
    with pytest.raises(InputError, match="another run"):
        journal(tmp_path)
    (tmp_path / "out" / "records.jsonl").write_text("{\n{}\n")
    with pytest.raises(InputError, match="line 1"):
        read_records(tmp_path / "out")


def test_rates_of_the_roof_reach_later_items(tmp_path):
    seen = []

    def execute(own, limit, facts):
        seen.append(dict(facts["roof"]))
        for shape, rate in (("square", 400.0), ("tokens x width", 100.0)):
            settings = {"precision": "tf32", "shape": shape}
            yield Result(what="matrix product", settings=settings, value=rate, unit="TFLOP/s")

    run_items([item("roof/products", 1), item("training/S", 1)], execute, journal(tmp_path), Budget(100, Clock()))
    assert seen == [{}, {"tf32": 4e14}]


@pytest.fixture(scope="module")
def worker():
    places = []
    with Worker(gpu_bench_items.items, REHEARSAL, places.append) as started:
        started.begin(120)
        assert places[0]["device"]["type"] == "cpu" and places[0]["versions"]["torch"] == torch.__version__
        yield started


def outcome(worker, name, limit=60.0):
    """(results, message of ItemFailed or None)."""
    results = []
    try:
        for result in worker(item(f"test/{name}", 1), limit, {}):
            results.append(result)
    except ItemFailed as error:
        return results, str(error)
    return results, None


def test_what_happens_in_the_worker(worker):
    (good, too_large), message = outcome(worker, "works")
    assert message is None and good.value == 3.0 and good.status == MEASURED
    assert too_large.status == FAILED and too_large.reason.startswith(("out of memory", "RuntimeError"))
    results, message = outcome(worker, "raises")
    assert len(results) == 1 and message == "ValueError: no such thing"
    (again, _), _ = outcome(worker, "works")
    assert again.details["pid"] == good.details["pid"]  # an exception costs no process
    assert outcome(worker, "dies")[1] == "its process died (exit code 7)"
    (after, _), message = outcome(worker, "works")
    assert message is None and after.details["pid"] != good.details["pid"]
    results, message = outcome(worker, "hangs", limit=1.0)
    assert "too long" in message and len(results) == 1
    assert "device was lost" in outcome(worker, "loses")[1]
    assert worker.process is None  # the next item gets a new one


def test_out_of_memory_is_called_that():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried\nmore")
    assert reason_of(error) == "out of memory: CUDA out of memory. Tried"
    assert reason_of(RuntimeError("DefaultCPUAllocator: out of memory")).startswith("out of memory")
    assert reason_of(ValueError("a\nb")) == "ValueError: a b"


def test_table_shows_every_record():
    common = {
        "device": {"name": "Example", "type": "cuda"},
        "versions": {"torch": "2.11", "cuda": "13.0"},
        "git": "abc",
        "seed": 0,
        "created": "2026-01-01T00:00:00Z",
        "command": "hpdm-eval bench gpu",
        "reason": None,
    }
    records = [
        {
            "subject": "training",
            "what": "training step",
            "settings": {"size": "S", "precision": precision},
            "value": rate,
            "unit": "videos/s",
            "details": {"peak GiB": 40.25},
            "status": "measured",
            **common,
        }
        for precision, rate in (("tf32", 20.5), ("bf16", 31.0))
    ]
    records.append(
        {
            "subject": "table1",
            "what": "memory",
            "settings": {"row": "full"},
            "value": None,
            "unit": None,
            "details": {},
            "status": "failed",
            **common,
            "reason": "out of memory: tried 1 TiB",
        }
    )
    text = page(records)
    assert "| S | tf32 | 20.5 | 40.25 |" in text and "| S | bf16 | 31 | 40.25 |" in text
    assert "- memory row=full: out of memory: tried 1 TiB" in text
    assert "Rehearsal" not in text
    records[0]["command"] += " --rehearse"
    assert "Rehearsal" in page(records)


def test_a_short_run_of_the_sampler_is_extrapolated():
    # Level 0 takes 2 s an evaluation and 3 s to begin, level 1 takes 5 s and 1 s; 4 and 10 blocks an evaluation.
    marks = [(0, 5.0, 4), (0, 7.0, 8), (0, 9.0, 12), (1, 15.0, 32), (1, 20.0, 42)]
    seconds, each = extrapolate(marks, (4 * 4, 2 * 10), 0.0, 20.0)
    assert each == [2.0, 5.0]
    assert seconds == 20 + 4 * 2 + 2 * 5


def test_extrapolated_sampling_counts_the_blocks_that_a_whole_run_takes():
    bench = Bench(REHEARSAL)
    from hpdm_eval.benchmarks.gpu import sampling

    (short,) = sampling.video(bench, size="S", cases=(("fp32", "none", True, 1, 4),))
    assert short.status == MEASURED, short.reason
    # nano: blocks of 1, 1, 2 and 3 levels; 32 steps of two evaluations but for the last, then 16; 1 and 8 tiles. The
    # finished level runs once more for the one above it.
    assert short.details["block evaluations a video"] == 4 * (63 + 1) + 8 * 2 * 16 and short.details["levels"] == 2
    assert short.details["finite"]


def test_gradient_of_fp32_agrees_with_itself_and_half_precision_nearly():
    bench = Bench(REHEARSAL)
    results = gradients.cosines(bench, size="nano", batch=2)
    cosine = {(result.settings["precision"], result.settings["loss factor"]): result for result in results}
    assert cosine["fp32", 1].value == pytest.approx(1, abs=1e-9)
    assert cosine["fp32", 1].settings["weights"] == "shipped"
    assert 0.99 < cosine["bf16", 1].value < 1 - 1e-7 and cosine["bf16", 1].details["worst tensor"] < 1
    assert cosine["attention-bf16", 1].value > cosine["bf16", 1].value


def test_training_step_is_that_of_training():
    """The same losses as the loss of a method by itself, and weights that move."""
    config = small_config("training.batch=2", "training.micro_batch=null", "training.optimizer=lamb")
    bench = Bench(REHEARSAL)
    trainer = training.Trainer(config, "cpu")
    before = [p.detach().clone() for p in trainer.parameters]
    video, labels = trainer.videos(2)
    loss = trainer.forward_backward(bench, trainer.method(2), video, labels, "fp32")
    assert loss == pytest.approx(
        trainer.method(2).loss(trainer.network.eval(), video, labels, step=0, positions=range(2)).mean().item(), rel=0.2
    )
    trainer.update()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    assert trainer.number == 1 and trainer.parameters[0].grad is None


def test_flops_are_those_of_the_plan():
    from hpdm.training.plan import count_flops

    config = small_config()
    assert training.sample_flops(config) == count_flops(config).training


def test_largest_batch_is_lowered_until_it_fits(monkeypatch):
    bench = Bench(Settings(device="cpu", rehearse=False, seed=0))
    monkeypatch.setattr(Bench, "on_gpu", True)
    monkeypatch.setattr(Bench, "room_gib", lambda self: 80.0)
    monkeypatch.setattr(Bench, "release", lambda self: None)
    monkeypatch.setattr(table1, "_trainer", lambda bench, config, key: None)
    tried = []

    def step_times(bench, trainer, *, batch, precision, checkpointing, rounds):
        tried.append(batch)
        if batch > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.5, 0.1, torch.zeros(()), 60.0

    monkeypatch.setattr(table1, "step_times", step_times)
    # 10 GiB for one and 5 for every further one: 14 ought to fit into 95 % of 80, and do not.
    result = table1._largest(bench, None, "key", False, {}, 10.0, 15.0)
    assert tried == [14, 13, 12] and result.details["largest batch"] == 12
    assert result.details["did not fit"] == "14, 13" and result.value == pytest.approx(12 / 0.6)
    monkeypatch.setattr(table1, "step_times", lambda *a, **b: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    assert table1._largest(bench, None, "key", False, {}, 10.0, 15.0).status == FAILED


def test_attention_precision_changes_attention_alone():
    network = make_method(small_config()).make_network()
    assert all(module.precision is None for module in network.modules() if isinstance(module, Attention))
    attention = Attention(16, width=16, heads=2)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    exact = attention(x)
    set_attention_precision(attention, "bf16")
    rough = attention(x)
    assert rough.dtype == torch.float32 and 0 < (rough - exact).abs().max() < 0.05
    set_attention_precision(attention, "fp32")
    assert torch.equal(attention(x), exact)
    with pytest.raises(InputError, match="attention_precision"):
        small_config("training.attention_precision=fp8")


def test_a_rehearsal_through_the_command(tmp_path):
    out = tmp_path / "gpu"
    words = [
        sys.executable,
        "-m",
        "hpdm_eval.benchmarks.gpu",
        "--rehearse",
        "--minutes",
        "2",
        "--out",
        str(out),
        "--only",
        "roof/copy",
        "--only",
        "agreement/forward",
        "--commit",
        "f00",
        "--quiet",
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert {record["item"] for record in records} == {"roof/copy", "agreement/forward"}
    exact = next(record for record in records if record["settings"].get("precision") == "fp32")
    assert exact["details"]["agrees"] is True and exact["value"] < 1e-4
    for record in records:
        assert record["status"] == MEASURED and record["command"].startswith(
            "python -m hpdm_eval.benchmarks.gpu --rehearse"
        )
        assert record["versions"]["torch"] == torch.__version__ and record["device"]["type"] == "cpu" and record["git"]
    assert "Rehearsal" in (out / "gpu.md").read_text() and (out / "gpu.log").exists()
    assert sorted(path.name for path in out.iterdir()) == ["gpu.log", "gpu.md", "records.jsonl"]
    again = CliRunner().invoke(main, ["bench", "gpu", "--rehearse", "--out", str(out), "--quiet"])
    assert again.exit_code == 2 and "another run" in again.stderr


def test_ctrl_c_leaves_records_and_table(tmp_path):
    out = tmp_path / "gpu"
    words = [
        sys.executable,
        "-m",
        "hpdm_eval.benchmarks.gpu",
        "--rehearse",
        "--out",
        str(out),
        "--only",
        "roof",
        "--only",
        "agreement/samples",
    ]
    process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    records = out / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (records.exists() and records.read_text().count("\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert len(read_records(out)) > 2 and "matrix product" in (out / "gpu.md").read_text().lower()


def test_refusals_and_list(tmp_path):
    def run(*words):
        return CliRunner().invoke(main, ["bench", "gpu", *words])

    listed = run("--list", "--only", "table1", "--only", "roof/copy").stdout
    assert "table1/full " in listed and "roof/copy" in listed and "roof/products" not in listed
    assert "training/nothing" in run("--only", "training/nothing", "--list").stderr
    assert run("--rehearse").exit_code == 2
    if not torch.cuda.is_available():
        refused = run("--out", str(tmp_path / "x"))
        assert refused.exit_code == 2 and not (tmp_path / "x").exists()
    names = [own.name for own in plan(REHEARSAL)]
    assert len(set(names)) == len(names)
    assert sum(own.cost for own in plan(Settings(device="cuda", rehearse=False, seed=0))) < 15 * 60


def test_no_decoder_is_needed_to_train_or_to_measure():
    """PyAV, decord and torch-fidelity are absent where someone brings only the source tree."""
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("av", "decord", "torch_fidelity"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import hpdm_eval.commands.bench, hpdm.training.loop
from hpdm.data.loader import DataConfig, open_clips
from hpdm.support.errors import InputError
assert open_clips(DataConfig(), frames=1, height=8, width=8, seed=0)[0][0].shape == (3, 1, 8, 8)
try:
    open_clips(DataConfig(path="."), frames=1, height=8, width=8, seed=0)
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "PyAV is not installed" in done.stdout, done.stderr


@pytest.mark.parametrize("name", [".", "options"])
def test_the_committed_page_is_that_of_the_committed_records(name):
    folder = ROOT / "reports" / "gpu" / name
    records = read_records(folder)
    assert page(records) == (folder / "gpu.md").read_text(encoding="utf-8")
    assert all(record["status"] != "measured" or record["device"]["name"] for record in records)
