"""What a tier of the ablations consists of: which variants, and which trainings and samples they share.

Variants stand in `studies.yaml`, the numbers of each tier in `tiers.yaml`. A variant of a repeat is judged on a sample
set; a sample set belongs to a training run. Both are found by their resolved settings, so what two variants have in
common is made once, and each is named after the first variant in the file that needs it, whichever are chosen.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from baselines.budget import fit_budget, training_cost
from hpdm.config import Config, config_to_dict, load_config, override_config
from hpdm.config.variants import with_levels, without_adaptive_computation
from hpdm.data.loader import PROCEDURAL
from hpdm.methods import make_method, method_class
from hpdm.sampling.request import NOISE_RANGE
from hpdm.support.errors import InputError
from hpdm.support.fields import build
from hpdm_eval.studies.ablations.tiers import read_settings

MEASURES = (
    "fvd",
    "accuracy",
    "is",
    "seams",
    "pyramid",
    "psnr",
    "throughput",
    "parameters",
    "flops",
    "compute",
    "memory",
    "sampling",
    "denoising",
    "positions",
    "detail",
)
AGAINST_CLIPS = ("positions", "detail")  # take real clips as files, not their statistics alone
TIMED = ("throughput", "memory", "sampling")  # in one run for all variants
LEVELS = ("all", "tiled", "finest")
CLIPS = ("whole", "short")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a study; see the head of studies.yaml."""

    study: str
    name: str
    set: tuple[str, ...] = ()
    levels: int | None = None
    adaptive: bool = True
    clip: str = "whole"
    real: bool = False
    method: str | None = None
    batch: float | None = None
    budget: float | None = None
    needs: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.study}.{self.name}"

    def configure(self, base: Config) -> Config:
        """The tier's configuration as this variant changes it."""
        config = base if self.levels is None else with_levels(base, self.levels)
        if not self.adaptive:
            config = without_adaptive_computation(config)
        if self.method is not None:
            config = method_class(self.method).configure(config)
        config = override_config(config, self.set)
        if self.batch is not None:
            clips = max(1, round(self.batch * base.training.batch))
            config = dataclasses.replace(config, training=dataclasses.replace(config.training, batch=clips))
        return config if self.budget is None else _with_budget(config, base, self.budget)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table: what is measured of which variants."""

    name: str
    measures: tuple[str, ...]
    levels: str
    variants: tuple[Variant, ...]
    counts: bool = False
    checkpoints: bool = False


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The numbers of a tier; see the head of tiers.yaml."""

    name: str
    size: str
    data: str
    set: tuple[str, ...]
    repeats: int
    samples: int
    reference: int | None
    counts: tuple[int, ...]
    checkpoints: int
    short_clip: int
    backbone: str
    format: str
    rounds: int
    jobs: int
    omit: tuple[str, ...]

    def base(self) -> Config:
        """The configuration that variants start from."""
        config = load_config(self.size, [f"data.path={json.dumps(self.data)}", "training.sheet_every=0", *self.set])
        steps = config.training.steps
        if steps % self.checkpoints:
            raise InputError(f"tier {self.name}: {steps} steps do not divide into {self.checkpoints} checkpoints")
        return override_config(config, [f"training.checkpoint_every={steps // self.checkpoints}", "training.keep=1"])


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run; `config` has its seed."""

    name: str
    repeat: int
    config: Config
    steps: tuple[int, ...]  # checkpoints that are needed, the last one included
    needs: "Run | None" = None  # run of the autoencoder that this one takes over


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Samples of one checkpoint of a run, or real clips where there is no run."""

    name: str
    repeat: int
    config: Config  # with the settings to sample with
    run: Run | None
    step: int | None
    count: int

    @property
    def reconstructed(self) -> bool:
        """Whether these are real clips that went through the run's network, which makes none by itself."""
        return self.run is not None and not make_method(self.run.config).makes_videos


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A variant of a repeat on one sample set: some of its figures."""

    study: Study
    variant: Variant
    repeat: int
    samples: SampleSet
    levels: tuple[int, ...]  # of the sample set's own pyramid
    counts: tuple[int, ...]

    @property
    def name(self) -> str:
        at = f"-step{self.samples.step}" if self.study.checkpoints else ""
        return f"{self.variant.full_name}{at}-r{self.repeat}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the chosen variants of a tier need, in the order to do it: whole repeats one after the other."""

    tier: Tier
    base: Config
    judgements: tuple[Judgement, ...]

    @property
    def runs(self) -> list[Run]:
        """Each once, behind the one that it needs."""
        runs = [judgement.samples.run for judgement in self.judgements if judgement.samples.run]
        return _unique(each for run in runs for each in (run.needs, run) if each)

    @property
    def sample_sets(self) -> list[SampleSet]:
        """Each once, with the largest of the counts that are asked for."""
        sets = {}
        for judgement in self.judgements:
            samples = judgement.samples
            known = sets.get((samples.name, samples.repeat))
            if known is None or known.count < samples.count:
                sets[samples.name, samples.repeat] = samples
        return list(sets.values())

    @property
    def studies(self) -> list[Study]:
        return _unique(judgement.study for judgement in self.judgements)

    def variants(self, study: Study) -> list[tuple[Variant, Config]]:
        """The chosen variants of a study that are trained, with their configurations."""
        configs = {j.variant: j.samples.config for j in self.judgements if j.study == study and j.samples.run}
        return list(configs.items())


def load_studies() -> list[Study]:
    """The studies of studies.yaml; raises InputError where one is not as its head says."""
    studies = []
    for name, values in read_settings("studies.yaml").items():
        variants = tuple(
            build(Variant, {"study": name, "name": str(key), **entry}, f"studies.yaml: {name}.{key}")
            for key, entry in values.pop("variants").items()
        )
        study = build(Study, {"name": name, "variants": variants, **values}, f"studies.yaml: {name}")
        unknown = set(study.measures) - set(MEASURES)
        if unknown or study.levels not in LEVELS or any(variant.clip not in CLIPS for variant in variants):
            raise InputError(f"studies.yaml: {name} has unknown measures, levels or clips")
        studies.append(study)
    return studies


def load_tier(name: str) -> Tier:
    """A tier of tiers.yaml; raises InputError for an unknown one."""
    tiers = read_settings("tiers.yaml")
    if name not in tiers:
        raise InputError(f"unknown tier {name!r}; choose one of {', '.join(tiers)}")
    return build(Tier, {"name": name, **tiers[name]}, f"tiers.yaml: {name}")


def make_plan(tier: Tier, only: Sequence[str] = (), repeats: int | None = None, first: int = 0) -> Plan:
    """The plan of a tier, or of the studies and variants ("table3", "table3.deep") in `only`.

    A repeat is named after its seed: `first`, `first` + 1, and so on. Without `only`, all but what the tier omits.
    Raises InputError for unknown names, and for settings that contradict each other.
    """
    base, studies = tier.base(), load_studies()
    known = {variant.full_name for study in studies for variant in study.variants}
    for name in (*only, *tier.omit):
        if name not in known | {study.name for study in studies}:
            raise InputError(
                f"unknown study or variant {name!r}; there are "
                f"{', '.join(study.name for study in studies)}, and variants such as table3.deep"
            )

    def chosen(variant):
        if variant.full_name in only:
            return True
        return (variant.study in only or not only) and variant.full_name not in tier.omit

    # A budget takes seconds to fit, and what has one shares with nothing that has none.
    budgets = any(variant.budget is not None and chosen(variant) for study in studies for variant in study.variants)
    judgements = []
    for repeat in range(first, first + (repeats or tier.repeats)):
        everything = _Sharing(tier, base, studies, repeat, budgets)
        judgements += [judgement for judgement in everything.judgements if chosen(judgement.variant)]
    return Plan(tier=tier, base=base, judgements=tuple(judgements))


class _Sharing:
    """All judgements of one repeat, with the runs and sample sets that they share.

    Without `budgets` those of variants that have one are left out.
    """

    def __init__(self, tier, base, studies, repeat, budgets):
        self.tier, self.base, self.repeat = tier, base, repeat
        self._runs, self._sets, self._of_variant = {}, {}, {}
        kept = set()  # runs whose earlier checkpoints are needed
        configured = [
            (study, variant, override_config(variant.configure(base), [f"training.seed={repeat}"]))
            for study in studies
            for variant in study.variants
            if (not variant.real or tier.data == PROCEDURAL)  # elsewhere the reference takes all clips there are
            and (budgets or variant.budget is None)
        ]
        for study, _, config in configured:
            if study.checkpoints:
                kept.add(_training_key(config))
        self.judgements = []
        for study, variant, config in configured:
            every = self.base.training.checkpoint_every
            last = config.training.steps
            run = None if variant.real else self._run(variant, config, _training_key(config) in kept)
            self._of_variant[variant.full_name] = run
            count = max(tier.samples, *tier.counts) if study.counts else tier.samples
            for step in range(every, last + 1, every) if study.checkpoints else [last]:
                samples = self._samples(variant, config, run, step, count)
                self.judgements.append(
                    Judgement(
                        study=study,
                        variant=variant,
                        repeat=repeat,
                        samples=samples,
                        levels=_judged_levels(study.levels, config.pyramid.levels),
                        counts=tier.counts if study.counts else (tier.samples,),
                    )
                )

    def _run(self, variant, config, keep):
        key = _training_key(config)
        if key not in self._runs:
            every, last = config.training.checkpoint_every, config.training.steps
            steps = tuple(range(every, last + 1, every)) if keep else (last,)
            config = override_config(config, [f"training.keep={len(steps)}"])
            needs = self._of_variant[f"{variant.study}.{variant.needs}"] if variant.needs else None
            self._runs[key] = Run(name=variant.full_name, repeat=self.repeat, config=config, steps=steps, needs=needs)
        return self._runs[key]

    def _samples(self, variant, config, run, step, count):
        if run is None:
            key, step = "real", None
        else:
            values = config_to_dict(config)
            walk = [values["diffusion"][name] for name in NOISE_RANGE]
            key = json.dumps([run.name, step, values["sampling"], walk], sort_keys=True)
        if key not in self._sets:
            at = "" if step in (None, config.training.steps) else f"-step{step}"
            self._sets[key] = SampleSet(
                name=variant.full_name + at, repeat=self.repeat, config=config, run=run, step=step, count=count
            )
        return dataclasses.replace(self._sets[key], count=count)


@lru_cache(maxsize=64)
def _with_budget(config, base, share):
    """`config` with steps for `share` of the compute that the tier's own configuration trains with."""
    return fit_budget(config, share * training_cost(base))


def _judged_levels(which, levels):
    finest = levels - 1
    return {"all": tuple(range(levels)), "tiled": tuple(range(1, levels)), "finest": (finest,)}[which]


def _training_key(config):
    """What tells trainings apart: everything but how one samples."""
    return json.dumps(trained_settings(config), sort_keys=True)


def trained_settings(config: Config) -> dict:
    """The settings of a configuration as `config_to_dict` gives them, without those that only sampling reads."""
    values = config_to_dict(config)
    del values["sampling"]
    values["diffusion"] = {key: value for key, value in values["diffusion"].items() if key not in NOISE_RANGE}
    return values


def _unique(items):
    unique = []
    for item in items:
        if item not in unique:
            unique.append(item)
    return unique
