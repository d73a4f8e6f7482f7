"""The study of the noise on finished levels, with and without intervals."""

import pytest
from click.testing import CliRunner

from hpdm_eval.studies.sampling import sigma_context
from tests.support.example_records import some_record


@pytest.mark.parametrize(
    "ci95, words",
    [
        (None, "The lowest is 0.05; there are no intervals for 0.002, 0.02, 0.05, 0.1, 0.2, so no order"),  # few clips
        (1.5, "The lowest is 0.05; intervals overlap with its own at 0.02, 0.05, 0.1, so no order"),
    ],
)
def test_the_page_with_and_without_intervals(tmp_path, monkeypatch, ci95, words):
    values = iter((14.0, 12.0, 10.0, 12.5, 20.0))

    sampled = []

    def record_of(metric, evaluation):
        assert metric == "fvd" and evaluation.samples == sampled[-1]
        value = next(values)
        return some_record(value=value, ci95=ci95 and (value - ci95, value + ci95))

    monkeypatch.setattr(sigma_context, "record_of", record_of)
    monkeypatch.setattr(sigma_context, "sample_folder", lambda checkpoint, out, **settings: sampled.append(out))
    monkeypatch.setattr(sigma_context, "draw_clips", lambda *options: None)
    result = CliRunner().invoke(
        sigma_context.main, ["--out", str(tmp_path / "out"), "--clips", "24", "--scratch", str(tmp_path / "scratch")]
    )
    assert result.exit_code == 0, result.output
    assert words in " ".join((tmp_path / "out" / "sigma-context.md").read_text(encoding="utf-8").split())
