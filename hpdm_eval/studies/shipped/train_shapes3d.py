"""Train the shipped classifier on procedural videos and write its weights and model card.

    python -m hpdm_eval.studies.shipped.train_shapes3d --out hpdm_eval/backbones/weights/shapes3d.safetensors

Every batch is a function of (seed, step), so the same command on the same machine gives the same weights. The clips
are drawn at several sizes and lengths and then made worse (less resolution, blur, noise, other brightness): a
classifier that judges a generator has to see small and imperfect videos while it learns.

The class alone is learnt within a hundred steps and would leave features that see nothing but the class. So the
trunk also has to name colours and textures, through heads that are thrown away afterwards: a distance over these
features then reacts to colour and to fine detail as well.

B batch, T frames, H rows, W columns; clips are uint8 [T, H, W, 3], network input is float32 [B, 3, T, 64, 64].
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hpdm.data.procedural import (
    BACKGROUNDS,
    CLASS_NAMES,
    COLOURS,
    TEXTURES,
    procedural_clip,
    render_scene,
    sample_scene,
)
from hpdm.support.console import Command
from hpdm.support.environment import hardware
from hpdm.support.files import atomic_file
from hpdm.support.progress import note, progress
from hpdm_eval.backbones.preprocess import resize, to_unit_range
from hpdm_eval.backbones.shapes3d import FEATURE_DIM, RESOLUTION, Shapes3D

LENGTHS, LENGTH_SHARES = (8, 16, 32), (0.25, 0.65, 0.10)
ATTRIBUTES = {
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "background": tuple(BACKGROUNDS),
    "background_texture": TEXTURES,
}
ATTRIBUTE_WEIGHT = 0.5
HELD_OUT = ((16, 64), (16, 32), (32, 64), (8, 32))  # frames and source size of the reported accuracies
HELD_OUT_SEED_OFFSET = 1_000_003


class TrainingBatches(Dataset):
    """Item `step` is a batch: float32 [B, 3, T, 64, 64] in about [-1, 1] and int64 [B, 1 + attributes].

    T differs between steps.
    """

    def __init__(self, seed: int, steps: int, batch: int) -> None:
        self.seed, self.steps, self.batch = seed, steps, batch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = np.random.default_rng([self.seed, step])
        frames = int(random.choice(LENGTHS, p=LENGTH_SHARES))
        indices = range(step * self.batch, (step + 1) * self.batch)
        clips, targets = zip(*(draw_clip(self.seed, index, frames, random) for index in indices))
        return torch.stack(clips), torch.tensor(targets)


def draw_clip(seed: int, index: int, frames: int, random: np.random.Generator) -> tuple[torch.Tensor, list[int]]:
    """Clip `index` as a worse copy of itself; returns (float32 [3, frames, 64, 64], [class, *attribute indices])."""
    scene, label = sample_scene(seed, index)
    targets = [label, *(names.index(getattr(scene, attribute)) for attribute, names in ATTRIBUTES.items())]
    size = int(random.choice((32, 64)))
    rendered = 2 * frames if frames <= 16 and random.random() < 0.5 else frames
    video = render_scene(scene, rendered, size, size)
    if rendered > frames and random.random() < 0.5:
        video = video[random.integers(2) :: 2]
    else:
        start = random.integers(rendered - frames + 1)
        video = video[start : start + frames]
    video = to_unit_range(torch.from_numpy(video)[None])
    if random.random() < 0.15:
        video = resize(video, (size // 2, size // 2), "bilinear-antialias")
    video = resize(video, RESOLUTION)[0]
    return degrade(video, random), targets


def degrade(video: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Random blur, contrast, brightness and noise on float32 [3, T, H, W]."""
    if random.random() < 0.3:
        blurred = F.avg_pool2d(video.transpose(0, 1), 3, stride=1, padding=1, count_include_pad=False).transpose(0, 1)
        video = video.lerp(blurred, float(random.uniform(0.3, 1)))
    video = video * float(random.uniform(0.85, 1.1)) + float(random.uniform(-0.1, 0.1))
    if random.random() < 0.5:
        deviation = random.uniform(0, 0.15)
        video = video + torch.from_numpy(deviation * random.standard_normal(video.shape, np.float32)).float()
    return video


def train(
    network: torch.nn.Module, batches: TrainingBatches, learning_rate: float, workers: int, quiet: bool = False
) -> Any:
    """One pass over `batches` with AdamW under a one-cycle schedule.

    Returns float [2 + attributes]: mean loss and mean accuracies (class, then attributes) of the last tenth.
    """
    heads = nn.ModuleList([network.head, *(nn.Linear(FEATURE_DIM, len(names)) for names in ATTRIBUTES.values())])
    weights = torch.tensor([1.0] + [ATTRIBUTE_WEIGHT] * len(ATTRIBUTES))
    parameters = [*network.trunk.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    steps = len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.15)
    loader = DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    tail = []
    network.train()
    bar = progress(loader, total=steps, unit="step", description="shapes3d", quiet=quiet)
    for step, (video, targets) in enumerate(bar):
        features = network.features(video)
        answers = list(zip([head(features) for head in heads], targets.unbind(1)))
        loss = weights @ torch.stack([F.cross_entropy(logits, target) for logits, target in answers])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        accuracies = [(logits.argmax(1) == target).float().mean().item() for logits, target in answers]
        if step >= steps - max(steps // 10, 1):
            tail.append((loss.item(), *accuracies))
        if step % 50 == 0 or step == steps - 1:
            names = zip(("class", *ATTRIBUTES), accuracies)
            note(f"step {step:5d}  loss {loss.item():.3f}  " + "  ".join(f"{n} {a:.2f}" for n, a in names), quiet)
    return np.mean(tail, axis=0)


@torch.inference_mode()
def confusion(network: torch.nn.Module, seed: int, clips: int, frames: int, size: int, batch: int = 24) -> torch.Tensor:
    """Counts int64 [true class, predicted class] on `clips` untouched clips drawn at frames x size x size."""
    network.eval()
    table = torch.zeros(len(CLASS_NAMES), len(CLASS_NAMES), dtype=torch.int64)
    for start in range(0, clips, batch):
        drawn = [procedural_clip(seed, index, frames, size, size) for index in range(start, min(start + batch, clips))]
        video = torch.from_numpy(np.stack([video for video, _ in drawn]))
        predicted = network(resize(to_unit_range(video), RESOLUTION)).argmax(1)
        for (_, label), answer in zip(drawn, predicted.tolist()):
            table[label, answer] += 1
    return table


def model_card(facts: Mapping[str, Any], table: torch.Tensor) -> str:
    """The markdown text beside the weights; `facts` as made by main, `table` the confusion counts [12, 12]."""
    lines = [
        "# shapes3d: the classifier that ships with hpdm_eval",
        "",
        f"A 3-D CNN of {facts['parameters']:,} parameters that tells the {len(CLASS_NAMES)} classes",
        "(shape x motion) of the procedural videos apart. Its penultimate layer (128 numbers per clip) is the feature",
        "of `fvd[shapes3d]`; while it was trained, that layer had to name colours and textures too. It knows nothing",
        "of real video: use it for procedural data and for models trained on it, and I3D for everything else.",
        "",
        "| | |",
        "|---|---|",
        "| input | at least 4 frames, any size, resized to 64x64, RGB in [-1, 1] |",
        f"| command | `{facts['command']}` |",
        f"| seed | {facts['seed']} |",
        f"| training | {facts['steps']} steps of {facts['batch']} clips, {facts['minutes']:.1f} minutes |",
        f"| hardware | {facts['hardware']} |",
        f"| torch | {facts['torch']} |",
        f"| training loss | {facts['loss']:.3f} (last tenth) |",
        *(
            f"| training accuracy, {name} | {value:.3f} (last tenth, degraded clips) |"
            for name, value in facts["training_accuracy"].items()
        ),
        "",
        "Accuracy on clips of another seed, not degraded (chance is 0.083):",
        "",
        "| frames x source size | clips | accuracy |",
        "|---|---|---|",
    ]
    for row in facts["held_out"]:
        lines.append(f"| {row['frames']}x{row['size']}x{row['size']} | {row['clips']} | {row['accuracy']:.4f} |")
    frames, size = HELD_OUT[0]
    short = [f"{index}" for index in range(len(CLASS_NAMES))]
    lines += [
        "",
        f"Confusion at {frames}x{size}x{size} (rows true, columns predicted):",
        "",
        "| | " + " | ".join(short) + " |",
        "|---" * (len(short) + 1) + "|",
    ]
    for index, (name, row) in enumerate(zip(CLASS_NAMES, table.tolist())):
        lines.append(f"| {index} {name} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


@click.command(cls=Command)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Weights to write (.safetensors); the model card goes beside them with the ending .md.",
)
@click.option("--steps", type=click.IntRange(min=10), default=1000, show_default=True)
@click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True, help="Clips per step.")
@click.option("--learning-rate", type=float, default=3e-3, show_default=True, help="Peak of the one-cycle schedule.")
@click.option(
    "--held-out",
    type=click.IntRange(min=12),
    default=1200,
    show_default=True,
    help="Clips per reported accuracy, drawn from another seed.",
)
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that draw clips.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def main(
    out: Any, steps: int, batch: int, learning_rate: float, held_out: int, workers: int, seed: int, quiet: bool
) -> None:
    """Train shapes3d on procedural videos (about 15 minutes on two cores) and write weights and model card."""
    torch.manual_seed(seed)
    network = Shapes3D(len(CLASS_NAMES))
    started = time.perf_counter()
    loss, *training_accuracy = train(network, TrainingBatches(seed, steps, batch), learning_rate, workers, quiet)
    minutes = (time.perf_counter() - started) / 60

    accuracies, first_table = [], None
    for frames, size in HELD_OUT:
        table = confusion(network, seed + HELD_OUT_SEED_OFFSET, held_out, frames, size)
        first_table = table if first_table is None else first_table
        accuracies.append(
            {"frames": frames, "size": size, "clips": held_out, "accuracy": table.trace().item() / table.sum().item()}
        )
        note(f"held out at {frames}x{size}x{size}: accuracy {accuracies[-1]['accuracy']:.4f}", quiet)
    facts = {
        "command": "python -m hpdm_eval.studies.shipped.train_shapes3d " + shlex.join(sys.argv[1:]),
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "minutes": round(minutes, 2),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "loss": round(float(loss), 4),
        "training_accuracy": {
            name: round(float(value), 4) for name, value in zip(("class", *ATTRIBUTES), training_accuracy)
        },
        "held_out": accuracies,
        "hardware": hardware(),
        "torch": torch.__version__,
    }
    state = {
        name: tensor.contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {"format": "shapes3d", "classes": json.dumps(CLASS_NAMES), "training": json.dumps(facts)}
    with atomic_file(out) as file:
        file.write(save(state, metadata))
    with atomic_file(out.with_suffix(".md"), "w") as file:
        file.write(model_card(facts, first_table))


if __name__ == "__main__":
    main()
