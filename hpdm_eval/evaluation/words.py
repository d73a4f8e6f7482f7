"""The command that says the same as an `Evaluation`: records made from Python name it, to be made again."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.metrics.registry import MetricInfo, MetricOption
from hpdm_eval.protocols import Protocol

# field of Protocol → option; null is written as the word
FLAGS = {
    "num_samples": ("--num-samples", "all"),
    "num_reference": ("--num-reference", "all"),
    "frames": ("--frames", "all"),
    "resolution": ("--resolution", "native"),
    "start": ("--start", None),
    "stride": ("--stride", None),
    "fps": ("--fps", "native"),
    "samples_frames": ("--samples-frames", None),
    "samples_stride": ("--samples-stride", None),
    "samples_fps": ("--samples-fps", "native"),
    "clips_per_video": ("--clips-per-video", "1"),
    "samples_clips_per_video": ("--samples-clips-per-video", "1"),
    "short": ("--short", None),
    "crop": ("--crop", None),
    "resize": ("--resize", None),
    "antialias": ("--antialias", None),
    "value_range": ("--range", None),
    "selection": ("--selection", None),
    "samples_selection": ("--samples-selection", None),
    "split": ("--split", "none"),
    "numerics": ("--numerics", None),
    "backbone": ("--backbone", None),
}
OWN = {  # field of Evaluation → option
    "seed": "--seed", "device": "--device", "grid": "--grid", "reference_grid": "--reference-grid",
    "match": "--match", "split_lists": "--split-lists", "strict": "--strict", "workers": "--workers",
    "limit": "--limit", "weights": "--weights", "c3d_mean": "--c3d-mean", "unverified": "--unverified",
    "precision": "--precision", "batch": "--batch", "group_by": "--group-by",
    "allow_trained_judge": "--allow-trained-judge",
}  # fmt: skip


def command_words(metric: MetricInfo, evaluation: Evaluation, options: Mapping[str, Any] | None = None) -> list[str]:
    """Words of the command of `hpdm-eval` that computes the same; options: the metric's own.

    Settings of a protocol that no option changes, such as `ddof`, are not in it, nor is where the file of a protocol of
    one's own lies: a record holds all settings, and `hpdm-eval reproduce` goes by those.
    """
    words = ["hpdm-eval", metric.name, "--samples", str(evaluation.samples)]
    if evaluation.reference is not None:
        words += ["--reference", str(evaluation.reference)]
    words += ["--protocol", evaluation.protocol.name, *_of_protocol(evaluation.protocol)]
    for item in fields(evaluation):
        value = getattr(evaluation, item.name)
        if item.name in OWN and value != item.default:
            words += [OWN[item.name]] if value is True else [OWN[item.name], str(value)]
    for name in evaluation.trained_with:
        words += ["--trained-with", name]
    for option in metric.options:
        if options and option.name in options and options[option.name] != option.default:
            words += _of_option(option, options[option.name])
    return words


def _of_protocol(protocol: Protocol) -> list[str]:
    words = []
    for text in protocol.overrides:
        key = text.partition("=")[0]
        if key not in FLAGS:
            continue
        (flag, null), value = FLAGS[key], getattr(protocol, key)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif value is None:
            words += [flag, str(null)]
        else:
            words += [flag, "x".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def _of_option(option: MetricOption, value: Any) -> list[str]:
    flag, _, off = (option.flags[0] if option.flags else f"--{option.name.replace('_', '-')}").partition("/")
    if isinstance(value, bool):
        return [flag if value else off or f"--no-{flag[2:]}"]
    if isinstance(value, list | tuple):
        return [flag, ("x" if "x" in (option.metavar or "") else ",").join(map(str, value))]
    return [flag, value if isinstance(value, str) else json.dumps(value)]
