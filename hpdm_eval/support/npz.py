"""Reading .npz files: what they hold, or one message, whatever has happened to their bytes."""

import io
import os
import zipfile

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.support.limits import check_growth, in_words, limit


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of an .npz by name, {str: array}; nothing pickled is read.

    Raises InputError where the file cannot be read, is no .npz, differs from its own checksums or is larger than
    HPDM_EVAL_MAX_STATISTICS, see `limits`.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, sum(member.file_size for member in archive.infolist()))
            for member in archive.namelist():
                # The whole member first: np.load stops where the array's header says that it ends, and a checksum that
                # is never reached is never compared.
                content = io.BytesIO(archive.read(member))
                arrays[member.removesuffix(".npy")] = np.lib.format.read_array(content, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # damaged archives raise nearly anything: NotImplementedError, RuntimeError, zlib.error
        raise InputError(f"{path}: not a readable .npz file ({error or type(error).__name__})") from error
    return arrays


def _check_size(path, size):
    """Look at what the archive's own directory says before anything is unpacked."""
    if reason := check_growth(size, os.path.getsize(path)):
        raise InputError(f"{path}: {reason}")
    if size > (most := limit("HPDM_EVAL_MAX_STATISTICS")):
        raise InputError(
            f"{path} takes {in_words(size)} of memory, more than {in_words(most)}; "
            "HPDM_EVAL_MAX_STATISTICS raises the limit"
        )
