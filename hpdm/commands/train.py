"""The `hpdm-train` command. Heavy imports wait until it runs, so that --help is quick."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hpdm.commands.encode_text import encode_text
from hpdm.config.method import method_names
from hpdm.support.console import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    CommandWithOthers,
    OutputFolder,
    common_options,
    version_option,
    words_of_command,
)


class TrainCommand(CommandWithOthers):
    """The command itself trains."""

    others = (encode_text,)


@click.command(cls=TrainCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--size", required=True, metavar="nano|S|M|L|T2V|FILE.yaml", help="Size of the network and its defaults.")
@click.option(
    "--baseline", metavar="NAME", help=f"Train a baseline instead, at that size: {', '.join(method_names())}."
)
@click.option(
    "--data",
    metavar="DIR|ADDRESS|procedural",
    help="A folder of videos with a subfolder per class, UCF-101 as it comes, shards in a folder or behind "
    "an address (s3://...), or clips drawn on the fly; hpdm-data indexes and packs.  [default: procedural]",
)
@click.option(
    "--out",
    "run",
    type=OutputFolder(path_type=Path),
    metavar="RUN",
    help="Folder of the run: checkpoints, log, sheets. Required but for --dry-run and --profile-data.",
)
@click.option(
    "--levels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train only the N coarsest levels; a run of all levels can start from that one.",
)
@click.option("--init-from", metavar="RUN", help="Start from the averaged weights of a run with fewer levels.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the whole schedule.  [default: the size's]")
@click.option(
    "--stop-after",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="Save and end after STEP steps in total; the schedule stays that of --steps.",
)
@click.option("--batch", type=click.IntRange(min=1), help="Samples per step, over all processes together.")
@click.option(
    "--eval-every",
    type=click.IntRange(min=0),
    metavar="N",
    help="Every N steps sample videos with the averaged weights and log their metrics; --dry-run lists the "
    "settings of `eval`.",
)
@click.option(
    "--eval-reference",
    type=click.Path(exists=True),
    metavar="DIR|STATS.npz",
    help="Real clips to compare them with.  [default: the training data]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Insist on continuing: fail where RUN has no checkpoint. Without it a run continues if it has one.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as training.lr=0.002 or parallel=fsdp; repeatable. --dry-run lists all.",
)
@click.option(
    "--slurm",
    metavar="NODESxGPUS",
    help="Submit the command to SLURM, to that many nodes with that many GPUs each; extra `slurm`.",
)
@click.option("--slurm-partition", metavar="NAME", help="Partition to submit to.  [default: the cluster's]")
@click.option(
    "--slurm-time",
    default="1-0",
    show_default=True,
    metavar="TIME",
    help="Time limit of the job, as sbatch takes it; a run that needs more goes on in the queue by itself.",
)
@click.option("--slurm-cpus", type=click.IntRange(min=1), metavar="N", help="Processor cores per GPU.")
@click.option(
    "--slurm-set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Further option of sbatch, such as account=vision; repeatable.",
)
@click.option(
    "--slurm-cluster",
    type=click.Choice(["slurm", "local"]),
    default="slurm",
    show_default=True,
    help="local: run the job on this machine, to try a command.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print settings, parameters, FLOPs, memory and batch arithmetic; write nothing."
)
@click.option(
    "--profile-data", is_flag=True, help="Compare the speed of the data with that of the steps; write nothing."
)
@version_option
@common_options
@click.pass_context
def train(
    context: click.Context,
    run: Path | None,
    baseline: str | None,
    size: str,
    seed: int,
    stop_after: int | None,
    resume: bool,
    dry_run: bool,
    profile_data: bool,
    device: str,
    quiet: bool,
    **options: Any,
) -> int:
    """Train an HPDM, or one of the methods it is compared with. `hpdm-train encode-text` encodes captions beforehand.

    The same command again continues where the run stopped; it may then change learning rate, schedule, batch, precision
    and where the data are. Ctrl-C finishes the step, saves and exits with 130, SIGTERM does so without finishing it; a
    second Ctrl-C exits at once. Several GPUs: torchrun --nproc-per-node 8 -m hpdm.training -- and the same options.
    """
    if run is None and not (dry_run or profile_data):
        raise click.UsageError("--out RUN is missing: the folder for checkpoints and log")

    from hpdm.training.request import TrainRequest

    job = {key: options.pop(f"slurm_{key}") for key in ("partition", "time", "cpus", "cluster")}
    job |= {"shape": options.pop("slurm"), "settings": options.pop("slurm_set")}
    chosen = context.get_parameter_source("seed") is not ParameterSource.DEFAULT
    request = TrainRequest(config=size, method=baseline, seed=seed if chosen else None, **options)
    config = request.resolve(run, must_exist=not dry_run)
    if dry_run:
        from hpdm.training.plan import describe_run

        click.echo(describe_run(config))
        return 0
    if profile_data:
        from hpdm.training.profile import profile_run

        click.echo(profile_run(config, device=device, quiet=quiet))
        return 0
    assert run is not None  # only the two above go without
    if job["shape"]:
        from hpdm.config.training import plan_batch
        from hpdm.training.slurm import parse_shape, submit, without_slurm

        nodes, gpus = parse_shape(job["shape"])
        plan_batch(config.training, nodes * gpus)
        submitted = submit(run_command, without_slurm(words_of_command()), run, use_gpus=device != "cpu", **job)
        click.echo(f"job {submitted.job_id}; its output is in {submitted.paths.folder}")
        return 0

    from hpdm.training.loop import NonFiniteLoss
    from hpdm.training.loop import train as train_run
    from hpdm.training.precision import MissingGradients
    from hpdm.training.sharded import SaveFailed

    try:
        outcome = train_run(config, run, device=device, resume=resume, stop_after=stop_after, quiet=quiet)
    except (NonFiniteLoss, MissingGradients, SaveFailed) as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_FAILURE
    return EXIT_INTERRUPTED if outcome.interrupted else 0


def run_command(words: Sequence[str]) -> int:
    """Exit code of `hpdm-train` with these words: what a task of a SLURM job runs."""
    try:
        train.main(list(words), prog_name="hpdm-train")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
