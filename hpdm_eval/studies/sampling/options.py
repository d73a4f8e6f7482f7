"""What the study of sampling compares: ways to sample, each with what was predicted of it before it was measured.

FVD differences are predicted from the sampler of the paper on the shipped nano model, of 432 videos against 1,440;
block evaluations need no prediction, they are counted from the settings. Options that `after_trial` marks were thought
of when videos of seeds 0 to 2 had been sampled in several ways, so their predictions know a little.
"""

import re
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
    after_trial: bool = False


def slug(text: str) -> str:
    """`text` as part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def _options(*rows):
    return {row.name: row for row in rows}


KEPT = {"tilings": 2, "tiling_borders": "kept"}
MULTISTEP = {"solver": "multistep"}
SMOOTH = {**MULTISTEP, "tile_weights": "feathered"}
ALL_AXES = {**KEPT, "overlap": "fhw"}  # shifting frames as well costs nothing where tiles touch
OPTIONS = _options(
    Option(name=BASELINE),
    # A solver of second order that needs fewer steps, all tiles averaged at each: a fifth of the work at the
    # published steps, 128, 64 and 32. Where a level starts later, its steps are counted before those above are dropped.
    Option(
        name="multistep, a fifth of the steps",
        settings=MULTISTEP,
        steps=(0.5, 0.15625, 0.15625),
        predicted_fvd=1.0,
        predicted_time=0.2,
        after_trial=True,
    ),
    Option(
        name="multistep and feathered, a fifth of the steps",
        settings=SMOOTH,
        steps=(0.5, 0.15625, 0.15625),
        predicted_fvd=0.8,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(
        name="multistep and feathered, start 10, a fifth of the steps",
        settings={**SMOOTH, "start_noise": 10.0},
        steps=(0.5, 0.21875, 0.21875),
        predicted_fvd=0.5,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(
        name="multistep and feathered, start 2, a fifth of the steps",
        settings={**SMOOTH, "start_noise": 2.0},
        steps=(0.5, 0.28125, 0.28125),
        predicted_fvd=0.3,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(
        name="multistep and feathered on all levels, start 2, a fifth of the steps",
        settings={**SMOOTH, "start_noise": 2.0, "heun_levels": 0},
        steps=(0.1875, 0.28125, 0.40625),
        predicted_fvd=1.0,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(name="multistep alone", settings=MULTISTEP, predicted_fvd=0.0, predicted_time=1.0, after_trial=True),
    Option(
        name="a fifth of the steps",
        steps=(0.5, 0.15625, 0.15625),
        predicted_fvd=4.0,
        predicted_time=0.2,
        after_trial=True,
    ),
    # Together, for a fifth of the work or nearly so.
    Option(
        name="tilings 2 kept, start 1, steps 0.4 1 1.25",
        settings={**KEPT, "start_noise": 1.0},
        steps=(0.4, 1.0, 1.25),
        predicted_fvd=0.3,
        predicted_time=0.26,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept on all axes, start 1, steps 0.45 1 1.25",
        settings={**ALL_AXES, "start_noise": 1.0},
        steps=(0.45, 1.0, 1.25),
        predicted_fvd=0.3,
        predicted_time=0.26,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, start 1, steps 1 1 1.25",
        settings={**KEPT, "start_noise": 1.0},
        steps=(1.0, 1.0, 1.25),
        predicted_fvd=0.1,
        predicted_time=0.33,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, start 4 and 1, half of level 0",
        settings={**KEPT, "start_noise": [4.0, 1.0]},
        steps=(0.5, 1.0),
        predicted_fvd=0.5,
        predicted_time=0.26,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, start 1, half of level 0",
        settings={**KEPT, "start_noise": 1.0},
        steps=(0.5, 1.0),
        predicted_fvd=3.5,
        predicted_time=0.24,
    ),
    Option(
        name="tilings 2 kept, half of level 0 and of level 2",
        settings=KEPT,
        steps=(0.5, 0.75, 0.5),
        predicted_fvd=1.5,
        predicted_time=0.26,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, start 2 and 0.5, half of level 0",
        settings={**KEPT, "start_noise": [2.0, 0.5]},
        steps=(0.5, 1.0, 1.25),
        predicted_fvd=0.5,
        predicted_time=0.26,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept on all axes, start 4 and 1, half of level 0",
        settings={**ALL_AXES, "start_noise": [4.0, 1.0]},
        steps=(0.5, 1.0),
        predicted_fvd=0.5,
        predicted_time=0.26,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, start 0.5, half of level 0",
        settings={**KEPT, "start_noise": 0.5},
        steps=(0.5, 1.0, 1.25),
        predicted_fvd=0.5,
        predicted_time=0.25,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, start 1", settings={**KEPT, "start_noise": 1.0}, predicted_fvd=3.0, predicted_time=0.28
    ),
    Option(
        name="tilings 2 kept, start 0.5",
        settings={**KEPT, "start_noise": 0.5},
        predicted_fvd=0.5,
        predicted_time=0.3,
        after_trial=True,
    ),
    # What anyone could do for the same work: fewer steps, or no overlap.
    Option(
        name="fewer steps for the same work",
        steps=(0.5, 0.125, 0.125),
        predicted_fvd=10.0,
        predicted_time=0.22,
        after_trial=True,
    ),
    Option(
        name="fewer steps of finer levels for nearly the same work",
        steps=(1.0, 0.125, 0.125),
        predicted_fvd=8.0,
        predicted_time=0.25,
        after_trial=True,
    ),
    Option(
        name="no overlap, start 0.5, half of level 0",
        settings={"overlap": "none", "start_noise": 0.5},
        steps=(0.5, 1.0),
        predicted_fvd=0.5,
        predicted_time=0.25,
        after_trial=True,
    ),
    # One option each.
    Option(name="tilings 2", settings={"tilings": 2}, predicted_fvd=0.3, predicted_time=0.6),
    Option(name="tilings 4", settings={"tilings": 4}, predicted_fvd=0.3, predicted_time=0.6),
    Option(name="tilings 2, borders kept", settings=KEPT, predicted_fvd=1.0, predicted_time=0.4),
    Option(
        name="tilings 2, borders kept, on all axes",
        settings=ALL_AXES,
        predicted_fvd=0.5,
        predicted_time=0.4,
        after_trial=True,
    ),
    Option(name="start 10", settings={"start_noise": 10.0}, predicted_fvd=0.0, predicted_time=0.9),
    Option(name="start 2", settings={"start_noise": 2.0}, predicted_fvd=0.5, predicted_time=0.7),
    Option(name="start 1", settings={"start_noise": 1.0}, predicted_fvd=2.0, predicted_time=0.6),
    Option(name="start 0.5", settings={"start_noise": 0.5}, predicted_fvd=4.0, predicted_time=0.55, after_trial=True),
    Option(name="start 0.2", settings={"start_noise": 0.2}, predicted_fvd=1.0, predicted_time=0.5, after_trial=True),
    Option(name="feathered", settings={"tile_weights": "feathered"}, predicted_fvd=-0.1, predicted_time=1.05),
    Option(name="no overlap", settings={"overlap": "none"}, predicted_fvd=1.0, predicted_time=0.5),
    Option(name="half of level 0", steps=(0.5, 1.0), predicted_fvd=0.5, predicted_time=0.95, after_trial=True),
    Option(
        name="half the steps of finer levels",
        steps=(1.0, 0.5),
        predicted_fvd=2.0,
        predicted_time=0.55,
        after_trial=True,
    ),
    Option(
        name="a quarter of the steps of finer levels",
        steps=(1.0, 0.25),
        predicted_fvd=5.0,
        predicted_time=0.35,
        after_trial=True,
    ),
    # More of them together.
    Option(
        name="tilings 2, start 0.5",
        settings={"tilings": 2, "start_noise": 0.5},
        predicted_fvd=0.0,
        predicted_time=0.4,
        after_trial=True,
    ),
    Option(
        name="tilings 2, start 2", settings={"tilings": 2, "start_noise": 2.0}, predicted_fvd=1.0, predicted_time=0.45
    ),
    Option(
        name="tilings 2 kept, start 2", settings={**KEPT, "start_noise": 2.0}, predicted_fvd=2.0, predicted_time=0.32
    ),
    Option(
        name="tilings 2 kept, last averaged, start 2, half of level 0",
        settings={**KEPT, "averaged_steps": 1, "start_noise": 2.0},
        steps=(0.5, 1.0),
        predicted_fvd=1.5,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, last averaged and feathered, start 2, half of level 0",
        settings={**KEPT, "averaged_steps": 1, "start_noise": 2.0, "tile_weights": "feathered"},
        steps=(0.5, 1.0),
        predicted_fvd=0.6,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, last averaged, start 1, half of level 0",
        settings={**KEPT, "averaged_steps": 1, "start_noise": 1.0},
        steps=(0.5, 1.0),
        predicted_fvd=2.0,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(
        name="tilings 2 kept, last averaged, start 1, half of all",
        settings={**KEPT, "averaged_steps": 1, "start_noise": 1.0},
        steps=(0.5,),
        predicted_fvd=3.0,
        predicted_time=0.25,
        after_trial=True,
    ),
    Option(
        name="tilings 2, last averaged, start 1, half of all",
        settings={"tilings": 2, "averaged_steps": 1, "start_noise": 1.0},
        steps=(0.5,),
        predicted_fvd=2.0,
        predicted_time=0.27,
        after_trial=True,
    ),
    Option(
        name="start 1, half of level 0, a quarter of the others",
        settings={"start_noise": 1.0},
        steps=(0.5, 0.25),
        predicted_fvd=2.0,
        predicted_time=0.3,
        after_trial=True,
    ),
    Option(
        name="feathered, start 0.5",
        settings={"tile_weights": "feathered", "start_noise": 0.5},
        predicted_fvd=0.0,
        predicted_time=0.55,
        after_trial=True,
    ),
    Option(
        name="tilings 2, last step averaged",
        settings={"tilings": 2, "averaged_steps": 1},
        predicted_fvd=0.2,
        predicted_time=0.65,
    ),
    Option(name="tilings 4, borders kept", settings={**KEPT, "tilings": 4}, predicted_fvd=3.0, predicted_time=0.4),
    Option(
        name="overlap along all axes",
        settings={"overlap": "fhw"},
        predicted_fvd=-0.5,
        predicted_time=1.6,
        after_trial=True,
    ),
)
