"""Command-line conventions that all commands share: exit codes, common options, progress."""

import sys
import traceback

import click
from tqdm import tqdm

from hpdm.errors import InputError

EXIT_BAD_INPUT = 2
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


class _ExitCodes:
    """Mixin for click commands: 0 done, 2 bad input (one line on stderr), 1 internal failure, 130 interrupted."""

    def main(self, args=None, prog_name=None, standalone_mode=True, **extra):
        if not standalone_mode:
            return super().main(args=args, prog_name=prog_name, standalone_mode=False, **extra)
        try:
            # In this mode click returns the code of an early exit (--help is 0) instead of raising it.
            code = super().main(args=args, prog_name=prog_name, standalone_mode=False, **extra)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
            code = EXIT_BAD_INPUT
        except click.ClickException as error:
            error.show()
            code = EXIT_BAD_INPUT
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            code = 0
        except Exception:  # the outermost frame: anything left is a fault of ours and keeps its traceback
            traceback.print_exc()
            click.echo("internal failure: please report the lines above", err=True)
            code = EXIT_FAILURE
        sys.exit(code if isinstance(code, int) else 0)


class Command(_ExitCodes, click.Command):
    """A click command with the project's exit codes."""


class Group(_ExitCodes, click.Group):
    """A click group with the project's exit codes; its subcommands inherit them."""

    command_class = Command


Group.group_class = Group  # `@group.group()` makes one of these too


def common_options(function):
    """Add `--device`, `--seed` and `--quiet`, which every command takes."""
    for option in (
        click.option("--quiet", is_flag=True, help="No progress bars and no notes on stderr."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes every random choice."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
                     help="Where the network runs; auto takes a GPU if there is one."),
    ):
        function = option(function)
    return function


def progress(iterable=None, *, total=None, unit="it", description="", quiet=False, initial=0):
    """A progress bar on stderr with rate and time left (a tqdm object); `quiet` silences it.

    Where stderr is not a terminal, a line every half minute is enough.
    """
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(iterable, total=total, unit=unit, desc=description, disable=quiet, initial=initial,
                file=sys.stderr, dynamic_ncols=True, mininterval=interval, maxinterval=2 * interval, leave=False)


def note(message, quiet=False):
    """Print a line on stderr, so that stdout keeps to results; goes around a running progress bar."""
    if not quiet:
        tqdm.write(message, file=sys.stderr)
