"""`hpdm-eval merge`: the record of an evaluation whose features were extracted by the jobs of an array."""

import click

from hpdm.support.console import Command
from hpdm.support.errors import InputError


@click.command(cls=Command)
@click.argument("folder", type=click.Path(exists=True, file_okay=False), metavar="DIR")
@click.option("--quiet", is_flag=True, help="No progress bars and no notes on stderr.")
def merge(folder: str, quiet: bool) -> None:
    """Make the records of the shards in DIR: run their command on the features that they have extracted.

    \b
    hpdm-eval fvd --samples S --reference R --record records/ --shard 3/8 --shards DIR    # in each of eight jobs
    hpdm-eval merge DIR

    The figures are those of the command without --shard, to the last bit, and so are the records, which list the shards
    besides. The clips must be where they were, and the processor of the same kind.
    """
    from hpdm_eval.commands.entry import main
    from hpdm_eval.evaluation.comparison import merged_from
    from hpdm_eval.evaluation.shards import join_caches, joined_cache, read_shards

    shards = read_shards(folder)
    name, *words = shards[0]["words"]
    command = main.get_command(click.get_current_context(), name)
    if command is None:
        raise InputError(f"{folder}: hpdm-eval has no command {name!r}; make the shards again")
    join_caches(folder, quiet)
    with joined_cache(folder), merged_from(shards):
        return command.main(
            [*words, *["--quiet"] * (quiet and "--quiet" not in words)],
            prog_name=f"hpdm-eval {name}",
            standalone_mode=False,
        )
