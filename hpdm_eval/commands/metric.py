"""`hpdm-eval fvd`, `kvd`, `prdc`, `is`, `fid`, and the command of every metric that a package registers."""

import textwrap
from typing import Any

import click

from hpdm_eval.commands.options import Sizes, judging_options, pixel_set_options, take_evaluation
from hpdm_eval.commands.printing import details_table, show_record
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.settings import SHARDS, Evaluation
from hpdm_eval.metrics.registry import MetricInfo, MetricOption, get_metric

KINDS = {"sizes": Sizes}


def metric_command(name: str) -> click.Command:
    """The command of a metric, made from what the registry says of it. Raises InputError for an unknown name."""
    info = get_metric(name)

    def run(**options: Any) -> Any:
        own = {option.name: options.pop(option.name) for option in info.options}
        return judge(info, own, options)

    function = _shared_options(info)(run)
    for option in reversed(info.options):
        function = _option(option)(function)
    paragraphs = [text for text in (info.summary, info.text, _caveat(info)) if text]
    wrapped = "\n\n".join(textwrap.fill(paragraph, 100) for text in paragraphs for paragraph in text.split("\n\n"))
    return click.command(name, cls=RecordedCommand, help=wrapped)(function)


def judge(info: MetricInfo, own: dict[str, Any], options: dict[str, Any]) -> Any:
    """Compute a metric as a command's options say; show and return its Record."""
    from hpdm_eval.evaluation.comparisons import evaluate_one

    for option in info.options:
        if option.overrides is not None:
            options[option.overrides] = own[option.name]
    shard, folder = options.pop("shard", None), options.pop("shards", None)
    evaluation = take_evaluation(options)
    shown = {**options, "quiet": evaluation.quiet}
    if shard:
        finish_shard(evaluation, info, shard, folder or SHARDS)
    record = evaluate_one(info, evaluation, own)
    lines = ["", details_table(record.details)] if record.details and all("figure" in e for e in record.details) else []
    return show_record(record, shown, lines)


def finish_shard(evaluation: Evaluation, info: MetricInfo, shard: tuple[int, int], folder: str) -> None:
    """Extract a shard's share, write down that it is done, and end the command."""
    from hpdm_eval.evaluation.shards import share_of, write_shard

    share = share_of(evaluation, shard, folder, info.needs == "frames")
    write_shard([share], shard, folder, evaluation)
    raise click.exceptions.Exit(0)


def _shared_options(info: MetricInfo) -> Any:
    if not info.extracts:
        return pixel_set_options(info.reference)
    return judging_options(reference=info.reference, backbone=info.backbone, shards=True)


def _option(option: MetricOption) -> Any:
    flags = option.flags or (f"--{option.name.replace('_', '-')}",)
    about: dict[str, Any] = {"help": option.help, "default": option.default}
    if option.metavar:
        about["metavar"] = option.metavar
    if option.choices:
        about["type"] = click.Choice(option.choices)
    elif option.kind in KINDS:
        about["type"] = KINDS[option.kind]()
    elif isinstance(option.default, bool):
        about |= {} if any("/" in flag for flag in flags) else {"is_flag": True}  # an on/off pair says it by itself
    elif option.kind is int or isinstance(option.default, int):
        about["type"] = click.IntRange(min=option.minimum)
    elif option.kind is float or isinstance(option.default, float):
        about["type"] = float
    if option.default not in (None, (), False):
        about["show_default"] = True
    return click.option(*flags, option.name, **about)


def _caveat(info: MetricInfo) -> str:
    """A plug-in's caveat; those of the built-in metrics are in their text."""
    return "" if isinstance(info.measure, str) or not info.caveat else f"Caveat: {info.caveat}."
