"""What the study of sampling compares: ways to sample, each with what was predicted of it before it was measured.

FVD differences are predicted from the sampler of the paper on the shipped nano model, of 432 videos against 1,440;
block evaluations need no prediction, they are counted from the settings.
"""

from dataclasses import dataclass, field

BASELINE = "paper"


@dataclass(frozen=True, kw_only=True)
class Option:
    """A way to sample: `settings` of SamplingConfig over the checkpoint's with the sampler `paper`."""

    name: str
    settings: dict = field(default_factory=dict)
    steps: tuple[float, ...] = (1.0,)  # share of the checkpoint's steps of each level; the last holds for finer ones
    predicted_fvd: float = 0.0  # difference from the baseline
    predicted_time: float = 1.0  # seconds, over those of the baseline


def _options(*rows):
    return {row.name: row for row in rows}


KEPT = {"tilings": 2, "tiling_borders": "kept"}
OPTIONS = _options(
    Option(name=BASELINE),
    # One option each.
    Option(name="tilings 2", settings={"tilings": 2}, predicted_fvd=0.3, predicted_time=0.6),
    Option(name="tilings 4", settings={"tilings": 4}, predicted_fvd=0.3, predicted_time=0.6),
    Option(name="tilings 2, borders kept", settings=KEPT, predicted_fvd=1.0, predicted_time=0.4),
    Option(name="tilings 4, borders kept", settings={**KEPT, "tilings": 4}, predicted_fvd=3.0, predicted_time=0.4),
    Option(name="tilings 2, last step averaged", settings={"tilings": 2, "averaged_steps": 1}, predicted_fvd=0.2,
           predicted_time=0.65),
    Option(name="start 10", settings={"start_noise": 10.0}, predicted_fvd=0.0, predicted_time=0.9),
    Option(name="start 2", settings={"start_noise": 2.0}, predicted_fvd=0.5, predicted_time=0.7),
    Option(name="start 1", settings={"start_noise": 1.0}, predicted_fvd=2.0, predicted_time=0.6),
    Option(name="feathered", settings={"tile_weights": "feathered"}, predicted_fvd=-0.1, predicted_time=1.05),
    # Together.
    Option(name="tilings 2, start 2", settings={"tilings": 2, "start_noise": 2.0}, predicted_fvd=1.0,
           predicted_time=0.45),
    Option(name="tilings 2 kept, start 2", settings={**KEPT, "start_noise": 2.0}, predicted_fvd=2.0,
           predicted_time=0.32),
    Option(name="tilings 2 kept, start 1", settings={**KEPT, "start_noise": 1.0}, predicted_fvd=3.0,
           predicted_time=0.28),
    Option(name="tilings 2 kept, start 2, half of level 0", settings={**KEPT, "start_noise": 2.0}, steps=(0.5, 1.0),
           predicted_fvd=2.5, predicted_time=0.28),
    Option(name="tilings 2 kept, start 1, half of level 0", settings={**KEPT, "start_noise": 1.0}, steps=(0.5, 1.0),
           predicted_fvd=3.5, predicted_time=0.24),
    Option(name="tilings 2 kept, last averaged, start 2, half of level 0",
           settings={**KEPT, "averaged_steps": 1, "start_noise": 2.0}, steps=(0.5, 1.0), predicted_fvd=1.5,
           predicted_time=0.3),
    Option(name="tilings 2 kept, last averaged, start 1, half of level 0",
           settings={**KEPT, "averaged_steps": 1, "start_noise": 1.0}, steps=(0.5, 1.0), predicted_fvd=2.0,
           predicted_time=0.3),
    Option(name="tilings 2 kept, last averaged, start 1, half of all",
           settings={**KEPT, "averaged_steps": 1, "start_noise": 1.0}, steps=(0.5,), predicted_fvd=3.0,
           predicted_time=0.25),
    Option(name="tilings 2, last averaged, start 1, half of all",
           settings={"tilings": 2, "averaged_steps": 1, "start_noise": 1.0}, steps=(0.5,), predicted_fvd=2.0,
           predicted_time=0.27),
    Option(name="start 1, half of level 0, a quarter of the others", settings={"start_noise": 1.0}, steps=(0.5, 0.25),
           predicted_fvd=2.0, predicted_time=0.3),
    # What anyone could do for the same work.
    Option(name="no overlap", settings={"overlap": "none"}, predicted_fvd=1.0, predicted_time=0.5),
    Option(name="half the steps", steps=(0.5,), predicted_fvd=3.0, predicted_time=0.5),
    Option(name="a quarter of the steps", steps=(0.25,), predicted_fvd=12.0, predicted_time=0.25),
    Option(name="a fifth of the steps", steps=(0.2,), predicted_fvd=18.0, predicted_time=0.2),
)
