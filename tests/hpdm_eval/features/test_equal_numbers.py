"""Figures are equal to the last bit, however clips are divided among calls, threads, processes and a cache."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm_eval.backbones import PerFrame, c3d, i3d, load_backbone
from hpdm_eval.backbones.backbone import C3DBackbone, I3DBackbone
from hpdm_eval.clips.source import open_clips
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation.api import record_of
from hpdm_eval.evaluation.comparison import compare
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.cache import FeatureCache
from hpdm_eval.features.extraction import extract_features, extract_moments
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.ordered_moments import BLOCK, OrderedMoments
from hpdm_eval.metrics.frechet import frechet_distance
from hpdm_eval.protocols import load_protocol
from hpdm_eval.support.threads import one_thread
from tests.support import small_cache
from tests.support.processes import run_processes
from tests.support.small_network import draw_clips, random_shapes3d

FIGURES = ("value", "ci95", "details", "num_samples", "num_reference", "samples", "reference")


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders `a` of 11 videos, one of which cannot be read, and `b` of 9, and the options of a network."""
    root = tmp_path_factory.mktemp("equal")
    for name, count in (("a", 11), ("b", 9)):
        draw_clips(root / name, count, seed=count)
    (root / "a" / "02.mp4").write_bytes(b"no video")
    words = [
        "all",
        "--samples",
        root / "a",
        "--reference",
        root / "b",
        "--json",
        "--splits",
        2,
        "-k",
        2,
        "--protocol",
        "native",
        "--device",
        "cpu",
        *random_shapes3d(root / "random.safetensors"),
    ]
    return root, [str(word) for word in words]


def figures(text):
    return [{key: record[key] for key in FIGURES} for record in json.loads(text)]


def run(words, *more):
    result = CliRunner().invoke(main, [*words, *map(str, more)])
    assert result.exit_code == 0, result.output
    return figures(result.stdout)


def test_any_batch_workers_threads_and_state_of_the_cache(sets, threads):
    _, words = sets
    threads(1)
    expected = run(words, "--no-cache", "--workers", 0, "--batch", 1)
    assert [len(record) for record in expected] == [len(FIGURES)] * 5
    assert run(words, "--no-cache", "--workers", 2, "--batch", 4) == expected
    threads(3)
    assert run(words, "--workers", 0, "--batch", 8) == expected
    files = small_cache.files()
    held = {file: small_cache.clips(file) for file in files}
    assert sorted(map(len, held.values())) == [9, 9, 10, 10]  # of two sets of clips, and of their frames
    assert run(words, "--workers", 0) == expected
    chance = random.Random(0)
    for file in files:
        small_cache.thin_out(file, lambda number, kind: chance.random() < 0.5)
    assert run(words, "--workers", 0, "--batch", 3) == expected
    assert {file: small_cache.clips(file) for file in small_cache.files()} == held


def test_three_processes_with_half_a_cache(sets, tmp_path):
    _, words = sets
    expected = run(words, "--no-cache", "--workers", 0)
    first, *others = run_processes([*words, "--workers", "0", "--batch", "2"], tmp_path, count=3)
    assert figures(first[0]) == expected and all(output == ("", "") for output in others)
    for file in (tmp_path / "cache").rglob("*.features"):
        small_cache.thin_out(file, lambda number, kind: number % 2)
    assert figures(run_processes([*words, "--workers", "0"], tmp_path, count=3)[0][0]) == expected


def test_library_and_command(sets, threads):
    root, words = sets
    fvd, *_, fid = run(words, "--no-cache", "--workers", 0)
    threads(2)
    protocol, backbone = (
        load_protocol("native"),
        load_backbone("shapes3d", weights=root / "random.safetensors", unverified=True),
    )
    sides = [
        open_clips(root / name, protocol, role=role, workers=0) for name, role in (("a", "samples"), ("b", "reference"))
    ]
    samples, reference = (extract_features(side, backbone, batch=5, quiet=True).features for side in sides)
    assert frechet_distance(samples, reference) == fvd["value"]
    frames = [extract_moments(side, PerFrame(backbone), batch=2, quiet=True) for side in sides]
    assert frechet_distance(*frames) == fid["value"]
    evaluation = Evaluation(
        protocol=load_protocol("native", backbone="shapes3d"),
        samples=root / "a",
        reference=root / "b",
        weights=root / "random.safetensors",
        unverified=True,
        cache=False,
        device="cpu",
        quiet=True,
        workers=0,
    )
    np.testing.assert_array_equal(compare(evaluation).samples.features, samples)
    assert record_of("fvd", evaluation).value == fvd["value"]


def info():
    return SimpleNamespace(sha256="0", name="random", verified=False, trust="unverified")


def small_i3d():
    network = i3d.FoldedI3D(i3d.random_network(0))
    return I3DBackbone(network, info(), epsilon=1e-3, precision="fp32", device="cpu", resize_rule="bilinear"), 9


def small_c3d():
    torch.manual_seed(0)
    network = c3d.C3D(torch.zeros(c3d.MEAN_SHAPE)).requires_grad_(False)
    return C3DBackbone(network, info(), epsilon=None, precision="fp32", device="cpu", resize_rule="bilinear"), 16


@pytest.mark.parametrize("make", [small_i3d, small_c3d], ids=["i3d", "c3d"])
def test_large_networks(make, threads):
    """Together in a call, or on two threads, rows of these differ by 1e-6."""
    backbone, frames = make()
    backbone.device = torch.device(backbone.device)
    source = videos([(frames, 16, 16)] * 3)
    threads(1)
    alone = extract_features(source[1:2], backbone, quiet=True)
    threads(2)
    together = extract_features(source, backbone, quiet=True)
    np.testing.assert_array_equal(together.features[1], alone.features[0])
    np.testing.assert_array_equal(together.probabilities[1], alone.probabilities[0])
    assert len(np.unique(together.features, axis=0)) == 3


def videos(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        SimpleNamespace(
            name=f"clip{index}",
            position=index,
            digest=f"{index:064d}",
            video=rng.integers(0, 256, (*size, 3), np.uint8),
        )
        for index, size in enumerate(sizes)
    ]


class Accelerated:
    """A network on a GPU, as kernels are: what it returns for a row depends on the rows of a call, not on the others'
    content."""

    name, feature_dim, min_frames, max_frames, device = "gpu", 2, 1, None, SimpleNamespace(type="meta")

    def __init__(self):
        self.device, self.calls = torch.device("meta"), []

    def describe(self):
        return {"name": self.name}

    def extract(self, clips):
        self.calls.append(len(clips))
        means = clips.double().mean((1, 2, 3, 4))
        features = torch.stack([means, means + len(clips)], 1).float()
        return features, features.softmax(1)


def test_calls_elsewhere_have_one_size(tmp_path):
    source, backbone = videos([(16, 4, 4)] * 7 + [(32, 4, 4)] * 3), Accelerated()
    expected = extract_features(source, backbone, batch=4, quiet=True).features
    assert set(backbone.calls) == {4, 2} and len(backbone.calls) == 4
    for part in (source[2:5], source[6:], source[::-3]):
        found = extract_features(part, backbone, batch=4, quiet=True).features
        np.testing.assert_array_equal(found, expected[[clip.position for clip in part]])
    cache = FeatureCache(backbone, tmp_path)
    extract_features(source[::2], backbone, batch=4, quiet=True, cache=cache)
    np.testing.assert_array_equal(
        extract_features(source, backbone, batch=4, quiet=True, cache=cache).features, expected
    )
    backbone.calls.clear()
    extract_features(source, backbone, batch=2, quiet=True, cache=cache)
    assert set(backbone.calls) == {2, 1}  # nothing of calls of four is used for calls of two


def test_another_processor_has_a_cache_of_its_own(tmp_path, monkeypatch):
    backbone = SimpleNamespace(name="net", device=torch.device("cpu"), describe=dict)
    before = FeatureCache(backbone, tmp_path).folder
    monkeypatch.setattr("hpdm_eval.features.cache.processor", lambda device: "another")
    assert FeatureCache(backbone, tmp_path).folder != before


@pytest.mark.parametrize("seed", range(12))
def test_moments_do_not_depend_on_who_has_which_positions(seed):
    """Rounds of shares, with gaps where clips were rejected, and clips of any length."""
    rng = np.random.default_rng(seed)
    count, most = int(rng.integers(1, 9 * BLOCK)), int(rng.choice([1, 3, 40]))
    clips = {
        position: rng.standard_normal((rng.integers(1, most + 1), 3)).astype(np.float32) * 10.0 ** rng.integers(4)
        for position in range(count)
        if rng.random() < rng.choice([0.2, 1])
    }
    alone = OrderedMoments(3)
    for position, features in clips.items():
        alone.add(position, features)
    expected = OrderedMoments.joined(3, [alone.parts()])
    rows = np.concatenate([np.zeros((0, 3)), *clips.values()])
    assert expected.n == len(rows)
    if len(rows):
        np.testing.assert_allclose(expected.scatter, Moments.of(rows).scatter, rtol=1e-9, atol=1e-6)
    for size in (2, 3, 7):
        processes = [OrderedMoments(3) for _ in range(size)]
        rounds = [0, *sorted(rng.integers(0, count + 1, rng.integers(0, 3))), count]
        for start, stop in zip(rounds, rounds[1:]):
            cuts = [start + (stop - start) * rank // size for rank in range(size + 1)]
            for process, owned in zip(processes, zip(cuts, cuts[1:])):
                for position in range(*owned):
                    if position in clips:
                        process.add(position, clips[position], owned)
        found = OrderedMoments.joined(3, [process.parts() for process in processes])
        assert found.n == expected.n
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.scatter, expected.scatter)


def test_moments_in_memory_are_few():
    moments = OrderedMoments(2)
    for position in range(0, 100 * BLOCK, 16):
        moments.add(position, np.ones((1, 2), np.float32))
    assert len(moments.parts()) <= 10


def test_one_thread_is_left_as_it_was(threads):
    threads(3)
    with one_thread(), one_thread():
        assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    extract_features(videos([(16, 4, 4)] * 3), Accelerated(), quiet=True)
    assert torch.get_num_threads() == 3
