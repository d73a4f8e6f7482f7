"""`import hpdm`: loading, sampling, publishing and training from Python, against what the commands do."""

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import hpdm
from hpdm import api
from hpdm.checkpoint import hub, load
from hpdm.commands.entry import info, sample
from hpdm.sampling import sampler
from hpdm.support.errors import InputError
from hpdm.support.trust import only_trusting
from tests.support.sampling_models import save_tiny, tiny_config, tiny_network
from tests.support.small_training import write_small


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("run") / "step-00000007")


def written(checkpoint, out, *options):
    """The arrays that `hpdm-sample` writes, uint8 [N, T, H, W, 3]."""
    words = ["--checkpoint", str(checkpoint), "--out", str(out), "--format", "npy", "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(sample, [*words, *options])
    assert result.exit_code == 0, result.output
    return np.stack([np.load(path) for path in sorted(out.glob("*.npy"))])


@pytest.mark.parametrize("module", [api, sampler])
def test_the_examples_in_docstrings_run(module):
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 2 and result.failed == 0


def test_import_is_light_and_names_are_listed():
    code = (
        "import sys, hpdm\n"
        "assert set(hpdm.__all__) <= set(dir(hpdm)) and hpdm.__version__\n"
        "heavy = {'torch', 'numpy', 'click', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try:\n    hpdm.nothing\nexcept AttributeError:\n    pass\nelse:\n    raise SystemExit(1)\n"
        "hpdm.Config\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert all(getattr(hpdm, name) is not None for name in hpdm.__all__)


@pytest.mark.parametrize(
    "words, options",
    [
        (["--classes", "0,3", "--seed", "5", "--steps", "2,1,1"], {"classes": [0, 3], "seed": 5, "steps": (2, 1, 1)}),
        (
            ["--tilings", "2", "--steps", "2,1,1", "--guidance", "2", "--levels", "2", "--batch", "1"],
            {"tilings": 2, "steps": [2, 1, 1], "guidance": 2.0, "levels": 2},
        ),
        (
            ["--size", "32,32,32", "--beyond-training", "--overlap", "fhw", "--steps", "1,1,1", "--s-churn", "0"],
            {"size": (32, 32, 32), "beyond_training": True, "overlap": "fhw", "steps": (1, 1, 1), "S_churn": 0.0},
        ),
        (
            ["--sigma-max", "9,8,5", "--rho", "5", "--steps", "2,1,1", "--classes", "none"],
            {"sigma_max": (9.0, 8.0, 5.0), "rho": 5.0, "steps": (2, 1, 1), "classes": "none"},
        ),
    ],
)
def test_samples_are_those_of_the_command_bit_for_bit(checkpoint, tmp_path, words, options):
    wanted = written(checkpoint, tmp_path / "out", "--num", "3", *words)
    model = hpdm.load(checkpoint)
    again = model.sample_into(tmp_path / "out", 3, format="npy", **options)
    assert (again.total, again.made) == (3, 0)  # the command's settings, so nothing is left to make
    videos = model.sample(num=3, **options)
    assert videos.dtype == torch.uint8 and videos.device.type == "cpu"
    assert np.array_equal(videos.numpy(), wanted)


def test_batches_one_after_the_other_are_the_same_videos(checkpoint):
    model = hpdm.load(checkpoint)
    whole = model.sample(num=5, steps=(1, 1, 1))
    batches = list(model.iterate(num=5, steps=(1, 1, 1), batch=2))
    assert [numbers for numbers, _ in batches] == [[0, 1], [2, 3], [4]]
    assert torch.equal(torch.cat([videos for _, videos in batches]), whole)
    single = model.sampler(num=5, steps=(1, 1, 1))
    (numbers, clips), *_ = single.iterate([3])
    assert numbers == [3] and np.array_equal(clips[-1][0], whole[3].numpy())
    assert single.block_evaluations == single.blocks_per_video


def test_class_names_and_what_is_refused(tmp_path):
    config = tiny_config()
    named = hpdm.config.override_config(config, ["trained_on.class_names=[cat, dog, cow, owl]"])
    model = hpdm.load(save_tiny(tmp_path / "step-00000007", named))
    assert model.class_names == ("cat", "dog", "cow", "owl") and model.step == 7
    quick = {"steps": (1, 1, 1)}
    assert torch.equal(model.sample(2, ["owl", 0], **quick), model.sample(2, "3,cat", **quick))
    for options, said in [
        ({"classes": [4]}, "0 to 3"),
        ({"classes": ["cow", "pig"]}, "names of classes"),
        ({"prompts": "a cat"}, "reads no text"),
        ({"levels": 4}, "3 levels"),
        ({"size": (16, 64, 64)}, "16x32x32"),
        ({"overlap": "z"}, "overlap"),
        ({"steps": (1,)}, "3 levels need 3"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"sampler": "best"}, "paper"),
        ({"precision": "int4"}, "bf16"),
        ({"num": 0}, "at least 1"),
    ]:
        with pytest.raises(InputError, match=said):
            model.sample(**options)
    with pytest.raises(InputError, match="no such checkpoint"):
        hpdm.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no revision"):
        hpdm.load("nano", revision="main")


def test_a_published_folder_is_read_by_api_and_command(checkpoint, tmp_path):
    model = hpdm.load(checkpoint)
    folder = model.save_pretrained(tmp_path / "mine")
    again = hpdm.load(folder)
    assert again.step == 7 and again.config == model.config
    wanted = model.sample(num=2, steps=(1, 1, 1))
    assert torch.equal(again.sample(num=2, steps=(1, 1, 1)), wanted)
    assert np.array_equal(written(folder, tmp_path / "out", "--num", "2", "--steps", "1,1,1"), wanted.numpy())
    card = (folder / "README.md").read_text()
    assert again.sha256 in card and "hpdm.load" in card and "tiny" in card and "step" in card.lower()
    assert json.loads((folder / "manifest.json").read_text())["files"]["ema.safetensors"]["sha256"] == again.sha256
    assert CliRunner().invoke(info, ["verify", str(folder)]).exit_code == 0
    with pytest.raises(InputError, match="not empty"):
        model.save_pretrained(folder)
    damaged = bytearray((folder / "ema.safetensors").read_bytes())
    damaged[-1] ^= 1
    (folder / "ema.safetensors").write_bytes(damaged)
    with pytest.raises(InputError, match="damaged"):
        hpdm.load(folder)


def test_changed_weights_are_published_as_they_are(checkpoint, tmp_path):
    model = hpdm.load(checkpoint)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.5)
    again = hpdm.load(model.save_pretrained(tmp_path / "half"))
    wanted = dict(tiny_network(tiny_config()).named_parameters())
    assert all(torch.equal(value, wanted[name] * 0.5) for name, value in again.network.named_parameters())
    assert again.sha256 != model.sha256


class FakeHub:
    """The hub as a folder: uploads are copied there, and downloads come from there."""

    def __init__(self, place, monkeypatch):
        self.place, self.calls = place, []
        fake = SimpleNamespace(HfApi=self.api, snapshot_download=self.download)
        monkeypatch.setitem(sys.modules, "huggingface_hub", fake)

    def api(self, token=None):
        return SimpleNamespace(create_repo=self.create, upload_folder=self.upload)

    def create(self, repository, private=None, exist_ok=False):
        self.calls.append(("create", repository, private, exist_ok))

    def upload(self, *, repo_id, folder_path, revision=None, commit_message=None):
        self.calls.append(("upload", repo_id, revision, commit_message))
        shutil.copytree(folder_path, self.place / repo_id / "snapshots" / "c0ffee")
        return SimpleNamespace(oid="c0ffee")

    def download(self, repository, revision=None, allow_patterns=None):
        self.calls.append(("download", repository, revision))
        folder = self.place / repository / "snapshots" / (revision or "c0ffee")
        if not folder.is_dir():
            raise OSError(f"404 Client Error: {repository} not found\nmore lines")
        return str(folder)


def test_a_model_goes_to_the_hub_and_comes_back(checkpoint, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub", monkeypatch)
    model = hpdm.load(checkpoint)
    assert model.push_to_hub("me/hpdm-ucf", private=True).oid == "c0ffee"
    assert fake.calls[0] == ("create", "me/hpdm-ucf", True, True)
    assert fake.calls[1][:3] == ("upload", "me/hpdm-ucf", None) and "step 7" in fake.calls[1][3]
    loaded = hpdm.load("me/hpdm-ucf")
    assert loaded.checkpoint.describe()["hub"] == "me/hpdm-ucf@c0ffee" and len(loaded.sha256) == 64
    wanted = model.sample(num=1, steps=(1, 1, 1))
    assert torch.equal(loaded.sample(num=1, steps=(1, 1, 1)), wanted)
    for name in ("me/hpdm-ucf", "me/hpdm-ucf@c0ffee"):
        found = written(name, tmp_path / name.replace("/", "-"), "--num", "1", "--steps", "1,1,1")
        assert np.array_equal(found, wanted.numpy())
    assert hpdm.load("me/hpdm-ucf", revision="c0ffee").sha256 == loaded.sha256
    assert "# me/hpdm-ucf" in (tmp_path / "hub" / "me/hpdm-ucf" / "snapshots" / "c0ffee" / "README.md").read_text()
    with pytest.raises(InputError, match=r"me/absent.*404 Client Error: me/absent not found\);"):
        hpdm.load("me/absent")
    with only_trusting([]), pytest.raises(InputError, match="--allow me/hpdm-ucf"):
        hpdm.load("me/hpdm-ucf")
    with pytest.raises(InputError, match="name one of them"):
        hpdm.load("me/hpdm-ucf@main", revision="other")


def test_what_is_an_id_on_the_hub_and_what_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_hub_id("me/model") and hub.is_hub_id("me/model@v1.0")
    Path("runs").mkdir()
    for name in ("runs/L", "nano", "/me/model", "./model", "../model", "me/model.safetensors", "a/b/c", "me/", "me/m@"):
        assert not hub.is_hub_id(name), name
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # any use of it is an error
    with pytest.raises(InputError, match="no such checkpoint"):
        load.find_weights("runs/L")


def test_training_is_that_of_the_command_and_continues(tmp_path):
    size, options = write_small(tmp_path / "small.yaml"), {"batch": 4, "device": "cpu", "quiet": True}
    whole = hpdm.train(size, tmp_path / "whole", steps=4, **options)
    assert whole.step == 4 and not whole.interrupted and whole.config.training.batch == 4
    part = hpdm.train(size, tmp_path / "part", steps=4, stop_after=2, **options)
    assert part.step == 2 and part.checkpoint.name == "step-00000002"
    hpdm.train(size, tmp_path / "part", steps=4, resume=True, **options)
    first, second = (load.load_checkpoint(tmp_path / name) for name in ("whole", "part"))
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.load().step == 4
    again = hpdm.train(whole.config, tmp_path / "config", device="cpu", quiet=True)
    assert again.config == whole.config
    assert [line["loss"] for line in again.log()] == [line["loss"] for line in whole.log()]
    with pytest.raises(InputError, match="no checkpoint to continue"):
        hpdm.train(size, tmp_path / "none", resume=True, **options)
