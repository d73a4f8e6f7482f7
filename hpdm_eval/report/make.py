"""A report of records: what `hpdm-eval report` makes."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.report.collect import collect_records
from hpdm_eval.report.model import origin
from hpdm_eval.report.videos import choose_videos
from hpdm_eval.report.write import check_folder, make_sections, unshown, write_report

MOST_NAMED = 10
MOST_BYTES = 16e6  # of the samples on the page


def make_report(
    records: Iterable[str | Path],
    out: str | Path,
    *,
    title: str = "Results",
    videos: Mapping[str, str | Path] | None = None,
    per_class: int = 1,
    most_bytes: float = MOST_BYTES,
    published: Iterable[str] = (),
    quiet: bool = True,
) -> Path:
    """Tables (markdown, LaTeX, CSV), figures (SVG, PDF) and one page of records in the folder `out`; returns the page.

    records: folders, archives and files of them. videos: {name: folder} of samples to show on the page, of each class
    and name `per_class`, and no more than `most_bytes` in all. published: names of published tables to add. An earlier
    report in `out` is replaced. Raises InputError for a folder of other files, and where no record has a place in a
    table.
    """
    records, videos = list(records), dict(videos or {})
    check_folder(out, [*records, *videos.values()])
    found = collect_records(records)
    grid, left_out = choose_videos(videos, per_class=per_class, limit=most_bytes) if videos else (None, 0)
    sections = make_sections(found, published)
    missing = unshown(found)
    if not sections:
        raise InputError(f"none of the {len(found)} records has a place in a table: {', '.join(missing[:3])} ...")
    for name in missing[:MOST_NAMED]:
        note(f"{name} has no place in its study's table", quiet)
    if len(missing) > MOST_NAMED:
        note(f"... and {len(missing) - MOST_NAMED} more", quiet)
    page = write_report(out, sections, title=title, lead=origin(found), videos=grid, left_out=left_out, records=found)
    note(f"{len(found)} records; tables and figures are in {out}", quiet)
    return page
