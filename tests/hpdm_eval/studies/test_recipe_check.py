"""The large sizes' settings on a small network: it learns under LAMB, and the report says what was measured."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from hpdm.config import load_config
from hpdm.support.files import write_json
from hpdm_eval.records.record import make_record
from hpdm_eval.studies.ablations import denoising
from hpdm_eval.studies.ablations.measure import NO_CLIPS
from hpdm_eval.studies.ablations.plan import load_studies, load_tier
from hpdm_eval.studies.recipe_check import study as recipe_check
from hpdm_eval.studies.recipe_check.gradients import combinations
from hpdm_eval.studies.recipe_check.learning import ADAMW, LAMB, START, STEPS, VARIANTS, learn
from hpdm_eval.studies.recipe_check.stand_in import stand_in


@pytest.mark.parametrize("size", ["S", "M", "L"])
def test_the_stand_in_has_the_size_s_own_settings(size):
    whole, small = load_config(size), stand_in(size)
    assert small.diffusion == whole.diffusion and small.sampling == whole.sampling
    assert [small.diffusion.scale_in(level) for level in range(3)] == pytest.approx([4, 11.31, 32], abs=0.01)
    assert small.network.levels_per_block == whole.network.levels_per_block
    assert (small.network.token, small.network.dropout) == (whole.network.token, whole.network.dropout)
    for name in ("optimizer", "lr", "betas", "eps", "weight_decay", "clip_norm", "schedule", "self_conditioning_rate"):
        assert getattr(small.training, name) == getattr(whole.training, name), name
    assert small.training.warmup / small.training.steps == 10_000 / 40_000


def test_lamb_learns_about_as_fast_as_adamw():
    """After 200 steps; from matrices at zero LAMB's loss was still 0.83 and its output's rms 0.18."""
    lamb, adamw = learn(LAMB), learn(ADAMW)
    assert len(lamb["loss"]) == STEPS
    assert lamb["output_rms"] > 0.6 * adamw["output_rms"]
    assert lamb["loss_after"] < 0.7 and lamb["loss_after"] - adamw["loss_after"] < 0.25


class Exact(torch.nn.Module):
    """A network that knows the clean patches of one tile and answers with the right v."""

    def __init__(self, config, v):
        super().__init__()
        self.config, self.v, self.windows = config, v, None

    def forward(self, patches, c_noise, windows, labels, latents=None):
        self.windows = windows
        return [self.v(level, patch, c_noise[:, level]) for level, patch in enumerate(patches)], None


def test_errors_of_denoising_are_of_the_clean_pixels():
    """An output of 0 means D = c_skip * y: its error follows from the formulas."""
    (study,) = (study for study in load_studies() if study.name == "noise")
    (variant,) = (variant for variant in study.variants if variant.name == "signal")
    config = variant.configure(load_tier("cpu").base())
    videos, labels = denoising.held_out(config, 4)
    network = Exact(config, lambda level, patch, c_noise: torch.zeros_like(patch))
    start = torch.tensor([12, 0, 24])
    for ratio in (0.2, 2.0):
        found = denoising.error(network, config, videos, labels, 2, ratio, start)
        s_in, pixels = 32.0, (videos.double() / 127.5 - 1)[:, :, 12:16, 0:8, 24:32]
        sigma = ratio / s_in
        c_skip = s_in / (s_in * sigma**2 + 1)
        expected = ((c_skip / s_in - 1) ** 2 * pixels.square().mean() + (c_skip * sigma) ** 2).item()
        assert found == pytest.approx(expected, rel=0.05)
    for level in (0, 1):  # parents contain the tile
        parent, factor = network.windows[0, level], 2 ** (2 - level)
        patch = torch.tensor([4, 8, 8])
        assert ((parent * factor <= start) & (start + patch <= (parent + patch) * factor)).all()


def rows(**changes):
    return [
        {**one, "tensors": 10, "missing": 0, "missing_share": 0.0, "error": 1e-3, "worst": 2e-3, **changes}
        for one in combinations(1, quick=True)
        if one["precision"] == "bf16"
    ]


def save_records(folder):
    """Records of two trainings of the studies noise and window-order."""
    folder.mkdir()
    for repeat, shift in ((0, -0.1), (1, 0.1)):
        place = {"noise_over_signal": 0.5, "position": "inside", "error": 0.4 + shift}
        for metric, study, variant, details in (
            ("denoising", "noise", "signal", [{"noise_over_signal": 0.05, "error": 0.2 + shift}, place]),
            (
                "positions",
                "window-order",
                "finest-first",
                [
                    {"figure": "fvd", "position": "corner", "value": 11 + 10 * shift},
                    {"figure": "seams", "axis": "w", "statistic": "step", "position": "inside", "value": 0.5},
                ],
            ),
        ):
            record = make_record(
                started=0.0,
                metric=metric,
                value=1.0,
                higher_is_better=False,
                protocol={"name": "native"},
                num_samples=0,
                samples=NO_CLIPS,
                seed=repeat,
                details=tuple(details),
            )
            about = {"study": study, "variant": variant, "repeat": repeat, "level": 0}
            write_json(folder / f"{metric}-{repeat}.json", replace(record, extra=about).to_dict())


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"missing": 3, "missing_share": 0.5}, 1), ({"error": 0.3}, 1)])
def test_the_command_writes_a_report_and_fails_for_wrong_gradients(tmp_path, monkeypatch, changes, code):
    monkeypatch.setattr(recipe_check, "measure", lambda worlds, quick, parts: rows(**changes))
    monkeypatch.setattr(
        recipe_check,
        "learn",
        lambda variant: {"variant": variant, "loss": [1.0, 0.5], "loss_after": 0.5, "output_rms": 0.4},
    )
    save_records(tmp_path / "records")
    options = ["--out", str(tmp_path), "--records", str(tmp_path / "records"), "--quiet"]
    result = CliRunner().invoke(recipe_check.main, options)
    assert result.exit_code == code, result.output
    text = (tmp_path / "recipe-check.md").read_text()
    for variant in VARIANTS:
        assert f"| {variant} | 1.000 | 0.500 | 0.400 |" in text
    assert "| L | 43.8 (" in text and START in text
    assert "| noise.signal | 0 | 0.2 (0.1 to 0.3) |" in text and "| noise.signal | 0.4 (0.3 to 0.5) |" in text
    assert "| FVD of tiles | finest-first |  |  |  | 11 (10 to 12) |" in text
    assert "| seam excess w, step | finest-first | 0.5 (0.5 to 0.5) |  |  |  |" in text
    assert recipe_check._spread([0.5]) == "0.5" and recipe_check._spread([]) == ""
    assert set(json.loads((tmp_path / "recipe-check.json").read_text())) == {"gradients", "learning"}
    drawing = (tmp_path / "recipe-check-loss.svg").read_text()
    assert "recipe-check-loss.svg" in text and drawing.count("<path") > len(VARIANTS) and "<svg" in drawing
