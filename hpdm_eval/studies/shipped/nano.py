"""The shipped nano model: export it from a run, judge it between two anchors, and write its model card.

    python -m hpdm_eval.studies.shipped.nano --run runs/nano --weights hpdm/weights --reports reports/nano

The figures stand beside those of real clips (the best that any model can reach with so many clips) and of the same
network before training.
"""

import csv
import json
from pathlib import Path

import click
import torch
from matplotlib.figure import Figure
from PIL import Image

from hpdm.checkpoint.folder import read_weights, write_weights
from hpdm.checkpoint.load import find_weights
from hpdm.config import override_config
from hpdm.data.procedural import CLASS_NAMES
from hpdm.data.procedural_folders import REAL_SEED, REFERENCE_SEED, draw_clips
from hpdm.model.network import HPDM
from hpdm.support.console import Command, common_options
from hpdm.support.environment import choose_device, hardware
from hpdm.support.files import atomic_file
from hpdm_eval.evaluation.api import record_of
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import save_record
from hpdm_eval.report.tables import markdown_table
from hpdm_eval.studies.ablations.measure import accuracy_record
from hpdm_eval.studies.samples import sample_folder


@click.command(cls=Command)
@click.option(
    "--run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Training run whose averaged weights are shipped.",
)
@click.option(
    "--weights",
    "weights_folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for nano.safetensors and its card.",
)
@click.option("--reports", type=click.Path(path_type=Path), required=True, help="Folder for records, curve and sheet.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path),
    default="scratch/nano",
    show_default=True,
    help="Folder for videos; what an interrupted call left there is used again.",
)
@click.option("--clips", type=click.IntRange(min=24), default=240, show_default=True, help="Clips per set.")
@click.option("--set", "overrides", multiple=True, metavar="sampling.KEY=VALUE", help="Sampling defaults to ship.")
@common_options
def main(
    run: Path,
    weights_folder: Path,
    reports: Path,
    scratch: Path,
    clips: int,
    overrides: tuple[str, ...],
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Export the nano model, measure it, and write its model card."""
    weights_folder.mkdir(parents=True, exist_ok=True)
    scratch = scratch / f"{clips}-clips"  # a set is judged whole, so its count must not be an earlier call's
    shipped = weights_folder / "nano.safetensors"
    tensors, config, step = read_weights(find_weights(run))
    config = override_config(config, overrides)
    _write(shipped, tensors, config, step)
    torch.manual_seed(config.training.seed)
    untrained = scratch / "untrained.safetensors"
    _write(untrained, dict(HPDM(config.network, config.pyramid).state_dict()), config, 0)

    size = config.pyramid.resolution(config.pyramid.levels - 1)
    for name, data_seed in (("reference", REFERENCE_SEED), ("real", REAL_SEED)):
        draw_clips(scratch / name, data_seed, clips, size, quiet)
    for name, checkpoint in (("nano", shipped), ("untrained", untrained)):
        sample_folder(
            checkpoint, scratch / name, num=clips, seed=seed, device=device, quiet=quiet, sheet=name == "nano"
        )

    sets = {"real": "real clips", "nano": "nano", "untrained": "nano before training"}
    records, accuracies = [], []
    for name in sets:
        evaluation = Evaluation(
            protocol=load_protocol("native", backbone="shapes3d"),
            samples=scratch / name,
            reference=scratch / "reference",
            device=device,
            seed=seed,
            quiet=True,
        )
        records.append(record_of("fvd", evaluation))
        save_record(records[-1], reports / "records")
        accuracies.append(_accuracy(scratch / name, device, seed, reports / "records"))
    table = markdown_table(records, names=list(sets.values())) + "\n"
    table += markdown_table(accuracies, names=list(sets.values()))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    _plot(log, reports / "loss.png")
    _save_curve(log, reports / "loss.csv")
    _enlarge(scratch / "nano-sheet.png", reports / "sheet.png")
    card = _card(config, step, tensors, log, table, accuracies[1], clips, choose_device(device))
    with atomic_file(weights_folder / "nano.md", "w") as file:
        file.write(card)
    click.echo(table)


def _write(path, tensors, config, step):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    write_weights(temporary, tensors, config=config, step=step, kind="ema")
    temporary.chmod(0o644)
    temporary.replace(path)


def _accuracy(folder, device, seed, records):
    record = accuracy_record(folder, device=device, seed=seed)
    save_record(record, records)
    return record


def _plot(log, path):
    """Loss of each level over the steps."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = [line["step"] for line in log]
    for level, style in enumerate(("-", "--", ":")[: len(log[0]["loss_per_level"])]):
        axes.plot(
            steps,
            [line["loss_per_level"][level] for line in log],
            style,
            label=f"level {level}",
            color="black",
            linewidth=1,
        )
    axes.set(xlabel="step", ylabel="v-prediction loss", yscale="log")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _save_curve(log, path):
    with atomic_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", *[f"loss_level_{n}" for n in range(len(log[0]["loss_per_level"]))], "lr"])
        for line in log:
            writer.writerow([line["step"], *[f"{value:.5f}" for value in line["loss_per_level"]], f"{line['lr']:.3g}"])


def _enlarge(source, target, factor=3):
    image = Image.open(source)
    image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST).save(target)


def _card(config, step, tensors, log, table, accuracy, clips, device):
    count = sum(tensor.numel() for tensor in tensors.values())
    hours = (
        sum(
            line["samples"] - before["samples"]
            for before, line in zip([{"samples": 0}, *log], log)
            if line["samples_per_second"]
        )
        / _mean_rate(log)
        / 3600
    )
    size = "x".join(map(str, config.pyramid.resolution(config.pyramid.levels - 1)))
    missed = sorted(
        (row for row in accuracy.details if (row["accuracy"] or 0) < 1), key=lambda row: row["accuracy"] or 0
    )
    missed = ", ".join(f"{row['class']} {row['accuracy'] or 0:.0%}" for row in missed[:3]) or "none of these samples"
    training = config.training
    return f"""# nano: the model that ships with hpdm

HPDM with small numbers, {count:,} parameters, trained on procedural videos of {size} in twelve classes
(shape x motion). It is there to try the tools and to test them; it says nothing about the paper's models.

| | |
|---|---|
| command | `hpdm-train --size nano --data procedural --out runs/nano` |
| seed | {training.seed} |
| training | {step:,} steps of {training.batch} clips, about {hours:.1f} h on one core |
| loss at the end (levels 0, 1, 2) | {", ".join(f"{value:.4f}" for value in log[-1]["loss_per_level"])} |
| sampling | steps {", ".join(map(str, config.sampling.steps))}, overlap {config.sampling.overlap}, \
context at sigma {config.sampling.sigma_context} |
| sampled for this card | {clips} clips on {hardware(device)} |

The distance is `fvd[shapes3d]` to {clips} other real clips, the accuracy is how often the shipped classifier sees the
class that was asked for (chance is {1 / len(CLASS_NAMES):.3f}); all sets went through the same mp4 encoding.
Real clips are the best that any model can reach at this count, the untrained network is the other end.

{table}
Classes it misses: {missed}. What keeps its distance above that of real clips is detail: outlines are ragged, since the
coarsest level draws a shape with a handful of its 8x8 pixels, and textures keep the spread of real ones more than their
order. The losses of all levels were still falling slowly when training ended.
"""


def _mean_rate(log):
    return sum(line["samples_per_second"] for line in log) / len(log)


if __name__ == "__main__":
    main()
