"""The cache of features: what it is keyed by, and that nothing that befalls it changes a figure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from damage import each_byte_flipped
from small_network import draw_clips, random_shapes3d

from hpdm_eval import cache as cache_module
from hpdm_eval.backbones import load_backbone
from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.cache import FeatureCache, cache_folder
from hpdm_eval.cli import main

DIGEST = "ab" + 62 * "0"


def fake_backbone(device="cpu", **entry):
    entry = {"name": "net", "sha256": "1", "epsilon": 1e-3, "precision": "fp32", "resize": "bilinear", "file": "a.pt",
             **entry}
    return SimpleNamespace(name="net", device=torch.device(device), describe=lambda: entry)


@pytest.fixture
def run(tmp_path):
    draw_clips(tmp_path / "clips", 6)
    network = random_shapes3d(tmp_path / "random.safetensors")

    def call(*words):
        words = ["is", "--samples", tmp_path / "clips", "--splits", 2, "--protocol", "native", "--workers", "0",
                 "--device", "cpu", "--json", *network, *words]
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["value"]
    return call


@pytest.fixture
def extracted(monkeypatch):
    """Numbers of clips that went through a network, call by call."""
    seen = []
    extract = Backbone.extract
    monkeypatch.setattr(Backbone, "extract", lambda self, clips: seen.append(len(clips)) or extract(self, clips))
    return seen


def test_second_run_needs_no_network(run, extracted):
    first = run()
    assert sum(extracted) == 6
    assert run() == first and sum(extracted) == 6
    assert run("--no-cache") == pytest.approx(first, rel=1e-6) and sum(extracted) == 12


def test_only_new_clips_are_extracted(run, extracted, tmp_path):
    run()
    (tmp_path / "clips" / "00.mp4").unlink()
    run()
    assert sum(extracted) == 6
    run("--frames", 6)  # other frames, other digests
    assert sum(extracted) == 11


def test_damaged_files_are_made_again(run, extracted):
    first = run()
    files = sorted(cache_folder().rglob("*.npz"))
    assert len(files) == 6
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-30])
    content = bytearray(files[2].read_bytes())
    content[content.index(b"\x93NUMPY") + 140] ^= 1
    files[2].write_bytes(content)
    assert run() == pytest.approx(first, rel=1e-6) and sum(extracted) == 9
    assert run() == pytest.approx(first, rel=1e-6) and sum(extracted) == 9


def test_no_damage_to_a_file_ends_a_run_or_passes(tmp_path):
    cache = FeatureCache(fake_backbone(), tmp_path)
    features, probabilities = np.arange(1, 5, dtype=np.float32), np.array([0.25, 0.75], np.float32)
    cache.put(DIGEST, features, probabilities)
    for content in each_byte_flipped(cache.path(DIGEST).read_bytes()):
        cache.path(DIGEST).write_bytes(content)
        found = cache.get(DIGEST)
        assert found is None or (found[0].tolist() == features.tolist() and found[1].tolist() == [0.25, 0.75])


def test_an_array_that_claims_to_be_shorter_counts_as_absent(tmp_path):
    cache = FeatureCache(fake_backbone(), tmp_path)
    cache.put(DIGEST, np.ones(4000, np.float32), np.ones(3, np.float32))
    content = cache.path(DIGEST).read_bytes()
    cache.path(DIGEST).write_bytes(content.replace(b"(4000,)", b"(1000,)"))
    assert cache.get(DIGEST) is None


def test_folder_that_cannot_be_written_costs_only_time(run, extracted, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file, not a folder")
    monkeypatch.setenv("HPDM_EVAL_CACHE", str(tmp_path / "occupied"))
    assert run() == run() and sum(extracted) == 12


def test_what_moves_features_is_in_the_key(tmp_path):
    def folder(**entry):
        return FeatureCache(fake_backbone(**entry), tmp_path).folder

    changes = ({}, {"sha256": "2"}, {"epsilon": 1e-5}, {"precision": "bf16"}, {"resize": "short-side"},
               {"per_frame": True}, {"mean_sha256": "3"}, {"device": "cuda"})
    assert len({folder(**change) for change in changes}) == len(changes)
    assert folder(file="renamed.pt", trust="first-use", verified=False) == folder()


def test_code_and_libraries_that_compute_features_are_in_the_key(tmp_path, monkeypatch):
    code = Path(cache_module.__file__).parent / "backbones"
    others = {"__init__.py", "clip.py", "download.py", "forms.py", "train_shapes3d.py", "weights.py"}
    assert {path.name for path in code.glob("*.py")} == {*cache_module.COMPUTES, *others}  # new modules are in one
    shutil.copytree(code, tmp_path / "code")
    version = cache_module.code_version(code)
    assert cache_module.code_version(tmp_path / "code") == version
    with open(tmp_path / "code" / "weights.py", "a") as file:
        file.write("# says where files come from\n")
    assert cache_module.code_version(tmp_path / "code") == version
    with open(tmp_path / "code" / "preprocess.py", "a") as file:
        file.write("# scales otherwise\n")
    changed = cache_module.code_version(tmp_path / "code")
    assert changed != version
    assert cache_module.CODE == version
    before = FeatureCache(fake_backbone(), tmp_path).folder
    monkeypatch.setattr(cache_module, "CODE", changed)
    after = FeatureCache(fake_backbone(), tmp_path).folder
    monkeypatch.setattr(cache_module, "package_versions", lambda names: {"torch": "0"})
    assert len({before, after, FeatureCache(fake_backbone(), tmp_path).folder}) == 3


def test_precisions_of_a_network_keep_apart(tmp_path):
    caches = [FeatureCache(load_backbone("shapes3d", precision=precision), tmp_path) for precision in ("fp32", "bf16")]
    caches[0].put(DIGEST, np.ones(3, np.float32), np.ones(2, np.float32))
    assert caches[1].get(DIGEST) is None
    features, probabilities = caches[0].get(DIGEST)
    assert features.tolist() == [1, 1, 1] and probabilities.tolist() == [1, 1]


WRITER = """
import hashlib, itertools, sys
import numpy as np
from types import SimpleNamespace
from pathlib import Path
import torch
from hpdm_eval.cache import FeatureCache
backbone = SimpleNamespace(name="net", device=torch.device("cpu"), describe=lambda: {})
cache = FeatureCache(backbone, Path(sys.argv[1]))
print("ready", flush=True)
for number in itertools.count():
    digest = hashlib.sha256(str(number % 40).encode()).hexdigest()
    cache.put(digest, np.full(20000, number % 40, np.float32), np.zeros(3, np.float32))
"""


def test_writers_that_are_killed_leave_whole_files_or_none(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=environment, stdout=subprocess.PIPE)
               for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    cache = FeatureCache(SimpleNamespace(name="net", device=torch.device("cpu"), describe=lambda: {}), tmp_path)
    files = list(tmp_path.rglob("*.npz"))
    assert files
    for file in files:
        features, _ = cache.get(file.stem)
        assert features.shape == (20000,) and (features == features[0]).all()
