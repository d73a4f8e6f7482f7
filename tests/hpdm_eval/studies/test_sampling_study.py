"""The study of ways to sample: sets that are kept, the page, and options that say what they do."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.config import load_config
from hpdm.config.sampling import SamplingConfig
from hpdm_eval.records.record import load_record
from hpdm_eval.studies.sampling import sets as sampling_sets
from hpdm_eval.studies.sampling import study as sampling
from hpdm_eval.studies.sampling.options import BASELINE, OPTIONS
from hpdm_eval.studies.sampling.sets import SampledSet, SetJob, load_set, make_sets, option_settings, with_paper_sampler


def test_every_option_is_one_of_settings_that_there_are():
    fields = {field.name for field in dataclasses.fields(SamplingConfig)}
    for size in ("nano", "S", "L"):
        config = load_config(size)
        for option in OPTIONS.values():
            settings = option_settings(option, config)
            assert set(settings) <= fields and len(settings["steps"]) == 3
            assert option.name == BASELINE or sampling.predicted_blocks(config, option) > 0
    paper = with_paper_sampler(load_config("L"))
    assert option_settings(OPTIONS["half the steps of finer levels"], paper)["steps"] == [128, 32, 16]
    assert sampling.predicted_blocks(paper, OPTIONS[BASELINE]) == 18760
    assert OPTIONS[BASELINE].settings == {}


def made(job, features, seconds=1.0, seams=0.1):
    about = {
        "option": job.option,
        "seed": job.seed,
        "seconds": seconds,
        "settings": option_settings(OPTIONS[job.option], load_config("nano")),
        "samples": {"path": "p", "sha256": "0" * 64, "clips": job.num, "rejected": []},
        "backbone": {"name": "shapes3d", "sha256": "1" * 64, "verified": True},
        "all_settings": {},
        "command": "c",
        "block_evaluations_per_video": 2436,
        "versions": {"torch": "2"},
        "git": None,
        "hardware": "cpu",
    }
    return SampledSet(
        features=features,
        right=np.ones(job.num, bool),
        seams=np.full(job.num, seams) + 0.01 * np.arange(job.num) / job.num,
        detail=np.full(job.num, -2.0) - seams * np.linspace(0.9, 1.1, job.num),
        about=about,
    )


@pytest.fixture
def no_work(monkeypatch):
    """Sets are random features in place of samples: of `no overlap` they are further off."""
    rng = np.random.default_rng(0)
    shared = {seed: rng.standard_normal((48, 5)) for seed in range(2)}

    def load(job):
        own = np.random.default_rng([job.seed, len(job.option)]).standard_normal((48, 5))
        shift = {"paper": 0.0, "no overlap": 1.0}.get(job.option, 0.0)
        return made(
            job,
            (0.95 * shared[job.seed] + 0.3 * own + shift).astype(np.float32),
            seconds=48.0 if job.option == BASELINE else 12.0,
            seams=0.5 if shift else 0.1,
        )

    monkeypatch.setattr(sampling, "load_set", load)
    monkeypatch.setattr(sampling, "make_sets", lambda jobs, *arguments, **options: None)
    monkeypatch.setattr(
        sampling,
        "draw_reference",
        lambda *arguments: (
            rng.standard_normal((200, 5)),
            -2.1,
            {"path": "r", "sha256": "2" * 64, "clips": 200, "rejected": []},
        ),
    )
    return load


def run(tmp_path, *words):
    return CliRunner().invoke(
        sampling.main,
        [
            "--out",
            str(tmp_path / "out"),
            "--scratch",
            str(tmp_path / "scratch"),
            "--num",
            "48",
            "--seeds",
            "2",
            "--device",
            "cpu",
            "--quiet",
            *words,
        ],
    )


def test_the_page_tells_apart_what_the_intervals_do(tmp_path, no_work):
    result = run(tmp_path, "--only", "no overlap", "--only", "tilings 2")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "sampling.md").read_text(encoding="utf-8")
    first = page.partition("### Block evaluations")[0]
    rows = {line.split(" | ")[0].strip("| "): line for line in first.splitlines() if line.startswith("| ")}
    assert "**" not in rows["no overlap"] and rows["tilings 2"].count("**") >= 6
    record = load_record(tmp_path / "out" / "sampling" / "nano-no-overlap.json")
    figures = {entry["figure"]: entry for entry in record.details}
    assert figures["fvd, difference"]["ci95"][0] > 0 and figures["seams, difference"]["value"] == pytest.approx(0.4)
    assert figures["seconds, over the baseline's"]["value"] == 0.25
    assert record.num_samples == 96 and record.extra["option"] == "no overlap"
    # The page is written again between its marks, and words around them stay.
    (tmp_path / "out" / "sampling.md").write_text(page.replace("## Cheaper", "Words.\n\n## Cheaper") + "More.\n")
    again = run(tmp_path, "--only", "tilings 2")
    assert again.exit_code == 0, again.output
    after = (tmp_path / "out" / "sampling.md").read_text(encoding="utf-8")
    assert "Words." in after and after.endswith("More.\n") and "no overlap" not in after


def test_several_networks_are_compared_each_with_its_own_baseline(tmp_path, no_work, monkeypatch):
    monkeypatch.setattr(sampling, "load_checkpoint", lambda name: sampling_sets.load_checkpoint("nano"))
    result = run(tmp_path, "--only", "tilings 2", "--checkpoint", "a", "--checkpoint", "b", "--checkpoint", "c")
    assert result.exit_code == 0, result.output
    assert result.output.count("| tilings 2 |") == 5  # a table each, one of all, and the sizes
    assert "### All networks" in result.output and len(list((tmp_path / "out" / "sampling").iterdir())) == 6


def test_sets_that_lack_are_left_out_and_unknown_options_refused(tmp_path, no_work, monkeypatch):
    monkeypatch.setattr(
        sampling, "load_set", lambda job: None if job.option == "tilings 4" and job.seed else no_work(job)
    )
    result = run(tmp_path, "--only", "tilings 2", "--only", "tilings 4")
    assert result.exit_code == 0 and "1 rows are left out" in result.output and "| tilings 4 |" not in result.output
    assert run(tmp_path, "--only", "tilings 5").exit_code == 2
    monkeypatch.setattr(sampling, "load_set", lambda job: None)
    nothing = run(tmp_path)
    assert nothing.exit_code == 2 and "nothing to compare yet" in nothing.output


def test_common_settings_hold_for_the_baseline_too(tmp_path, no_work, monkeypatch):
    seen = []
    monkeypatch.setattr(sampling, "make_sets", lambda jobs, *arguments, **options: seen.extend(jobs))
    result = run(tmp_path, "--only", "tilings 2", "--set", "guidance=2", "--set", "guidance_low=1")
    assert result.exit_code == 0, result.output
    assert "48 videos (guidance=2, guidance_low=1) an option" in result.output
    assert {job.option for job in seen} == {"paper", "tilings 2"}
    for job in seen:
        assert job.settings["guidance"] == 2 and job.settings["guidance_low"] == 1
        assert job.name != dataclasses.replace(job, common=()).name
    # Estimates without the class are as many evaluations again.
    blocks = [line for line in result.output.splitlines() if line.startswith("| paper | 4,872")]
    assert blocks, result.output
    refused = run(tmp_path, "--set", "guidanse=2")
    assert refused.exit_code == 2 and "guidanse" in refused.output


def test_a_set_is_made_once_and_again_for_other_settings(tmp_path, monkeypatch):
    job = SetJob(
        checkpoint="nano",
        sha256="ab" * 32,
        option="fewer steps for the same work",
        seed=3,
        num=4,
        device="cpu",
        scratch=tmp_path,
    )
    assert load_set(job) is None
    make_sets([job], 1, deadline=0.0, quiet=True)
    assert load_set(job) is None  # too late to begin
    option = dataclasses.replace(OPTIONS[job.option], settings={"overlap": "none"}, steps=(0.04,))
    monkeypatch.setitem(sampling_sets.OPTIONS, job.option, option)
    make_sets([job], 1, quiet=True)
    found = load_set(job)
    assert found.detail.shape == (4,) and np.isfinite(found.detail).all()
    assert found.features.shape == (4, 128) and found.seams.shape == (4,) and found.right.dtype == bool
    config = load_config("nano")
    assert found.about["settings"]["steps"] == [1, 1, 1] and found.about["all_settings"]["tilings"] == 1
    # Level 0 once, 8 tiles of two blocks, 64 of one, and the windows that serve as context.
    assert found.about["block_evaluations_per_video"] == 4 + 16 + 64 + 4 + 16
    assert found.about["all_settings"]["seed"] == 3 and config.pyramid.levels == 3
    assert not list((tmp_path / "samples").iterdir())
    stamp = job.file.stat().st_mtime_ns
    make_sets([job], 1, quiet=True)
    assert job.file.stat().st_mtime_ns == stamp
    monkeypatch.setitem(sampling_sets.OPTIONS, job.option, dataclasses.replace(option, steps=(0.1,)))
    assert load_set(job) is None
    assert json.loads(json.dumps(found.about)) == found.about
