"""`hpdm-eval curve`, and the options of `hpdm-eval fvd` that say how sure its figure is."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hpdm.data.procedural import procedural_clip
from hpdm_eval.commands.entry import main
from hpdm_eval.commands.printing import details_table
from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.uncertainty import extrapolate, grouped_jackknife, subset_distances
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import load_record
from tests.support.figures import measure

COUNTS = {"real": 50, "step-100": 44, "step-200": 48}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One array file of short clips per folder; samples are noisy."""
    root = tmp_path_factory.mktemp("clips")
    for number, (name, count) in enumerate(COUNTS.items()):
        videos = np.stack([procedural_clip(number, index, 4, 32, 32)[0] for index in range(count)]).astype(int)
        noise = {"real": 0, "step-100": 60, "step-200": 20}[name]
        videos += np.random.default_rng(number).integers(-noise, noise + 1, videos.shape)
        (root / name).mkdir()
        np.save(root / name / "clips.npy", videos.clip(0, 255).astype(np.uint8))
    return root


@pytest.fixture
def run(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_CACHE", str(clips / "cache"))
    monkeypatch.chdir(clips)

    def call(command, *words):
        shared = [
            "--reference",
            "real",
            *([] if "--protocol" in words else ["--protocol", "native"]),
            "--backbone",
            "shapes3d",
            "--workers",
            "0",
            "--device",
            "cpu",
        ]
        return CliRunner().invoke(main, [command, *map(str, words), *shared])

    return call


@pytest.fixture
def features(run, tmp_path):
    """Features of every folder by `hpdm-eval features`."""
    found = {}
    for name in COUNTS:
        words = [
            "features",
            "--samples",
            name,
            "--protocol",
            "native",
            "--backbone",
            "shapes3d",
            "--workers",
            "0",
            "--out",
            str(tmp_path / f"{name}.npz"),
            "--quiet",
        ]
        assert CliRunner().invoke(main, words).exit_code == 0
        found[name] = np.load(tmp_path / f"{name}.npz")["features"]
    return found


def test_curve_writes_table_csv_and_plot_of_subset_distances(run, features, tmp_path):
    result = run(
        "curve",
        "--samples",
        "step-100",
        "--samples",
        "step-200",
        "--at",
        "10,30,500",
        "--out",
        tmp_path / "out",
        "--record",
        tmp_path / "records",
        "--seed",
        3,
    )
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "out" / "curve.csv").open()))
    assert [(row["set"], int(row["samples"])) for row in rows] == [
        ("step-100", 10),
        ("step-100", 30),
        ("step-100", 44),
        ("step-200", 10),
        ("step-200", 30),
        ("step-200", 48),
    ]
    real = Moments.of(features["real"])
    for row in rows:
        size, total = int(row["samples"]), COUNTS[row["set"]]
        expected = subset_distances(features[row["set"]], real, size, draws=1 if size == total else 10, seed=3)
        assert float(row["fvd"]) == pytest.approx(expected.mean(), rel=1e-4)
        assert (
            row["spread"] == ""
            if size == total
            else float(row["spread"]) == pytest.approx(expected.std(ddof=1), rel=1e-3)
        )
    values = [float(row["fvd"]) for row in rows]
    assert values[:3] == sorted(values[:3], reverse=True) and values[3:] == sorted(values[3:], reverse=True)
    assert "step-100: 44 samples, none for 500" in result.stderr
    assert (tmp_path / "out" / "curve.md").read_text().count("\n| step-") == 6 and "shapes3d" in result.stdout
    image = np.asarray(Image.open(tmp_path / "out" / "curve.png").convert("RGB"))
    assert image.shape[0] > 300 and image.std() > 10
    records = [load_record(path) for path in (tmp_path / "records").iterdir()]
    assert sorted(record.num_samples for record in records) == [44, 48]
    assert {record.metric for record in records} == {"fvd-curve"} and len(records[0].details) == 3


def test_curve_in_json_and_again_to_the_byte(run, tmp_path):
    words = ["curve", "--samples", "step-100", "--at", "20", "--json", "--quiet", "--out"]
    first, second = run(*words, tmp_path / "a"), run(*words, tmp_path / "b")
    (record,) = json.loads(first.stdout)
    assert [point["figure"] for point in record["details"]] == ["fvd@20", "fvd@44"]
    assert record["value"] == record["details"][-1]["value"] and first.stderr == ""
    for name in ("curve.csv", "curve.md", "curve.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert second.exit_code == 0


@pytest.mark.parametrize(
    "words, message",
    [(["--at", "20,many"], "--at"), (["--at", "1,20"], "from 2 up"), (["--samples", "nowhere"], "nowhere")],
)
def test_curve_refuses_bad_input(run, tmp_path, words, message):
    result = run("curve", "--samples", "step-100", *words, "--out", tmp_path / "out")
    assert result.exit_code == 2 and message in result.stderr and not (tmp_path / "out").exists()


def test_interval_is_the_jackknife_and_at_the_subsets(run, features):
    result = run("fvd", "--samples", "step-200", "--at", "16,48", "--json", "--seed", 5)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    real = Moments.of(features["real"])
    jackknife = grouped_jackknife(features["step-200"], real, seed=5)
    half = jackknife.half_width()
    assert record["value"] == pytest.approx(jackknife.value, rel=1e-4)
    assert record["ci95"] == pytest.approx([jackknife.value - half, jackknife.value + half], rel=1e-3)
    details = {entry["figure"]: entry for entry in record["details"]}
    assert list(details) == ["standard error", "fvd@16", "fvd@48"]
    assert details["standard error"]["value"] == pytest.approx(jackknife.standard_error, rel=1e-3)
    expected = subset_distances(features["step-200"], real, 16, seed=5)
    assert details["fvd@16"]["value"] == pytest.approx(expected.mean(), rel=1e-4)
    assert details["fvd@48"]["value"] == pytest.approx(record["value"], rel=1e-6)
    assert details["fvd@48"]["spread"] is None
    assert "no bias-corrected value: it needs 640 clips for 128 features, there are 48" in record["warnings"]


def test_what_too_few_samples_forbid_is_left_out_with_the_reason(run):
    result = run("fvd", "--samples", "step-200", "--at", "500", "--extrapolate", "--num-samples", "30")
    assert result.exit_code == 0, result.output
    for reason in (
        "no interval: a jackknife over 20 groups needs at least 40 clips",
        "no fvd@500: subsets of 500",
        "no FVD-infinity: 640 samples are needed for 128 features, there are 30",
    ):
        assert reason in result.stdout and reason in result.stderr
    assert "[" not in result.stdout.splitlines()[2].split()[1]


def test_no_interval_leaves_the_bare_figure(run):
    record = json.loads(run("fvd", "--samples", "step-200", "--no-interval", "--json").stdout)
    assert record["ci95"] is None and record["details"] == []


def test_interval_over_both_is_wider_and_needs_features(run, tmp_path):
    one, both = (
        json.loads(run("fvd", "--samples", "step-200", "--interval-over", over, "--json").stdout)
        for over in ("samples", "both")
    )
    assert both["value"] == one["value"]
    assert both["ci95"][1] > one["ci95"][1] and both["details"][0]["over"] == "both"
    words = ["stats", "--data", "real", "--protocol", "native", "--backbone", "shapes3d", "--workers", "0", "--out"]
    assert CliRunner().invoke(main, [*words, str(tmp_path / "real.npz"), "--quiet"]).exit_code == 0
    result = CliRunner().invoke(
        main,
        [
            "fvd",
            "--samples",
            "step-200",
            "--reference",
            str(tmp_path / "real.npz"),
            "--protocol",
            "native",
            "--backbone",
            "shapes3d",
            "--workers",
            "0",
            "--interval-over",
            "both",
        ],
    )
    assert result.exit_code == 0 and "no interval: an interval over samples and reference" in result.stdout


def test_enough_samples_bring_the_corrected_value_and_infinity():
    """The measure alone, on features: 650 samples of 128 dimensions are past five a dimension."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(650, 128)) * 1.1, rng.normal(size=(900, 128))
    sides = [
        SimpleNamespace(features=side, moments=Moments.of(side), distribution=side, count=len(side)) for side in (x, y)
    ]
    figures = measure(*sides, load_protocol("native"), interval=True, extrapolate=True)
    details = {entry["figure"]: entry for entry in figures["details"]}
    jackknife, line = grouped_jackknife(x, y, over="both"), extrapolate(x, y, over="both")
    assert details["corrected"]["value"] == pytest.approx(jackknife.corrected, rel=1e-6)
    assert details["corrected"]["ci95"] == pytest.approx(
        [jackknife.corrected - jackknife.half_width(), jackknife.corrected + jackknife.half_width()], rel=1e-6
    )
    assert 0 < details["corrected"]["bias_of_reference"] < details["corrected"]["bias"]
    assert details["fvd-infinity"]["value"] == pytest.approx(line.value, rel=1e-9)
    assert details["fvd-infinity"]["smallest"] == 320 and 0.8 < details["fvd-infinity"]["r2"] <= 1
    assert figures["value"] > details["corrected"]["value"]
    assert "fvd-infinity" in details_table(figures["details"])


def test_the_curve_ends_at_the_figure_of_fvd_under_legacy_numerics_too(clips, run, tmp_path):
    path = tmp_path / "legacy.yaml"
    path.write_text("extends: native\nddof: 0\nroot: fp32-svd\n")
    words = ["--samples", "step-100", "--protocol", path, "--json", "--quiet"]
    curve = json.loads(run("curve", *words, "--at", "20", "--out", tmp_path / "out").stdout)[0]
    alone = json.loads(run("fvd", *words, "--at", "20").stdout)
    assert alone["protocol"]["root"] == "fp32-svd"
    assert curve["value"] == alone["value"]
    assert curve["details"][0]["value"] == alone["details"][-1]["value"]


def test_without_the_reference_s_features_the_label_says_so():
    """Only the samples' bias can be subtracted; the figures are called by what they are."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(650, 128)) * 1.1, rng.normal(size=(900, 128))
    own = SimpleNamespace(features=x, moments=Moments.of(x), distribution=x, count=650)
    stored = SimpleNamespace(features=None, moments=Moments.of(y), distribution=Moments.of(y), count=900)
    few = SimpleNamespace(features=y[:300], moments=Moments.of(y[:300]), distribution=y[:300], count=300)
    for reference, reason in ((stored, "features are not known"), (few, "correcting that needs 640")):
        with pytest.warns(UserWarning, match=f"against this reference keeps the bias.*{reason}"):
            figures = measure(own, reference, load_protocol("native"), interval=True, extrapolate=True)
        details = {entry["figure"]: entry for entry in figures["details"]}
        jackknife = grouped_jackknife(x, reference.moments)
        assert set(details) == {
            "standard error",
            "corrected against this reference",
            "fvd-infinity against this reference",
        }
        assert details["corrected against this reference"]["value"] == pytest.approx(jackknife.corrected, rel=1e-6)


def test_clips_of_one_source_are_dealt_together():
    rng = np.random.default_rng(0)
    x, y = np.repeat(rng.normal(size=(40, 8)), 5, axis=0), rng.normal(size=(200, 8))
    x = x + 0.1 * rng.normal(size=x.shape)
    errors = []
    for sources in (None, [str(k // 5) for k in range(200)]):
        sides = [
            SimpleNamespace(features=side, moments=Moments.of(side), distribution=side, count=200, sources=known)
            for side, known in ((x, sources), (y, None))
        ]
        entry = measure(*sides, load_protocol("native"), interval=True)["details"][0]
        errors.append(entry["value"])
        assert entry.get("sources") == (sources and 40)
    assert errors[1] > 1.5 * errors[0]
    grouped, single = sides[0], sides[1]
    for one, other in ((grouped, single), (single, grouped)):
        figures = measure(one, other, load_protocol("native"), extrapolate=True)["details"]
        assert [entry["figure"] for entry in figures] == ["fvd-infinity"]
    few = SimpleNamespace(**{**vars(grouped), "sources": [str(k // 20) for k in range(200)]})
    with pytest.warns(UserWarning, match="no FVD-infinity: 30 source videos are needed on a side"):
        assert not measure(few, single, load_protocol("native"), extrapolate=True)["details"]
