"""`hpdm-data index`: the whole of a folder or of shards, captions included, as a table that training trusts."""

from pathlib import Path

from hpdm.config.data import AUTO, need_decoder
from hpdm.data.addresses import is_address
from hpdm.data.captions import CaptionList, find_captions
from hpdm.data.index import cache_files, find_file, known_entries, list_videos, save, scan
from hpdm.data.shards import index_shards
from hpdm.data.store import is_sharded
from hpdm.data.table import VideoTable, now
from hpdm.support.errors import InputError

NO_CAPTIONS = "none"


def index_data(
    root: str | Path,
    *,
    out: str | Path | None = None,
    captions: str = AUTO,
    workers: int | None = None,
    quiet: bool = False,
) -> VideoTable:
    """Index all videos in a folder or in shards; returns the VideoTable, with about["file"] and about["opened"].

    Files that have not changed since the last index are not opened again, and what was done before a kill is kept.
    captions: the list to take in, "auto" for the one in the folder if there is one, or "none". The table is written to
    `out`, or beside the videos, or where that is impossible to the user's cache. Raises InputError where nothing can
    be read, WriteError where the disk is full.
    """
    need_decoder()
    if is_address(root) or is_sharded(root):
        if captions not in (AUTO, NO_CAPTIONS):
            raise InputError(f"--captions {captions}: shards bring their captions along")
        return index_shards(root, out=out, workers=workers, quiet=quiet)
    table, opened = folder_table(root, out=out, captions=captions, workers=workers, quiet=quiet)
    places = [Path(out)] if out else cache_files(root)
    for number, place in enumerate(places):
        try:
            table.about["file"] = str(place)
            table.write(place)
            break
        except PermissionError:  # a folder of somebody else's; a full disk is the user's to see
            if number + 1 == len(places):
                raise
    table.about["opened"] = opened
    return table


def folder_table(
    root: str | Path,
    *,
    out: str | Path | None = None,
    captions: str = AUTO,
    workers: int | None = None,
    quiet: bool = False,
    keep: bool = False,
) -> tuple[VideoTable, int]:
    """(VideoTable of a folder as `index_data` makes it, how many files were opened).

    keep: have later calls open only what has changed, as a start of training does.
    """
    root = Path(root)
    listed = _captions(root, captions)
    listing = list_videos(root, empty=listed is not None)
    found = {file.path: file for file in listing.files}
    for path in listed.number if listed else ():
        if path not in found and (file := find_file(root, path)):
            found[path] = file
    places = [Path(out)] if out else list(cache_files(root))
    known, complete = known_entries(root, [*places, *(cache_files(root) if out else ())])
    entries, opened = scan(root, list(found.values()), known, places, workers=workers, quiet=quiet)
    if keep and opened and not complete:
        save(VideoTable.of(entries), root, quiet)
    table = VideoTable.of(entries, {"complete": True, "made": now(), "passed_over": dict(listing.passed_over)})
    return (listed.attach(table) if listed else table), opened


def _captions(root, captions):
    """The CaptionList to take in, or None."""
    if captions == NO_CAPTIONS or not root.is_dir():
        return None
    try:
        file = find_captions(root, captions)
    except InputError:
        if captions == AUTO:
            return None
        raise
    return CaptionList(file)
