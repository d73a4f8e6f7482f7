"""`hpdm-eval efficiency`: its rows, what they are counted to cost, and that what is measured follows the count."""

import dataclasses

import pytest
import torch
from click.testing import CliRunner
from small_training import small_config, write_small

from hpdm.config import load_config
from hpdm.network import HPDM
from hpdm.training.plan import count_flops
from hpdm_eval.cli import main
from hpdm_eval.records import load_record
from hpdm_eval.studies.efficiency import alternatives, describe_size, enlarged, largest_batch
from hpdm_eval.studies.speed import training_memory, training_step

ROWS = ["full", "large-patch", "large-patch-adaptive", "small-patch", "small-patch-adaptive"]


def test_rows_are_those_of_the_paper():
    rows = alternatives(load_config("S"))
    assert list(rows) == ROWS
    assert [row.pyramid.patch for row in rows.values()] == [
        (64, 256, 256), (32, 128, 128), (32, 128, 128), (16, 64, 64), (16, 64, 64)]
    assert [row.network.levels_per_block for row in rows.values()] == [
        (1,) * 6, (2,) * 6, (1, 1, 1, 2, 2, 2), (3,) * 6, (1, 1, 2, 2, 3, 3)]
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


def test_command(tmp_path):
    size = write_small(tmp_path / "small.yaml")
    words = ["efficiency", "--out", tmp_path / "out", "--size", size, "--paper-size", size, "--rounds", "1",
             "--batch", 2, "--device", "cpu", "--quiet"]
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
