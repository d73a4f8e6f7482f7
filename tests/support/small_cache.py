"""Files of cached features, looked into and thinned out."""

from hpdm_eval.features.cache import CLIP, cache_folder
from hpdm_eval.features.entry_file import EntryFile


def files():
    return sorted(cache_folder().rglob("*.features"))


def entries(file):
    """[(kind, key, body), ...] of a file of the cache."""
    opened = EntryFile(file)
    return [(kind, key, opened.read(kind, key)) for kind, key in opened._places]


def clips(file):
    """Digests of the clips that a file holds."""
    return sorted(key.hex() for kind, key, _ in entries(file) if kind == CLIP)


def thin_out(file, keep):
    """Leave those entries of a file for which `keep(number, kind)` is true."""
    held = entries(file)
    file.unlink()
    thinner = EntryFile(file)
    for number, (kind, key, body) in enumerate(held):
        if keep(number, kind):
            thinner.append(kind, key, body)
