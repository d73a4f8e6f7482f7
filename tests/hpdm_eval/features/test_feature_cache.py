"""The cache of features: what it is keyed by, and that nothing that befalls it changes a figure."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from hpdm_eval.backbones import load_backbone
from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.clips import ahead, remembered
from hpdm_eval.commands.entry import main
from hpdm_eval.features import cache as cache_module
from hpdm_eval.features.cache import FeatureCache
from hpdm_eval.features.entry_file import HEAD, MAGIC
from tests.support import small_cache
from tests.support.damage import each_byte_flipped
from tests.support.paths import ROOT
from tests.support.small_cache import files
from tests.support.small_network import draw_clips, random_shapes3d

DIGEST, OTHER, THIRD = ("ab" + 62 * digit for digit in "012")


def fake_backbone(device="cpu", **entry):
    entry = {
        "name": "net",
        "sha256": "1",
        "epsilon": 1e-3,
        "precision": "fp32",
        "resize": "bilinear",
        "file": "a.pt",
        **entry,
    }
    return SimpleNamespace(name="net", device=torch.device(device), describe=lambda: entry)


@pytest.fixture
def run(tmp_path):
    draw_clips(tmp_path / "clips", 6)
    network = random_shapes3d(tmp_path / "random.safetensors")

    age(tmp_path / "clips")

    def result(*words):
        words = [
            "is",
            "--samples",
            tmp_path / "clips",
            "--splits",
            2,
            "--protocol",
            "native",
            "--workers",
            "0",
            "--device",
            "cpu",
            "--json",
            *network,
            *words,
        ]
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 0, result.output
        return result

    def call(*words):
        return json.loads(result(*words).stdout)["value"]

    call.result, call.record = result, lambda *words: json.loads(result(*words).stdout)
    return call


@pytest.fixture
def decoded(monkeypatch):
    """Paths of all jobs that were decoded."""
    seen, decode = [], ahead.decode
    monkeypatch.setattr(ahead, "decode", lambda job, settings: seen.append(job.path) or decode(job, settings))
    return seen


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


def test_a_set_is_one_file_and_its_second_run_decodes_nothing(run, extracted, decoded):
    first = run("--verify-cache")
    assert len(files()) == 1 and len(decoded) == 6
    assert run() == first and len(decoded) == 6 and sum(extracted) == 6
    assert run("--verify-cache") == first and len(decoded) == 12 and sum(extracted) == 6


def test_damaged_entries_are_made_again_and_said(run, extracted):
    first = run()
    (file,) = files()
    content = bytearray(file.read_bytes())
    places = [match.start() for match in re.finditer(MAGIC, content)]
    assert len(places) == 12
    content[places[3] + 2] ^= 1  # the head of a file
    content[places[6] + HEAD.size + 40] ^= 1  # the features of a clip
    file.write_bytes(content[:-30])  # as a killed run leaves it
    result = run.result()
    assert json.loads(result.stdout)["value"] == first and sum(extracted) == 8
    assert f"2 damaged entries of {file} were left out" in result.stderr
    again = run.result()
    assert json.loads(again.stdout)["value"] == first and "damaged" not in again.stderr and sum(extracted) == 8
    assert len(list(re.finditer(MAGIC, file.read_bytes()))) == 12


def test_no_damage_to_a_file_ends_a_run_or_passes(tmp_path, monkeypatch):
    """Every byte of two entries changed: the other entry is found, and this one is absent."""
    monkeypatch.setattr(cache_module, "package_versions", lambda names: {})
    features, probabilities = np.arange(1, 5, dtype=np.float32), np.array([0.25, 0.75], np.float32)
    cache = FeatureCache(fake_backbone(), tmp_path)
    cache.put(DIGEST, features, probabilities)
    cache.put(OTHER, features, probabilities)
    for content in each_byte_flipped(cache.file.read_bytes(), masks=(8, 255)):
        cache.file.write_bytes(content)
        found = [FeatureCache(fake_backbone(), tmp_path).get(digest) for digest in (DIGEST, OTHER)]
        assert sum(entry is None for entry in found) == 1
        (whole,) = (entry for entry in found if entry is not None)
        assert whole[0].tolist() == features.tolist() and whole[1].tolist() == [0.25, 0.75]


def test_what_is_cut_short_is_continued(tmp_path, monkeypatch):
    """A file that ends anywhere: whole entries stay, the rest is made again, and nothing after it is lost."""
    monkeypatch.setattr(cache_module, "package_versions", lambda names: {})
    features, probabilities = np.arange(1, 5, dtype=np.float32), np.array([0.25, 0.75], np.float32)
    cache = FeatureCache(fake_backbone(), tmp_path)
    for digest in (DIGEST, OTHER):
        cache.put(digest, features, probabilities)
    content = cache.file.read_bytes()
    for length in range(len(content)):
        cache.file.write_bytes(content[:length])
        short = FeatureCache(fake_backbone(), tmp_path)
        found = [short.get(digest) is not None for digest in (DIGEST, OTHER)]
        assert found == [length >= len(content) // 2, False]
        short.put(THIRD, features, probabilities)
        again = FeatureCache(fake_backbone(), tmp_path)
        assert [again.get(digest) is not None for digest in (DIGEST, OTHER, THIRD)] == [*found, True]
        assert again._own.damaged == 0


def test_clips_of_another_set_are_found_and_kept(tmp_path):
    first, second = (FeatureCache(fake_backbone(), tmp_path, path=tmp_path / name) for name in ("a", "b"))
    first.put(DIGEST, np.ones(3, np.float32), np.ones(2, np.float32))
    assert second.get(OTHER) is None and second.get(DIGEST)[0].tolist() == [1, 1, 1]
    first.file.unlink()
    assert FeatureCache(fake_backbone(), tmp_path, path=tmp_path / "b").get(DIGEST)[1].tolist() == [1, 1]


def test_files_of_single_clips_are_taken_over(tmp_path, capsys):
    cache = FeatureCache(fake_backbone(), tmp_path)
    for digest in (DIGEST, OTHER):
        (cache.folder / digest[:2]).mkdir(parents=True, exist_ok=True)
    np.savez(cache.folder / DIGEST[:2] / f"{DIGEST}.npz", features=np.float32([1, 2]), probabilities=np.float32([3]))
    (cache.folder / OTHER[:2] / f"{OTHER}.npz").write_bytes(b"damaged")
    assert [values.tolist() for values in cache.get(DIGEST)] == [[1, 2], [3]] and cache.get(OTHER) is None
    cache.settle()
    assert "1 clips were taken over into" in capsys.readouterr().err
    shutil.rmtree(cache.folder / DIGEST[:2])
    assert FeatureCache(fake_backbone(), tmp_path).get(DIGEST)[0].tolist() == [1, 2]


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path):
    cache = FeatureCache(fake_backbone(), tmp_path / "cache")
    cache.put(DIGEST, np.ones(3, np.float32), np.ones(2, np.float32))
    shutil.rmtree(tmp_path / "cache")
    assert cache.get(DIGEST) is None
    cache.put(OTHER, np.ones(3, np.float32), np.ones(2, np.float32))
    again = FeatureCache(fake_backbone(), tmp_path / "cache")
    assert again.get(DIGEST) is None and again.get(OTHER) is not None


def age(folder):
    """Let files look as if they had been there for a while."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(time.time_ns() - 10**11,) * 2)


def change(path, keep_time):
    """Another video of equal size under the same name."""
    status, content = path.stat(), path.read_bytes()
    clip = np.load(path) if path.suffix == ".npy" else None
    assert clip is not None and content
    np.save(path, 255 - clip)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def arrays(tmp_path):
    (tmp_path / "arrays").mkdir()
    for index in range(4):
        clip = np.random.default_rng(index).integers(0, 256, (8, 32, 32, 3), np.uint8)
        np.save(tmp_path / "arrays" / f"{index}.npy", clip)
    age(tmp_path / "arrays")
    return tmp_path / "arrays"


def test_a_changed_file_is_read_and_one_that_hides_it_is_found_by_comparing(run, arrays, decoded):
    words = "--samples", arrays
    first = run(*words)
    assert len(decoded) == 4 and run(*words) == first and len(decoded) == 4
    change(arrays / "1.npy", keep_time=False)
    second = run(*words)
    assert second == run(*words, "--no-cache") != first
    age(arrays)
    assert run(*words) == second
    change(arrays / "1.npy", keep_time=True)
    assert run(*words) == second  # the one change that goes unseen, as the option says
    result = run.result(*words, "--verify-cache")
    assert json.loads(result.stdout)["value"] == first == run(*words)
    assert "1 of 4 files hold other clips than when they were read last" in result.stderr


def test_other_frames_and_files_too_new_are_decoded(run, arrays, decoded, monkeypatch):
    words = "--samples", arrays
    run(*words)
    run(*words, "--frames", 6)
    assert len(decoded) == 8
    run(*words, "--frames", 6)
    assert len(decoded) == 8
    os.utime(arrays / "0.npy", ns=(2 * time.time_ns(),) * 2)
    run(*words)
    run(*words)
    assert len(decoded) == 10
    monkeypatch.setattr(remembered, "_decoding", lambda: ["other code"])
    run(*words)
    assert len(decoded) == 14


@pytest.mark.parametrize("form", ["zip", "frames", "npz", "grid"])
def test_every_form_of_clips_is_remembered(run, arrays, decoded, form, tmp_path):
    words = ["--samples", tmp_path / "form"]
    (tmp_path / "form").mkdir()
    clips = [np.load(path) for path in sorted(arrays.iterdir())]
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "form" / "clips.zip", "w") as archive:
            for path in arrays.iterdir():
                archive.write(path, path.name)
    elif form == "npz":
        np.savez(tmp_path / "form" / "clips.npz", np.stack(clips))
    elif form == "grid":
        sheet = np.concatenate([*clips[:3], np.zeros_like(clips[3])], axis=2)  # the last cell is empty
        np.save(tmp_path / "form" / "sheet.npy", sheet)
        words += ["--grid", "1x4"]
    else:
        for number, clip in enumerate(clips):
            (tmp_path / "form" / str(number)).mkdir()
            for frame, picture in enumerate(clip):
                Image.fromarray(picture).save(tmp_path / "form" / str(number) / f"{frame}.png")
    age(tmp_path / "form")
    first = run.record(*words)
    count = len(decoded)
    assert count == (1 if form == "grid" else 4)
    second = run.record(*words)
    assert len(decoded) == count and len(files()) == 1
    assert [second[key] for key in ("value", "samples")] == [first[key] for key in ("value", "samples")]
    assert first["samples"]["clips"] == (3 if form == "grid" else 4)


def test_a_remembered_clip_that_is_too_short_is_still_refused(run, arrays):
    run("--samples", arrays)
    result = CliRunner().invoke(main, ["features", "--samples", str(arrays), "--backbone", "i3d", "--out", "x.npz"])
    assert result.exit_code == 2


def test_folder_that_cannot_be_written_costs_only_time(run, extracted, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file, not a folder")
    monkeypatch.setenv("HPDM_EVAL_CACHE", str(tmp_path / "occupied"))
    assert run() == run() and sum(extracted) == 12


def test_what_moves_features_is_in_the_key(tmp_path):
    def folder(**entry):
        return FeatureCache(fake_backbone(**entry), tmp_path).folder

    changes = (
        {},
        {"sha256": "2"},
        {"epsilon": 1e-5},
        {"precision": "bf16"},
        {"resize": "short-side"},
        {"per_frame": True},
        {"mean_sha256": "3"},
        {"device": "cuda"},
    )
    assert len({folder(**change) for change in changes}) == len(changes)
    assert folder(file="renamed.pt", trust="first-use", verified=False) == folder()


def test_code_and_libraries_that_compute_features_are_in_the_key(tmp_path, monkeypatch):
    code = Path(cache_module.__file__).parents[1] / "backbones"
    others = {"__init__.py", "clip_network.py", "download.py", "forms.py", "names.py", "registry.py", "weights.py"}
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
    assert cache_module.running_code() == version
    before = FeatureCache(fake_backbone(), tmp_path).folder
    monkeypatch.setattr(cache_module, "running_code", lambda: changed)
    after = FeatureCache(fake_backbone(), tmp_path).folder
    monkeypatch.setattr(cache_module, "package_versions", lambda names: {"torch": "0"})
    assert len({before, after, FeatureCache(fake_backbone(), tmp_path).folder}) == 3


def test_sources_that_changed_while_the_program_runs_share_no_cache(tmp_path, monkeypatch, capsys):
    code = Path(cache_module.backbones.__file__).parent
    running = cache_module.running_code.__wrapped__
    assert running() == cache_module.code_version(code)
    shutil.copytree(code, tmp_path / "code")
    monkeypatch.setattr(cache_module.backbones, "__file__", str(tmp_path / "code" / "__init__.py"))
    later = cache_module.backbones.IMPORTED_AT + 10
    os.utime(tmp_path / "code" / "i3d.py", (later, later))
    assert len({running(), running(), cache_module.code_version(code)}) == 3
    assert "have changed since the start" in capsys.readouterr().err
    os.utime(tmp_path / "code" / "weights.py", (later, later))
    os.utime(tmp_path / "code" / "i3d.py", (1, 1))
    assert running() == cache_module.code_version(code)  # what says where files come from computes nothing


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
from hpdm_eval.features.cache import FeatureCache
backbone = SimpleNamespace(name="net", device=torch.device("cpu"), describe=lambda: {})
cache = FeatureCache(backbone, Path(sys.argv[1]))
print("ready", flush=True)
for number in itertools.count():
    digest = hashlib.sha256(str(number % 40).encode()).hexdigest()
    cache.put(digest, np.full(20000, number % 40, np.float32), np.zeros(3, np.float32))
"""


def test_writers_that_are_killed_leave_whole_files_or_none(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    backbone = SimpleNamespace(name="net", device=torch.device("cpu"), describe=dict)
    cache = FeatureCache(backbone, tmp_path)
    (file,) = tmp_path.rglob("*.features")
    held = small_cache.clips(file)
    assert held
    for digest in held:
        features, _ = cache.get(digest)
        assert features.shape == (20000,) and (features == features[0]).all()
    cache.put(DIGEST, np.ones(3, np.float32), np.ones(2, np.float32))
    again = FeatureCache(backbone, tmp_path)
    assert again.get(DIGEST) is not None and small_cache.clips(file) == sorted([DIGEST, *held])
    assert again._own.damaged == 0
