"""`hpdm-eval compare`: several sets of samples in one table, with a test for every pair."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import click

from hpdm.support.console import OutputFolder, own_folder
from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.commands.all_metrics import Names, comparison_for
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.compare_figures import ALL_METRICS, FIGURES, measure_method, tiling_plans
from hpdm_eval.evaluation.comparison import announce, judging_options
from hpdm_eval.metrics.inception_score import SPLITS
from hpdm_eval.metrics.prdc import NEIGHBOURS
from hpdm_eval.metrics.seams import parse_patch
from hpdm_eval.report.compare_tables import (
    TITLE,
    comparison_section,
    found_records,
    pair_tests,
    sort_methods,
    terminal_text,
)
from hpdm_eval.report.model import origin
from hpdm_eval.report.videos import choose_videos, parse_videos
from hpdm_eval.report.write import check_folder, make_sections, write_report
from hpdm_eval.support.distributed import rank_and_size

MOST_BYTES = 16e6  # of the samples on the page


@click.command("compare", cls=RecordedCommand)
@click.option(
    "--metrics",
    type=Names(ALL_METRICS),
    metavar="NAME,NAME,...",
    help=f"Which of {', '.join(ALL_METRICS)}. [all that the clips and weights at hand allow]",
)
@click.option(
    "--sort", "sort_by", type=click.Choice(list(FIGURES)), help="Figure to sort by, the best first. [the first]"
)
@click.option("--splits", type=click.IntRange(min=1), default=SPLITS, show_default=True, help="Splits of is.")
@click.option(
    "--neighbours",
    "-k",
    type=click.IntRange(min=1),
    default=NEIGHBOURS,
    show_default=True,
    help="Nearest neighbours of prdc.",
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
def compare_methods(metrics, sort_by, splits, neighbours, patch, token, grids, report, **options):
    """Compare several sets of samples: --samples NAME=DIR, once for each.

    Every figure has a 95 % interval, for a fresh set of as many samples against the same reference, and every pair of
    sets a two-sided test by jackknife standard errors, corrected after Holm for the number of pairs of that figure. In
    the first table * marks the best of a column and all that no test tells from it. Sets of different sizes are cut to
    the smallest, since most figures change with the number of samples. Seams and dead tokens are looked for in the
    samples' own pixels; a set that was not made from tiles is looked at where the tiles of the first that was meet.
    With --json a list of records is printed; each holds its pairs.
    """
    folders = parse_videos(options.pop("samples"), "--samples")
    if len(folders) < 2:
        raise InputError("a comparison needs two sets or more: --samples NAME=DIR, once for each")
    if report is not None:
        check_folder(report, folders.values())
        own_folder(report)
    settings = {
        "splits": splits,
        "neighbours": neighbours,
        "token": parse_patch(token),
        "plans": lambda: tiling_plans(folders, patch),
    }
    sources = _sources(folders, grids, options["grid"])
    references = {}
    comparisons = {name: {} for name in folders}
    counts = {
        name: comparison_for("fvd", {**options, **source}, comparisons[name], references).samples.count
        for name, source in sources.items()
    }
    if len(set(counts.values())) > 1:
        fewest = min(counts.values())
        note(
            f"sets of {', '.join(f'{count} ({name})' for name, count in counts.items())}: all are cut to {fewest}",
            options["quiet"],
        )
        options["num_samples"] = fewest
        comparisons = {name: {} for name in folders}
    missing = {}
    methods = [
        measure_method(name, {**options, **source}, comparisons[name], references, metrics, settings, missing)
        for name, source in sources.items()
    ]
    for text in missing:
        note(text, options["quiet"])
    figures = [figure for figure in FIGURES if all(figure in method.estimates for method in methods)]
    if sort_by is not None and sort_by not in figures:
        raise InputError(f"--sort {sort_by}: that figure could not be had for all sets; there are {', '.join(figures)}")
    methods = sort_methods(methods, sort_by or figures[0])
    pairs = {figure: pair_tests(methods, figure) for figure in figures}
    records = _with_pairs(methods, pairs)
    section = comparison_section(methods, pairs)
    if options["as_json"]:
        click.echo(json.dumps([record.to_dict() for record in records], ensure_ascii=False))
    else:
        click.echo(terminal_text(section))
    announce(records, options)
    if report is not None and rank_and_size()[0] == 0:
        found = found_records(methods)
        grid, left_out = choose_videos(folders, per_class=1, limit=MOST_BYTES)
        page = write_report(
            report, [section, *make_sections(found)], title=TITLE, lead=origin(found), videos=grid, left_out=left_out
        )
        note(f"page: {page}", options["quiet"])
    return records


def _sources(folders, grids, grid):
    """{name: the options that differ from set to set}."""
    sources = {name: {"samples": folder, "grid": grid} for name, folder in folders.items()}
    for text in grids:
        name, _, own = text.partition("=")
        if name not in sources:
            raise InputError(f"--grid-of {text}: write NAME=RxC[+PAD], with one of the names {', '.join(sources)}")
        sources[name]["grid"] = own
    return sources


def _with_pairs(methods, pairs):
    """All records, with what the tests of their figures said."""
    records = []
    for method in methods:
        for metric, record in method.records.items():
            tests = [
                {"figure": figure, **asdict(pair)}
                for figure in pairs
                for pair in pairs[figure]
                if FIGURES[figure].metric == metric and method.name in (pair.first, pair.second)
            ]
            records.append(replace(record, extra={**record.extra, "name": method.name, "pairs": tests}))
    return records
