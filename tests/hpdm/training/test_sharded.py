"""Sharded checkpoints: every process its part, while training goes on; whole or not at all; read by any number."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import traceback
from concurrent.futures import Future

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException

from hpdm.checkpoint.folder import check_files, latest_checkpoint, read_weights, write_weights
from hpdm.checkpoint.load import find_weights, load_checkpoint
from hpdm.checkpoint.recover import newest_whole
from hpdm.checkpoint.shard_files import DTYPES, KINDS, index_file, read_index, write_tensors
from hpdm.commands.entry import info
from hpdm.methods import make_method
from hpdm.support.errors import Damaged, InputError, WriteError
from hpdm.training.distributed import Processes
from hpdm.training.ema import EMA
from hpdm.training.loop import train
from hpdm.training.optimizer import make_optimizer
from hpdm.training.resume import digest
from hpdm.training.saving import Saver, load_training_state
from hpdm.training.sharded import SaveFailed
from tests.support.paths import ROOT, SUPPORT
from tests.support.sharded_worker import SETTINGS
from tests.support.small_training import saved_weights, small_config

CONFIG = small_config(*SETTINGS)
PARTS = [f"{kind}-0000{rank}.safetensors" for kind in KINDS for rank in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes leave, see sharded_worker.py, and what one does."""
    folder = tmp_path_factory.mktemp("sharded")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, str(SUPPORT / "sharded_worker.py"), str(folder)], env=environment, check=True, timeout=1500
    )
    train(small_config(*SETTINGS, "checkpoint_every=1"), folder / "one", device="cpu", quiet=True, stop_after=3)
    return folder


@pytest.fixture
def step(folder, tmp_path):
    """A copy of a sharded checkpoint, of three steps."""
    return shutil.copytree(folder / "plain" / "step-00000003", tmp_path / "run" / "step-00000003")


def codes(folder, name):
    return (folder / f"{name}.codes").read_text()


def said(folder, name, rank):
    return (folder / f"{name}-{rank}.txt").read_text()


def test_every_process_saves_its_part_and_nothing_is_a_pickle_of_objects(folder):
    run = folder / "plain"
    assert codes(folder, "plain") == "0 0"
    assert os.readlink(run / "latest") == "step-00000003"
    assert sorted(path.name for path in run.iterdir() if path.name.startswith((".", "step"))) == [
        "step-00000002",
        "step-00000003",
    ]
    step = run / "step-00000003"
    assert {path.name for path in step.iterdir()} == {
        *PARTS,
        *(index_file(kind) for kind in KINDS),
        "training.pt",
        "config.yaml",
        "manifest.json",
    }
    assert len({path.stat().st_mode for path in step.iterdir()}) == 1
    first, second = ((step / f"model-0000{rank}.safetensors").stat().st_size for rank in (0, 1))
    assert 0.8 < first / second < 1.25
    assert check_files(step) and check_files(step, ["ema.safetensors"])


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(folder):
    """Step 2 was still being written when step 3 began."""
    for step in ("step-00000002", "step-00000003"):
        for kind in ("model", "ema"):
            ours, theirs = (saved_weights(folder / run / step, kind) for run in ("plain", "one"))
            assert ours.keys() == theirs.keys()
            for name in ours:
                torch.testing.assert_close(
                    ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=f"{step}, {name}": f"{n}: {m}"
                )


def test_a_full_disk_of_one_process_ends_the_run_on_all_with_what_is_kept(folder):
    assert codes(folder, "full_disk") == "2 2"
    for rank in (0, 1):
        assert (
            f"{folder / 'full disk' / 'step-00000002'} could not be written: No space left on device; step 1 is "
            "kept" in said(folder, "full_disk", rank)
        )
    run = folder / "full disk"
    assert latest_checkpoint(run).name == "step-00000001" and not [*run.glob(".*.part"), *run.glob("step-*2")]


def saver_of(tmp_path, error):
    """A `Saver` whose checkpoint of step 4 has met `error` in the background."""
    network = make_method(CONFIG).make_network()
    here = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    saver = Saver(
        tmp_path,
        here,
        network=network,
        ema=EMA(network, 1.0, 1.0),
        config=CONFIG,
        optimizer=make_optimizer(network, CONFIG.training),
    )
    saver._folder, saver._pending = tmp_path / "step-00000004", Future()
    saver._pending.set_exception(error)
    return saver


@pytest.mark.parametrize(
    ("cause", "kind", "message"),
    [
        (
            TypeError("unexpected"),
            SaveFailed,
            r"step-00000004 of .* could not be saved: process 1 met TypeError: unexp",
        ),
        (InputError("no such folder"), InputError, "^no such folder$"),
        (OSError(errno.EDQUOT, "quota", "x"), WriteError, "step-00000004 could not be written: Disk quota exceeded"),
    ],
)
def test_what_a_background_save_meets_is_never_swallowed(tmp_path, cause, kind, message):
    error = CheckpointException("write", {1: (cause, traceback.StackSummary())})
    saver = saver_of(tmp_path, error)
    assert saver.failed()
    with pytest.raises(kind, match=message):
        saver.wait()
    assert not saver.failed()
    saver.wait()
    with pytest.raises(kind, match=message), saver_of(tmp_path, error):
        pass
    with pytest.raises(KeyError), saver_of(tmp_path, error):  # what ended the run stays what ended it
        raise KeyError
    with pytest.raises(SaveFailed, match="could not be saved: Connection closed by peer"):
        saver_of(tmp_path, RuntimeError("Connection closed\n by peer")).wait()


def test_a_process_that_does_not_see_the_folder_ends_the_run_before_its_first_step(folder):
    assert codes(folder, "elsewhere") == "2 2"
    assert all("process 1 sees another folder" in said(folder, "elsewhere", rank) for rank in (0, 1))
    assert not (folder / "elsewhere 0" / "log.jsonl").read_text()


def test_one_process_goes_on_from_it(folder, tmp_path):
    shutil.copytree(folder / "plain", tmp_path / "run", symlinks=True)
    shutil.copytree(folder / "one", tmp_path / "one", symlinks=True)
    for run in ("run", "one"):
        train(CONFIG, tmp_path / run, device="cpu", quiet=True)
    for kind in ("model", "ema"):
        ours, theirs = (load_file(tmp_path / run / "latest" / f"{kind}.safetensors") for run in ("run", "one"))
        for name in ours:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_optimizer_and_position_come_back_bit_for_bit(step):
    network = make_method(CONFIG).make_network()
    ema, optimizer = EMA(network, 1.0, 1.0), make_optimizer(network, CONFIG.training)
    state = load_training_state(step, network=network, ema=ema, optimizer=optimizer)
    assert state["step"] == 3 and state["progress"]["clips"] == 24
    index, halves = read_index(step / "optimizer.shards.json"), [load_file(step / name) for name in PARTS[4:]]
    for name, parameter in network.named_parameters():
        assert optimizer.state[parameter]["step"] == 3
        for key in ("exp_avg", "exp_avg_sq"):
            parts = [half[full] for half in halves if (full := f"optimizer.{name}.{key}") in half]
            assert torch.equal(optimizer.state[parameter][key], torch.cat(parts))  # FSDP shards the first axis
            assert index.tensors[f"{name}.{key}"].shape == tuple(parameter.shape)
    for (name, average), loaded in zip(ema.named_averages(), ema.average, strict=True):
        assert torch.equal(loaded, saved_weights(step, "ema")[name]) and torch.equal(average, loaded)


def test_sampling_reads_it_directly_and_by_every_name(folder, step):
    loaded = load_checkpoint(folder / "plain")
    assert loaded.step == 3 and loaded.file.name == "ema.shards.json"
    for name in (folder / "plain" / "step-00000003", folder / "plain" / "latest" / "ema.shards.json", step):
        other = load_checkpoint(name)
        assert other.describe() == loaded.describe()
        assert all(map(torch.equal, other.network.parameters(), loaded.network.parameters()))
    raw = dict(load_checkpoint(step, raw=True).network.named_parameters())
    assert all(torch.equal(raw[name], value) for name, value in saved_weights(step, "model").items())


def test_export_writes_what_one_process_would_have(step, tmp_path):
    result = CliRunner().invoke(info, ["export", str(step.parent), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["step"] == 3
    for kind in ("model", "ema"):
        weights, config, number = read_weights(tmp_path / "out" / f"{kind}.safetensors")
        assert number == 3
        write_weights(tmp_path / "expected", dict(saved_weights(step, kind)), config=config, step=3, kind=kind)
        assert (tmp_path / "out" / f"{kind}.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    loaded, direct = load_checkpoint(tmp_path / "out"), load_checkpoint(step)
    assert loaded.config == direct.config
    assert all(map(torch.equal, loaded.network.parameters(), direct.network.parameters()))
    assert CliRunner().invoke(info, ["verify", str(tmp_path / "out")]).exit_code == 0
    again = CliRunner().invoke(info, ["export", str(step), "--out", str(tmp_path / "out")])
    assert again.exit_code == 2 and "not empty" in again.stderr
    nothing = CliRunner().invoke(info, ["export", str(tmp_path / "expected"), "--out", str(tmp_path / "new")])
    assert nothing.exit_code == 2 and not (tmp_path / "new").exists()


def test_export_holds_one_tensor_at_a_time(step, tmp_path, monkeypatch):
    from hpdm.checkpoint import shard_files
    from hpdm.training import export

    alive, most = [], []

    def counted(self, name, real=shard_files.ShardedWeights.__getitem__):
        import weakref

        alive[:] = [reference for reference in alive if reference() is not None]
        tensor = real(self, name)
        alive.append(weakref.ref(tensor))
        most.append(len(alive))
        return tensor

    monkeypatch.setattr(shard_files.ShardedWeights, "__getitem__", counted)
    export.export_weights(step, tmp_path / "out")
    assert len(most) > 100 and max(most) <= 2


@pytest.mark.parametrize("name", [*PARTS, "model.shards.json", "training.pt", "config.yaml", "manifest.json"])
def test_damage_is_found(step, name):
    before = digest(step)
    path = step / name
    content = bytearray(path.read_bytes())
    content[30 if name == "manifest.json" else -9] ^= 4
    path.write_bytes(content)
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        check_files(step)
    with pytest.raises(InputError, match="no checkpoint that is whole"):
        newest_whole(step.parent, say=lambda text: None)
    if "ema" not in name and name != "manifest.json":
        assert load_checkpoint(step).step == 3  # which reads the average alone
    path.unlink()
    assert digest(step) != before
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        check_files(step)
    verified = CliRunner().invoke(info, ["verify", str(step.parent)])
    assert verified.exit_code == 2 and "damaged" in verified.stdout


def test_a_damaged_average_is_not_sampled_from(step):
    path = step / "ema-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"ema-00001.safetensors differs"):
        load_checkpoint(step)
    with pytest.raises(Damaged, match=r"ema-00001.safetensors is damaged"):
        load_checkpoint(step / "ema.shards.json")


def spoil_shape(index):
    next(iter(index["tensors"].values()))["shape"][0] += 1


def spoil_file(index):
    next(iter(index["tensors"].values()))["parts"][0]["file"] = "../model-00000.safetensors"


def spoil_number(index):
    next(iter(index["tensors"].values()))["parts"][0]["offsets"][0] = -1


def spoil_twice(index):
    parts = next(about["parts"] for about in index["tensors"].values() if len(about["parts"]) == 2)
    parts[1] = parts[0]


def spoil_kind(index):
    next(iter(index["tensors"].values()))["dtype"] = "object"


def spoil_all(index):
    del index["tensors"]


@pytest.mark.parametrize("spoil", [spoil_shape, spoil_file, spoil_number, spoil_twice, spoil_kind, spoil_all])
def test_an_index_that_makes_no_sense_is_refused(step, spoil):
    path = step / "ema.shards.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(Damaged, match=r"ema\.shards\.json is damaged"):
        read_weights(path)


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_pickles_are_never_executed(step, tmp_path):
    """Neither as the metadata of PyTorch's own storage, in a checkpoint of ours or alone, nor as training state."""
    attack = pickle.dumps(Attack(tmp_path / "ran"), protocol=2)
    (step / ".metadata").write_bytes(attack)
    assert check_files(step) and load_checkpoint(step).step == 3
    foreign = tmp_path / "foreign" / "step-00000003"
    foreign.mkdir(parents=True)
    (foreign / ".metadata").write_bytes(attack)
    (foreign / "__0_0.distcp").write_bytes(attack)
    for name in (foreign, foreign.parent):
        with pytest.raises(InputError, match=r"\.metadata is a pickle"):
            find_weights(name)
    with pytest.raises(InputError, match=r"\.metadata is a pickle"):
        train(CONFIG, foreign.parent, device="cpu", quiet=True, resume=True)
    (step / "training.pt").write_bytes(attack)
    network = make_method(CONFIG).make_network()
    with pytest.raises(InputError, match=r"training\.pt cannot be read"):
        load_training_state(
            step, network=network, ema=EMA(network, 1.0, 1.0), optimizer=make_optimizer(network, CONFIG.training)
        )
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused(step):
    for setting, message in (
        ("num_latents=5", r"latents is \[4, 16\], the network has \[5, 16\]"),
        ("self_conditioning=false", "in one and not in the other"),
    ):
        config = small_config(*SETTINGS, setting)
        network = make_method(config).make_network()
        with pytest.raises(InputError, match=message):
            load_training_state(
                step, network=network, ema=EMA(network, 1.0, 1.0), optimizer=make_optimizer(network, config.training)
            )


def test_pytorch_s_own_reader_of_sharded_safetensors_reads_the_files(step):
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    if not hasattr(dcp, "HuggingFaceStorageReader"):
        pytest.skip("this PyTorch has no reader of sharded safetensors")
    expected = saved_weights(step, "ema")
    state = {f"ema.{name}": torch.zeros_like(value) for name, value in expected.items()}
    dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(step)), no_dist=True)
    assert all(torch.equal(state[f"ema.{name}"], value) for name, value in expected.items())


def test_another_run_starts_from_it(step, tmp_path):
    config = small_config(*SETTINGS, "training.steps=1", f"init_from={step.parent}")
    train(config, tmp_path / "next", device="cpu", quiet=True)
    assert (tmp_path / "next" / "latest" / "model.safetensors").is_file()


def test_files_hold_every_kind_of_tensor(tmp_path):
    tensors = {f"{kind}".removeprefix("torch."): torch.arange(6).reshape(2, 3).to(kind) for kind in DTYPES.values()} | {
        "number": torch.tensor(2.5),
        "nothing": torch.zeros(0, 4),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    }
    described = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(tmp_path / "file.safetensors", described, tensors, {"a": "\u00e9"})
    found = load_file(tmp_path / "file.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
