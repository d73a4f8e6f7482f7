"""Whose word counts for files that nobody has checked: the user's, never that of a file that is being read.

A record, or a protocol in a file, may name weights without a published checksum, a program (TorchScript), or a network
on the hub. Where such a file decides what is run, the code that runs it opens a block of `only_trusting`; in it those
are refused unless the user has named them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from hpdm.support.errors import InputError

# None: no block is open, and the user's own words decide.
_TRUSTED: ContextVar[frozenset[str] | None] = ContextVar("trusted", default=None)


@contextmanager
def only_trusting(names: Iterable[object]) -> Iterator[None]:
    """Within the block `need_trust` takes only what is in `names`: paths, SHA-256 sums, ids on the hub."""
    token = _TRUSTED.set(frozenset(map(str, names)))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def trust_is_limited() -> bool:
    """Whether a block of `only_trusting` is open."""
    return _TRUSTED.get() is not None


def need_trust(what: str, name: str | Path, sha256: str | None = None) -> None:
    """Raise InputError where trust is limited and the user has named neither `name` nor its SHA-256.

    what: for the message, such as "unverified weights".
    """
    trusted = _TRUSTED.get()
    if trusted is None or str(name) in trusted or (sha256 is not None and sha256 in trusted):
        return
    if any(Path(entry).exists() and Path(name).exists() and Path(entry).samefile(name) for entry in trusted):
        return
    digest = f" (SHA-256 {sha256})" if sha256 else ""
    raise InputError(f"the record asks for {what} {name}{digest}; if you trust it, say so with --allow {name}")
