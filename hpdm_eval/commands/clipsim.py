"""`hpdm-eval clipsim`: how close videos are to the texts they were made from."""

from typing import Any

import click

from hpdm_eval.commands.options import pixel_options, take_evaluation
from hpdm_eval.commands.printing import show_record
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.metrics.builtin import DEFAULT_CLIP
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned_lines

WORST = 5


@click.command(cls=RecordedCommand)
@click.option(
    "--samples",
    required=True,
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="Samples of a text-to-video model; samples.json in it names the prompts.",
)
@click.option(
    "--clip",
    default=DEFAULT_CLIP,
    show_default=True,
    metavar="FOLDER|ID",
    help="CLIP network, as transformers saves it or from the hub.",
)
@pixel_options
def clipsim(clip: str, **options: Any) -> Record:
    """Mean cosine, times 100, of CLIP's embeddings of a video's frames and of its prompt: higher is better.

    Files are named <index>_c<number of the prompt>, as hpdm-sample writes them. Figures depend on the CLIP network,
    which the record names, and reward frames that show the words, not motion. Needs the extra `video`.
    """
    from hpdm_eval.evaluation.clip_similarity import evaluate_clip_similarity

    evaluation = take_evaluation(options)
    record = evaluate_clip_similarity(evaluation, {"clip": clip})
    worst = sorted(record.details, key=lambda entry: entry["value"])[:WORST]
    rows = [(entry["prompt"], f"{entry['value']:.2f}") for entry in worst]
    lines = ["", "prompts with the least:", *aligned_lines(("prompt", "similarity"), rows)]
    return show_record(record, {**options, "quiet": evaluation.quiet}, lines)
