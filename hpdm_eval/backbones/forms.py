"""The form of a weights file, told without executing anything in it."""

import os
import zipfile

from hpdm.support.errors import InputError

TORCHSCRIPT, NPZ = "torchscript", "npz"


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether a file is a TorchScript archive, as opposed to saved tensors; looks at names only."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _fits(archive, TORCHSCRIPT)
    except Exception:  # a damaged directory raises nearly anything
        return False


def check_form(path: str | os.PathLike, form: str) -> None:
    """Raise InputError, with the reason, unless a file is a whole archive of `form`, by its own checksums.

    form: TORCHSCRIPT or NPZ.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            whole = _fits(archive, form) and archive.testzip() is None
    except Exception:  # as above
        whole = False
    if not whole:
        with open(path, "rb") as file:
            start = file.read(32)
            size = file.seek(0, 2)
        raise InputError(f"not a whole {form} archive: {size} bytes, begins with {start!r}")


def _fits(archive, form):
    names = archive.namelist()
    if form == NPZ:
        return bool(names) and all(name.endswith(".npy") for name in names)
    return any(name.endswith("/constants.pkl") for name in names)
