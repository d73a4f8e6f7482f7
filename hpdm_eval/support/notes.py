"""Notes that a command prints once, however often there is reason to."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hpdm.support.progress import note

_printed: ContextVar[set[str] | None] = ContextVar("notes that are printed already", default=None)


@contextmanager
def printing_once() -> Iterator[None]:
    """Within the block `note_once` prints no text twice; a block within a block changes nothing."""
    if _printed.get() is not None:
        yield
        return
    token = _printed.set(set())
    try:
        yield
    finally:
        _printed.reset(token)


def note_once(text: str, quiet: bool = False) -> None:
    """Print a note on stderr unless the running command has printed the same before."""
    printed = _printed.get()
    if printed is not None and text in printed:
        return
    if printed is not None:
        printed.add(text)
    note(text, quiet)
