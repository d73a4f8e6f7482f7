"""A metric of one's own: `python examples/own_metric.py`.

With `register_metric` it is a name like "fvd": in `evaluate`, and, where an installed package brings it (see plugin/),
as a command `hpdm-eval sharpness`, in `all`, in `compare` and in reports.
"""

import numpy as np

import hpdm_eval
from hpdm.data.procedural import procedural_clip


@hpdm_eval.register_metric(
    "sharpness",
    needs="clips",
    higher_is_better=True,
    reference=False,
    unit="grey levels",
    caveat="noise is sharp too",
    options=(hpdm_eval.MetricOption(name="axis", default="w", choices=("h", "w"), help="Direction of the steps."),),
)
def sharpness(samples, reference, settings):
    """Mean step between neighbouring pixels, of each clip."""
    axis = {"h": 1, "w": 2}[settings["axis"]]
    return [float(np.abs(np.diff(clip.video.astype(np.float32), axis=axis)).mean()) for clip in samples]


def main():
    clips = np.stack([procedural_clip(0, index, 8, 32, 32)[0] for index in range(16)])
    blurred = np.stack([clips, np.roll(clips, 1, axis=3)]).mean(axis=0).astype(np.uint8)
    for name, samples in (("clips", clips), ("blurred clips", blurred)):
        figure = hpdm_eval.evaluate(samples, None, "sharpness", protocol="native")["sharpness"]
        print(f"sharpness of {name}: {figure.value:.2f} grey levels, 95 % interval {figure.ci95}")


if __name__ == "__main__":
    main()
