"""`hpdm-info ema`: weights averaged over any length, after training."""

from pathlib import Path

import click

from hpdm.config.training import WIDEST_LENGTH
from hpdm.support.console import Command, OutputFolder
from hpdm.support.errors import InputError
from hpdm.support.progress import note

POOR = 0.1  # error of the profile from which a line warns


@click.command(cls=Command, name="ema", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--length",
    type=click.FloatRange(0.001, WIDEST_LENGTH),
    required=True,
    metavar="SIGMA_REL",
    help="Length of the average as a share of the run: EDM2's sigma_rel, 0.01 to 0.25 as a rule.",
)
@click.option("--step", type=click.IntRange(min=1), help="Step at which the average ends.  [default: the last saved]")
@click.option("--out", type=OutputFolder(path_type=Path), required=True, help="New folder for the checkpoint.")
@click.option("--quiet", is_flag=True, help="No notes on stderr.")
def ema(run: Path, length: float, step: int | None, out: Path, quiet: bool) -> None:
    """Average a run's weights over any length after training: post-hoc EMA (Karras et al. 2024, EDM2).

    RUN must have been trained with --set training.keep_weights_every=N, which keeps averages of two lengths every N
    steps. `hpdm-sample --checkpoint FOLDER` takes the result.

        hpdm-info ema runs/L --length 0.08 --out runs/L-0.080
    """
    from hpdm.support.files import holds_something
    from hpdm.training.posthoc import write_average

    if holds_something(out):
        raise InputError(f"--out {out} is not empty; name a new folder")
    about = write_average(run, out, length=length, step=step)
    note(f"the profile of length {length:g} is met to {about['profile_error']:.2g} of its size", quiet)
    if about["profile_error"] > POOR:
        note(
            "warning: that is far off; a length nearer to those that were kept, or more snapshots, would be closer",
            quiet,
        )
    click.echo(f"{out}: step {about['step']}, length {length:g}, from {len(about['snapshots'])} averages")
