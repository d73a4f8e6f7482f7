"""`hpdm-eval seams`, `seams-power`, `dead-tokens` and `pyramid` from files to what they print, write and refuse."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from hpdm.commands.sample import sample
from hpdm.config import config_from_dict, config_to_dict
from hpdm.video.writer import write_video
from hpdm_eval.commands.entry import main
from hpdm_eval.metrics.seam_tests import WEAK
from hpdm_eval.records.record import load_record
from hpdm_eval.report import seam_plots
from hpdm_eval.studies.validation.seam_codecs import encode_with
from hpdm_eval.studies.validation.seam_injection import inject_seams
from tests.support.sampling_models import save_tiny, tiny_config

PATCH = (8, 32, 32)


def smooth_clip(seed, shape=(16, 96, 96)):
    rng = np.random.default_rng(seed)
    frames, height, width = shape
    field = gaussian_filter(rng.normal(size=(height + frames, width)), 3)
    field = 128 + 30 * field / field.std()
    video = np.stack([field[k // 2 : k // 2 + height] for k in range(frames)])[..., None]
    return np.clip(video + rng.normal(0, 1, size=(*shape, 3)), 0, 255).astype(np.uint8)


def save(path, clip):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, clip)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`plain` and `tiled`: eight clips each; `single`: clips of one tile."""
    root = tmp_path_factory.mktemp("clips")
    for k in range(8):
        save(root / "plain" / f"{k}.npy", smooth_clip(k))
        save(root / "tiled" / f"{k}.npy", inject_seams(smooth_clip(20 + k), PATCH, "shift", 3, k))
        save(root / "single" / f"{k}.npy", smooth_clip(40 + k, PATCH))
    return root


def run(command, *words):
    return CliRunner().invoke(main, [command, *map(str, words), "--workers", "0", "--device", "cpu"])


def plan(levels=2, overlap="none", file_format="npy", resolution=(16, 64, 64)):
    return json.dumps(
        {
            "schema": 1,
            "resolution": resolution,
            "settings": {"levels": levels, "overlap": overlap, "format": file_format},
        }
    )


def test_json_is_one_record_of_the_contract(folders, tmp_path):
    words = ["--patch", "8x32x32", "--json", "--record", tmp_path / "records", "--plots", tmp_path / "plots"]
    result = run("seams", "--samples", folders / "tiled", *words)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    (saved,) = (tmp_path / "records").iterdir()
    assert json.loads(saved.read_text()) == values
    record = load_record(saved)
    assert record.metric == "seams" and not record.higher_is_better and record.num_samples == 8
    assert record.value == pytest.approx(np.mean([entry["excess"] for entry in record.details]))
    assert values["pooled_over"] == [
        {"axis": axis, "period": period} for axis, period in (("f", 8), ("h", 32), ("w", 32))
    ]
    assert values["largest"]["excess"] == max(entry["excess"] for entry in record.details) > record.value
    assert record.ci95[0] < record.value < record.ci95[1]
    for entry in record.details:
        assert {"axis", "period", "statistic", "excess", "ci95", "p_value", "significant"} <= set(entry)
        assert entry["ci95"][0] < entry["excess"] < entry["ci95"][1] and 0 <= entry["p_value"] <= 1
        assert entry["significant"] is True or entry["significant"] is False or entry["reason"]
    found = {(entry["axis"], entry["period"]) for entry in record.details if entry["significant"]}
    assert found == {("f", 8), ("h", 32), ("w", 32)}
    assert len({(entry["axis"], entry["period"], entry["statistic"]) for entry in record.details}) == 6
    assert len(values["worst"]) == 8 and {entry["name"] for entry in values["worst"]} == {f"{k}.npy" for k in range(8)}
    for name in ("seams-profile.png", "seams-map.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_table_gives_the_verdicts(folders):
    result = run("seams", "--samples", folders / "plain", "--patch", "8x32x32", "--quiet")
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.startswith("metric") and "SEAM" not in result.stdout
    assert result.stdout.count("coherent-step") >= 3 and "clips with the largest scores:" in result.stdout
    assert "SEAM" in run("seams", "--samples", folders / "tiled", "--patch", "8x32x32", "--quiet").stdout


def test_clips_of_one_video_are_no_draws_of_their_own(folders, tmp_path):
    for k in range(8):
        name = f"v_Punch_g{k // 2 + 1:02d}_c{k % 2 + 1:02d}.npy"
        save(tmp_path / "Punch" / name, np.load(folders / "plain" / f"{k}.npy"))
    words = ["seams", "--samples", tmp_path, "--patch", "8x32x32", "--json"]
    record = json.loads(run(*words).stdout)
    apart = json.loads(run(*words, "--group-by", "none").stdout)
    assert record["samples"]["sources"] == 4 and "sources" not in apart["samples"]
    assert record["value"] == apart["value"] and record["ci95"] != apart["ci95"]
    assert json.loads(run(*words, "--group-by", "_c0[12]").stdout)["samples"]["sources"] == 2
    result = run(*words, "--group-by", "(")
    assert result.exit_code == 2 and "--group-by" in result.stderr


def test_no_verdict_is_said_with_its_reason_in_table_record_and_plots(tmp_path):
    """Tiles of 16 in lossy files cannot be told from macroblocks; keys at every border hide what tiles do in time."""
    for k in range(6):
        write_keyed(tmp_path / "clips" / f"{k}.mkv", smooth_clip(k, (24, 64, 64)), 8)
    words = ["seams", "--samples", tmp_path / "clips", "--patch", "8x16x16"]
    result = run(*words, "--json", "--plots", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    reasons = {entry["axis"]: entry["reason"] for entry in record["details"] if entry["period"] in (8, 16)}
    assert "key frames of the files meet every border" in reasons["f"] and "codec's blocks of 16" in reasons["w"]
    assert all(entry["significant"] is None for entry in record["details"])
    assert any("no verdict on f 8: key frames" in warning for warning in record["warnings"])
    assert (tmp_path / "plots" / "seams-profile.png").read_bytes().startswith(b"\x89PNG")
    result = run(*words)
    assert "no verdict" in result.stdout and "key frames of the files meet every border" in result.output
    record = json.loads(run(*words, "--json", "--reference", tmp_path / "clips").stdout)
    assert all(not entry["significant"] for entry in record["details"])
    assert all(
        entry["reason"] in (None, WEAK.format(6)) for entry in record["details"]
    )  # a reference answers for blocks


def write_keyed(path, clip, gop):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_with(clip, "MPEG-4", gop))


def test_records_of_other_lattices_do_not_overwrite_each_other(folders, tmp_path):
    for patch in ("8x32x32", "8x48x48"):
        run("seams", "--samples", folders / "plain", "--patch", patch, "--record", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_same_command_same_record(folders):
    words = ["seams", "--samples", folders / "plain", "--reference", folders / "tiled", "--patch", "8x32x32", "--json"]
    first, second = (json.loads(run(*words).stdout) for _ in range(2))
    assert first["details"] == second["details"] and first["num_reference"] == 8
    assert {"excess_samples", "excess_reference"} <= set(first["details"][0])
    assert not any(entry["significant"] for entry in first["details"])


def test_the_samplers_own_plan_gives_the_positions(folders, tmp_path):
    for k in range(4):
        save(tmp_path / f"{k:05d}_c000.npy", smooth_clip(k, (16, 64, 64)))
    (tmp_path / "samples.json").write_text(plan(levels=3, overlap="w"))
    values = json.loads(run("seams", "--samples", tmp_path, "--json").stdout)
    settings = values["settings"]
    assert (settings["patch"], settings["overlap"], settings["levels"]) == ([4, 16, 16], "w", 3)
    assert settings["lossless"] and settings["plan"] == "samples.json"
    assert {(entry["axis"], entry["period"]) for entry in values["details"]} == {
        ("f", 4),
        ("f", 8),
        ("h", 16),
        ("h", 32),
        ("w", 8),
        ("w", 16),
        ("w", 32),
    }
    assert all(entry["codec_matched"] for entry in values["details"])
    values = json.loads(run("seams", "--samples", tmp_path, "--json", "--overlap", "none").stdout)
    assert values["settings"]["plan"] == "samples.json, but overlap as given"
    assert ("w", 8) not in {(entry["axis"], entry["period"]) for entry in values["details"]}


@pytest.mark.parametrize(
    "manifest, expected",
    [
        # twice the trained height and width: the coarsest level has several tiles too
        ({"levels": 2, "overlap": "hw", "canvas": [1, 2, 2]}, {("f", 8), *((a, p) for a in "hw" for p in (8, 16, 32))}),
        ({"levels": 1, "overlap": "w", "canvas": [1, 1, 2]}, {("w", 16), ("w", 32)}),
        # a pyramid that is not split in time, as that of T2V-1K
        ({"levels": 3, "overlap": "hw", "factors": [1, 4, 4]}, {(a, p) for a in "hw" for p in (8, 16, 32)}),
        (
            {"levels": 3, "overlap": "fhw", "factors": [1, 4, 4], "canvas": [2, 1, 1]},
            {("f", 4), ("f", 8), *((a, p) for a in "hw" for p in (8, 16, 32))},
        ),
    ],
)
def test_larger_canvases_and_pyramids_that_do_not_split_every_axis(tmp_path, manifest, expected):
    for k in range(4):
        save(tmp_path / f"{k:05d}_c000.npy", smooth_clip(k, (16, 64, 64)))
    values = json.loads(plan(levels=manifest["levels"], overlap=manifest["overlap"]))
    canvas = manifest.get("canvas", [1, 1, 1])
    values["settings"]["canvas"] = canvas
    if "factors" in manifest:
        patch = [size // (times * factor) for size, times, factor in zip((16, 64, 64), canvas, manifest["factors"])]
        values |= {"factors": manifest["factors"], "patch": patch}
    (tmp_path / "samples.json").write_text(json.dumps(values))
    record = json.loads(run("seams", "--samples", tmp_path, "--json").stdout)
    assert {(entry["axis"], entry["period"]) for entry in record["details"]} == expected


@pytest.mark.parametrize(
    "about, settings",
    [
        ({"patch": [16, 16, 16], "factors": [1, 4, 4]}, {"levels": 3, "overlap": "hw"}),
        ({"patch": [4, 8, 8], "factors": [4, 4, 4]}, {"levels": 3, "canvas": [1, 2, 2]}),
        ({"patch": [16, 32, 32], "factors": [1, 1, 1]}, {"levels": 1, "canvas": [1, 2, 2]}),
        ({"patch": [16, 64, 64], "factors": [1, 1, 1]}, {"levels": 1}),
    ],
)
def test_a_given_patch_is_looked_for_on_every_axis_whatever_the_sampler_wrote(tmp_path, about, settings):
    for k in range(4):
        save(tmp_path / f"{k:05d}_c000.npy", smooth_clip(k, (16, 64, 64)))
    values = {**json.loads(plan()), **about}
    values["settings"] |= {**settings, "overlap": settings.get("overlap", "none")}
    (tmp_path / "samples.json").write_text(json.dumps(values))
    record = json.loads(run("seams", "--samples", tmp_path, "--patch", "8x24x24", "--overlap", "none", "--json").stdout)
    assert {(entry["axis"], entry["period"]) for entry in record["details"]} == {("f", 8), ("h", 24), ("w", 24)}
    assert not {"split", "canvas"} & record["settings"].keys()


@pytest.mark.parametrize(
    "damage",
    [
        {"patch": [4, 8]},
        {"patch": [4, 8, 0]},
        {"factors": [4, 4]},
        {"factors": [4, 0, 4]},
        {"patch": "4x8x8"},
        {"settings": {"canvas": [0, 1, 1]}},
        {"settings": {"canvas": [1, 1]}},
        {"settings": {"canvas": 2}},
        {"settings": {"levels": 0}},
        {"settings": {"levels": 2.5}},
        {"resolution": [16, 64]},
        {"resolution": [16, 2, 64]},
    ],
)
def test_a_tiling_that_cannot_be_is_refused(folders, tmp_path, damage):
    save(tmp_path / "clips" / "0.npy", smooth_clip(0))
    values = json.loads(plan(levels=3))
    settings = {**values["settings"], **damage.pop("settings", {})}
    (tmp_path / "clips" / "samples.json").write_text(json.dumps({**values, **damage, "settings": settings}))
    result = run("seams", "--samples", tmp_path / "clips", "--json")
    assert result.exit_code == 2 and result.stdout == "" and "give --patch" in result.stderr
    assert run("seams", "--samples", tmp_path / "clips", "--patch", "8x32x32", "--json").exit_code == 0


def test_the_sampler_writes_its_tiling_down(tmp_path):
    result = CliRunner().invoke(
        sample,
        [
            "--checkpoint",
            "nano",
            "--num",
            "1",
            "--steps",
            "1,1,1",
            "--format",
            "npy",
            "--save-levels",
            "--out",
            str(tmp_path),
            "--quiet",
            "--device",
            "cpu",
        ],
    )
    assert result.exit_code == 0, result.output
    for level, factor in enumerate((1, 2, 4)):
        manifest = json.loads((tmp_path / f"level{level}" / "samples.json").read_text())
        assert manifest["patch"] == [4, 8, 8] and manifest["factors"] == [factor] * 3


@pytest.mark.parametrize(
    "split, patch, size, overlap, expected",
    [
        ("hw", [8, 8, 8], "8,32,32", "none", {"h": {8, 16}, "w": {8, 16}}),
        ("hw", [8, 8, 8], "16,32,64", "fw", {"f": {4, 8}, "h": {8, 16}, "w": {4, 8, 16, 32}}),
        ("fhw", [4, 8, 8], "16,64,32", "h", {"f": {4, 8}, "h": {4, 8, 16, 32}, "w": {8, 16}}),
    ],
)
def test_tilings_from_the_sampler_to_the_seams(tmp_path, split, patch, size, overlap, expected):
    values = config_to_dict(tiny_config())
    values["pyramid"] |= {"split": split, "patch": patch}
    checkpoint = save_tiny(tmp_path / "step-00000001", config_from_dict(values))
    result = CliRunner().invoke(
        sample,
        [
            "--checkpoint",
            str(checkpoint),
            "--num",
            "2",
            "--steps",
            "1,1,1",
            "--quiet",
            "--overlap",
            overlap,
            "--size",
            size,
            "--beyond-training",
            "--save-levels",
            "--format",
            "npy",
            "--out",
            str(tmp_path / "out"),
            "--device",
            "cpu",
        ],
    )
    assert result.exit_code == 0, result.output
    record = json.loads(run("seams", "--samples", tmp_path / "out" / "level2", "--json").stdout)
    found = {(entry["axis"], entry["period"]) for entry in record["details"]}
    assert found == {(axis, period) for axis, periods in expected.items() for period in periods}
    assert run("pyramid", "--samples", tmp_path / "out", "--json").exit_code == 0


def test_plots_of_clips_too_small_for_some_lattices(tmp_path):
    for k in range(3):
        save(tmp_path / "clips" / f"{k}.npy", smooth_clip(k, (8, 32, 32)))
    result = run(
        "seams",
        "--samples",
        tmp_path / "clips",
        "--patch",
        "16x4x4",
        "--overlap",
        "hw",
        "--lossless",
        "--plots",
        tmp_path / "plots",
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["seams-map.png", "seams-profile.png"]


def test_the_map_has_one_colour_for_each_border(tmp_path, monkeypatch):
    """Tiles cut the borders of the other axis even where no clip holds enough of a tile to judge its own border."""
    for k in range(3):
        save(tmp_path / "clips" / f"{k}.npy", smooth_clip(k, (8, 34, 96)))
    drawn = []

    def counted(*arguments):
        segments, excess = cut(*arguments)
        drawn.append((len(segments), len(excess)))
        return segments, excess

    cut = seam_plots._segments
    monkeypatch.setattr(seam_plots, "_segments", counted)
    result = run(
        "seams", "--samples", tmp_path / "clips", "--patch", "8x32x32", "--lossless", "--plots", tmp_path / "plots"
    )
    assert result.exit_code == 0, result.output
    assert drawn == [(4, 4)] * 2


def test_lossy_samples_of_small_patches_get_no_verdict(tmp_path):
    for k in range(5):
        clip = inject_seams(smooth_clip(k, (16, 64, 64)), (8, 16, 16), "shift", 3, k)
        write_video(tmp_path / f"{k:05d}_c000.mp4", clip)
    (tmp_path / "samples.json").write_text(plan(levels=2, file_format="mp4", resolution=(16, 32, 32)))
    result = run("seams", "--samples", tmp_path, "--json")
    values = json.loads(result.stdout)
    assert not any(entry["significant"] for entry in values["details"] if entry["period"] == 16)
    assert "no verdict on h 16, w 16" in " ".join(values["warnings"]) and "no verdict" in result.stderr


def test_resized_clips_need_a_reference_or_to_be_lossless(folders):
    words = ["seams", "--samples", folders / "tiled", "--patch", "8x32x32", "--resolution", "90", "--json"]
    values = json.loads(run(*words).stdout)
    assert {entry["axis"] for entry in values["details"] if entry["codec_matched"]} == {"f"}
    assert "no verdict on h 32, w 32" in " ".join(values["warnings"])
    values = json.loads(run(*words, "--reference", folders / "plain").stdout)
    assert all("a step of one grey level" in text for text in values["warnings"])
    assert all(entry["p_value"] < 1 for entry in values["details"])


@pytest.mark.parametrize(
    "folder, words, message",
    [
        ("plain", [], "give --patch"),
        ("plain", ["--patch", "8x32"], "write frames x height x width"),
        ("plain", ["--patch", "1x2x2"], "too small to look for"),
        ("plain", ["--patch", "7x32x32", "--overlap", "f"], "cannot overlap by half"),
        ("plain", ["--patch", "8x32x32", "--overlap", "x"], "--overlap"),
        ("plain", ["--patch", "8x32x32", "--stride", "2"], "leave out"),
        ("single", ["--patch", "8x32x32"], "no borders to look at"),
        ("nowhere", ["--patch", "8x32x32"], "nowhere"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(folders, folder, words, message):
    result = run("seams", "--samples", folders / folder, "--quiet", *words)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "text, message", [("{", "does not say how"), ("{}", "does not say how"), (plan(levels=1), "there are no borders")]
)
def test_plans_that_say_nothing_are_refused(tmp_path, text, message):
    save(tmp_path / "00000_c000.npy", smooth_clip(0, (16, 64, 64)))
    (tmp_path / "samples.json").write_text(text)
    result = run("seams", "--samples", tmp_path)
    assert result.exit_code == 2 and message in result.stderr
    assert run("seams", "--samples", tmp_path, "--patch", "8x32x32").exit_code == 0


def test_positions_of_a_plan_are_not_looked_for_in_resized_clips(tmp_path):
    save(tmp_path / "00000_c000.npy", smooth_clip(0, (16, 64, 64)))
    (tmp_path / "samples.json").write_text(plan())
    result = run("seams", "--samples", tmp_path, "--resolution", "32")
    assert result.exit_code == 2 and "--resolution" in result.stderr


def test_power_is_written_as_page_table_and_picture(folders, tmp_path):
    words = ["--patch", "8x32x32", "--clips", "6", "--resamples", "10", "--longest", "16", "--out", tmp_path]
    result = run("seams-power", "--samples", folders / "plain", "--quiet", *words)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "seams-power.csv").open()))
    rates = {(row["kind"], int(row["amount"]), row["axis"]): float(row["detected"]) for row in rows}
    assert rates["none", 0, "any"] <= 0.2 and rates["brightness", 4, "any"] == rates["shift", 3, "any"] == 1
    assert all(0 <= float(row["detected"]) + float(row["withheld"]) <= 1 for row in rows)
    assert "| shift | 3 |" in (tmp_path / "seams-power.md").read_text()
    assert "| none | 24 | pooled |" in (tmp_path / "seams-power.md").read_text()
    assert (tmp_path / "seams-power.png").read_bytes().startswith(b"\x89PNG")
    (record,) = map(load_record, (tmp_path / "records").iterdir())
    assert record.metric == "seams-false-positives" and record.value == rates["none", 0, "any"]


def test_dead_tokens_are_counted_and_named(tmp_path):
    for k in range(4):
        video = smooth_clip(k, (4, 64, 64))
        if k == 2:
            video[1, 20:24, 32:36] = 255
            video[3, 40:44, 8:12] = 0
        save(tmp_path / "clips" / f"{k}.npy", video)
    words = ["--samples", tmp_path / "clips", "--plots", tmp_path, "--record", tmp_path / "records"]
    result = run("dead-tokens", *words, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    (figures,) = values["details"]
    tokens = 4 * 4 * 14 * 14
    assert figures["tokens"] == tokens and figures["dead"] == figures["tone"] == 2 and figures["clips_with_dead"] == 1
    assert values["value"] == pytest.approx(2e6 / tokens) and values["unit"] == "per million tokens"
    assert figures["moved_lattice_per_million"] == 0 and figures["dead_per_video"] == 0.5
    places = {(entry["name"], entry["frame"], entry["row"], entry["column"]) for entry in values["positions"]}
    assert places == {("2.npy", 1, 20, 32), ("2.npy", 3, 40, 8)}
    assert [entry["name"] for entry in values["worst"]] == ["2.npy"]
    assert (tmp_path / "dead-tokens.png").read_bytes().startswith(b"\x89PNG")
    assert "clips with the most:" in run("dead-tokens", *words, "--quiet").stdout
    refused = run("dead-tokens", "--samples", tmp_path / "clips", "--token", "1x2x2")
    assert refused.exit_code == 2 and "from 3 pixels up" in refused.stderr


def test_dead_tokens_of_the_smallest_clips_have_no_moved_lattice(tmp_path):
    save(tmp_path / "clips" / "0.npy", smooth_clip(0, (2, 12, 12)))
    result = run("dead-tokens", "--samples", tmp_path / "clips", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["details"][0]["moved_lattice_per_million"] is None
    table = run("dead-tokens", "--samples", tmp_path / "clips").stdout
    assert next(line for line in table.splitlines() if line.startswith("moved lattice")).split()[-1] == "-"


def test_a_pyramid_is_named_by_all_of_its_levels(tmp_path):
    for k in range(3):
        coarse = smooth_clip(k, (2, 8, 8))
        save(tmp_path / "level0" / f"{k}.npy", coarse)
        save(tmp_path / "level1" / f"{k}.npy", coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    words = ["--samples", tmp_path, "--levels", "2", "--json", "--record", tmp_path / "records"]
    first = json.loads(run("pyramid", *words).stdout)
    save(tmp_path / "level0" / "0.npy", smooth_clip(9, (2, 8, 8)))
    (tmp_path / "level0" / "z.npy").write_bytes(b"no array")
    second = json.loads(run("pyramid", *words).stdout)
    assert second["value"] < first["value"] and second["samples"]["sha256"] != first["samples"]["sha256"]
    assert [entry["path"] for entry in second["samples"]["rejected"]] == ["level0/z.npy"]
    assert len(list((tmp_path / "records").iterdir())) == 2
    (tmp_path / "level0" / "0.npy").write_bytes(b"no array")
    refused = run("pyramid", *words)
    assert refused.exit_code == 2 and "level0/0.npy was rejected: not a readable .npy array" in refused.stderr


def test_pyramid_compares_each_level_with_the_one_below(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(5):
        coarse = rng.integers(60, 180, size=(2, 8, 8, 3)).astype(np.uint8)
        middle = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        fine = (middle + 5).repeat(2, 0).repeat(2, 1).repeat(2, 2)
        for level, clip in enumerate((coarse, middle, fine)):
            save(tmp_path / f"level{level}" / f"{k}.npy", clip)
    values = json.loads(run("pyramid", "--samples", tmp_path, "--levels", "3", "--json").stdout)
    first, second = values["details"]
    assert (first["level"], first["coarse_level"], first["psnr"]) == (1, 0, 100)
    assert second["psnr"] == values["value"] == pytest.approx(20 * np.log10(255 / 5)) and second["bias"] == 5
    assert second["rmse 0-1/8"] == pytest.approx(5) and second["rmse 1/2-1"] == pytest.approx(0, abs=1e-6)
    assert values["higher_is_better"] and values["unit"] == "dB" and values["num_samples"] == 5
    assert "2 to 1" in run("pyramid", "--samples", tmp_path, "--quiet").stdout
    (tmp_path / "level2" / "4.npy").rename(tmp_path / "level2" / "other.npy")
    result = run("pyramid", "--samples", tmp_path, "--quiet")
    assert result.exit_code == 2 and "do not hold the same clips" in result.stderr
    result = run("pyramid", "--samples", tmp_path, "--levels", "4")
    assert result.exit_code == 2 and "lacks level3" in result.stderr
