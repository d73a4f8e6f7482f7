"""`hpdm-eval is`, `kvd`, `prdc`, `fid` and `all` from video files to what they print, write and refuse."""

import json
import os
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.backbones import PerFrame, load_backbone
from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.clips.source import open_clips
from hpdm_eval.commands.entry import main
from hpdm_eval.commands.metric import metric_command
from hpdm_eval.commands.options import take_protocol
from hpdm_eval.features.extraction import FeatureSet
from hpdm_eval.metrics.inception_score import inception_score
from hpdm_eval.metrics.kernel import jedi_distance, kernel_video_distance, over_subsets
from hpdm_eval.metrics.prdc import prdc
from hpdm_eval.protocols import DEFAULT, load_protocol
from hpdm_eval.records.record import load_record
from tests.support.small_network import draw_clips, random_shapes3d

pytestmark = pytest.mark.filterwarnings("ignore::hpdm_eval.metrics.inception_score.FewPerSplitWarning")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folders `a` and `b` of eight short videos each."""
    root = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate("ab"):
        draw_clips(root / name, 8, seed)
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return random_shapes3d(tmp_path_factory.mktemp("weights") / "random.safetensors")


@pytest.fixture
def run(network):
    def call(*words, network=network):
        shared = ["--protocol", "native", "--workers", "0", "--device", "cpu", *network]
        return CliRunner().invoke(main, [*map(str, words), *shared])

    return call


@pytest.fixture
def sides(clips):
    return ["--samples", clips / "a", "--reference", clips / "b"]


@pytest.fixture
def features(run, clips, tmp_path):
    """FeatureSets of both folders, written by `hpdm-eval features`."""
    found = []
    for name in "ab":
        done = run("features", "--samples", clips / name, "--out", tmp_path / f"{name}.npz", "--quiet")
        assert done.exit_code == 0, done.output
        found.append(FeatureSet.load(tmp_path / f"{name}.npz"))
    return found


def figures(result):
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    return record, {entry["figure"]: entry for entry in record["details"]}


def test_is_is_the_score_of_the_probabilities(run, clips, features, tmp_path):
    result = run("is", "--samples", clips / "a", "--splits", 2, "--seed", 5, "--json", "--record", tmp_path / "records")
    record, details = figures(result)
    expected = inception_score(features[0].probabilities, 2, seed=5)
    assert record["value"] == pytest.approx(expected.mean, rel=1e-6)
    entry = details["is"]
    assert entry["std"] == pytest.approx(expected.std, rel=1e-5)
    assert (entry["n"], entry["splits"]) == (8, 2)
    assert (record["metric"], record["higher_is_better"], record["reference"]) == ("is", True, None)
    assert "4 a split for 12 classes" in record["warnings"][0]
    (saved,) = (tmp_path / "records").iterdir()
    assert load_record(saved).value == record["value"]


def test_is_names_network_number_and_splits(run, clips):
    result = run("is", "--samples", clips / "a", "--splits", 2)
    assert result.exit_code == 0
    assert "is[shapes3d]" in result.stdout and "n 8" in result.stdout and "splits 2" in result.stdout
    refused = run("is", "--samples", clips / "a")
    assert refused.exit_code == 2 and "8 clips cannot be split into 10 parts" in refused.stderr


def test_is_looks_through_c3d_unless_told_otherwise(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", str(tmp_path))
    result = CliRunner().invoke(main, ["is", "--samples", str(clips / "a"), "--workers", "0"])
    assert result.exit_code == 2 and "no weights for c3d-ucf101" in result.stderr and "c3d_ucf101.pt" in result.stderr


def test_kvd_is_the_distance_of_the_features(run, sides, features):
    x, y = (part.features for part in features)
    record, details = figures(run("kvd", *sides, "--subsets", 3, "--subset-size", 6, "--json"))
    assert record["value"] == pytest.approx(kernel_video_distance(x, y), rel=1e-5)
    subsets = over_subsets(kernel_video_distance, x, y, subsets=3, subset_size=6)
    assert details["mean over subsets"]["value"] == pytest.approx(subsets.mean, rel=1e-4)
    assert details["mean over subsets"]["std"] == pytest.approx(subsets.std, rel=1e-4)
    record, _ = figures(run("kvd", *sides, "--variant", "jedi", "--json"))
    assert record["metric"] == "mmd-jedi" and record["value"] == pytest.approx(jedi_distance(x, y), rel=1e-5)


def test_prdc_is_that_of_the_features(run, sides, features):
    expected = prdc(*(part.features for part in features), 3)
    record, details = figures(run("prdc", *sides, "-k", 3, "--json"))
    for name in ("precision", "recall", "density", "coverage"):
        assert details[name]["value"] == pytest.approx(getattr(expected, name)) and details[name]["k"] == 3
    assert record["value"] == details["coverage"]["value"] and record["unit"] == "coverage"
    table = run("prdc", *sides, "-k", 3)
    assert "prdc[shapes3d]" in table.stdout and "density" in table.stdout


def test_statistics_without_features_are_refused_with_the_way_out(run, clips, sides, tmp_path):
    for flags, name in (([], "bare"), (["--keep-features"], "full")):
        done = run("stats", "--data", clips / "b", "--out", tmp_path / f"{name}.npz", "--quiet", *flags)
        assert done.exit_code == 0, done.output
    for metric in ("kvd", "prdc"):
        refused = run(metric, "--samples", clips / "a", "--reference", tmp_path / "bare.npz")
        assert refused.exit_code == 2 and "--keep-features" in refused.stderr
        from_file, _ = figures(run(metric, "--samples", clips / "a", "--reference", tmp_path / "full.npz", "--json"))
        assert from_file["value"] == pytest.approx(figures(run(metric, *sides, "--json"))[0]["value"], rel=1e-6)


def test_fid_is_torch_fidelitys_on_features_of_frames(run, clips, sides, network):
    import_torchvision()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    backbone = load_backbone("shapes3d", weights=network[3], unverified=True)
    statistics = []
    for name in "ab":
        videos = [clip.video for clip in open_clips(clips / name, load_protocol("native"), workers=0)]
        frames = torch.from_numpy(np.concatenate(videos))
        stills = frames[:, None].repeat(1, 4, 1, 1, 1)  # the network takes no fewer
        statistics.append(fid_features_to_statistics(backbone.extract(stills)[0].double()))
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    # 64 frames have 63 directions among 128 features: the reference takes roots of eigenvalues that are rounding
    record, details = figures(run("fid", *sides, "--json"))
    assert record["value"] == pytest.approx(expected, rel=1e-3)
    assert (details["fid"]["frames"], details["fid"]["reference_frames"]) == (64, 64)
    assert (record["num_samples"], record["backbone"]["per_frame"]) == (8, True)


def test_fid_looks_through_inception_and_says_where_it_is(clips, sides, tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", str(tmp_path))
    result = CliRunner().invoke(main, ["fid", *map(str, sides), "--workers", "0"])
    assert result.exit_code == 2 and "no weights for inception-v3" in result.stderr
    assert "weights fetch weights-inception-2015-12-05-6726825d.pth" in result.stderr


def test_inception_is_torch_fidelitys(tmp_path):
    import_torchvision()
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with (
        mock.patch.object(theirs, "load_state_dict_from_url"),
        mock.patch.object(theirs.FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        network = theirs.FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(network.state_dict(), tmp_path / "random.pth")
    backbone = load_backbone("inception", weights=tmp_path / "random.pth", unverified=True)
    clips = torch.randint(0, 256, (1, 2, 40, 50, 3), dtype=torch.uint8)
    features, _ = PerFrame(backbone).extract(clips)
    with torch.inference_mode():
        expected = network(clips[0].permute(0, 3, 1, 2))[0]
    torch.testing.assert_close(features[0], expected, rtol=1e-4, atol=1e-5)
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not torch-fidelity's Inception-v3"):
        load_backbone("inception", weights=tmp_path / "other.pth", unverified=True)


def test_all_equals_the_single_commands(run, clips, sides, tmp_path):
    result = run("all", *sides, "--splits", 2, "-k", 3, "--json", "--record", tmp_path / "records")
    assert result.exit_code == 0, result.output
    records = {record["metric"]: record for record in json.loads(result.stdout)}
    assert list(records) == ["fvd", "kvd", "prdc", "is", "fid"]
    assert len(list((tmp_path / "records").iterdir())) == 5
    for metric, more in {
        "fvd": sides,
        "kvd": sides,
        "prdc": [*sides, "-k", 3],
        "fid": sides,
        "is": [*sides[:2], "--splits", 2],
    }.items():
        alone, _ = figures(run(metric, *more, "--json"))
        assert records[metric]["value"] == pytest.approx(alone["value"], rel=1e-6), metric
        assert records[metric]["samples"] == alone["samples"]


def test_all_extracts_once(run, sides, monkeypatch):
    seen = []
    extract = Backbone.extract
    monkeypatch.setattr(Backbone, "extract", lambda self, clips: seen.append(len(clips)) or extract(self, clips))
    result = run("all", *sides, "--metrics", "is,kvd,fvd,prdc", "--splits", 2, "-k", 3, "--no-cache")
    assert result.exit_code == 0, result.output
    assert sum(seen) == 16
    assert [f"{metric}[shapes3d]" in result.stdout for metric in ("fvd", "kvd", "prdc", "is", "fid")] == [True] * 4 + [
        False
    ]


def test_all_leaves_out_what_cannot_be_had_unless_it_is_asked_for(run, clips, sides):
    result = run("all", *sides)
    assert result.exit_code == 0
    assert "no is: 8 clips cannot be split into 10 parts" in result.stderr and "is[shapes3d]" not in result.stdout
    asked = run("all", *sides, "--metrics", "fvd,is")
    assert asked.exit_code == 2 and "8 clips cannot be split" in asked.stderr
    unknown = run("all", *sides, "--metrics", "fvd,lpips")
    assert unknown.exit_code == 2 and "'lpips' is none of" in unknown.stderr


def test_records_of_other_settings_are_kept_apart(run, clips, tmp_path):
    for words in (["--splits", 1], ["--splits", 2], ["--splits", 2, "--precision", "bf16"], ["--splits", 2]):
        assert run("is", "--samples", clips / "a", *words, "--record", tmp_path).exit_code == 0
    records = [load_record(path) for path in tmp_path.glob("*.json")]
    found = sorted((record.extra["settings"]["splits"], record.backbone["precision"]) for record in records)
    assert found == [(1, "fp32"), (2, "bf16"), (2, "fp32")]


def test_fid_against_statistics_of_frames(run, clips, sides, tmp_path):
    for name, words in (("frames", ["--per-frame", "--seed", "4"]), ("clips", [])):
        made = run("stats", "--data", clips / "b", "--out", tmp_path / f"{name}.npz", *words)
        assert made.exit_code == 0 and f" {name}, shapes3d" in made.stdout, made.output
    direct, _ = figures(run("fid", *sides, "--json"))
    stored, _ = figures(run("fid", *sides[:2], "--reference", tmp_path / "frames.npz", "--json"))
    assert stored["value"] == pytest.approx(direct["value"], rel=1e-9)
    assert stored["reference"]["seed"] == 4 and len(stored["reference"]["statistics_sha256"]) == 64
    refused = run("fid", *sides[:2], "--reference", tmp_path / "clips.npz")
    assert refused.exit_code == 2 and "stats --per-frame" in refused.stderr
    refused = run("fvd", *sides[:2], "--reference", tmp_path / "frames.npz")
    assert refused.exit_code == 2 and "statistics of single frames" in refused.stderr
    together = run("stats", "--data", clips / "b", "--out", tmp_path / "x.npz", "--per-frame", "--keep-features")
    assert together.exit_code == 2 and "leave one out" in together.stderr and not (tmp_path / "x.npz").exists()


def test_both_names_of_a_network_are_one_protocol(clips):
    words = ["fvd", "--samples", str(clips / "a"), "--reference", str(clips / "b"), "--backbone"]
    for name in ("i3d", "i3d-kinetics400"):
        options = metric_command("fvd").make_context("fvd", words[1:] + [name]).params
        assert take_protocol(options).hash() == load_protocol(DEFAULT).hash()


def test_a_record_that_cannot_be_saved_is_refused_before_the_clips_are_read(run, sides, tmp_path):
    (tmp_path / "afile").write_text("")
    result = run("fvd", *sides, "--record", tmp_path / "afile" / "records")
    assert result.exit_code == 2 and "is no folder" in result.stderr and result.stdout == ""


def test_a_rejected_file_whose_name_is_no_utf8(run, clips, tmp_path):
    shutil.copytree(clips / "a", tmp_path / "a")
    odd = os.fsencode(str(tmp_path / "a")) + b"/bad\xff.avi"
    with open(odd, "wb"):
        pass
    result = run("fvd", "--samples", tmp_path / "a", "--reference", clips / "b", "--json", "--record", tmp_path / "r")
    record, _ = figures(result)
    assert [entry["path"] for entry in record["samples"]["rejected"]] == ["bad\udcff.avi"]
    assert load_record(next((tmp_path / "r").iterdir())).samples == record["samples"]
