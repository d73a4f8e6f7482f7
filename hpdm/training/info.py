"""The `hpdm-info` command."""

import json
import sys
from dataclasses import asdict

import click

from hpdm.console import Command, common_options
from hpdm.methods import method_names
from hpdm.training.export import export
from hpdm.training.verify import verify


class InfoCommand(Command):
    """The command itself is about a size; `verify` and `export` as its first word are about checkpoints."""

    def main(self, args=None, prog_name=None, **options):
        args = list(sys.argv[1:] if args is None else args)
        for command in (verify, export):
            if args[:1] == [command.name]:
                return command.main(args[1:], prog_name=f"hpdm-info {command.name}", **options)
        return super().main(args, prog_name, **options)


@click.command(cls=InfoCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--size", required=True, metavar="nano|S|M|L|T2V|FILE.yaml",
              help="Size of the network, or a file of settings.")
@click.option("--baseline", metavar="NAME",
              help=f"Of what HPDM is compared with, at that size: {', '.join(method_names())}.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as in hpdm-train.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True,
              help="Plan memory and traffic for this number of GPUs; parallel=hsdp then needs shard_size.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@common_options
def info(size, baseline, overrides, processes, as_json, device, seed, quiet):
    """Show parameters by part, FLOPs per level and block, and memory of a size.

    Nothing is computed or allocated, so device and seed make no difference. `hpdm-info verify RUN` checks a run's
    checkpoints, `hpdm-info export RUN --out FOLDER` writes the weights of a sharded one as one file.
    """
    from hpdm.config import load_config
    from hpdm.training.plan import describe_plan, make_plan

    plan = make_plan(load_config(size, overrides, method=baseline), processes)
    click.echo(json.dumps(asdict(plan), indent=2) if as_json else describe_plan(plan))
