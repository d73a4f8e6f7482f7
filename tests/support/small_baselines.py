"""Runs of every baseline at the small size, for tests: through the command line, once per session."""

from click.testing import CliRunner

from hpdm.commands.entry import train
from tests.support.small_training import write_small

BASELINES = ("full-resolution", "cascade", "patch-diffusion", "latent")


def options(baseline, folder):
    """Options of `hpdm-train` for a baseline whose autoencoder, if any, stands in `folder`."""
    chosen = ["--baseline", baseline]
    if baseline == "latent":
        chosen += ["--set", f"method.autoencoder={folder / 'autoencoder'}"]
    if baseline in ("latent", "autoencoder"):
        chosen += ["--set", "method.width=4"]
    return chosen


def small_config_file(folder):
    """The small configuration as a file in `folder`."""
    path = folder / "small.yaml"
    return path if path.exists() else write_small(path)


def train_small(folder, run, baseline, *more, steps=4):
    """Invoke `hpdm-train` in `folder`/`run`; returns click's result."""
    arguments = [
        "--size",
        str(small_config_file(folder)),
        "--out",
        str(folder / run),
        "--steps",
        str(steps),
        "--device",
        "cpu",
        "--quiet",
    ]
    return CliRunner().invoke(train, [*arguments, *options(baseline, folder), *more])
