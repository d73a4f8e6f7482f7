"""Command-line conventions that all commands share: exit codes, common options, progress."""

import errno
import os
import shlex
import sys
import traceback
from pathlib import Path

import click
from tqdm import tqdm

from hpdm.errors import InputError

EXIT_BAD_INPUT = 2
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

# What the place where files are read or written has to answer for, not the program.
OF_THE_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR,
                errno.ENAMETOOLONG, errno.EIO, errno.EMFILE}


class _ExitCodes:
    """Mixin for click commands: 0 done, 2 bad input (one line on stderr), 1 internal failure, 130 interrupted."""

    def main(self, args=None, prog_name=None, standalone_mode=True, **extra):
        if not standalone_mode:
            return super().main(args=args, prog_name=prog_name, standalone_mode=False, **extra)
        _print_any_file_name()
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
        except OSError as error:
            if error.errno not in OF_THE_PLACE or error.filename is None:
                code = _internal_failure()
            else:
                click.echo(f"error: {os.fsdecode(error.filename)}: {os.strerror(error.errno)}", err=True)
                code = EXIT_BAD_INPUT
        except Exception:  # the outermost frame: anything left is a fault of ours and keeps its traceback
            code = _internal_failure()
        sys.exit(code if isinstance(code, int) else 0)


class Command(_ExitCodes, click.Command):
    """A click command with the project's exit codes, which keeps the words it was called with, see `called_with`."""

    def make_context(self, info_name, args, parent=None, **extra):
        words = list(args)  # parsing empties args
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[__name__] = words
        return context


class Group(_ExitCodes, click.Group):
    """A click group with the project's exit codes; its subcommands inherit them."""

    command_class = Command


Group.group_class = Group  # `@group.group()` makes one of these too


def _internal_failure():
    traceback.print_exc()
    click.echo("internal failure: please report the lines above", err=True)
    return EXIT_FAILURE


def _print_any_file_name():
    """Have stdout print file names that are no UTF-8 with escapes, as stderr does, in place of failing."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


class OutputFolder(click.Path):
    """A folder that will be written into: one that cannot be made is refused before any work is done."""

    def __init__(self, **options):
        super().__init__(file_okay=False, **options)

    def convert(self, value, param, ctx):
        path = super().convert(value, param, ctx)
        _check_place(self, Path(path), param, ctx)
        return path


class OutputFile(click.Path):
    """A file that will be written, in a folder that exists or can be made."""

    def __init__(self, **options):
        super().__init__(dir_okay=False, **options)

    def convert(self, value, param, ctx):
        path = super().convert(value, param, ctx)
        _check_place(self, Path(path).parent, param, ctx)
        return path


def _check_place(kind, folder, param, ctx):
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        kind.fail(f"{there} is no folder, so nothing can be written to {folder}", param, ctx)
    if not os.access(there, os.W_OK | os.X_OK):
        kind.fail(f"no permission to write in {there}", param, ctx)


def called_with(program):
    """The running command as a line for a shell: `program` and the words it got, from a shell or from Python."""
    return shlex.join([program, *click.get_current_context().meta[__name__]])


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
