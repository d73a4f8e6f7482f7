"""Commands that remember their own words for the records they make."""

import os
import tempfile
from typing import Any

from hpdm.support.console import Command
from hpdm.support.errors import WriteError
from hpdm.support.files import no_room
from hpdm_eval.records.record import running_command
from hpdm_eval.support.notes import printing_once


class RememberingCommand(Command):
    """A command that remembers its own words for the record, also where it is called from Python."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        groups, above = [], parent
        while above is not None and above.parent is not None:  # the outermost is hpdm-eval itself
            groups, above = [above.info_name, *groups], above.parent
        words = ["hpdm-eval", *groups, self.name, *args]  # parsing empties args
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[__name__] = words
        return context

    def invoke(self, context: Any) -> Any:
        with running_command(context.meta[__name__]), printing_once():
            return super().invoke(context)


class RecordedCommand(RememberingCommand):
    """A remembering command whose processes work together under `torchrun`; the first one speaks."""

    def invoke(self, context: Any) -> Any:
        from hpdm_eval.support.distributed import joined_processes, rank_and_size  # which import torch

        with joined_processes():
            if rank_and_size()[0] > 0:
                context.params["quiet"] = True
            try:
                return super().invoke(context)
            except OSError as error:
                # Results name their files; what is left is unpacked to be read.
                number = None if error.filename or hasattr(error, "of_stdout") else no_room(error)
                if number is None:
                    raise
                raise WriteError(
                    f"a temporary file in {tempfile.gettempdir()}",
                    number,
                    os.strerror(number),
                    "make room there, or set TMPDIR to another folder",
                ) from error
