"""Command-line conventions that all commands share: exit codes, common options, progress."""

import errno
import io
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from hpdm.support.environment import git_revision, own_version, processes_here
from hpdm.support.errors import InputError
from hpdm.support.interrupts import EXIT_INTERRUPTED, raises_interrupt
from hpdm.support.lock import hold

EXIT_BAD_INPUT = 2
EXIT_FAILURE = 1

# What the place where files are read or written has to answer for, not the program.
OF_THE_PLACE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.EMFILE,
}
NONE = "none"  # the word for a value that may be absent


class _ExitCodes(click.Command):
    """A click command's exit codes: 0 done, 2 bad input (one line on stderr), 1 internal failure, 130 interrupted."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _unbuffer_stderr()
        with raises_interrupt() as interruption, _watched_stdout() as output:
            try:
                # In this mode click returns the code of an early exit (--help is 0) instead of raising it.
                code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
                code = code if isinstance(code, int) else 0
                if sys.stdout is not None:
                    sys.stdout.flush()
            except BaseException as error:
                code = _code_of(error, interruption.to_end, output)
        sys.exit(code)


def _unbuffer_stderr():
    """Have stderr fail where a note is written, which is expected there, and not later, where a buffer is emptied."""
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        raw = io.FileIO(sys.stderr.fileno(), "wb", closefd=False)
        sys.stderr = io.TextIOWrapper(raw, encoding=sys.stderr.encoding, errors="backslashreplace", write_through=True)


def _code_of(error, interrupted, output):
    """Say what ended a command; returns its exit code. output: the `_Output` that stdout leads to, if it is known."""
    if isinstance(error, SystemExit):
        raise error
    if interrupted or isinstance(error, KeyboardInterrupt | click.Abort):
        # Libraries turn an interrupt that hits them while they are imported into errors of their own.
        _say("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, InputError):
        _say("error: " + re.sub(r"\s*[\r\n]+\s*", " ", str(error).strip()))
        return EXIT_BAD_INPUT
    if isinstance(error, click.ClickException):
        with suppress(OSError):
            error.show()
        return EXIT_BAD_INPUT
    if isinstance(error, BrokenPipeError) and (output is None or output.error is error):
        return 0
    if output is not None and output.error is not None and output.error is error:
        _say(f"error: the output could not be written: {os.strerror(error.errno)}")
        return EXIT_BAD_INPUT
    if isinstance(error, OSError) and error.errno in OF_THE_PLACE and error.filename is not None:
        _say(f"error: {os.fsdecode(error.filename)}: {os.strerror(error.errno)}")
        return EXIT_BAD_INPUT
    with suppress(OSError):  # the outermost frame: anything left is a fault of ours and keeps its traceback
        traceback.print_exception(error)
        click.echo("internal failure: please report the lines above", err=True)
    return EXIT_FAILURE


class _Output(io.FileIO):
    """The descriptor behind stdout; remembers, and marks, the error that writing to it gave."""

    error = None

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            self.error, error.of_stdout = error, True
            raise


@contextmanager
def _watched_stdout():
    """Within the block stdout goes through an `_Output`, which is yielded, and prints any file name.

    Names that are no UTF-8 are printed with escapes, as stderr does. Where stdout is no file, as in tests, None is
    yielded.
    """
    before = sys.stdout
    try:
        before.flush()
        output = _Output(before.fileno(), "w", closefd=False)
    except (AttributeError, OSError, ValueError):  # closed, or replaced by something in memory
        if hasattr(before, "reconfigure"):
            before.reconfigure(errors="backslashreplace")
        yield None
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output), encoding=before.encoding, errors="backslashreplace", line_buffering=before.isatty()
    )
    try:
        yield output
    finally:
        if output.error is not None:  # what could not be written would be tried once more when Python ends
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output.fileno())
                os.close(nowhere)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stdout = before


def _say(text):
    """A line on stderr, if that can be written."""
    with suppress(OSError):
        click.echo(text, err=True)


class Command(_ExitCodes):
    """A click command with the project's exit codes, which keeps the words it was called with, see `called_with`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(context, args)
        for parameter in self.get_params(context):
            _check_number(context, parameter, context.params.get(parameter.name))
        return rest

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        words = list(args)  # parsing empties args
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[__name__] = words
        return context

    def invoke(self, context: click.Context) -> Any:
        git_revision()  # which is remembered: records name the commit that the command began with
        return super().invoke(context)


class CommandWithOthers(Command):
    """A command that is one of `others` where its first word is that one's name."""

    others: tuple[click.Command, ...] = ()

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        extra |= {"complete_var": complete_var, "standalone_mode": standalone_mode}
        for other in self.others:
            if words[:1] == [other.name]:
                return other.main(words[1:], f"hpdm-{self.name} {other.name}", **extra)
        return super().main(words, prog_name, **extra)


def _check_number(context, parameter, value):
    """Refuse numbers that nothing can be: not a number, infinity, whole ones beyond 64 bits."""
    for number in value if isinstance(value, tuple | list) else (value,):
        if (
            isinstance(number, float)
            and not math.isfinite(number)
            and not (number > 0 and parameter.name.lower() == "s_max")
        ):
            raise click.BadParameter(f"{number} is no finite number", context, parameter)
        if isinstance(number, int) and not -MOST <= number <= (LARGEST_SEED if parameter.name == "seed" else MOST):
            raise click.BadParameter("the number is too large", context, parameter)


MOST, LARGEST_SEED = 10**12, 2**63 - 1


class Group(_ExitCodes, click.Group):
    """A click group with the project's exit codes; its subcommands inherit them."""

    command_class = Command


Group.group_class = Group  # `@group.group()` makes one of these too


class OutputFolder(click.Path):
    """A folder that will be written into: one that cannot be made is refused before any work is done."""

    def __init__(self, **options: Any) -> None:
        super().__init__(file_okay=False, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        _check_place(self, Path(os.fsdecode(path)), param, ctx)
        return path


class OutputFile(click.Path):
    """A file that will be written, in a folder that exists or can be made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(dir_okay=False, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        _check_place(self, Path(os.fsdecode(path)).parent, param, ctx)
        return path


def _check_place(kind, folder, param, ctx):
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        kind.fail(f"{there} is no folder, so nothing can be written to {folder}", param, ctx)
    if not os.access(there, os.W_OK | os.X_OK):
        kind.fail(f"no permission to write in {there}", param, ctx)


class Device(click.ParamType):
    """A device as PyTorch names it, or auto; `hpdm.support.environment.choose_device` finds out whether it exists."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not re.fullmatch(r"[a-z]+(:[0-9]{1,4})?", value):
            self.fail(f"{value!r}: write auto, cpu, cuda, cuda:1 or mps", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return DEVICES


DEVICES = "auto|cpu|cuda|cuda:1|mps"


class Numbers(click.ParamType):
    """Numbers with commas between them: a tuple, or one number alone where `alone`; with `none` also that word."""

    name = "numbers"

    def __init__(self, kind: type, example: str, *, alone: bool = False, none: bool = False) -> None:
        self.kind, self.example, self.alone, self.none = kind, example, alone, none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or (self.none and value == NONE):
            return value
        try:
            numbers = tuple(self.kind(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: write numbers such as {self.example}", param, ctx)
        return numbers[0] if self.alone and len(numbers) == 1 else numbers


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"{context.find_root().info_name}, version {own_version()}")
        context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    show_default=False,
    callback=_show_version,
    help="Print the version of hpdm and exit.",
)


def called_with(program: str) -> str:
    """The running command as a line for a shell: `program` and the words it got, from a shell or from Python."""
    return shlex.join([program, *words_of_command()])


def words_of_command() -> list[str]:
    """The words that the running command got, without its name."""
    return click.get_current_context().meta[__name__]


def common_options(function: Callable) -> Callable:
    """Add `--device`, `--seed` and `--quiet`, which every command takes."""
    for option in (
        click.option("--quiet", is_flag=True, help="No progress bars and no notes on stderr."),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes every random choice."
        ),
        click.option(
            "--device",
            type=Device(),
            default="auto",
            show_default=True,
            help="Where the network runs, as PyTorch names it; auto takes a GPU if there is one.",
        ),
    ):
        function = option(function)
    return function


def own_folder(folder: str | Path) -> None:
    """Hold the lock of a command's output folder until the command ends; for several processes the first does.

    Raises InputError where another program works there.
    """
    if processes_here().rank == 0:
        click.get_current_context().with_resource(hold(folder))
