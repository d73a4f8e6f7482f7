"""The plan of the ablation studies: what their files say, what variants share, what other levels do to a network."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from baselines.budget import training_cost
from hpdm.config import config_to_dict, load_config
from hpdm.config.variants import with_levels, without_adaptive_computation
from hpdm.diffusion import DiffusionConfig
from hpdm.methods import make_method
from hpdm.support.errors import InputError
from hpdm.training.plan import count_flops
from hpdm_eval.studies.ablations import measure
from hpdm_eval.studies.ablations.cost import describe_cost, sampling_flops
from hpdm_eval.studies.ablations.measure import Records
from hpdm_eval.studies.ablations.plan import load_studies, load_tier, make_plan
from hpdm_eval.studies.ablations.tasks import sampling_cost
from hpdm_eval.studies.ablations.tiers import tier_names
from hpdm_eval.studies.ablations.work import duration

TIERS = ("smoke", "cpu", "nano", "gpu", "paper")


@pytest.fixture(scope="module")
def cpu():
    return make_plan(load_tier("cpu"))


def one_of(items, name, repeat=0):
    (found,) = [item for item in items if (item.name, item.repeat) == (name, repeat)]
    return found


def test_repeats_are_named_after_their_seeds():
    plan = make_plan(load_tier("cpu"), ["table3.deep", "table3.real"], 2, 5)
    assert [(run.repeat, run.config.training.seed) for run in plan.runs] == [(5, 5), (6, 6)]
    assert {samples.repeat for samples in plan.sample_sets} == {5, 6}


def test_every_repeat_is_judged_by_its_own_checkpoint(monkeypatch):
    plan = make_plan(load_tier("cpu"), ["branching.one"], 3)
    asked = []
    monkeypatch.setattr(
        measure, "denoising_records", lambda checkpoint: asked.append(checkpoint) or dict.fromkeys(range(3), checkpoint)
    )
    records = Records(Path("records"), "cpu", "command")
    judge = measure.Judge(
        plan, records, None, lambda run: None, "cpu", run_folder=lambda run: Path(run.name) / str(run.repeat)
    )
    seen = {}
    for judgement in plan.judgements:
        for file, (make, metric, _) in judge.wanted(judgement).items():
            if metric == "denoising":
                seen[file.name] = make(Path("samples"))
    levels, repeats = plan.base.pyramid.levels, {path.parent.name for path in seen.values()}
    assert len(seen) == 3 * levels and repeats == {"0", "1", "2"}
    for file, checkpoint in seen.items():
        assert f"-r{checkpoint.parent.name}-denoising" in file
    assert len(asked) == 3  # once for all levels


@pytest.mark.parametrize(
    "name", ["cpu", *(pytest.param(name, marks=pytest.mark.slow) for name in TIERS if name != "cpu")]
)
def test_every_variant_of_every_tier_is_a_network(name):
    """Configurations fit together, whatever the tier's numbers are, also of variants that the tier leaves out."""
    assert name in tier_names()
    tier = load_tier(name)
    plan = make_plan(tier, [study.name for study in load_studies()] + list(tier.omit), 1)
    assert plan.runs
    for run in plan.runs:
        with torch.device("meta"):
            make_method(run.config).make_network()
        assert run.config.training.steps in run.steps
        last, every = run.config.training.steps, run.config.training.checkpoint_every
        assert all(step % every == 0 or step == last for step in run.steps)
    for samples in plan.sample_sets:
        samples.config.sampling.level_steps(samples.config.pyramid.levels)
    finest = plan.base.pyramid.levels - 1
    videos = {make_method(samples.config).video_size for samples in plan.sample_sets}
    assert videos == {plan.base.pyramid.resolution(finest)}
    assert 0 < tier.short_clip < plan.base.pyramid.resolution(finest)[0]


def test_tiers_from_cpu_up_have_three_seeds():
    assert all(load_tier(name).repeats >= 3 for name in TIERS[1:])


def test_variants_that_train_alike_share_the_training(cpu):
    names = {run.name for run in cpu.runs}
    assert {"table3.deep", "table3.shallow", "shrinking.stride", "input-scale.double"} <= names
    shared = ("table4", "figure8", "table6", "sigma-context")
    assert not [name for name in names if name.split(".")[0] in shared]
    assert "input-scale.scale-sqrt-frames" not in names and "levels.3" not in names
    assert len({id(run) for run in cpu.runs}) == len(names) * 3


def test_sample_sets_are_shared_where_they_are_the_same(cpu):
    names = {samples.name for samples in cpu.sample_sets}
    assert not names & {"table4.hw", "sigma-context.0.1", "table6.whole", "table6.short", "figure8.deep"}
    assert {"table4.none", "sigma-context.0.2", "figure8.deep-step250"} <= names
    early = one_of(cpu.sample_sets, "figure8.deep-step250")
    assert early.run.name == "table3.deep" and early.step == 250 and 250 in early.run.steps


def test_another_range_of_noise_to_sample_over_shares_the_training_and_not_the_samples(cpu):
    """sigma_min, sigma_max and rho are the walk of the sampler; training reads none of them."""
    for name, trained in (
        ("noise.absolute-over-range-of-signal", "noise.absolute"),
        ("noise.signal-over-range-of-absolute", "noise.signal"),
    ):
        samples = one_of(cpu.sample_sets, name)
        assert samples.run.name == trained and samples.run is one_of(cpu.sample_sets, trained).run
        ours, theirs = (
            set_.config.diffusion.noise_levels(2, 3)[0].item() * 32
            for set_ in (samples, one_of(cpu.sample_sets, "noise.signal"))
        )
        assert (ours == pytest.approx(theirs, rel=1e-4)) == (trained == "noise.absolute")


def test_a_choice_changes_neither_names_nor_settings(cpu):
    """A study that is made variant by variant ends as one that was made at once."""
    for name in ("table4.hw", "levels.3", "figure8", "table6.short"):
        part = make_plan(load_tier("cpu"), [name])
        assert {run.name for run in part.runs} == {"table3.deep"}
        assert all(run in cpu.runs for run in part.runs)
        assert all(samples in cpu.sample_sets for samples in part.sample_sets)


def test_seeds_are_the_repeats(cpu):
    for run in cpu.runs:
        assert run.config.training.seed == run.repeat
    first, second = (one_of(cpu.runs, "table3.shallow", repeat).config for repeat in (0, 1))
    assert dataclasses.replace(first, training=second.training) == second
    repeats = [judgement.repeat for judgement in cpu.judgements]
    assert repeats == sorted(repeats)


def test_omitted_variants_can_be_named():
    tier = load_tier("smoke")
    assert "levels.1" in tier.omit
    assert not [j for j in make_plan(tier, ["levels"]).judgements if j.variant.name == "1"]
    assert [j.variant.name for j in make_plan(tier, ["levels.1"]).judgements] == ["1"]


def test_variants_differ_in_what_they_say(cpu):
    deep = config_to_dict(one_of(cpu.runs, "table3.deep").config)

    def changes(name):
        other = config_to_dict(one_of(cpu.runs, name).config)
        return {
            f"{section}.{key}"
            for section, values in other.items()
            if isinstance(values, dict)
            for key, value in values.items()
            if value != deep[section][key]
        } - {"training.keep"}

    assert changes("table3.detached") == {"network.fusion"}
    assert changes("table3.not-adaptive") == {"network.levels_per_block"}
    assert changes("input-scale.double") == {"diffusion.input_scale"}
    assert changes("self-conditioning.without") == {"network.self_conditioning"}
    assert changes("shrinking.stride") == {"training.shrink"}


@pytest.mark.parametrize("size", ["S", "T2V"])
def test_rows_of_the_levels_study_have_the_levels_they_are_named_after(size):
    base = load_config(size)
    (study,) = [study for study in load_studies() if study.name == "levels"]
    configs = {variant.name: variant.configure(base) for variant in study.variants}
    assert {name: config.pyramid.levels for name, config in configs.items()} == {"1": 1, "2": 2, "3": 3, "4": 4}
    assert with_levels(base, base.pyramid.levels) == base


@pytest.mark.parametrize("only", ["table9", "table3.thin"])
def test_unknown_names_are_refused(only):
    with pytest.raises(InputError, match="unknown study or variant"):
        make_plan(load_tier("smoke"), [only])


def test_real_clips_stand_in_only_for_data_without_end():
    tier = dataclasses.replace(load_tier("smoke"), data="somewhere")
    assert not [j for j in make_plan(tier, ["table3"]).judgements if j.variant.real]


def test_baselines_cost_what_hpdm_costs(cpu):
    """Within the rounding to whole steps; latent and its autoencoder together."""
    costs = {
        run.name.removeprefix("baselines."): training_cost(run.config)
        for run in cpu.runs
        if run.repeat == 0 and (run.name.startswith("baselines.") or run.name == "table3.deep")
    }
    budget = costs.pop("table3.deep")
    latent = costs.pop("latent") + costs.pop("autoencoder")
    assert set(costs) == {"full-resolution", "cascade", "patch-diffusion"}
    for name, cost in {**costs, "latent": latent}.items():
        assert cost == pytest.approx(budget, rel=0.01), name
    assert one_of(cpu.runs, "baselines.cascade").config.training.batch == cpu.base.training.batch


def test_an_autoencoder_is_trained_before_what_needs_it():
    plan = make_plan(load_tier("smoke"), ["baselines.latent"])
    assert [run.name for run in plan.runs] == ["baselines.autoencoder", "baselines.latent"]
    assert plan.runs[1].needs == plan.runs[0]
    (samples,) = plan.sample_sets
    assert not samples.reconstructed
    assert make_plan(load_tier("smoke"), ["baselines.autoencoder"]).sample_sets[0].reconstructed


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_levels_keep_the_video_and_the_noise_of_each_resolution(levels):
    config = load_config("nano")
    made = with_levels(config, levels)
    assert made.pyramid.resolution(levels - 1) == config.pyramid.resolution(2)
    shared = min(levels, 3)
    for back in range(1, shared + 1):
        level, old = levels - back, 3 - back
        assert made.diffusion.scale_in(level) == pytest.approx(config.diffusion.scale_in(old))
        torch.testing.assert_close(made.diffusion.log_sigma(level), config.diffusion.log_sigma(old))
        if level:  # the coarsest has no context and starts highest
            torch.testing.assert_close(made.diffusion.noise_levels(level, 4), config.diffusion.noise_levels(old, 4))
    blocks = made.network.levels_per_block
    assert (blocks[0], blocks[-1], len(blocks)) == (1, levels, len(config.network.levels_per_block))


def test_an_added_level_has_the_noise_to_signal_ratio_of_the_coarsest():
    config = load_config("nano")
    made = with_levels(config, 4).diffusion
    for d, level in ((made, 0), (config.diffusion, 0)):
        assert d.noise_levels(level, 3)[0].item() * d.scale_in(level) == pytest.approx(20.0)
    assert made.log_sigma(0)[0] + math.log(made.scale_in(0)) == pytest.approx(config.diffusion.log_sigma(0)[0])


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_noise_over_signal_stays_what_it_is_and_the_coarsest_level_starts_highest(levels):
    config = load_config("S")
    made = with_levels(config, levels).diffusion
    assert [made.share_above_noise(level) for level in range(levels)] == pytest.approx([0.438] * levels, abs=0.001)
    assert made.noise_levels(0, 4)[0].item() * made.scale_in(0) == pytest.approx(320)
    finest = levels - 1
    assert made.noise_levels(finest, 4)[0].item() * made.scale_in(finest) == pytest.approx(320 if levels == 1 else 40)


def test_the_papers_levels_per_block():
    config = load_config("S")
    assert with_levels(config, 3) == config
    assert with_levels(config, 2).network.levels_per_block == (1, 1, 1, 2, 2, 2)
    assert with_levels(config, 2).pyramid.patch == (32, 128, 128)
    assert with_levels(config, 1).pyramid.patch == (64, 256, 256)
    assert without_adaptive_computation(config).network.levels_per_block == (3,) * 6


def test_levels_of_a_pyramid_that_splits_rows_and_columns_alone():
    config = load_config("S", ["pyramid.split=hw", "pyramid.patch=[16, 64, 64]"])
    assert with_levels(config, 1).pyramid.patch == (16, 256, 256)
    assert with_levels(config, 4).pyramid.patch == (16, 32, 32)


def test_patches_that_cannot_be_halved_are_refused():
    with pytest.raises(InputError, match="cannot get 6 levels"):
        with_levels(load_config("nano"), 6)
    numbers = dataclasses.replace(load_config("nano"), diffusion=DiffusionConfig(input_scale=(1.0, 2.0, 4.0)))
    with pytest.raises(InputError, match="must be a rule"):
        with_levels(numbers, 4)


def test_costs_count_the_tiles():
    """Without overlap level l has 8^l tiles; the coarsest level takes two evaluations a step but for the last."""
    config = make_plan(load_tier("cpu"), ["table4.none"]).sample_sets[0].config
    figures = count_flops(config)
    per_level = [
        sum(e["flops"] for e in figures.by_block if e["level"] == n) + figures.outside_blocks / 3 for n in range(3)
    ]
    evaluations = [23, 8 * 6, 64 * 3]
    assert sampling_flops(config, figures) == pytest.approx(sum(e * f for e, f in zip(evaluations, per_level)))
    tokens = 4 * 4 * 4
    assert sampling_cost(config) == tokens * (23 * 4 + 8 * 6 * 2 + 64 * 3 * 1)


def test_the_papers_plan_states_its_hours():
    text = describe_cost(make_plan(load_tier("paper"), ["table3.deep"], 2))
    training, sampling, total = (float(line.split()[-1].replace(",", "")) for line in text.splitlines()[2:5])
    flops = count_flops(load_config("S")).training
    assert training == pytest.approx(2 * flops * 50_000 * 512 / 1e14 / 3600, rel=0.01)
    assert total == pytest.approx(training + sampling, rel=0.01) and sampling > 0
    assert "50,000 steps of 512" in text and "512 videos" in text and "100 TFLOP/s" in text


def test_durations_are_for_people():
    assert [duration(s) for s in (3, 99.4, 720, 11100)] == ["3 s", "99 s", "12 min", "3 h 5 min"]
