"""`hpdm-eval report`: records as tables, figures and one page."""

from pathlib import Path
from typing import Any

import click

from hpdm.support.console import Command, OutputFolder, common_options, own_folder


@click.command(cls=Command)
@click.option(
    "--records",
    required=True,
    multiple=True,
    type=click.Path(),
    metavar="DIR|ARCHIVE",
    help="Folder of records and archives, searched with all that lies below, or an archive; repeatable.",
)
@click.option(
    "--out",
    required=True,
    type=OutputFolder(path_type=Path),
    metavar="DIR",
    help="Folder to make; an earlier report in it is replaced.",
)
@click.option("--title", default="Results", show_default=True, help="Heading of the page.")
@click.option(
    "--videos",
    multiple=True,
    metavar="NAME=DIR",
    help="Samples to show on the page under a name, by class; repeatable.",
)
@click.option(
    "--per-class",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Samples of each class and name to show.",
)
@click.option(
    "--most-megabytes",
    type=click.FloatRange(min=0.1),
    default=16.0,
    show_default=True,
    help="Limit for the samples on the page; what does not fit is left out.",
)
@click.option(
    "--published", multiple=True, metavar="NAME", help="Also this published table, such as table2; repeatable."
)
@common_options
def report(
    records: tuple[str, ...],
    out: Path,
    title: str,
    videos: tuple[str, ...],
    per_class: int,
    most_megabytes: float,
    published: tuple[str, ...],
    quiet: bool,
    **options: Any,
) -> None:
    """Make tables (markdown, LaTeX, CSV), figures (SVG, PDF) and one HTML page of records.

    Records of a study are averaged over training seeds and laid out as the study's table; others get a table for each
    metric, network, protocol and reference. An order is claimed only where intervals do not overlap, figures made
    under other conditions than the rest of their column are marked, and published ones stay in tables of their own.
    Equal records give equal bytes.
    """
    from hpdm_eval.report.make import make_report
    from hpdm_eval.report.videos import parse_videos
    from hpdm_eval.report.write import check_folder

    folders = parse_videos(videos)
    check_folder(out, [*records, *folders.values()])
    own_folder(out)
    page = make_report(
        records,
        out,
        title=title,
        videos=folders,
        per_class=per_class,
        most_bytes=most_megabytes * 1e6,
        published=published,
        quiet=quiet,
    )
    click.echo(page)
