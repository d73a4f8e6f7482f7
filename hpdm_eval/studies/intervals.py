"""How honest the intervals are: coverage on Gaussians whose distance is known, as a table.

    python -m hpdm_eval.studies.intervals --out reports/intervals.md

Reference features are N(0, S) with variances 1, 1/2, 1/3, ... along random axes. Samples are N(m, S') with variances
10 % larger and a small m: a "near" model shares the axes, and nearly all of its figure is sampling bias; a "far" one
has axes of its own. The interval of the figure is judged by how often it covers the mean figure over fresh samples,
the corrected one by how often it covers the true distance.

Shapes: N samples, M reference clips, D feature dimensions.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from hpdm.console import Command, note, progress
from hpdm.files import atomic_file
from hpdm_eval.metrics.frechet import Moments
from hpdm_eval.metrics.uncertainty import (
    Target,
    extrapolate,
    fewest_for_correction,
    fewest_for_extrapolation,
    fresh_spread,
    grouped_jackknife,
    subset_distances,
)

BOOTSTRAPS = 100
EXTRAPOLATED = 20  # replicates in which the slower extrapolation is made too


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row of the table; `bootstrap` adds the percentile bootstrap for comparison."""

    dimension: int
    samples: int
    reference: int
    model: str = "near"
    over: str = "samples"
    replicates: int = 300
    bootstrap: bool = False


SCENARIOS = (
    Scenario(dimension=64, samples=48, reference=2000),
    Scenario(dimension=64, samples=64, reference=2000),
    Scenario(dimension=64, samples=128, reference=2000),
    Scenario(dimension=64, samples=320, reference=2000, bootstrap=True),
    Scenario(dimension=64, samples=1024, reference=2000),
    Scenario(dimension=64, samples=64, reference=2000, model="far"),
    Scenario(dimension=64, samples=320, reference=2000, model="far", bootstrap=True),
    Scenario(dimension=64, samples=1024, reference=2000, over="both"),
    Scenario(dimension=64, samples=1024, reference=2000, over="both", model="far"),
    Scenario(dimension=128, samples=256, reference=2000, replicates=200),
    Scenario(dimension=128, samples=640, reference=2000, replicates=200),
    Scenario(dimension=400, samples=512, reference=4000, replicates=60),
    Scenario(dimension=400, samples=2048, reference=4000, replicates=60),
    Scenario(dimension=400, samples=2048, reference=4000, replicates=60, model="far"),
    Scenario(dimension=400, samples=2048, reference=2048, over="both", replicates=60),
)

COLUMNS = ("D", "N", "M", "model", "over", "true", "mean figure", "mean corrected", "mean FVD-infinity", "spread",
           "mean error", "covers mean figure", "corrected covers true", "bootstrap covers true", "spread of fvd@N/4",
           "estimated by subsets", "replicates")


class Population:
    """A Gaussian to draw features from."""

    def __init__(self, axes, scale=1.0, shift=0.0):
        variances = scale / np.arange(1, len(axes) + 1)
        self.mean = np.full(len(axes), shift)
        self.factor = np.sqrt(variances)[:, None] * axes.T

    def draw(self, rng, count):
        """Features float64 [count, D]."""
        return rng.normal(size=(count, len(self.mean))) @ self.factor + self.mean

    def moments(self):
        """The population's own `Moments`, with an arbitrary count."""
        return Moments.from_arrays(self.mean, self.factor.T @ self.factor, 2)


def simulate(scenario, seed=0, quiet=False):
    """One row of the table as {column: number or None}; deterministic in (scenario, seed)."""
    s, rng = scenario, np.random.default_rng(seed)
    axes, others = (np.linalg.qr(rng.normal(size=(s.dimension, s.dimension)))[0] for _ in range(2))
    real = Population(axes)
    fake = Population(others if s.model == "far" else axes, scale=1.1, shift=0.02)
    fixed = Moments.of(real.draw(rng, s.reference))
    truth = Target(real.moments() if s.over == "both" else fixed).distance(fake.moments())
    values, errors, halves, corrected, infinite, small, estimated, bootstrapped = ([] for _ in range(8))
    for replicate in progress(range(s.replicates), description=f"D {s.dimension} N {s.samples}", quiet=quiet):
        samples = fake.draw(rng, s.samples)
        reference = real.draw(rng, s.reference) if s.over == "both" else fixed
        jackknife = grouped_jackknife(samples, reference, over=s.over, seed=replicate)
        values.append(jackknife.value)
        errors.append(jackknife.standard_error)
        halves.append(jackknife.half_width())
        corrected.append(jackknife.corrected)
        if s.over == "both":
            continue
        size = s.samples // 4
        subsets = subset_distances(samples, fixed, size, seed=replicate)
        small.append(subsets[0])  # one subset of each replicate is a fresh set of this size
        estimated.append(fresh_spread(subsets, size, s.samples))
        if s.samples >= fewest_for_extrapolation(s.dimension) and replicate < EXTRAPOLATED:
            infinite.append(extrapolate(samples, fixed, seed=replicate).value)
        if s.bootstrap:
            bootstrapped.append(_bootstrap_covers(rng, samples, fixed, truth))
    values, halves, corrected = map(np.array, (values, halves, corrected))
    return dict(zip(COLUMNS, (
        s.dimension, s.samples, s.reference, s.model, s.over, truth, values.mean(), corrected.mean(), _mean(infinite),
        values.std(ddof=1), np.mean(errors),
        np.mean(np.abs(values - values.mean()) <= halves), np.mean(np.abs(corrected - truth) <= halves),
        _mean(bootstrapped), np.std(small, ddof=1) if small else None, _mean(estimated), s.replicates,
    )))


def _bootstrap_covers(rng, samples, reference, truth):
    target = Target(reference)
    drawn = (rng.integers(len(samples), size=len(samples)) for _ in range(BOOTSTRAPS))
    low, high = np.quantile([target.distance(Moments.of(samples[rows])) for rows in drawn], [0.025, 0.975])
    return float(low <= truth <= high)


def _mean(values):
    return float(np.mean(values)) if values else None


@click.command(cls=Command)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Markdown file to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes every random choice.")
@click.option("--quiet", is_flag=True, help="No progress bars and no notes on stderr.")
def main(out, seed, quiet):
    """Simulate all scenarios and write their table; about five minutes on one core."""
    rows = [simulate(scenario, seed, quiet) for scenario in SCENARIOS]
    lines = ["# Coverage of the 95 % intervals of the Fréchet distance, on Gaussians", "",
             f"Made by `python -m hpdm_eval.studies.intervals --seed {seed}`. D features, N samples, M reference "
             "clips. `spread` is the standard deviation of the figure over the replicates, `mean error` the mean of "
             "the jackknife's standard errors. Over `samples` the reference is fixed and true means endlessly many "
             "samples against it; over `both` it is drawn anew, and true means endlessly many of both. A coverage of "
             "95 % has a standard error of 1.3 points over 300 replicates, 2.8 over 60.", "", _summary(rows), "",
             "| " + " | ".join(COLUMNS) + " |", "|" + "---:|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cell(name, row[name]) for name in COLUMNS) + " |" for row in rows]
    with atomic_file(out, "w") as file:
        file.write("\n".join(lines) + "\n")
    note(f"{out}: {len(rows)} scenarios", quiet)


def _summary(rows):
    figure = [row["covers mean figure"] for row in rows]
    enough = [row["corrected covers true"] for row in rows if row["N"] >= fewest_for_correction(row["D"])]
    fewer = [row["corrected covers true"] for row in rows if row["N"] < fewest_for_correction(row["D"])]
    bootstrap = [row["bootstrap covers true"] for row in rows if row["bootstrap covers true"] is not None]
    shares = [f"{100 * min(part):.0f} to {100 * max(part):.0f} %" for part in (figure, enough, fewer, bootstrap)]
    return (f"The interval of the figure covers its mean in {shares[0]} of replicates. The corrected one covers "
            f"the true distance in {shares[1]} from 5 D samples up, and in {shares[2]} with fewer, where the command "
            f"withholds it. A percentile bootstrap covers the true distance in {shares[3]}.")


def _cell(name, value):
    if value is None:
        return "-"
    if "covers" in name:
        return f"{100 * value:.0f} %"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
