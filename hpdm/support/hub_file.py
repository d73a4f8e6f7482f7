"""Single files on the Hugging Face hub, by address: hf://OWNER/NAME/FILE, hf://datasets/OWNER/NAME@REVISION/FILE."""

import os
import re
from pathlib import Path

from hpdm.support.errors import InputError
from hpdm.support.trust import need_trust

PREFIX = "hf://"
ADDRESS = re.compile(r"hf://(datasets/)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?/([^@]+)")


def is_hub_file(place: object) -> bool:
    """Whether a place is such an address."""
    return isinstance(place, str) and place.startswith(PREFIX)


def local_file(place: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The local copy of a file on the hub, in the hub's cache; any other place as it is.

    A file is fetched once for each revision. Raises InputError for an address that is none, and where the hub does not
    have the file or cannot be reached.
    """
    if not isinstance(place, str) or not is_hub_file(place):
        return place
    match = ADDRESS.fullmatch(place)
    if not match:
        raise InputError(f"{place}: write hf://OWNER/NAME/FILE, or hf://datasets/OWNER/NAME@REVISION/FILE")
    need_trust("a file from the hub,", place)
    from huggingface_hub import hf_hub_download

    kind, repository, revision, file = match.groups()
    try:
        found = hf_hub_download(repository, file, repo_type="dataset" if kind else "model", revision=revision)
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{place}: the hub did not give it ({line}); download it elsewhere and give the file"
        ) from error
    return Path(found)
