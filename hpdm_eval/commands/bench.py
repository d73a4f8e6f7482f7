"""`hpdm-eval bench`: how fast the tool is and how much memory it takes, against a plain baseline in the same run."""

import click

from hpdm.support.console import Command, Group, OutputFile, common_options
from hpdm_eval.benchmarks.data import index, shards
from hpdm_eval.benchmarks.decoding import decoding_command
from hpdm_eval.benchmarks.extraction import extract
from hpdm_eval.benchmarks.gpu_command import gpu
from hpdm_eval.benchmarks.interval import interval
from hpdm_eval.benchmarks.results import write_page
from hpdm_eval.benchmarks.sampling import sampling
from hpdm_eval.benchmarks.scale import scale
from hpdm_eval.benchmarks.training import fusion, training


@click.group(cls=Group)
def bench():
    """Measure throughput and memory on this machine. Run it alone: another process on the cores spoils every figure."""


@click.command(cls=Command)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--out", type=OutputFile(), required=True, metavar="FILE.md", help="Page to write.")
@common_options
def page(folder, out, **options):
    """Write a markdown page with all results that --record saved in FOLDER."""
    write_page(folder, out)


for command in (extract, interval, scale, fusion, training, sampling, index, shards, gpu, page):
    bench.add_command(command)
bench.add_command(decoding_command, "decoding")
