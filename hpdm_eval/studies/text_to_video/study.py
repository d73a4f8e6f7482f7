"""Study `text`: text to video on captioned procedural clips, joint image-video training against video alone, and
fine-tuning from a generator of the coarsest level against training from scratch.

    python -m hpdm_eval.studies.text_to_video --tier cpu --out runs/text

What is finished is not done again: the same command continues. Faithfulness to the text is attribute accuracy: shape,
motion and colour as the shipped classifier's features show them, read out by regressions fitted on real clips.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import yaml

from baselines.budget import fit_budget, training_cost
from hpdm.config import Config, coarsest_levels, load_config, override_config
from hpdm.data.procedural import sample_scene
from hpdm.data.procedural_folders import REFERENCE_SEED
from hpdm.data.scene_captions import attributes_of_caption, attributes_of_scene, sample_prompts
from hpdm.support.console import Command, OutputFolder, common_options, own_folder
from hpdm.support.environment import choose_device
from hpdm.support.files import atomic_file, read_json
from hpdm.support.progress import note
from hpdm.training.loop import train
from hpdm_eval.backbones import Backbone, load_backbone
from hpdm_eval.clips.source import open_clips
from hpdm_eval.evaluation.api import record_of
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.extraction import extract_features
from hpdm_eval.metrics.accuracy import label_in_name, wilson_interval
from hpdm_eval.metrics.attributes import attribute_accuracy, fit_readout
from hpdm_eval.metrics.score_tests import mean_interval
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import Record, command_line, make_record
from hpdm_eval.studies.ablations.measure import Records
from hpdm_eval.studies.ablations.plan import Variant
from hpdm_eval.studies.ablations.real import RealClips, write_statistics
from hpdm_eval.studies.samples import sample_folder
from hpdm_eval.studies.text_to_video.sheet import write_prompt_sheet

ATTRIBUTES = ("shape", "motion", "colour")
MEAN = "mean"  # over them
PROMPT_SEED = 7_000_000
HELD_OUT = 5  # every so many real clips check the readouts and do not fit them


@dataclass(frozen=True, kw_only=True)
class TextTier:
    """Numbers of a tier."""

    steps: int  # of training; fine-tuning shares what they cost, in FLOPs, with its generator
    samples: int
    prompts: int
    reference: int  # real clips
    repeats: int
    set: tuple[str, ...]


TIERS = {
    "smoke": TextTier(
        steps=4,
        samples=12,
        prompts=6,
        reference=60,
        repeats=1,
        set=(
            "training.batch=4",
            "training.warmup=1",
            "network.token_width=32",
            "network.latent_width=32",
            "network.num_latents=8",
            "sampling.steps=[2, 1, 1, 1]",
            "sampling.overlap=none",
        ),
    ),
    "cpu": TextTier(
        steps=3000,
        samples=96,
        prompts=48,
        reference=960,
        repeats=1,
        set=(
            "training.warmup=150",
            "training.ema_half_life=150",
            "sampling.steps=[16, 8, 4, 4]",
            "sampling.overlap=none",
        ),
    ),
    "gpu": TextTier(steps=20000, samples=480, prompts=240, reference=4800, repeats=3, set=("training.batch=64",)),
}
VIDEO_ONLY, FINETUNED, LOW = "video-only", "fine-tuned", "low-resolution"
VARIANTS = ("joint", VIDEO_ONLY, FINETUNED)  # "joint" is also what fine-tuning is compared with: from scratch


class RealText:
    """Real clips with their attributes, and what is fitted on them: a readout per attribute."""

    def __init__(self, config: Config, count: int, backbone: Backbone, quiet: bool) -> None:
        clips = RealClips(config, config.pyramid.levels - 1, count, quiet=quiet)
        features = extract_features(clips, backbone, quiet=quiet).features
        known = [_shown(item) for item in range(count)]
        held = [item for item in range(count) if item % HELD_OUT == 0]
        fitted = [item for item in range(count) if item % HELD_OUT]
        self.readouts = {
            name: fit_readout(features[fitted], [known[item][name] for item in fitted]) for name in ATTRIBUTES
        }
        self.ceiling = {
            name: attribute_accuracy(readout(features[held]), [known[item][name] for item in held])["accuracy"]
            for name, readout in self.readouts.items()
        }
        self.summary = clips.summary()


def _shown(item: int) -> dict[str, str]:
    """The attributes of a real clip, by name."""
    found = attributes_of_scene(sample_scene(REFERENCE_SEED, item)[0])
    return {name: value for name, value in found.items() if value is not None}


def attribute_records(
    folder: Path, real: RealText, backbone: Backbone, *, device: torch.device, seed: int, quiet: bool = True
) -> dict[str, Record]:
    """How often samples show the shape, motion and colour that their prompts ask for: {attribute, or MEAN: `Record`}.

    `real` in the details is the same of held-out real clips. The intervals are for other prompts: samples of one prompt
    share what the model makes of it, so prompts are what is resampled.
    """
    started = time.time()
    protocol = load_protocol("native", backbone="shapes3d")
    settings = read_json(Path(folder) / "samples.json")["settings"]
    source = open_clips(folder, protocol, quiet=quiet, workers=0)
    extracted = extract_features(source, backbone, quiet=quiet)
    numbers = np.array([label_in_name(name) for name in extracted.names])
    conditions = [attributes_of_caption(settings["prompts"][number]) for number in numbers]
    seen = {name: real.readouts[name](extracted.features) for name in ATTRIBUTES}
    details = [
        {
            "attribute": name,
            **attribute_accuracy(seen[name], [a[name] for a in conditions]),
            "chance": 1 / len(real.readouts[name].values),
            "real": real.ceiling[name],
        }
        for name in ATTRIBUTES
    ]
    right = np.array(
        [[seen[name][row] == wanted[name] for name in ATTRIBUTES] for row, wanted in enumerate(conditions)]
    )
    by_prompt = np.array([right[numbers == number].mean(0) for number in np.unique(numbers)])
    common = {
        "started": started,
        "device": device,
        "metric": "attributes",
        "higher_is_better": True,
        "protocol": {**protocol.to_dict(), "hash": protocol.hash()},
        "num_samples": source.accepted,
        "num_reference": real.summary["clips"],
        "samples": source.summary(),
        "reference": real.summary,
        "backbone": backbone.describe(),
        "seed": seed,
    }
    records = {
        MEAN: make_record(
            **common, value=float(right.mean()), ci95=_share_interval(by_prompt.mean(1), seed), details=tuple(details)
        )
    }
    for column, (name, detail) in enumerate(zip(ATTRIBUTES, details)):
        interval = prompt_interval(by_prompt[:, column], seed)
        records[name] = make_record(**common, value=detail["accuracy"], details=(detail,), ci95=interval)
    return records


def prompt_interval(shares: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the share of samples that are right, for other prompts. shares: one per prompt."""
    # where all are right, or all wrong, prompts do not differ, and are still what there is so many of
    return _share_interval(shares, seed) or wilson_interval(round(shares.sum()), len(shares))


def _share_interval(shares, seed):
    """95 % interval of the mean of shares by prompt; None where there are too few, or they are all alike."""
    interval = mean_interval(shares, np.random.default_rng(seed)) if np.ptp(shares) else None
    return interval and (max(interval[0], 0.0), min(interval[1], 1.0))


class TextStudy:
    """Trains, samples and judges the variants of a tier in the folder `out`."""

    def __init__(self, tier_name: str, out: str | Path, device: torch.device, quiet: bool, seed: int = 0) -> None:
        self.tier, self.out, self.device, self.quiet, self.seed = TIERS[tier_name], Path(out), device, quiet, seed
        self.base = load_config(
            "nano-T2V",
            [*self.tier.set, f"training.steps={self.tier.steps}", "training.sheet_every=0", "training.keep=1"],
        )
        self.records = Records(self.out / "records", tier_name, command_line())

    def run(self, variants: Sequence[str] = VARIANTS) -> Path:
        """Everything that is not there yet; returns the folder of the records."""
        backbone = load_backbone("shapes3d", device=self.device)
        real, first = None, {}
        for repeat in range(self.seed, self.seed + self.tier.repeats):
            for name in variants:
                folder = self.sample(name, repeat)
                variant = Variant(study="text", name=name)
                paths = {
                    attribute: self.records.path(variant, "attributes", repeat, attribute=attribute)
                    for attribute in (*ATTRIBUTES, MEAN)
                }
                if not all(path.exists() for path in paths.values()):
                    real = real or RealText(self._judged(), self.tier.reference, backbone, self.quiet)
                    records = attribute_records(folder, real, backbone, device=self.device, seed=repeat)
                    for attribute, path in paths.items():
                        self.records.save(records[attribute], path, variant, repeat, attribute=attribute)
                self._fvd(folder, variant, repeat)
                first.setdefault(name, folder)
        write_prompt_sheet(self.out / "prompts.png", first)
        return self.records.folder

    def configure(self, name: str, repeat: int) -> Config:
        """The configuration of a variant; half of the compute of a fine-tuned one goes into its generator."""
        config = override_config(self.base, [f"training.seed={repeat}"])
        half = training_cost(config) / 2
        if name == VIDEO_ONLY:
            return override_config(config, ["data.image_share=0.0"])
        if name == LOW:
            return fit_budget(coarsest_levels(config, 1), half)
        if name == FINETUNED:
            config = fit_budget(config, half)
            training = dataclasses.replace(config.training, init_from=str(self.train(LOW, repeat)))
            return dataclasses.replace(config, training=training)
        return config

    def train(self, name: str, repeat: int) -> Path:
        """Folder of a variant's finished training run."""
        folder = self.out / "runs" / name / f"repeat{repeat}"
        outcome = train(self.configure(name, repeat), folder, device=self.device, quiet=self.quiet)
        if outcome.interrupted:
            raise KeyboardInterrupt
        return folder

    def sample(self, name: str, repeat: int) -> Path:
        """Folder of a variant's samples at full size."""
        prompts = self.out / "prompts.yaml"
        if not prompts.exists():
            with atomic_file(prompts, "w") as file:
                yaml.safe_dump(sample_prompts(PROMPT_SEED, self.tier.prompts), file)
        folder = self.out / "samples" / name / f"repeat{repeat}"
        sample_folder(
            self.train(name, repeat),
            folder,
            num=self.tier.samples,
            seed=repeat,
            device=str(self.device),
            quiet=self.quiet,
            prompts=prompts,
            format="npy",
        )
        return folder

    def _fvd(self, folder, variant, repeat):
        level = self.base.pyramid.levels - 1
        path = self.records.path(variant, "fvd", repeat, level=level)
        if path.exists():
            return
        statistics = self.out / "reference.npz"
        if not statistics.exists():
            write_statistics(
                statistics,
                self._judged(),
                level,
                count=self.tier.reference,
                backbone="shapes3d",
                device=self.device,
                quiet=self.quiet,
            )
        evaluation = Evaluation(
            protocol=load_protocol("native", backbone="shapes3d"),
            samples=folder,
            reference=statistics,
            device=str(self.device),
            seed=repeat,
            quiet=True,
            workers=0,
        )
        record = record_of("fvd", evaluation)
        self.records.save(record, path, variant, repeat, level=level)

    def _judged(self):
        """The configuration whose data are the real videos: without images."""
        return override_config(self.base, ["data.image_share=0.0"])


@click.command(cls=Command)
@click.option("--tier", type=click.Choice(list(TIERS)), default="cpu", show_default=True, help="How large.")
@click.option("--out", type=OutputFolder(path_type=Path), required=True, help="Folder of the study.")
@click.option("--only", type=click.Choice(VARIANTS), multiple=True, help="Only these variants; repeatable.")
@common_options
def main(tier: str, out: Path, only: tuple[str, ...], device: str, seed: int, quiet: bool) -> None:
    """Train, sample and judge small text-to-video models."""
    own_folder(out)
    records = TextStudy(tier, out, choose_device(device), quiet, seed).run(only or VARIANTS)
    note(
        f"{len(list(records.glob('*.json')))} records are in {records}, samples of ten prompts in "
        f"{out / 'prompts.png'}",
        quiet,
    )


if __name__ == "__main__":
    main()
