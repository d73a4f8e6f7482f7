"""What a computation warns of, gathered for a record."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def caught_warnings() -> Iterator[Callable[[], list[str]]]:
    """Within the block warnings are gathered, and not printed; yields a function that returns their texts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [str(warning.message) for warning in caught]
