"""The `hpdm-eval` command: a group whose subcommands live one subject a file in `hpdm_eval/commands/`."""

import importlib

from hpdm.support.interrupts import ends_at_once

with ends_at_once():
    import click

    from hpdm.support.console import Group
    from hpdm.support.openmp import wait_passively

# subcommand → (module in hpdm_eval.commands, attribute); imported only when it is called, so --help stays fast
SUBCOMMANDS = {
    "fvd": ("fvd", "fvd"),
    "curve": ("curve", "curve"),
    "compare-protocols": ("compare_protocols", "compare_protocols"),
    "is": ("inception_score", "inception_score_command"),
    "kvd": ("kvd", "kvd"),
    "prdc": ("prdc", "prdc"),
    "fid": ("fid", "fid"),
    "clipsim": ("clipsim", "clipsim"),
    "all": ("all_metrics", "all_metrics"),
    "merge": ("merge", "merge"),
    "compare": ("compare", "compare_methods"),
    "stats": ("stats", "stats"),
    "features": ("features", "features"),
    "seams": ("seams", "seams"),
    "seams-power": ("seams_power", "seams_power"),
    "dead-tokens": ("dead_tokens", "dead_tokens"),
    "pyramid": ("pyramid", "pyramid"),
    "positions": ("positions", "positions"),
    "weights": ("weights", "weights"),
    "protocols": ("protocols", "protocols"),
    "bench": ("bench", "bench"),
    "ablations": ("ablations", "ablations"),
    "efficiency": ("efficiency", "efficiency"),
    "report": ("report", "report"),
    "records": ("records", "records"),
    "reproduce": ("reproduce", "reproduce"),
    "quickstart": ("quickstart", "quickstart"),
}


class LazyGroup(Group):
    """Imports a subcommand's module when the subcommand is looked up."""

    def list_commands(self, context):
        return list(SUBCOMMANDS)

    def get_command(self, context, name):
        if name not in SUBCOMMANDS:
            return None
        wait_passively()
        module, attribute = SUBCOMMANDS[name]
        return getattr(importlib.import_module(f"hpdm_eval.commands.{module}"), attribute)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hpdm")
def main():
    """Judge generated videos: every figure comes with a record of how it was made."""
