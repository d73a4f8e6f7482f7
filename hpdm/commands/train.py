"""The `hpdm-train` command. Heavy imports wait until it runs, so that --help is quick."""

import json
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from hpdm.commands.encode_text import encode_text
from hpdm.methods import method_names
from hpdm.support.console import EXIT_FAILURE, EXIT_INTERRUPTED, Command, OutputFolder, common_options, words_of_command


class TrainCommand(Command):
    """The command itself trains; with `encode-text` as its first word it is that one."""

    def main(self, args=None, prog_name=None, **options):
        args = list(sys.argv[1:] if args is None else args)
        if args[:1] == [encode_text.name]:
            return encode_text.main(args[1:], prog_name=f"hpdm-train {encode_text.name}", **options)
        return super().main(args, prog_name, **options)


@click.command(cls=TrainCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--size", required=True, metavar="nano|S|M|L|T2V|FILE.yaml", help="Size of the network and its defaults.")
@click.option(
    "--baseline", metavar="NAME", help=f"Train what HPDM is compared with, at that size: {', '.join(method_names())}."
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
    help="Train so many of the coarsest levels alone; a run of all levels can start from that one.",
)
@click.option("--init-from", metavar="RUN", help="Start from the averaged weights of a run with fewer levels.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the whole schedule.  [default: the size's]")
@click.option(
    "--stop-after",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="Save and end when STEP steps in all are made; the schedule stays that of --steps.",
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
    help="Submit the command to SLURM, to so many nodes with so many GPUs each; extra `slurm`.",
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
@common_options
@click.pass_context
def train(
    context,
    size,
    baseline,
    data,
    run,
    levels,
    init_from,
    steps,
    stop_after,
    batch,
    eval_every,
    eval_reference,
    resume,
    overrides,
    slurm,
    slurm_partition,
    slurm_time,
    slurm_cpus,
    slurm_set,
    slurm_cluster,
    dry_run,
    profile_data,
    device,
    seed,
    quiet,
):
    """Train an HPDM, or one of the methods it is compared with. `hpdm-train encode-text` encodes captions beforehand.

    The same command again continues where the run stopped; it may then change learning rate, schedule, batch, precision
    and where the data are. Ctrl-C finishes the step, saves and exits with 130, SIGTERM does so without finishing it; a
    second Ctrl-C exits at once. Several GPUs: torchrun --nproc-per-node 8 -m hpdm.training -- and the same options.
    """
    if run is None and not (dry_run or profile_data):
        raise click.UsageError("--out RUN is missing: the folder for checkpoints and log")

    from hpdm.config import coarsest_levels, load_config

    settings = {
        "data.path": data,
        "training.steps": steps,
        "training.batch": batch,
        "training.init_from": init_from,
        "training.eval_every": eval_every,
        "eval.reference": eval_reference,
    }
    if context.get_parameter_source("seed") is not ParameterSource.DEFAULT:
        settings["training.seed"] = seed
    options = [f"{key}={json.dumps(value)}" for key, value in settings.items() if value is not None]
    config = load_config(size, [*options, *overrides], method=baseline)
    if levels is not None:
        config = coarsest_levels(config, levels)
    if not any(text.partition("=")[0].strip() in ("num_classes", "network.num_classes") for text in overrides):
        from hpdm.training.data import with_classes_of_data

        config = with_classes_of_data(config, run, must_exist=not dry_run)

    if dry_run:
        from hpdm.training.plan import describe_run

        click.echo(describe_run(config))
        return 0
    if profile_data:
        from hpdm.training.profile import profile_run

        click.echo(profile_run(config, device=device, quiet=quiet))
        return 0

    if slurm:
        from hpdm.config.training import plan_batch
        from hpdm.training.slurm import parse_shape, submit, without_slurm

        nodes, gpus = parse_shape(slurm)
        plan_batch(config.training, nodes * gpus)
        job = submit(
            without_slurm(words_of_command()),
            run,
            shape=slurm,
            time=slurm_time,
            partition=slurm_partition,
            cpus=slurm_cpus,
            settings=slurm_set,
            cluster=slurm_cluster,
            use_gpus=device != "cpu",
        )
        click.echo(f"job {job.job_id}; its output is in {job.paths.folder}")
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
