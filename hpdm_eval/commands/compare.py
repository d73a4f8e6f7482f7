"""`hpdm-eval compare`: several sets of samples in one table, with a test for every pair."""

import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np

from hpdm.console import note
from hpdm.errors import InputError
from hpdm.files import atomic_file
from hpdm_eval.commands import fid, fvd, inception_score, kvd, prdc
from hpdm_eval.commands.all_metrics import METRICS, Names, comparison_for
from hpdm_eval.distributed import rank_and_size
from hpdm_eval.judge import announce, judging_options
from hpdm_eval.metrics.inception_score import SPLITS
from hpdm_eval.metrics.inception_score import inception_score as score_of
from hpdm_eval.metrics.kernel import kernel_video_distance
from hpdm_eval.metrics.pairs import Estimate, compare_pairs
from hpdm_eval.metrics.prdc import NEIGHBOURS
from hpdm_eval.metrics.prdc import prdc as prdc_of
from hpdm_eval.metrics.uncertainty import GROUPS, grouped_jackknife, jackknife_errors
from hpdm_eval.records import RecordedCommand
from hpdm_eval.report.videos import parse_videos
from hpdm_eval.tables import aligned, format_value, metric_label, piped, protocol_label, remarks

# figure → (metric whose record holds it, whether higher is better, lowest and highest possible value)
FIGURES = {
    "fvd": ("fvd", False, (0, np.inf)),
    "kvd": ("kvd", False, (-np.inf, np.inf)),
    "precision": ("prdc", True, (0, 1)),
    "recall": ("prdc", True, (0, 1)),
    "density": ("prdc", True, (0, np.inf)),
    "coverage": ("prdc", True, (0, 1)),
    "is": ("is", True, (1, np.inf)),
    "fid": ("fid", False, (0, np.inf)),
}
HIGHER = {"prdc": "coverage", "is": None}  # metrics whose records say that higher is better, and their unit


@dataclass(frozen=True, kw_only=True)
class Method:
    """One set of samples: its records by metric, and its estimates by figure."""

    name: str
    records: dict
    estimates: dict  # Estimate, or a bare value where there is no standard error


@click.command("compare", cls=RecordedCommand)
@click.option("--metrics", type=Names(), metavar="NAME,NAME,...",
              help=f"Which of {', '.join(METRICS)}. [all that the clips and weights at hand allow]")
@click.option("--sort", "sort_by", type=click.Choice(list(FIGURES)),
              help="Figure to sort by, the best first. [the first]")
@click.option("--splits", type=click.IntRange(min=1), default=SPLITS, show_default=True, help="Splits of is.")
@click.option("--neighbours", "-k", type=click.IntRange(min=1), default=NEIGHBOURS, show_default=True,
              help="Nearest neighbours of prdc.")
@click.option("--grid-of", "grids", multiple=True, metavar="NAME=RxC[+PAD]",
              help="As --grid, for one of the sets; repeatable.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.md",
              help="Also write the tables as markdown.")
@judging_options(several=True)
def compare_methods(metrics, sort_by, splits, neighbours, grids, markdown, **options):
    """Compare several sets of samples: --samples NAME=DIR, once for each.

    Every figure has a 95 % interval, for a fresh set of as many samples against the same reference, and every pair of
    sets a two-sided test by the same standard errors, corrected after Holm for the number of pairs of that figure. In
    the first table * marks the best of a column and all that no test tells from it. Sets of different sizes are cut to
    the smallest, since most figures change with the number of samples. With --json a list of records is printed; each
    holds its pairs.
    """
    folders = parse_videos(options.pop("samples"), "--samples")
    if len(folders) < 2:
        raise InputError("a comparison needs two sets or more: --samples NAME=DIR, once for each")
    settings = {"splits": splits, "neighbours": neighbours}
    sources = _sources(folders, grids, options["grid"])
    references = {}
    comparisons = {name: {} for name in folders}
    counts = {name: comparison_for("fvd", {**options, **source}, comparisons[name], references).samples.count
              for name, source in sources.items()}
    if len(set(counts.values())) > 1:
        fewest = min(counts.values())
        note(f"sets of {', '.join(f'{count} ({name})' for name, count in counts.items())}: all are cut to {fewest}",
             options["quiet"])
        options["num_samples"] = fewest
        comparisons = {name: {} for name in folders}
    missing = {}
    methods = [
        _judge_method(name, {**options, **source}, comparisons[name], references, metrics, settings, missing)
        for name, source in sources.items()
    ]
    for text in missing:
        note(text, options["quiet"])
    figures = [figure for figure in FIGURES if all(figure in method.estimates for method in methods)]
    if sort_by is not None and sort_by not in figures:
        raise InputError(f"--sort {sort_by}: that figure could not be had for all sets; there are {', '.join(figures)}")
    methods = _sorted(methods, sort_by or figures[0])
    pairs = {figure: _pairs(methods, figure) for figure in figures}
    records = _with_pairs(methods, pairs)
    announce(records, options)
    if options["as_json"]:
        click.echo(json.dumps([record.to_dict() for record in records], ensure_ascii=False))
    else:
        click.echo(_text(methods, figures, pairs, aligned, "\n"))
    if markdown is not None and rank_and_size()[0] == 0:
        with atomic_file(markdown, "w") as file:
            file.write(_text(methods, figures, pairs, piped, "  \n") + "\n")
        note(f"tables: {markdown}", options["quiet"])
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


def _judge_method(name, options, known, references, metrics, settings, missing):
    """The Method of one set; what it lacks is put into `missing`, each text once for all sets."""
    records, estimates = {}, {}
    for metric in metrics or METRICS:
        try:
            comparison = comparison_for(metric, options, known, references)
            records[metric] = comparison.record(
                metric, _measure(metric, options, settings), higher_is_better=metric in HIGHER, unit=HIGHER.get(metric)
            )
            estimates |= _estimates(name, records[metric], comparison, options["seed"], settings)
        except InputError as error:
            if metrics or metric == "fvd":
                raise
            missing[f"no {metric}: {error}"] = None
    return Method(name=name, records=records, estimates=estimates)


def _measure(metric, options, settings):
    seed = options["seed"]
    return {
        "fvd": lambda x, y, protocol: fvd.measure(x, y, protocol, interval=True, seed=seed),
        "kvd": lambda x, y, protocol: kvd.measure(x, y, seed=seed),
        "prdc": lambda x, y, protocol: prdc.measure(x, y, settings["neighbours"]),
        "is": lambda x, y, protocol: inception_score.measure(x, settings["splits"], seed),
        "fid": fid.measure,
    }[metric]


def _estimates(name, record, comparison, seed, settings):
    """{figure: Estimate or value} of a record, by the jackknife over the set's own clips."""
    own, other, metric = comparison.samples, comparison.reference, record.metric
    values = {metric: record.value}
    if metric == "prdc":
        values = {entry["figure"]: entry["value"] for entry in record.details}
    statistics = {
        "kvd": lambda rows: [kernel_video_distance(own.features[rows], other.features)],
        "prdc": lambda rows: [getattr(_prdc(own.features[rows], other.features, settings), key) for key in values],
        "is": lambda rows: [score_of(own.probabilities[rows], settings["splits"], seed).mean],
    }
    try:
        if metric == "fvd":
            errors = [grouped_jackknife(own.features, other.moments, ddof=comparison.protocol.ddof,
                                        seed=seed).standard_error]
        elif metric in statistics:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said once by the figure itself
                errors = jackknife_errors(statistics[metric], own.count, seed=seed)
        else:
            return values
    except InputError:  # too few clips; the figure's own warning says so
        return values
    return {
        figure: Estimate(name=name, value=value, standard_error=float(error), groups=GROUPS)
        for (figure, value), error in zip(values.items(), errors, strict=True)
    }


def _prdc(samples, reference, settings):
    return prdc_of(samples, reference, settings["neighbours"])


def _value(method, figure):
    found = method.estimates[figure]
    return found.value if isinstance(found, Estimate) else found


def _sorted(methods, figure):
    return sorted(methods, key=lambda method: _value(method, figure), reverse=FIGURES[figure][1])


def _pairs(methods, figure):
    """Tests of all pairs, or none where a set has no standard error."""
    estimates = [method.estimates[figure] for method in methods]
    return compare_pairs(estimates) if all(isinstance(estimate, Estimate) for estimate in estimates) else []


def _with_pairs(methods, pairs):
    """All records, with intervals and what the tests of their figures said."""
    records = []
    for method in methods:
        for metric, record in method.records.items():
            own = [figure for figure, (owner, _, _) in FIGURES.items() if owner == metric and figure in pairs]
            tests = [{"figure": figure, **asdict(pair)} for figure in own for pair in pairs[figure]
                     if method.name in (pair.first, pair.second)]
            headline = method.estimates.get("coverage" if metric == "prdc" else metric)
            if record.ci95 is None and isinstance(headline, Estimate):
                record = replace(record, ci95=headline.interval(*FIGURES[own[0]][2]))
            records.append(replace(record, extra={**record.extra, "name": method.name, "pairs": tests}))
    return records


def _text(methods, figures, pairs, table, line_end):
    """Both tables and the notes below them, by the function that draws a table."""
    first = methods[0].records
    header = ["", *(_heading(first, figure) for figure in figures)]
    rows = [[method.name, *(_cell(method, methods, figure, pairs[figure]) for figure in figures)] for method in methods]
    tested = [[figure, f"{pair.first} - {pair.second}", format_value(pair.difference),
               "[{}, {}]".format(*map(format_value, pair.ci95)), f"{pair.p_value:.2g}", f"{pair.adjusted:.2g}",
               _verdict(pair, figure)] for figure in figures for pair in pairs[figure]]
    parts = [table(header, rows, header[1:])]
    if tested:
        names = ["figure", "pair", "difference", "95 %", "p", "p (Holm)", "better"]
        parts.append(table(names, tested, names[2:6]))
    return "\n\n".join(part.rstrip("\n") for part in [*parts, line_end.join(_notes(methods, figures, pairs))])


def _heading(records, figure):
    record = records[FIGURES[figure][0]]
    return metric_label(replace(record, metric=figure)) + (" (higher)" if FIGURES[figure][1] else " (lower)")


def _cell(method, methods, figure, pairs):
    found = method.estimates[figure]
    best = _sorted(methods, figure)[0].name
    told_apart = {frozenset((pair.first, pair.second)) for pair in pairs if pair.significant}
    mark = " *" if pairs and frozenset((method.name, best)) not in told_apart else ""
    if not isinstance(found, Estimate):
        return format_value(found)
    low, high = found.interval(*FIGURES[figure][2])
    return f"{format_value(found.value)} [{format_value(low)}, {format_value(high)}]{mark}"


def _verdict(pair, figure):
    if not pair.significant:
        return "open"
    return pair.first if (pair.difference > 0) == FIGURES[figure][1] else pair.second


def _notes(methods, figures, pairs):
    records = [record for method in methods for record in method.records.values()]
    counts = " and ".join(map(str, sorted({record.num_samples for record in records})))
    yield f"{counts} samples of each set; protocol {', '.join(sorted({protocol_label(record) for record in records}))}."
    if any(pairs.values()):
        yield "* the best, or not told from it by the tests; open: the difference may be chance (5 %, Holm)."
    if bare := [figure for figure in figures if not pairs[figure]]:
        yield f"No tests of {', '.join(bare)}: there is no standard error, for lack of clips or of clips' own features."
    yield from dict.fromkeys(text for record in records for _, text in remarks(record))
