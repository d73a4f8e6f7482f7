"""`hpdm-eval compare`: several sets of samples in one table, with a test for every pair."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpdm.support.console import OutputFolder, own_folder
from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.commands.all_metrics import Names
from hpdm_eval.commands.options import judging_options, take_evaluation
from hpdm_eval.commands.printing import announce
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.metrics.registry import all_metrics
from hpdm_eval.records.record import Record

if TYPE_CHECKING:
    from hpdm_eval.evaluation.compare_methods import MethodComparison
    from hpdm_eval.evaluation.settings import Evaluation

MOST_BYTES = 16e6  # of the samples on the page
BUILT_IN = "fvd, kvd, prdc, is, fid, seams, dead-tokens"


class FigureName(click.ParamType):
    """One of the figures that a comparison shows."""

    name = "FIGURE"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        figures = [figure for info in all_metrics() for figure in info.compared()]
        if value not in figures:
            self.fail(f"{value!r} is none of {', '.join(figures)}", parameter, context)
        return value


def compared_names() -> list[str]:
    """Metrics that a comparison takes."""
    from hpdm_eval.evaluation.compare_methods import compared_metrics

    return [info.name for info in compared_metrics()]


@click.command("compare", cls=RecordedCommand)
@click.option(
    "--metrics",
    type=Names(compared_names),
    metavar="NAME,NAME,...",
    help=f"Which of {BUILT_IN}, or others that `hpdm-eval ls metrics` lists. [all that the clips and weights at hand "
    "allow]",
)
@click.option(
    "--sort", "sort_by", type=FigureName(), metavar="FIGURE", help="Figure to sort by, the best first. [the first]"
)
@click.option("--splits", type=click.IntRange(min=1), default=10, show_default=True, help="Splits of is.")
@click.option(
    "--neighbours", "-k", type=click.IntRange(min=1), default=5, show_default=True, help="Nearest neighbours of prdc."
)
@click.option("--patch", metavar="TxHxW", help="Size of the samplers' tiles, for seams. [from each samples.json]")
@click.option(
    "--token",
    default="1x4x4",
    show_default=True,
    metavar="TxHxW",
    help="Samples of the video that one token makes, for dead-tokens.",
)
@click.option(
    "--grid-of", "grids", multiple=True, metavar="NAME=RxC[+PAD]", help="As --grid, for one of the sets; repeatable."
)
@click.option(
    "--report",
    type=OutputFolder(path_type=Path),
    metavar="DIR",
    help="Also write a page with the tables and samples of every set, and the tables as markdown, LaTeX and "
    "CSV; an earlier report there is replaced.",
)
@judging_options(several=True)
def compare_methods(
    metrics: tuple[str, ...] | None,
    sort_by: str | None,
    splits: int,
    neighbours: int,
    patch: str | None,
    token: str,
    grids: tuple[str, ...],
    report: Path | None,
    **options: Any,
) -> list[Record]:
    """Compare several sets of samples: --samples NAME=DIR, once for each.

    Every figure has a 95 % interval, for a fresh set of as many samples against the same reference, and every pair of
    sets a two-sided test by jackknife standard errors, corrected after Holm for the number of pairs of that figure. In
    the first table * marks the best of a column and all that no test tells from it. Sets of different sizes are cut to
    the smallest, since most figures change with the number of samples. Seams and dead tokens are looked for in the
    samples' own pixels; a set that was not made from tiles is looked at where the tiles of the first that was meet.
    With --json a list of records is printed; each holds its pairs.
    """
    from hpdm_eval.evaluation import compare_methods as library
    from hpdm_eval.metrics.seams import parse_patch
    from hpdm_eval.report.compare_tables import comparison_section, terminal_text
    from hpdm_eval.report.videos import parse_videos
    from hpdm_eval.report.write import check_folder

    folders = parse_videos(options.pop("samples"), "--samples")
    if len(folders) < 2:
        raise InputError("a comparison needs two sets or more: --samples NAME=DIR, once for each")
    if report is not None:
        check_folder(report, folders.values())
        own_folder(report)
    own: dict[str, dict[str, Any]] = {
        "is": {"splits": splits},
        "prdc": {"neighbours": neighbours},
        "dead-tokens": {"token": parse_patch(token)},
    }
    evaluation = take_evaluation(options, samples="")
    measuring = library.Measuring(metrics=metrics, options=own, patch=patch)
    compared = library.compare_methods(_sets(evaluation, folders, grids), measuring, sort_by)
    for text in compared.missing:
        note(text, evaluation.quiet)
    if options["as_json"]:
        click.echo(json.dumps([record.to_dict() for record in compared.records], ensure_ascii=False))
    else:
        click.echo(terminal_text(comparison_section(compared.methods, compared.pairs, compared.figures)))
    announce(compared.records, {**options, "quiet": evaluation.quiet})
    if report is not None:
        _write_page(report, compared, folders, evaluation.quiet)
    return compared.records


def _write_page(report: Path, compared: "MethodComparison", folders: Mapping[str, str], quiet: bool) -> None:
    from hpdm_eval.report.compare_tables import TITLE, comparison_section, named_records
    from hpdm_eval.report.model import origin
    from hpdm_eval.report.videos import choose_videos
    from hpdm_eval.report.write import make_sections, write_report
    from hpdm_eval.support.distributed import rank_and_size

    if rank_and_size()[0] > 0:
        return
    records = named_records(compared.methods)
    sections = [comparison_section(compared.methods, compared.pairs, compared.figures), *make_sections(records)]
    grid, left_out = choose_videos(folders, per_class=1, limit=MOST_BYTES)
    page = write_report(
        report, sections, title=TITLE, lead=origin(records), videos=grid, left_out=left_out, records=records
    )
    note(f"page: {page}", quiet)


def _sets(evaluation: "Evaluation", folders: Mapping[str, str], grids: Sequence[str]) -> "dict[str, Evaluation]":
    """{name: its evaluation}: sets differ in where they are and in their grid."""
    sets = {name: replace(evaluation, samples=folder) for name, folder in folders.items()}
    for text in grids:
        name, _, grid = text.partition("=")
        if name not in sets:
            raise InputError(f"--grid-of {text}: write NAME=RxC[+PAD], with one of the names {', '.join(sets)}")
        sets[name] = replace(sets[name], grid=grid)
    return sets
