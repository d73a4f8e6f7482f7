"""`hpdm-reconstruct`: what an autoencoder makes of clips, as folders that `hpdm-eval` judges, and the PSNR."""

import dataclasses
from pathlib import Path

import click
import numpy as np
import torch

from baselines.autoencoder import AutoencoderNetwork
from hpdm.checkpoint.load import load_checkpoint
from hpdm.data.loader import open_clips
from hpdm.data.ranges import to_model_range, to_uint8
from hpdm.support.console import Command, OutputFolder, common_options
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, write_json
from hpdm.support.lock import hold
from hpdm.support.progress import note, progress
from hpdm.video.reader import DecodingError

REAL, RECONSTRUCTED, SUMMARY = "real", "reconstructed", "reconstruction.json"


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--checkpoint", required=True, metavar="RUN|FILE", help="A run of autoencoder or of latent.")
@click.option("--data", metavar="DIR|procedural", help="Where clips come from.  [default: the checkpoint's data]")
@click.option("--num", type=click.IntRange(min=1), default=256, show_default=True, help="How many clips.")
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    required=True,
    metavar="DIR",
    help=f"Gets {REAL}/ and {RECONSTRUCTED}/ with exact arrays, and {SUMMARY}.",
)
@common_options
def reconstruct(checkpoint: str, data: str, num: int, out: Path, device: str, seed: int, quiet: bool) -> None:
    """Encode and decode clips that the autoencoder was not trained on, and print the mean PSNR.

    Clips are the first frames of the videos of the test part; of procedural data, of another endless set. How much the
    reconstruction costs in FVD:

        hpdm-eval fvd --samples DIR/reconstructed --reference DIR/real
    """
    click.get_current_context().with_resource(hold(out))
    summary = reconstruct_clips(checkpoint, out, num, data=data, device=device, seed=seed, quiet=quiet)
    click.echo(
        f"PSNR {summary['psnr']:.2f} dB, mean of {summary['clips']} clips "
        f"(worst {summary['worst']:.2f}, best {summary['best']:.2f})"
    )


@torch.no_grad()
def reconstruct_clips(
    checkpoint: str | Path,
    out: str | Path,
    num: int,
    *,
    folders: tuple[str, str] = (REAL, RECONSTRUCTED),
    data: str | None = None,
    device: torch.device | str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> dict:
    """Write `num` clips and their reconstructions to two `folders` in `out`, and what it returns to SUMMARY there.

    Returns {"psnr", "worst", "best", "clips", ...}, in dB. Raises InputError for a checkpoint without autoencoder.
    """
    device = choose_device(device)
    loaded = load_checkpoint(checkpoint, device=device)
    network = getattr(loaded.network, "autoencoder", loaded.network)
    if not isinstance(network, AutoencoderNetwork):
        raise InputError(f"--checkpoint {checkpoint}: {loaded.config.method.name} has no autoencoder")
    config, out = loaded.config, Path(out)
    frames, height, width = network.config.video
    clips = open_clips(
        dataclasses.replace(
            config.data,
            path=data or config.data.path,
            part="test",
            start="first",
            flip=False,
            procedural_seed=config.data.procedural_seed + 1 + seed,
        ),
        frames=frames,
        height=height,
        width=width,
        seed=seed,
        quiet=quiet,
    )
    values = []
    count = min(num, len(clips.source))
    for item in progress(range(count), unit="clip", quiet=quiet):
        try:
            video, label = clips.read(item, np.random.default_rng([seed, item]))
        except DecodingError as error:
            note(f"left out: {clips.source.name(item)}: {error}", quiet)
            continue
        result = to_uint8(network.decode(network.encode(to_model_range(video[None]).to(device))[0])).cpu()
        for folder, clip in zip(folders, (video[None], result), strict=True):
            with atomic_file(out / folder / f"{item:05d}_c{max(label, 0):03d}.npy") as file:
                np.save(file, np.ascontiguousarray(clip[0].permute(1, 2, 3, 0).numpy()), allow_pickle=False)
        values.append(psnr(video[None], result))
    clips.close()
    if not values:
        raise InputError(f"{data or config.data.path}: none of {count} videos can be decoded")
    summary = {
        "psnr": float(np.mean(values)),
        "worst": min(values),
        "best": max(values),
        "clips": len(values),
        "checkpoint": loaded.describe(),
        "data": clips.source.describe(),
    }
    write_json(out / SUMMARY, summary)
    note(f"clips and reconstructions are in {out}", quiet)
    return summary


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 tensors in dB; infinite where they are equal."""
    error = (a.double() - b.double()).square().mean()
    return float("inf") if error == 0 else float(10 * torch.log10(255**2 / error))


if __name__ == "__main__":
    reconstruct()
