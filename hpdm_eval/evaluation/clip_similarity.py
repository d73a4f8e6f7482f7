"""How close samples are to the texts they were made from, by CLIP, as a record."""

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.pixels import measure_clips, pixel_record
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.metrics.accuracy import label_in_name
from hpdm_eval.metrics.clip_similarity import clip_similarity
from hpdm_eval.metrics.score_tests import mean_interval
from hpdm_eval.records.record import Record


def evaluate_clip_similarity(evaluation: Evaluation, options: Mapping[str, Any]) -> Record:
    """The Record of CLIPSIM; the prompts are those of the samples' samples.json.

    options: "clip", the network, a folder that transformers saved or an id of the hub. Raises InputError where the
    samples name no prompts, or the network or the libraries that it needs are missing.
    """
    from hpdm_eval.backbones.clip_network import Clip as ClipNetwork  # needs the extra `video`

    started = time.time()
    prompts = sample_prompts(evaluation.samples)
    network = ClipNetwork(options["clip"], choose_device(evaluation.device))
    embedding = lru_cache(maxsize=None)(lambda number: network.text(prompts[number]).numpy())

    def measure(clip: Clip) -> tuple[int, float]:
        number = label_in_name(clip.name)
        if number >= len(prompts):
            raise InputError(f"{clip.name}: samples.json has {len(prompts)} prompts")
        return number, clip_similarity(network.frames(clip.video).numpy(), embedding(number))

    measured, summary = measure_clips(evaluation, "samples", measure)
    numbers, values = np.array([number for number, _ in measured]), np.array([value for _, value in measured])
    per_prompt = [
        {"prompt": prompts[number], "value": float(values[numbers == number].mean())}
        for number in sorted(set(numbers.tolist()))
    ]
    return pixel_record(
        "clipsim",
        evaluation,
        {"clip": network.about["name"]},
        started=started,
        value=float(values.mean()),
        ci95=mean_interval(values, np.random.default_rng(evaluation.seed)),
        higher_is_better=True,
        num_samples=summary["clips"],
        samples=summary,
        backbone=network.about,
        details=tuple(per_prompt),
    )


def sample_prompts(folder: Place) -> list[str]:
    """The texts that a folder of samples was made from; raises InputError where there are none."""
    path = Path(folder) / "samples.json"
    try:
        prompts = parse_json(path.read_bytes())["settings"]["prompts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} names no prompts; clipsim judges what hpdm-sample made from texts") from error
    if not prompts:
        raise InputError(f"{path}: these samples were made without text")
    return prompts
