"""Reading .npz files: what they hold, or one message, whatever has happened to their bytes."""

import io
import zipfile

import numpy as np

from hpdm.errors import InputError


def read_npz(path):
    """All arrays of an .npz by name, {str: array}; nothing pickled is read.

    Raises InputError where the file cannot be read, is no .npz or differs from its own checksums.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                # The whole member first: np.load stops where the array's header says that it ends, and a checksum that
                # is never reached is never compared.
                content = io.BytesIO(archive.read(member))
                arrays[member.removesuffix(".npy")] = np.lib.format.read_array(content, allow_pickle=False)
    except Exception as error:  # damaged archives raise nearly anything: NotImplementedError, RuntimeError, zlib.error
        raise InputError(f"{path}: not a readable .npz file ({error or type(error).__name__})") from error
    return arrays
