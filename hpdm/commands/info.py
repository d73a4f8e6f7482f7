"""The `hpdm-info` command."""

import json
from dataclasses import asdict

import click

from hpdm.commands.ema import ema
from hpdm.commands.export import export
from hpdm.commands.verify import verify
from hpdm.config.method import method_names
from hpdm.support.console import CommandWithOthers, common_options, version_option


class InfoCommand(CommandWithOthers):
    """The command itself is about a size, the others are about runs."""

    others = (verify, export, ema)


@click.command(cls=InfoCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--size", required=True, metavar="nano|S|M|L|T2V|FILE.yaml", help="Size of the network, or a file of settings."
)
@click.option(
    "--baseline", metavar="NAME", help=f"Describe a baseline instead, at that size: {', '.join(method_names())}."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as in hpdm-train.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Plan memory and traffic for this number of GPUs; parallel=hsdp then needs shard_size.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@version_option
@common_options
def info(
    size: str,
    baseline: str | None,
    overrides: tuple[str, ...],
    processes: int,
    as_json: bool,
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Show parameters by part, FLOPs per level and block, memory and disk space of a size.

    Nothing is computed or allocated, so device and seed make no difference. `hpdm-info verify RUN` checks a run's
    checkpoints, `hpdm-info export RUN --out FOLDER` writes the weights of a sharded one as one file, and
    `hpdm-info ema RUN` averages its weights over another length.
    """
    from hpdm.config import load_config
    from hpdm.training.plan import describe_plan, make_plan

    plan = make_plan(load_config(size, overrides, method=baseline), processes)
    click.echo(json.dumps(asdict(plan), indent=2) if as_json else describe_plan(plan))
