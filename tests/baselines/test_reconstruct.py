"""`hpdm-reconstruct`: clips, reconstructions and the PSNR between them."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from baselines.reconstruct import psnr, reconstruct
from hpdm.checkpoint.load import load_checkpoint
from hpdm.data.procedural import procedural_clip
from tests.support.small_baselines import train_small


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("autoencoder", "latent", "full-resolution"):
        assert train_small(folder, name, name, steps=2).exit_code == 0
    return folder


def run(checkpoint, out, *options):
    return CliRunner().invoke(
        reconstruct, ["--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu", "--quiet", *options]
    )


@pytest.mark.parametrize("name", ["autoencoder", "latent"])
def test_writes_clips_and_reconstructions_with_their_psnr(runs, name, tmp_path):
    result = run(runs / name, tmp_path / "out", "--num", "5")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert f"{summary['psnr']:.2f} dB" in result.stdout and summary["clips"] == 5
    loaded = load_checkpoint(runs / name)
    network = getattr(loaded.network, "autoencoder", loaded.network)
    values = []
    for index in range(5):
        clip, label = procedural_clip(1, index, 4, 8, 8)  # training draws from set 0
        real, ours = (
            np.load(tmp_path / "out" / folder / f"{index:05d}_c{label:03d}.npy") for folder in ("real", "reconstructed")
        )
        assert np.array_equal(real, clip)
        x = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            y = network.decode(network.encode(x)[0]).clamp(-1, 1).add(1).mul(127.5)[0].permute(1, 2, 3, 0)
        assert np.abs(ours - y.numpy()).max() < 0.51
        values.append(10 * math.log10(255**2 / np.mean((real.astype(float) - ours) ** 2)))
    assert summary["psnr"] == pytest.approx(np.mean(values)) and summary["worst"] == pytest.approx(min(values))


def test_equal_clips_have_no_noise():
    clip = torch.randint(0, 256, (1, 3, 2, 4, 4), dtype=torch.uint8)
    assert psnr(clip, clip) == math.inf
    assert psnr(torch.zeros(4, dtype=torch.uint8), torch.full((4,), 255, dtype=torch.uint8)) == 0


def test_other_methods_have_no_autoencoder(runs, tmp_path):
    result = run(runs / "full-resolution", tmp_path / "out")
    assert result.exit_code == 2 and "full-resolution has no autoencoder" in result.output
    assert not (tmp_path / "out").exists()
