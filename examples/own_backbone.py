"""A network of one's own behind FVD: `python examples/own_backbone.py`.

With `register_backbone` it is a name like "i3d", in Python and, where an installed package brings it (see plugin/), in
commands too. Records name it with a SHA-256 of its weights.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hpdm_eval
from hpdm.data.procedural import procedural_clip


@hpdm_eval.register_backbone(
    "colour-motion", dimension=12, frames=(2, None), size=(32, 32), caveat="knows colours and their changes alone"
)
def colour_motion(device):
    """Means and deviations of colours, and of their changes from frame to frame."""
    return ColourMotion().to(device)


class ColourMotion(nn.Module):
    def forward(self, video):
        """float32 [B, 3, T, 32, 32] in [-1, 1] → [B, 12]"""
        change = video.diff(dim=2)
        parts = [part.flatten(2) for part in (video, change)]
        return torch.cat([value for part in parts for value in (part.mean(2), part.std(2))], dim=1)


def main():
    with tempfile.TemporaryDirectory() as folder:
        real = Path(folder, "real")
        real.mkdir()
        for index in range(48):
            np.save(real / f"{index:03d}.npy", procedural_clip(0, index, 8, 32, 32)[0])
        others = np.stack([procedural_clip(1, index, 8, 32, 32)[0] for index in range(48)])
        dimmed = (others * 0.7).astype(np.uint8)
        for name, samples in (("other clips", others), ("dimmed ones", dimmed)):
            result = hpdm_eval.evaluate(samples, real, "fvd", backbone="colour-motion", frames=8)
            figure = result["fvd"]
            print(f"FVD[colour-motion] of {name}: {figure.value:.3f}, 95 % interval {figure.ci95}")
        print("weights:", figure.record.backbone["sha256"][:12])


if __name__ == "__main__":
    main()
