"""`hpdm-eval efficiency`: its rows, what they are counted to cost, and that what is measured follows the count."""

import dataclasses

import pytest
import torch
from click.testing import CliRunner

from hpdm.config import load_config
from hpdm.methods import make_method, method_class
from hpdm.model.network import HPDM
from hpdm.training.plan import count_flops
from hpdm_eval.benchmarks import speed
from hpdm_eval.benchmarks.speed import fitting_batch, training_memory, training_step
from hpdm_eval.commands.entry import main
from hpdm_eval.records.record import load_record
from hpdm_eval.studies.ablations import efficiency
from hpdm_eval.studies.ablations.efficiency import alternatives, describe_size, enlarged, largest_batch, measured
from hpdm_eval.studies.ablations.measure import Records, step_record
from tests.support.small_training import small_config, write_small

ROWS = ["full", "large-patch", "large-patch-adaptive", "small-patch", "small-patch-adaptive"]


def test_rows_are_those_of_the_paper():
    rows = alternatives(load_config("S"))
    assert list(rows) == ROWS
    assert [row.pyramid.patch for row in rows.values()] == [
        (64, 256, 256),
        (32, 128, 128),
        (32, 128, 128),
        (16, 64, 64),
        (16, 64, 64),
    ]
    assert [row.network.levels_per_block for row in rows.values()] == [
        (1,) * 6,
        (2,) * 6,
        (1, 1, 1, 2, 2, 2),
        (3,) * 6,
        (1, 1, 2, 2, 3, 3),
    ]
    assert {describe_size(row) for row in rows.values()} == {"64x256x256"}


@pytest.mark.parametrize("size", ["S", "nano"])
def test_rows_for_twice_the_size_have_a_level_more(size):
    base = load_config(size)
    rows, larger = alternatives(base), enlarged(base)
    frames, height, width = base.pyramid.resolution(2)
    assert describe_size(larger["full"]) == f"{frames}x{2 * height}x{2 * width}"
    for name in ROWS[1:]:
        assert larger[name].pyramid.patch == rows[name].pyramid.patch
        assert larger[name].pyramid.levels == rows[name].pyramid.levels + 1
        assert describe_size(larger[name]) == f"{2 * frames}x{2 * height}x{2 * width}"
    assert larger["small-patch"].network.levels_per_block == (4,) * len(base.network.levels_per_block)
    for row in larger.values():
        with torch.device("meta"):
            HPDM(row.network, row.pyramid)


def test_patches_and_adaptive_computation_save_work():
    flops = {name: count_flops(row).training for name, row in alternatives(load_config("nano")).items()}
    assert [name for name, _ in sorted(flops.items(), key=lambda item: -item[1])] == ROWS


def test_memory_is_that_of_a_step(monkeypatch):
    """Weights, gradients and both moments of the optimizer are in it, and it grows with the batch."""
    config = small_config("network.token_width=64", "network.latent_width=512", "network.compute_head_width=256")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in HPDM(config.network, config.pyramid).parameters())
    one, many = (training_memory(config, batch=batch, device="cpu") for batch in (1, 64))
    assert 4 * 4 * parameters < one < many


def test_a_step_learns():
    config = small_config()
    step = training_step(config, 4, torch.device("cpu"))
    (network,) = [cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, HPDM)]
    before = [parameter.clone() for parameter in network.parameters()]
    step()
    step()
    assert any(not torch.equal(*pair) for pair in zip(before, network.parameters()))
    assert largest_batch(config, torch.device("cpu")) == config.training.micro_batch


def test_steps_of_several_kinds_count_by_their_shares(monkeypatch):
    """Patch diffusion's steps see whole videos or parts of them; its speed is that of the mix."""
    config = method_class("patch-diffusion").configure(small_config("training.batch=2"))
    method = make_method(config)
    kinds = method.kinds_of_step()
    assert sorted(kinds.values()) == pytest.approx([0.2, 0.3, 0.5])
    sizes = {method.draw_windows(step, range(1))[0] for step in kinds}
    assert sizes == {method.size(scale) for scale in (1, 2, 4)}
    asked = {}

    def rates_by_round(stages, rounds, quiet, device):
        asked.update(stages)
        return {(name, step): [1 / (1 + step)] * rounds for name, step in stages}

    monkeypatch.setattr(speed, "rates_by_round", rates_by_round)
    rates = speed.training_rates({"a": config, "b": small_config()}, batch=2, rounds=3, device=torch.device("cpu"))
    assert rates["a"] == pytest.approx([1 / sum(share * (1 + step) for step, share in kinds.items())] * 3)
    assert rates["b"] == [1.0] * 3 and set(asked) == {("a", step) for step in kinds} | {("b", 0)}
    for _, run in asked.values():
        run()


@pytest.mark.parametrize("share, kinds", [(1.0, [1.0]), (1 - 1e-9, [1.0]), (0.0, [0.4, 0.6])])
def test_kinds_of_steps_that_hardly_occur_are_not_looked_for(share, kinds):
    config = method_class("patch-diffusion").configure(small_config())
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, full_share=share))
    assert sorted(make_method(config).kinds_of_step().values()) == pytest.approx(kinds)


def test_what_does_not_fit_together_is_timed_apart(monkeypatch, capsys):
    """Each of several may fit by itself and not beside the others; one that does not even so is left out."""
    asked = []

    def rates_by_round(stages, rounds, quiet, device):
        names = {name[0] if isinstance(name, tuple) else name for name in stages}
        asked.append(names)
        if len(names) > 1 or names == {"huge"}:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {name: [2.0] * rounds for name in stages}

    monkeypatch.setattr(speed, "rates_by_round", rates_by_round)
    configs = dict.fromkeys(("a", "huge", "b"), small_config())
    options = {"rounds": 3, "device": torch.device("cpu")}
    assert speed.training_rates(configs, batch=1, **options) == {"a": [2.0] * 3, "b": [2.0] * 3}
    assert asked == [{"a", "b", "huge"}, {"a"}, {"huge"}, {"b"}]
    assert "each is timed by itself" in capsys.readouterr().err
    assert speed.sampling_seconds(configs, videos=1, **options) == {"a": [0.5] * 3, "b": [0.5] * 3}


def test_batches_that_are_tried_divide_the_wanted_one(monkeypatch):
    """A training's micro-batch has to divide its batch."""
    tried = []

    def memory(config, *, batch, device):
        tried.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed, "training_memory", memory)
    assert fitting_batch(small_config(), torch.device("cuda"), 15) == 0 and tried == [15, 5, 3, 1]


@pytest.fixture
def small_gpu(monkeypatch):
    """A device that takes steps of at most two videos, and none of the network on whole videos."""

    def memory(config, *, batch, device):
        if batch > 2 or config.pyramid.levels == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2**30

    monkeypatch.setattr(speed, "training_memory", memory)
    monkeypatch.setattr(efficiency, "training_memory", memory)
    monkeypatch.setattr(efficiency, "training_rates", lambda group, **_: {name: [2.0] for name in group})
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return torch.device("cuda")


def test_rows_that_do_not_fit_are_left_out(small_gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "step_record", lambda *words, device, **more: step_record(*words, **more))
    rows = alternatives(small_config())
    made = measured(rows, "4x8x8", batch=None, rounds=1, device=small_gpu, records=Records(tmp_path, "gpu", "x"))
    assert {record.extra["variant"] for record in made} == set(ROWS[3:])
    assert {record.details[0]["batch"] for record in made if record.metric == "throughput"} == {2}
    assert "full does not fit on this device" in capsys.readouterr().err
    assert fitting_batch(rows["small-patch"], small_gpu, 12) == 2  # after 12, 6, 4 and 3
    assert fitting_batch(rows["full"], small_gpu, 12) == 0 and largest_batch(rows["full"], small_gpu) == 0
    assert fitting_batch(rows["full"], torch.device("cpu"), 12) == 12


def test_a_row_that_fails_when_timed_costs_no_other(small_gpu, tmp_path, capsys, monkeypatch):
    """Another process may have taken the memory that the row was tried with."""
    monkeypatch.setattr(efficiency, "step_record", lambda *words, device, **more: step_record(*words, **more))
    monkeypatch.setattr(
        efficiency, "training_rates", lambda group, **_: {name: [2.0] for name in group if name != "small-patch"}
    )
    made = measured(
        alternatives(small_config()),
        "4x8x8",
        batch=4,
        rounds=1,
        device=small_gpu,
        records=Records(tmp_path, "gpu", "x"),
    )
    assert {record.extra["variant"] for record in made} == {"small-patch-adaptive"} and len(made) == 2
    said = capsys.readouterr().err
    assert "small-patch does not fit on this device" in said
    assert "small-patch-adaptive measured, 2 videos a step" in said


@pytest.mark.slow
def test_command(tmp_path):
    size = write_small(tmp_path / "small.yaml")
    words = [
        "efficiency",
        "--out",
        tmp_path / "out",
        "--size",
        size,
        "--paper-size",
        size,
        "--rounds",
        "1",
        "--batch",
        2,
        "--device",
        "cpu",
        "--quiet",
    ]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    records = [load_record(path) for path in (tmp_path / "out/records").glob("*.json")]
    assert len(records) == len(ROWS) * 2 * 3
    assert all(name in result.stdout for name in (*ROWS, "4x8x8, measured", "4x8x8, computed", "4x16x16, computed"))
    found = {(r.extra["basis"], r.extra["target"], r.metric, r.extra["variant"]): r for r in records}
    rows = alternatives(load_config(size, ["training.activation_checkpointing=false"]))
    for name in ROWS:
        assert found["computed", "4x8x8", "flops", name].value == count_flops(rows[name]).training
        assert found["measured", "4x8x8", "throughput", name].details[0]["batch"] == 2
        assert found["measured", "4x8x8", "memory", name].value > 0
    fewer = CliRunner().invoke(main, [*map(str, words), "--no-measure"])
    assert fewer.exit_code == 0 and "measured" not in fewer.stdout


def test_other_numbers_of_levels_than_three():
    two = alternatives(small_config())
    assert two["large-patch"].pyramid == two["full"].pyramid
    assert dataclasses.replace(two["small-patch"].pyramid) == small_config().pyramid
