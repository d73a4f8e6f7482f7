"""`hpdm-eval clipsim`: how close videos are to the texts they were made from."""

import time
from functools import lru_cache
from pathlib import Path

import click
import numpy as np

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm_eval.commands.options import take_protocol
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.pixels import aligned, measure_clips, pixel_options, pixel_record, show_record
from hpdm_eval.metrics.accuracy import label_in_name
from hpdm_eval.metrics.clip_similarity import clip_similarity
from hpdm_eval.metrics.score_tests import mean_interval

DEFAULT_CLIP = "openai/clip-vit-base-patch32"
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
    "where",
    default=DEFAULT_CLIP,
    show_default=True,
    metavar="FOLDER|ID",
    help="CLIP network, as transformers saves it or from the hub.",
)
@pixel_options
def clipsim(samples, where, **options):
    """Mean cosine, times 100, of CLIP's embeddings of a video's frames and of its prompt: higher is better.

    Files are named <index>_c<number of the prompt>, as hpdm-sample writes them. Figures depend on the CLIP network,
    which the record names, and reward frames that show the words, not motion. Needs the extra `video`.
    """
    from hpdm_eval.backbones.clip_network import Clip

    started = time.time()
    protocol, device = take_protocol(options), choose_device(options["device"])
    prompts = _prompts(samples)
    network = Clip(where, device)
    embedding = lru_cache(maxsize=None)(lambda number: network.text(prompts[number]).numpy())

    def measure(clip):
        number = label_in_name(clip.name)
        if number >= len(prompts):
            raise InputError(f"{clip.name}: samples.json has {len(prompts)} prompts")
        return clip.name, number, clip_similarity(network.frames(clip.video).numpy(), embedding(number))

    measured, summary = measure_clips(samples, protocol, options, "samples", measure)
    values = np.array([value for _, _, value in measured])
    per_prompt = [
        {"prompt": prompts[number], "value": float(values[[entry[1] == number for entry in measured]].mean())}
        for number in sorted({entry[1] for entry in measured})
    ]
    worst = sorted(per_prompt, key=lambda entry: entry["value"])[:WORST]
    record = pixel_record(
        "clipsim",
        protocol,
        {"clip": network.about["name"]},
        started=started,
        seed=options["seed"],
        value=float(values.mean()),
        ci95=mean_interval(values, np.random.default_rng(options["seed"])),
        higher_is_better=True,
        num_samples=summary["clips"],
        samples=summary,
        backbone=network.about,
        details=tuple(per_prompt),
    )
    return show_record(
        record,
        options,
        [
            "",
            "prompts with the least:",
            *aligned(("prompt", "similarity"), [(e["prompt"], f"{e['value']:.2f}") for e in worst]),
        ],
    )


def _prompts(folder):
    path = Path(folder) / "samples.json"
    try:
        prompts = parse_json(path.read_bytes())["settings"]["prompts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} names no prompts; clipsim judges what hpdm-sample made from texts") from error
    if not prompts:
        raise InputError(f"{path}: these samples were made without text")
    return prompts
