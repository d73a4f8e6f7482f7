"""What patches save (table 1 of the paper): one network at full resolution against pyramids of two patch sizes.

The full-resolution network is the same one with a single level, whose patch is the whole video. Sizes that fit are
timed here; the paper's are counted on tensors without data, so that the table is whole on any machine.
"""

import dataclasses
import time
from collections.abc import Mapping

import torch

from hpdm.config import Config
from hpdm.config.training import plan_batch
from hpdm.config.variants import alternatives, even_levels_per_block, with_levels
from hpdm.diffusion import DiffusionConfig
from hpdm.support.progress import note
from hpdm.training.plan import make_plan
from hpdm_eval.benchmarks.speed import fitting_batch, training_memory, training_rates
from hpdm_eval.records.record import Record
from hpdm_eval.studies.ablations.measure import Records, step_record
from hpdm_eval.studies.ablations.plan import Variant

STUDY = "efficiency"
MOST_VIDEOS = 512  # of a batch that is tried on a GPU
GIB = 2**30


def enlarged(base: Config) -> dict[str, Config]:
    """The same rows for twice the height and width.

    Every level doubles all three axes, so the pyramids get a level more and their videos are twice as long as well;
    what a training step computes does not depend on that. Full resolution keeps the number of frames.
    """
    frames, height, width = base.pyramid.resolution(base.pyramid.levels - 1)
    whole = dataclasses.replace(with_levels(base, 1).pyramid, patch=(frames, 2 * height, 2 * width))
    rows = {"full": dataclasses.replace(with_levels(base, 1), pyramid=whole)}
    for name, config in alternatives(base).items():
        if name != "full":
            rows[name] = _with_one_level_more(config, adaptive=name.endswith("adaptive"))
    return rows


def computed(rows: Mapping[str, Config], target: str, *, records: Records, quiet: bool = False) -> list[Record]:
    """FLOPs of a training sample and memory at batch 1 of each row, counted: saves and returns two records a row."""
    made = []
    for name, config in rows.items():
        started = time.time()
        training = dataclasses.replace(config.training, batch=1, micro_batch=None)
        plan = make_plan(dataclasses.replace(config, training=training))
        for metric, value in (("flops", plan.flops_per_training_sample), ("memory", plan.memory["total"] / GIB)):
            record = step_record(metric, value, config, started=started)
            made.append(_save(records, record, name, target, "computed"))
        note(f"{target}: {name} counted", quiet)
    return made


def measured(
    rows: Mapping[str, Config],
    target: str,
    *,
    batch: int | None,
    rounds: int,
    device: torch.device,
    records: Records,
    quiet: bool = False,
) -> list[Record]:
    """Videos per second, and memory at batch 1, of each row on this device: saves and returns two records a row.

    batch: videos per step for all rows; None takes, on a GPU, the largest power of two that fits for each row. A row of
    which not even one video fits has no records, as the paper's table has no figures for it.
    """
    made = []
    # On a GPU a row may need all of the memory; elsewhere a slow spell of the machine shall hit all rows alike.
    groups = [{name: config} for name, config in rows.items()] if device.type == "cuda" else [rows]
    for group in groups:
        started = time.time()
        sizes = {
            name: fitting_batch(config, device, batch) if batch else largest_batch(config, device)
            for name, config in group.items()
        }
        fitting = {name: config for name, config in group.items() if sizes[name]}
        rates = training_rates(fitting, batch=sizes, rounds=rounds, device=device, quiet=quiet) if fitting else {}
        for name, config in group.items():
            if name not in rates:
                note(f"{target}: {name} does not fit on this device", quiet)
                continue
            memory = training_memory(config, batch=1, device=device) / GIB
            for metric, value, at in (("throughput", rates[name], sizes[name]), ("memory", memory, 1)):
                record = step_record(metric, value, config, started=started, device=device, details=[{"batch": at}])
                made.append(_save(records, record, name, target, "measured"))
            note(f"{target}: {name} measured, {sizes[name]} videos a step", quiet)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return made


def largest_batch(config: Config, device: torch.device) -> int:
    """The largest power of two of videos of which a step fits on a GPU, 0 where none does.

    Elsewhere the configuration's micro-batch.
    """
    if device.type != "cuda":
        return plan_batch(config.training, 1).micro_batch
    batch = 0
    while (larger := max(1, 2 * batch)) <= MOST_VIDEOS and fitting_batch(config, device, larger) == larger:
        batch = larger
    return batch


def describe_size(config: Config) -> str:
    """Frames x height x width of the videos."""
    return "x".join(map(str, config.pyramid.resolution(config.pyramid.levels - 1)))


def _with_one_level_more(config, adaptive):
    pyramid = dataclasses.replace(config.pyramid, levels=config.pyramid.levels + 1)
    blocks = len(config.network.levels_per_block)
    hosted = even_levels_per_block(blocks, pyramid.levels) if adaptive else (pyramid.levels,) * blocks
    network = dataclasses.replace(config.network, levels_per_block=hosted)
    # Noise costs the same whatever its levels are; those of the smaller video may be given per level.
    return dataclasses.replace(config, pyramid=pyramid, network=network, diffusion=DiffusionConfig())


def _save(records, record, name, target, basis):
    variant = Variant(study=STUDY, name=name)
    place = {"basis": basis, "target": target}
    return records.save(record, records.path(variant, record.metric, 0, **place), variant, 0, **place)
