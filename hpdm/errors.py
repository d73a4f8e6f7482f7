"""The exceptions that mean "the input is wrong" or "the place is", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Bad input: files, options or configuration that the user can correct.

    The message is one or two sentences that say what is wrong, where, and what to do about it.
    Commands print it on stderr without a traceback and exit with code 2.
    """


class WriteError(InputError, OSError):
    """A file could not be written: the disk is full, a quota or a size limit is reached, the device fails.

    An InputError, since only the user can make room; an OSError too, with `errno` and `filename`, for callers that
    go on without the file.
    """

    def __init__(self, path, error_number, reason, kept=""):
        OSError.__init__(self, error_number, reason, str(path))
        self.message = f"{path} could not be written: {reason}" + (f"; {kept}" if kept else "")

    def __str__(self):
        return self.message
