"""How much the brightness of whole frames jumps."""

import numpy as np

import hpdm_eval


@hpdm_eval.register_metric(
    "flicker",
    needs="clips",
    higher_is_better=False,
    reference=False,
    unit="grey levels",
    cost="a pass over the pixels",
    caveat="a cut counts as a jump",
    options=(hpdm_eval.MetricOption(name="frames_apart", default=1, minimum=1, help="Distance of compared frames."),),
)
def flicker(samples, reference, settings):
    """Mean jump of the brightness between frames, of each clip: lower is better."""
    step = settings["frames_apart"]
    levels = [clip.video.mean(axis=(1, 2, 3)) for clip in samples]
    return [float(np.abs(level[step:] - level[:-step]).mean()) for level in levels]
