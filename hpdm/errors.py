"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Bad input: files, options or configuration that the user can correct.

    The message is one or two sentences that say what is wrong, where, and what to do about it.
    Commands print it on stderr without a traceback and exit with code 2.
    """
