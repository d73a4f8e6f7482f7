"""`hpdm-eval fid`: Fréchet distance of single frames."""

import click

from hpdm_eval.commands.fvd import details_table
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.comparison import judge, judging_options
from hpdm_eval.metrics.frechet import frechet_from_moments


@click.command(cls=RecordedCommand)
@judging_options(backbone="inception", shards=True)
def fid(**options):
    """Fréchet distance of the frames of samples from those of real clips: lower is better, blind to motion.

    Every frame that the protocol picks counts as an image. inception is the network of FID; it needs its weights
    (`hpdm-eval weights fetch weights-inception-2015-12-05-6726825d.pth`, or --weights). A network of clips can stand
    in for it and sees each frame as a still clip.
    """
    record = judge("fid", measure, options, higher_is_better=False, per_frame=True)
    if not options["as_json"]:
        click.echo("\n" + details_table(record.details))
    return record


def measure(samples, reference, protocol):
    """The distance of two `Side`s of frames; covariances divide by n - 1, as usual for FID."""
    value = frechet_from_moments(samples.moments, reference.moments)
    detail = {"figure": "fid", "value": value, "frames": samples.moments.n, "reference_frames": reference.moments.n}
    return {"value": value, "details": (detail,)}
