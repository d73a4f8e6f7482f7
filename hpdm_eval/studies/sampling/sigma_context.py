"""How noisy finished levels should be when finer ones are sampled on them: FVD over `sigma_context`.

    python -m hpdm_eval.studies.sampling.sigma_context --checkpoint nano --out reports

The same seeds are sampled at each noise level, so the sets differ in nothing else.
"""

from pathlib import Path

import click

from hpdm.checkpoint.load import load_checkpoint
from hpdm.data.procedural_folders import REFERENCE_SEED, draw_clips
from hpdm.support.console import Command, OutputFolder, common_options, own_folder
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm_eval.evaluation.api import record_of
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import save_record
from hpdm_eval.report.tables import markdown_table
from hpdm_eval.studies.samples import sample_folder

VALUES = (0.002, 0.02, 0.05, 0.1, 0.2)


@click.command(cls=Command)
@click.option("--checkpoint", default="nano", show_default=True, help="As for hpdm-sample.")
@click.option("--out", type=OutputFolder(path_type=Path), required=True, help="Folder of the table and the records.")
@click.option(
    "--scratch",
    type=OutputFolder(path_type=Path),
    default="scratch/sigma-context",
    show_default=True,
    help="Folder for videos; what an interrupted call left there is used again.",
)
@click.option("--clips", type=click.IntRange(min=24), default=144, show_default=True, help="Clips per noise level.")
@click.option("--steps", help="Steps per level, as for hpdm-sample.")
@common_options
def main(
    checkpoint: str, out: Path, scratch: Path, clips: int, steps: str | None, device: str, seed: int, quiet: bool
) -> None:
    """Sample at several conditioning noise levels and compare the sets with procedural videos."""
    loaded, numbers = load_checkpoint(checkpoint), steps and _parse_steps(steps)
    own_folder(out)
    own_folder(scratch)
    size = loaded.config.pyramid.resolution(loaded.config.pyramid.levels - 1)
    draw_clips(scratch / "reference", REFERENCE_SEED, clips, size, quiet)
    records = []
    for value in VALUES:
        folder = scratch / f"sigma-{value}"
        settings = {"sigma_context": value} | ({"steps": numbers} if numbers else {})
        sample_folder(checkpoint, folder, num=clips, seed=seed, device=device, settings=settings)
        evaluation = Evaluation(
            protocol=load_protocol("native", backbone="shapes3d"),
            samples=folder,
            reference=scratch / "reference",
            device=device,
            seed=seed,
            quiet=True,
        )
        records.append(record_of("fvd", evaluation))
        save_record(records[-1], out / "records")
    best = min(records, key=lambda record: record.value)
    tied = list(VALUES)
    if best.ci95 is not None:
        highest = best.ci95[1]
        tied = [value for value, record in zip(VALUES, records) if record.ci95 and record.ci95[0] <= highest]
    meeting = "intervals overlap with its own at" if best.ci95 else "there are no intervals for"
    steps = steps or ",".join(map(str, loaded.config.sampling.steps))
    text = f"""# Conditioning noise of finished levels

`python -m hpdm_eval.studies.sampling.sigma_context --checkpoint {checkpoint}` on weights {loaded.sha256[:12]} at step
{loaded.step:,}, sampled in {steps} steps, {clips} clips per row with the same seeds, on {best.hardware}, \
{best.created[:10]}. Lower is better.

{markdown_table(records, names=[f"sigma_context {value}" for value in VALUES])}
The lowest is {VALUES[records.index(best)]}; {meeting} {", ".join(map(str, tied))}, so no order is claimed \
among those.
"""
    with atomic_file(out / "sigma-context.md", "w") as file:
        file.write(text)
    click.echo(text)


def _parse_steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError as error:
        raise InputError(f"--steps takes whole numbers such as 128,64,32; got {text!r}") from error


if __name__ == "__main__":
    main()
