"""Making a record again, as `hpdm-eval reproduce` does."""

from hpdm_eval.commands.reproduce import run_command
from hpdm_eval.evaluation import reproduce as library


def reproduce(record, **settings):
    return library.reproduce(record, run_command, **settings)
