"""Reference statistics: the file, and what it refuses to be compared with."""

import json
import zipfile

import numpy as np
import pytest

from hpdm.support.errors import InputError
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.reference_statistics import Statistics, is_statistics
from hpdm_eval.metrics.frechet import frechet_distance
from hpdm_eval.protocols import load_protocol

BACKBONE = {"name": "shapes3d", "sha256": "a" * 64, "file": "f.safetensors", "epsilon": 1e-5, "precision": "fp32"}
SOURCE = {"path": "real", "sha256": "b" * 64, "clips": 30, "rejected": []}


def some_statistics(features=None, keep=False, protocol=None):
    features = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32) if features is None else features
    protocol = protocol or load_protocol("hpdm-16f", backbone="shapes3d")
    return Statistics(
        moments=Moments.of(features),
        features=features if keep else None,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        backbone=BACKBONE,
        source=SOURCE,
        seed=0,
    )


@pytest.mark.parametrize("keep", [False, True])
def test_round_trip(tmp_path, keep):
    statistics = some_statistics(keep=keep)
    statistics.save(tmp_path / "s.npz")
    again = Statistics.load(tmp_path / "s.npz")
    assert again.moments.n == 30 and again.backbone == BACKBONE and again.source == SOURCE
    assert again.protocol == statistics.protocol
    np.testing.assert_array_equal(again.moments.mean, statistics.moments.mean)
    np.testing.assert_allclose(again.moments.scatter, statistics.moments.scatter, rtol=1e-14)
    assert (again.features is not None) == keep
    other = np.random.default_rng(1).normal(size=(40, 6))
    expected = frechet_distance(other, statistics.moments)
    assert frechet_distance(other, again.moments) == pytest.approx(expected, rel=1e-12)


def test_keys_of_the_file_are_plain_arrays(tmp_path):
    features = np.random.default_rng(0).normal(size=(9, 4))
    some_statistics(features).save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert set(file.files) == {"mean", "cov", "n", "manifest"}
        np.testing.assert_allclose(file["mean"], features.mean(axis=0))
        np.testing.assert_allclose(file["cov"], np.cov(features, rowvar=False))
        assert file["n"] == 9 and json.loads(str(file["manifest"]))["source"]["path"] == "real"


def test_same_bytes_every_time(tmp_path):
    for name in "ab":
        some_statistics().save(tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_is_statistics_tells_them_from_clips(tmp_path):
    some_statistics().save(tmp_path / "s.npz")
    np.savez(tmp_path / "clips.npz", clips=np.zeros((1, 2, 4, 4, 3), np.uint8))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    (tmp_path / "folder.npz").mkdir()
    assert is_statistics(tmp_path / "s.npz")
    for name in ("clips.npz", "broken.npz", "folder.npz", "none.npz"):
        assert not is_statistics(tmp_path / name)


def test_matching_settings_pass():
    statistics = some_statistics()
    for same in ({}, {"num_samples": 5}, {"samples_frames": "center"}, {"ddof": 0, "root": "fp32-svd"}):
        statistics.check_match(load_protocol("hpdm-16f", backbone="shapes3d", **same), BACKBONE, "s.npz")
    statistics.check_match(load_protocol("hpdm-16f", backbone="shapes3d"), {**BACKBONE, "file": "other name"}, "s.npz")


def test_legacy_arithmetic_and_the_range_of_samples_need_no_other_statistics():
    """The network's epsilon is compared as it was loaded, not as protocols write it."""
    exact = some_statistics(protocol=load_protocol("hpdm-16f", backbone="shapes3d"))
    for same in ({"numerics": "legacy"}, {"value_range": "0..255"}):
        exact.check_match(load_protocol("hpdm-16f", backbone="shapes3d", **same), BACKBONE, "s.npz")
    with pytest.raises(InputError, match="epsilon is 1e-05 there and 0.001 here"):
        exact.check_match(load_protocol("hpdm-16f", backbone="shapes3d"), {**BACKBONE, "epsilon": 1e-3}, "s.npz")


def test_statistics_of_frames_and_of_clips_are_told_apart():
    protocol = load_protocol("hpdm-16f", backbone="shapes3d")
    with pytest.raises(InputError, match="statistics of clips.*stats --per-frame"):
        some_statistics().check_match(protocol, {**BACKBONE, "per_frame": True}, "s.npz")


def test_every_setting_that_differs_is_named_with_both_values():
    other = load_protocol("hpdm-16f", backbone="shapes3d", frames=24, resolution=(128, 64))
    with pytest.raises(InputError) as error:
        some_statistics().check_match(other, {**BACKBONE, "sha256": "c" * 64, "precision": "bf16"}, "real/s.npz")
    message = str(error.value)
    for words in (
        "real/s.npz",
        "frames is 16 there and 24 here",
        "resolution is [256, 256] there and [128, 64] here",
        f"sha256 is {'a' * 64} there and {'c' * 64} here",
        "precision is fp32 there and bf16 here",
    ):
        assert words in message
    assert "crop" not in message


def rewritten(tmp_path, **changes):
    """A statistics file with some arrays replaced, or left out where the change is None."""
    some_statistics().save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as file:
        arrays = {**{key: file[key] for key in file.files}, **changes}
    np.savez(tmp_path / "bad.npz", **{key: value for key, value in arrays.items() if value is not None})
    return tmp_path / "bad.npz"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"manifest": None}, "lacks manifest"),
        ({"cov": None, "n": None}, "lacks cov, n"),
        ({"cov": np.eye(5)}, "damaged"),
        ({"n": np.int64(1)}, "damaged"),
        ({"mean": np.full(6, np.nan)}, "not finite"),
        ({"manifest": np.array("{}")}, "manifest"),
        ({"manifest": np.array("not json")}, "manifest"),
        ({"manifest": np.array('{"schema": 9}')}, "schema 9"),
        ({"features": np.zeros((3, 6), np.float32)}, "features are"),
        ({"mean": np.array([{}], object)}, "not a readable"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        Statistics.load(rewritten(tmp_path, **changes))
    assert "bad.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"some text"])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(InputError, match="s.npz"):
        Statistics.load(tmp_path / "s.npz")


def test_a_cut_off_file(tmp_path):
    some_statistics().save(tmp_path / "s.npz")
    whole = (tmp_path / "s.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "s.npz") as archive:
        directory = archive.start_dir
    for length in (len(whole) // 2, directory + 10):
        (tmp_path / "s.npz").write_bytes(whole[:length])
        with pytest.raises(InputError, match="s.npz"):
            Statistics.load(tmp_path / "s.npz")


def test_flipped_bytes_never_pass_for_other_values(tmp_path):
    """The header of an array, read alone, could claim fewer values than the checksum is of."""
    some_statistics(np.random.default_rng(0).normal(size=(5, 2))).save(tmp_path / "s.npz")
    whole, expected = (tmp_path / "s.npz").read_bytes(), Statistics.load(tmp_path / "s.npz")
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x11
        (tmp_path / "s.npz").write_bytes(damaged)
        is_statistics(tmp_path / "s.npz")
        try:
            found = Statistics.load(tmp_path / "s.npz")
        except InputError:
            continue
        np.testing.assert_array_equal(found.moments.mean, expected.moments.mean)
        assert found.moments.n == 5 and found.backbone == expected.backbone
