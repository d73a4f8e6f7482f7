"""What text-to-video models make of the same prompts, side by side: a picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hpdm.support.files import read_json
from hpdm_eval.metrics.accuracy import label_in_name
from hpdm_eval.report.plots import save_png

PROMPTS, FRAMES = 10, 4
CELL = 0.95  # inches, width of a frame


def write_prompt_sheet(path: Path, folders: Mapping[str, Path], count: int = PROMPTS) -> None:
    """Write a PNG with the first sample of each of the first prompts: a row a prompt, a group of frames a model.

    folders: {name: folder of npy samples with their samples.json}, all of the same prompts; uint8 [T, H, W, 3].
    """
    prompts = read_json(Path(next(iter(folders.values()))) / "samples.json")["settings"]["prompts"]
    prompts = prompts[:count]
    strips = {name: _strips(folder, len(prompts)) for name, folder in folders.items()}
    _, height, width, _ = next(iter(strips.values()))[0].shape
    size = FRAMES * CELL * len(folders), (CELL * height / width + 0.24) * len(prompts) + 0.3
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(prompts), len(folders), squeeze=False)
    for row, prompt in enumerate(prompts):
        for panel, name in zip(panels[row], folders):
            panel.imshow(_beside(strips[name][row]), interpolation="nearest")
            panel.set_axis_off()
            if row == 0:
                panel.set_title(name, fontsize=8, fontweight="bold", pad=16)
        panels[row][0].text(0, -0.06, prompt, transform=panels[row][0].transAxes, fontsize=7, va="top")
    save_png(figure, path)


def _beside(frames):
    """Frames [n, H, W, 3] in a row with a white line after each."""
    return np.concatenate(list(np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)), axis=1)


def _strips(folder, count):
    """The first sample of each prompt, evenly spaced frames of it: count x uint8 [FRAMES, H, W, 3]."""
    chosen = {}
    for path in sorted(Path(folder).glob("*.npy")):
        chosen.setdefault(label_in_name(path.name), path)
    clips = [np.load(chosen[number]) for number in range(count)]
    return [clip[np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)] for clip in clips]
