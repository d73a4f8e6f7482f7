"""Checkpoints on the Hugging Face hub: "user/name" or "user/name@revision", downloaded once to the hub's own cache.

Only configurations, manifests and safetensors are fetched: nothing of a repository is executed. What was fetched is
known by the commit and by the SHA-256 of the weights; a revision that is a commit therefore names the same weights for
ever.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from hpdm.support.errors import InputError
from hpdm.support.trust import need_trust

HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
FILES = ("*.safetensors", "*.json", "config.yaml", "README.md")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A repository on the hub as it was fetched."""

    id: str
    commit: str
    folder: Path  # the copy


def is_hub_id(name: str | Path) -> bool:
    """Whether a name is an id on the hub: it has the form of one, and neither it nor its first part exists here."""
    match, path = HUB_ID.fullmatch(str(name)), Path(name)
    return bool(match) and path.suffix != ".safetensors" and not path.exists() and not path.parent.exists()


def fetch_checkpoint(name: str, revision: str | None = None) -> HubSource:
    """The repository of a hub id in the local cache, downloaded where it is not there yet.

    revision: branch, tag or commit, also as "user/name@revision"; the default branch where neither names one. Raises
    InputError where there is no such repository, or the hub cannot be reached and nothing is cached.
    """
    match = HUB_ID.fullmatch(name)
    if match is None:
        raise InputError(f"{name}: no id on the hub; write user/name, or user/name@revision")
    if revision is not None and match["revision"] not in (None, revision):
        raise InputError(f"{name}: revision {revision} is named as well; name one of them")
    repository, revision = match["id"], revision or match["revision"]
    need_trust("a checkpoint from the hub,", repository)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name}: no such folder or file, and the hub did not return it ({reason}); name a run's folder, a "
            ".safetensors file, or an id that exists"
        ) from error
    return HubSource(id=repository, commit=folder.name, folder=folder)
