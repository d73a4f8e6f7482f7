"""The `hpdm-eval` command: a group whose subcommands live one subject a file in `hpdm_eval/commands/`."""

import importlib
from typing import NamedTuple

from hpdm.support.interrupts import ends_at_once

with ends_at_once():
    import click

    from hpdm.support.console import Group
    from hpdm.support.openmp import wait_passively
    from hpdm_eval.metrics.registry import known_metric, metric_names


class Subcommand(NamedTuple):
    """Where a subcommand is, and the first line of its help, so that the list of all imports none."""

    module: str  # in hpdm_eval.commands
    attribute: str
    summary: str


# Those without a place are made from the registry of metrics, as are those of metrics that other packages bring.
SUBCOMMANDS = {
    "fvd": None,
    "curve": Subcommand(
        "curve",
        "curve",
        "FVD over the number of samples: how much of a figure is sampling bias, and whether an order of models holds.",
    ),
    "compare-protocols": Subcommand(
        "compare_protocols",
        "compare_protocols",
        "How much the protocol alone moves FVD: the same videos and network under one protocol after the other.",
    ),
    "is": None,
    "kvd": None,
    "prdc": None,
    "fid": None,
    "clipsim": Subcommand(
        "clipsim",
        "clipsim",
        "Mean cosine, times 100, of CLIP's embeddings of a video's frames and of its prompt: higher is better.",
    ),
    "all": Subcommand("all_metrics", "all_metrics", "Compute all metrics on features: one row, and one record, each."),
    "merge": Subcommand(
        "merge",
        "merge",
        "Make the records of the shards in DIR: run their command on the features that they have extracted.",
    ),
    "compare": Subcommand(
        "compare", "compare_methods", "Compare several sets of samples: --samples NAME=DIR, once for each."
    ),
    "stats": Subcommand(
        "stats", "stats", "Write mean and covariance of the features of real clips, for `--reference` of a metric."
    ),
    "features": Subcommand("features", "features", "Write the features of clips to a .npz file."),
    "seams": Subcommand("seams", "seams", "Are there steps where the patches of a tiled sampler meet?"),
    "seams-power": Subcommand(
        "seams_power",
        "seams_power",
        "Power and false positives of `hpdm-eval seams`, by putting seams of known size into real clips.",
    ),
    "dead-tokens": Subcommand(
        "dead_tokens",
        "dead_tokens",
        "How many tokens of the samples are broken: blocks that stand out from all sides, exactly on the token "
        "lattice.",
    ),
    "pyramid": Subcommand(
        "pyramid",
        "pyramid",
        "How far is each level of a sample, shrunken, from the coarser level that it was made from?",
    ),
    "positions": Subcommand("positions", "positions", "Are the corners of the samples as good as their inside?"),
    "ls": Subcommand(
        "ls", "ls", "List metrics, backbones, protocols or sizes of models, those of other packages included."
    ),
    "weights": Subcommand("weights", "weights", "List, fetch, add and verify pretrained networks."),
    "protocols": Subcommand(
        "protocols",
        "protocols",
        "List the named protocols, or all settings of the one called NAME (a name, or a YAML file).",
    ),
    "bench": Subcommand("bench", "bench", "Measure throughput and memory on this machine."),
    "ablations": Subcommand("ablations", "ablations", "Train, sample and judge the variants of the ablation studies."),
    "efficiency": Subcommand(
        "efficiency", "efficiency", "Compare a network on whole videos with patch pyramids of two patch sizes."
    ),
    "report": Subcommand(
        "report", "report", "Make tables (markdown, LaTeX, CSV), figures (SVG, PDF) and one HTML page of records."
    ),
    "records": Subcommand(
        "records", "records", "Pack record files into one archive, list and unpack it; write pages from it."
    ),
    "reproduce": Subcommand(
        "reproduce",
        "reproduce",
        "Run the command of a record again and compare its figures: the value, its interval and all details.",
    ),
    "quickstart": Subcommand(
        "quickstart",
        "quickstart",
        "Make videos, judge them, and write records, a table and a page: a first look that needs no data and no "
        "network.",
    ),
}


class LazyGroup(Group):
    """Imports a subcommand's module when the subcommand is looked up."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*SUBCOMMANDS, *(name for name in metric_names() if name not in SUBCOMMANDS)]

    def get_command(self, context: click.Context | None, name: str) -> click.Command | None:
        if name not in SUBCOMMANDS and name not in metric_names():
            return None
        wait_passively()
        place = SUBCOMMANDS.get(name)
        if place is None:
            from hpdm_eval.commands.metric import metric_command

            return metric_command(name)
        return getattr(importlib.import_module(f"hpdm_eval.commands.{place.module}"), place.attribute)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands, without importing them."""
        names = self.list_commands(context)
        limit = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name).get_short_help_str(limit)) for name in names])


def _summary(name: str) -> click.Command:
    """A command that has nothing but the first line of a subcommand's help."""
    place, info = SUBCOMMANDS.get(name), known_metric(name)
    known = place or info
    return click.Command(name, help=known.summary if known is not None else "A metric that another package brings.")


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hpdm")
def main() -> None:
    """Judge generated videos: every figure comes with a record of how it was made."""
