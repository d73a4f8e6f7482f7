"""`hpdm-eval fvd`: Fréchet video distance, how sure it is, and how it depends on the number of samples."""

import re
import warnings

import click

from hpdm.errors import InputError
from hpdm_eval.judge import judge, judging_options
from hpdm_eval.metrics import uncertainty
from hpdm_eval.metrics.frechet import SVD_ROOTS, frechet_distance
from hpdm_eval.records import RecordedCommand
from hpdm_eval.tables import aligned, format_value


class Sizes(click.ParamType):
    """Comma-separated numbers of samples, ascending and each once."""

    name = "N,N,..."

    def convert(self, value, parameter, context):
        if isinstance(value, tuple):
            return value
        if not re.fullmatch("[0-9]+(,[0-9]+)*", value) or min(sizes := set(map(int, value.split(",")))) < 2:
            self.fail(f"{value!r}: write numbers of samples from 2 up, such as 256,512,2048", parameter, context)
        return tuple(sorted(sizes))


@click.command(cls=RecordedCommand)
@click.option("--at", type=Sizes(), default=(), metavar="N,N,...",
              help="Also the distance of random subsets of so many samples: mean and spread.")
@click.option("--interval/--no-interval", default=True, show_default=True,
              help="95 % interval and standard error by a grouped jackknife.")
@click.option("--interval-over", "over", type=click.Choice(["samples", "both"]), default="samples", show_default=True,
              help="What is thought to be drawn anew: the samples against this reference, or both.")
@click.option("--extrapolate", is_flag=True, help="Also FVD-infinity, the distance of endlessly many samples.")
@judging_options()
def fvd(at, interval, over, extrapolate, **options):
    """Fréchet video distance of samples from real clips: lower is better, 0 for identical sets.

    The figure depends on how clips are cut, resized and counted and on the network, so it is printed with the
    protocol's name and hash and the network's name, and compares only to figures that share them.

    The interval says where the mean figure of fresh samples lies, as many as these; in simulations it holds it in 92
    to 100 % of cases. It is not about the distance of endlessly many samples, which is lower: `corrected` estimates
    that from the same replicates, where there are samples enough.
    """
    def measure_all(samples, reference, protocol):
        return measure(samples, reference, protocol, at=at, interval=interval, over=over, extrapolate=extrapolate,
                       seed=options["seed"])

    record = judge("fvd", measure_all, options, higher_is_better=False)
    if record.details and not options["as_json"]:
        click.echo("\n" + details_table(record.details))
    return record


def measure(samples, reference, protocol, *, at=(), interval=False, over="samples", extrapolate=False, seed=0):
    """The distance of two `Side`s under a protocol's ddof and square root, and what was asked for beside it.

    What too few samples make impossible is left out with a warning that says so.
    """
    value = frechet_distance(samples.distribution, reference.distribution, ddof=protocol.ddof, root=protocol.root)
    settings = {"at": list(at), "extrapolate": extrapolate} | ({"interval_over": over} if interval else {})
    figures, details = {"value": value, "settings": settings}, []
    common = {"ddof": protocol.ddof, "seed": seed}
    if interval:
        figures["ci95"] = _attempt("no interval", _interval, samples, reference, value, over, details, common)
    for size in at:
        _attempt(f"no fvd@{size}", _at, samples, reference, size, details, protocol, seed)
    if extrapolate:
        _attempt("no FVD-infinity", _infinity, samples, reference, details, common)
    return {**figures, "details": tuple(details)}


def details_table(details):
    """The figures beside the headline as text; an entry has `figure`, `value` and what else its kind knows."""
    rows = []
    for entry in details:
        rest = {key: number for key, number in entry.items() if key not in ("figure", "value") and number is not None}
        rows.append([entry["figure"], format_value(entry["value"]),
                     ", ".join(f"{key.replace('_', ' ')} {_text(number)}" for key, number in rest.items())])
    return aligned(["figure", "value", ""], rows, right=("value",))


def subset_figure(samples, reference, size, protocol, seed=0):
    """{"figure": "fvd@SIZE", "value": mean, "spread", "fresh_spread", "draws"} of two `Side`s under a protocol."""
    draws = uncertainty.DRAWS if size < samples.count else 1
    # single precision rounds moments and features differently
    other = reference.distribution if protocol.root in SVD_ROOTS else reference.moments
    distances = uncertainty.subset_distances(samples.features, other, size, draws=draws, ddof=protocol.ddof,
                                             root=protocol.root, seed=seed)
    return {
        "figure": f"fvd@{size}",
        "value": float(distances.mean()),
        "spread": float(distances.std(ddof=1)) if draws > 1 else None,
        "fresh_spread": uncertainty.fresh_spread(distances, size, samples.count),
        "draws": draws,
    }


def _interval(samples, reference, value, over, details, common):
    other = reference.moments if over == "samples" else reference.distribution
    jackknife = uncertainty.grouped_jackknife(samples.features, other, over=over, **common)
    half = jackknife.half_width()
    details.append({"figure": "standard error", "value": jackknife.standard_error, "groups": jackknife.groups,
                    "over": over})
    dimension = samples.moments.dimension
    needed = uncertainty.fewest_for_correction(dimension)
    varied = samples.count if over == "samples" else min(samples.count, reference.count)
    if varied >= needed:
        corrected = value - jackknife.bias
        details.append({"figure": "corrected", "value": corrected, "bias": jackknife.bias,
                        "ci95": [corrected - half, corrected + half]})
    else:
        warnings.warn(f"no bias-corrected value: it needs {needed} clips for {dimension} features, there are {varied}")
    # single-precision roots of legacy numerics can be negative themselves
    return min(max(value - half, 0.0), value), value + half


def _at(samples, reference, size, details, protocol, seed):
    details.append(subset_figure(samples, reference, size, protocol, seed))


def _infinity(samples, reference, details, common):
    line = uncertainty.extrapolate(samples.features, reference.moments, **common)
    details.append({"figure": "fvd-infinity", "value": line.value, "r2": line.r2, "residual": line.residual,
                    "curvature": line.curvature, "points": len(line.sizes), "smallest": line.sizes[0]})


def _attempt(what, function, *arguments):
    try:
        return function(*arguments)
    except InputError as error:
        warnings.warn(f"{what}: {error}")
        return None


def _text(number):
    if isinstance(number, list):
        return "[" + ", ".join(map(format_value, number)) + "]"
    return format_value(number) if isinstance(number, float) else str(number)
