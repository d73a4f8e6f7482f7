"""The `hpdm-eval` command: a group whose subcommands live one subject a file in `hpdm_eval/commands/`."""

import importlib

from hpdm.support.interrupts import ends_at_once

with ends_at_once():
    import click

    from hpdm.support.console import Group
    from hpdm.support.openmp import wait_passively
    from hpdm_eval.metrics.registry import metric_names

# subcommand → (module in hpdm_eval.commands, attribute); imported only when it is called, so --help stays fast. Those
# without a module are made from the registry of metrics, as are those of metrics that other packages bring.
SUBCOMMANDS = {
    "fvd": None,
    "curve": ("curve", "curve"),
    "compare-protocols": ("compare_protocols", "compare_protocols"),
    "is": None,
    "kvd": None,
    "prdc": None,
    "fid": None,
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
    "ls": ("ls", "ls"),
    "weights": ("weights", "weights"),
    "protocols": ("protocols", "protocols"),
    "bench": ("bench", "bench"),
    "ablations": ("ablations", "ablations"),
    "efficiency": ("efficiency", "efficiency"),
    "report": ("report", "report"),
    "reproduce": ("reproduce", "reproduce"),
    "quickstart": ("quickstart", "quickstart"),
}


class LazyGroup(Group):
    """Imports a subcommand's module when the subcommand is looked up."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*SUBCOMMANDS, *(name for name in metric_names() if name not in SUBCOMMANDS)]

    def get_command(self, context: click.Context | None, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        wait_passively()
        if SUBCOMMANDS.get(name) is None:
            from hpdm_eval.commands.metric import metric_command

            return metric_command(name)
        module, attribute = SUBCOMMANDS[name]
        return getattr(importlib.import_module(f"hpdm_eval.commands.{module}"), attribute)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hpdm")
def main() -> None:
    """Judge generated videos: every figure comes with a record of how it was made."""
