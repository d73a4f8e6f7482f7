"""`hpdm-eval bench`: how fast the tool is and how much memory it takes, against a plain baseline in the same run."""

import click

from hpdm.console import Group
from hpdm_eval.commands.bench_extract import extract
from hpdm_eval.commands.bench_training import fusion, training


@click.group(cls=Group)
def bench():
    """Measure throughput and memory on this machine. Run it alone: another process on the cores spoils every figure."""


for command in (extract, fusion, training):
    bench.add_command(command)
