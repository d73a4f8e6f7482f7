"""Coverage of the intervals, on features whose distance is known and on dead tokens of real clips, as tables.

    python -m hpdm_eval.studies.validation.intervals --out reports/intervals.md

Reference features have variances 1, 1/2, 1/3, ... along random axes. Samples have variances 10 % larger and a small
shift: a "near" model shares the axes, and nearly all of its figure is sampling bias; a "same" one is the reference's
own distribution, at a distance of 0; a "far" one has axes of its own. The features are Gaussian, or of the same
covariance and otherwise: with Student's t of four degrees of freedom along every axis (t4) or of whole clips (t4 clips,
the multivariate t), Gaussian with 2 % of clips five times as far from the mean, or in clusters of five that share 60 %
of their variance, as clips cut from one video do. The interval of the figure is judged by how often it covers the mean
figure of other samples, the corrected one by how often it covers the true distance.

Shapes: N samples, M reference clips, D feature dimensions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from hpdm.support.console import Command
from hpdm.support.files import atomic_file
from hpdm.support.progress import note, progress
from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.dead_tokens import cluster_rate, rate_interval
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
OUTLIERS, FURTHER = 0.02, 5.0
CLUSTER, SHARED = 5, 0.6


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row of the table; `bootstrap` adds the percentile bootstrap for comparison.

    over: "samples" keeps one reference for all replicates, "both" draws it again in each. features: gaussian, t4,
    t4 clips, outliers or clusters, of samples and reference alike. grouped: whether the jackknife knows the clusters.
    """

    dimension: int
    samples: int
    reference: int
    model: str = "near"
    over: str = "samples"
    features: str = "gaussian"
    grouped: bool = False
    replicates: int = 200
    bootstrap: bool = False


SCENARIOS = (
    Scenario(dimension=64, samples=48, reference=2000),
    Scenario(dimension=64, samples=64, reference=2000),
    Scenario(dimension=64, samples=128, reference=2000),
    Scenario(dimension=64, samples=320, reference=2000, bootstrap=True),
    Scenario(dimension=64, samples=1024, reference=2000),
    Scenario(dimension=64, samples=64, reference=2000, model="far"),
    Scenario(dimension=64, samples=320, reference=2000, model="far", bootstrap=True),
    Scenario(dimension=64, samples=1024, reference=1024, over="both", model="same"),
    Scenario(dimension=64, samples=1024, reference=2000, over="both"),
    Scenario(dimension=64, samples=1024, reference=2000, over="both", model="far"),
    Scenario(dimension=128, samples=256, reference=2000, replicates=100),
    Scenario(dimension=128, samples=640, reference=2000, replicates=100),
    Scenario(dimension=400, samples=512, reference=4000, replicates=40),
    Scenario(dimension=400, samples=2048, reference=4000, replicates=40),
    Scenario(dimension=400, samples=2048, reference=4000, replicates=40, model="far"),
    Scenario(dimension=400, samples=2048, reference=2048, over="both", model="same", replicates=20),
    *(
        Scenario(dimension=64, samples=samples, reference=2000, features=features)
        for features in ("t4", "t4 clips", "outliers")
        for samples in (64, 320, 1024)
    ),
    *(
        Scenario(dimension=64, samples=1024, reference=2000, over="both", features=features)
        for features in ("t4", "t4 clips", "outliers")
    ),
    *(
        Scenario(dimension=64, samples=samples, reference=2000, features="clusters", grouped=grouped)
        for samples in (320, 1024)
        for grouped in (False, True)
    ),
    *(
        Scenario(dimension=64, samples=1024, reference=2000, over="both", features="clusters", grouped=grouped)
        for grouped in (False, True)
    ),
)

COLUMNS = (
    "D",
    "N",
    "M",
    "model",
    "features",
    "over",
    "true",
    "mean figure",
    "mean corrected",
    "mean FVD-infinity",
    "spread",
    "mean error",
    "covers mean figure",
    "corrected covers true",
    "bootstrap covers true",
    "spread of fvd@N/4",
    "estimated by subsets",
    "replicates",
)


class Population:
    """A distribution to draw features from: `features` as in `Scenario`, all of the same mean and covariance."""

    def __init__(self, axes: np.ndarray, scale: float = 1.0, shift: float = 0.0, features: str = "gaussian") -> None:
        variances = scale / np.arange(1, len(axes) + 1)
        self.mean = np.full(len(axes), shift)
        self.factor = np.sqrt(variances)[:, None] * axes.T
        self.features = features

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Features float64 [count, D]; clusters of `CLUSTER` follow each other."""
        noise = rng.normal(size=(count, len(self.mean)))
        if self.features == "t4":
            noise = rng.standard_t(4, size=noise.shape) / np.sqrt(2)  # whose variance is 4 / (4 - 2)
        elif self.features == "t4 clips":
            noise *= np.sqrt(2 / rng.chisquare(4, size=(count, 1)))
        elif self.features == "outliers":
            far = rng.random((count, 1)) < OUTLIERS
            noise *= np.where(far, FURTHER, 1.0) / np.sqrt(1 + OUTLIERS * (FURTHER**2 - 1))
        elif self.features == "clusters":
            common = rng.normal(size=(-(-count // CLUSTER), len(self.mean))).repeat(CLUSTER, axis=0)[:count]
            noise = np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * noise
        return noise @ self.factor + self.mean

    def moments(self) -> Moments:
        """The population's own `Moments`, with an arbitrary count."""
        return Moments.from_arrays(self.mean, self.factor.T @ self.factor, 2)


def simulate(scenario: Scenario, seed: int = 0, quiet: bool = False) -> dict[str, Any]:
    """One row of the table as {column: number or None}; deterministic in (scenario, seed)."""
    s, rng = scenario, np.random.default_rng(seed)
    axes, others = (np.linalg.qr(rng.normal(size=(s.dimension, s.dimension)))[0] for _ in range(2))
    real = Population(axes, features=s.features)
    fake = (
        real
        if s.model == "same"
        else Population(others if s.model == "far" else axes, scale=1.1, shift=0.02, features=s.features)
    )
    fixed = Moments.of(real.draw(rng, s.reference))
    truth = Target(real.moments() if s.over == "both" else fixed).distance(fake.moments())
    sources, reference_sources = (_clusters(count) if s.grouped else None for count in (s.samples, s.reference))
    values, errors, halves, corrected, infinite, small, estimated, bootstrapped = ([] for _ in range(8))
    for replicate in progress(range(s.replicates), description=f"D {s.dimension} N {s.samples}", quiet=quiet):
        samples = fake.draw(rng, s.samples)
        reference = real.draw(rng, s.reference) if s.over == "both" else fixed
        jackknife = grouped_jackknife(
            samples, reference, over=s.over, seed=replicate, sources=sources, reference_sources=reference_sources
        )
        values.append(jackknife.value)
        errors.append(jackknife.standard_error)
        halves.append(jackknife.half_width())
        corrected.append(jackknife.corrected)
        if s.samples >= fewest_for_extrapolation(s.dimension) and replicate < EXTRAPOLATED // (s.dimension // 64):
            line = extrapolate(
                samples, reference, over=s.over, seed=replicate, sources=sources, reference_sources=reference_sources
            )
            infinite.append(line.value)
        if s.over == "both":
            continue
        size = s.samples // 4
        subsets = subset_distances(samples, fixed, size, seed=replicate)
        small.append(subsets[0])  # one subset of each replicate is an independent set of this size
        estimated.append(fresh_spread(subsets, size, s.samples))
        if s.bootstrap:
            bootstrapped.append(_bootstrap_covers(rng, samples, fixed, truth))
    figures, reaches, unbiased = map(np.array, (values, halves, corrected))
    return dict(
        zip(
            COLUMNS,
            (
                s.dimension,
                s.samples,
                s.reference,
                s.model,
                s.features + ", grouped" * s.grouped,
                s.over,
                truth,
                figures.mean(),
                unbiased.mean(),
                _mean(infinite),
                figures.std(ddof=1),
                np.mean(errors),
                np.mean(np.abs(figures - figures.mean()) <= reaches),
                np.mean(np.abs(unbiased - truth) <= reaches),
                _mean(bootstrapped),
                np.std(small, ddof=1) if small else None,
                _mean(estimated),
                s.replicates,
            ),
        )
    )


def _clusters(count: int) -> list[str]:
    """The cluster of each of `count` features that `Population.draw` made; names in the order of the clusters."""
    return [f"{feature // CLUSTER:06d}" for feature in range(count)]


# Dead tokens in 24 frames of each of 179 UCF-101 clips: {count: clips}; the others have none.
REAL_COUNTS = {1: 2, 3: 1, 4: 1, 6: 1, 8: 2}
JUDGED = 108_576  # tokens of such a clip that are judged
RATE_COLUMNS = ("clips", "model", "true per million", "mean interval", "covers", "covers, bootstrap", "without any")


def simulate_rates(clips: int, model: str, replicates: int = 2000, seed: int = 0) -> dict[str, Any]:
    """A row of the table of dead tokens: coverage of `rate_interval` over sets of `clips`.

    model: "real" draws clips from the 179 real ones, "poisson" counts of the same mean without clusters, "tenfold" ten
    times as many clips with a cluster.
    """
    rng = np.random.default_rng([seed, clips])
    population = np.concatenate(
        [np.repeat(list(REAL_COUNTS), list(REAL_COUNTS.values())), np.zeros(179 - sum(REAL_COUNTS.values()))]
    ).astype(int)
    if model == "tenfold":
        population = np.concatenate([np.repeat(population[population > 0], 10), np.zeros(109, int)])[:179]
    truth = 1e6 * population.mean() / JUDGED
    bounds, simple, none = [], [], 0
    for _ in range(replicates):
        counts = rng.poisson(population.mean(), clips) if model == "poisson" else rng.choice(population, clips)
        rates = 1e6 * counts / JUDGED
        bounds.append(rate_interval(rates, 1e6 * cluster_rate(JUDGED)))
        drawn = rng.choice(rates, (100, clips)).mean(axis=1)
        simple.append(np.quantile(drawn, [0.025, 0.975]))
        none += not counts.any()
    covers = [np.mean([low <= truth <= high for low, high in intervals]) for intervals in (bounds, simple)]
    return dict(
        zip(
            RATE_COLUMNS,
            (clips, model, truth, "[{:.2f}, {:.2f}]".format(*np.mean(bounds, axis=0)), *covers, none / replicates),
        )
    )


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
def main(out: Any, seed: int, quiet: bool) -> None:
    """Simulate all scenarios and write their tables; about ten minutes on one core."""
    rows = [simulate(scenario, seed, quiet) for scenario in SCENARIOS]
    rates = [
        simulate_rates(clips, model, seed=seed)
        for model in ("real", "poisson", "tenfold")
        for clips in (8, 16, 32, 64, 128)
    ]
    lines = [
        "# Coverage of the 95 % intervals",
        "",
        f"Made by `python -m hpdm_eval.studies.validation.intervals --seed {seed}`.",
        "",
        "## Fréchet distance",
        "",
        "D features, N samples, M reference clips. `spread` is the standard deviation of the figure over the "
        "replicates, `mean error` the mean of the jackknife's standard errors. Over `samples` one reference is "
        "kept, and true is the infinite-sample distance from it; over `both` each replicate has its own, and true "
        "is the distance of the populations. All features have the same mean and covariance: t4 is Student's t "
        "with four degrees of freedom along every axis, t4 clips the multivariate one, in which a clip is far "
        f"from the mean along all axes or none, outliers are {100 * OUTLIERS:g} % of clips {FURTHER:g} times as "
        f"far from the mean, clusters are of {CLUSTER} clips that share {100 * SHARED:g} % of their variance; "
        "grouped says that the jackknife deals them together (`--group-by`). A coverage of 95 % has a standard "
        "error of 1.5 points over 200 replicates, 3.4 over 40, 4.9 over 20.",
        "",
        *_summary(rows),
        "",
        *_table(COLUMNS, rows),
        "",
        "## Dead tokens",
        "",
        f"Counts of dead tokens in sets of clips of {JUDGED:,} judged tokens (24 frames of 320x240). `real` draws "
        f"from 179 UCF-101 clips, of which {sum(REAL_COUNTS.values())} have any ({_counts()}); poisson has the "
        "same mean without clusters; tenfold has ten times as many clips with one. `covers` is of the gamma "
        "interval that the command prints, `covers, bootstrap` of a percentile bootstrap over clips. Of a set "
        "without any dead token a bootstrap says [0, 0].",
        "",
        *_table(RATE_COLUMNS, rates),
    ]
    with atomic_file(out, "w") as file:
        file.write("\n".join(lines) + "\n")
    note(f"{out}: {len(rows) + len(rates)} scenarios", quiet)


def _summary(rows):
    """What holds where, a line each."""

    def shares(column, chosen):
        shares = sorted(round(100 * row[column]) for row in rows if chosen(row) and row[column] is not None)
        return f"{shares[0]} %" if shares[0] == shares[-1] else f"{shares[0]} to {shares[-1]} %"

    def enough(row):
        return row["N"] >= fewest_for_correction(row["D"])

    def of(*features):
        return lambda row: row["features"] in features

    def corrected_of(*features):
        return shares("corrected covers true", lambda row: row["features"] in features and enough(row))

    figure = "covers mean figure"
    fewer = shares("corrected covers true", lambda row: row["features"] == "gaussian" and not enough(row))
    yield (
        f"- Gaussian features: the interval of the figure covers in {shares(figure, of('gaussian'))}, the corrected "
        f"one in {corrected_of('gaussian')} from 5 D samples up and in {fewer} with fewer, where the command "
        "withholds it."
    )
    for name in ("t4", "t4 clips", "outliers"):
        yield (
            f"- {name}: {shares(figure, of(name))} and {corrected_of(name)}: few clips far from the mean decide the "
            "figure, and its interval is too short."
        )
    yield (
        f"- clusters: {shares(figure, of('clusters'))} and {corrected_of('clusters')} where every clip counts as a "
        f"draw of its own, {shares(figure, of('clusters, grouped'))} and {corrected_of('clusters, grouped')} where "
        "clusters are dealt together."
    )
    yield f"- A percentile bootstrap covers the true distance in {shares('bootstrap covers true', lambda row: True)}."


def _counts():
    return ", ".join(f"{clips} with {count}" for count, clips in sorted(REAL_COUNTS.items()))


def _table(columns, rows):
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---:|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(name, row[name]) for name in columns) + " |"


def _cell(name, value):
    if value is None:
        return "-"
    if "covers" in name or name == "without any":
        return f"{100 * value:.0f} %"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
