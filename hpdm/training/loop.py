"""The training loop, top to bottom: set up, resume, step, log, save."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import default_collate

from hpdm.checkpoint.folder import CONFIG_FILE, read_config
from hpdm.checkpoint.recover import owned_run, set_aside_later, tidy
from hpdm.config import Config, save_config
from hpdm.config.training import plan_batch
from hpdm.data.loader import LoadingStopped, make_loader, open_clips
from hpdm.data.quarantine import QUARANTINE_FILE, Quarantine
from hpdm.methods import make_method
from hpdm.model.rin import set_attention_precision
from hpdm.model.text import make_conditioner
from hpdm.model.threads import product_size, threads_by_work
from hpdm.support.errors import InputError
from hpdm.support.progress import note, progress
from hpdm.training.data import keep_data, note_data, refuse_other_data
from hpdm.training.distributed import gradient_sync, processes, replicate, settle, shard
from hpdm.training.ema import EMA, PowerEMA
from hpdm.training.evaluation import open_evaluations
from hpdm.training.log import RunLog
from hpdm.training.loss import seed_dropout
from hpdm.training.optimizer import describe_groups, learning_rate, leave_zero, make_optimizer
from hpdm.training.plan import recomputes_activations
from hpdm.training.precision import check_gradients, mixed_precision
from hpdm.training.provenance import note_start
from hpdm.training.resume import agree_on_checkpoint, describe_changes, differences
from hpdm.training.saving import Saver, load_training_state
from hpdm.training.sharing import plan_sharing
from hpdm.training.sheets import CLIPS
from hpdm.training.signals import stop_on_signals
from hpdm.training.snapshots import kept_at, snapshot_folder
from hpdm.training.start import build_network, start_from
from hpdm.video.writer import save_picture

if TYPE_CHECKING:
    from hpdm.batches import BatchPlan
    from hpdm.data.loader import TrainingClips
    from hpdm.methods import Method
    from hpdm.model.conditioning import Labels
    from hpdm.model.text import Conditioner
    from hpdm.training.distributed import Processes
    from hpdm.training.signals import StopRequest


class NonFiniteLoss(Exception):
    """Too many steps had a loss or gradient that is not finite; what was learnt before them is saved."""


class StepDropped(Exception):
    """A step that no process completes: one is asked to stop at once, or gets no clips for it.

    `reason` is why this process has no clips: LoadingStopped, as was asked for, or what reading them failed with, an
    InputError or OSError; None where it has them. `failed` says whether reading failed on any process.
    """

    def __init__(self, reason: Exception | None, failed: bool) -> None:
        super().__init__(reason)
        self.reason, self.failed = reason, failed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How `train` ended."""

    step: int  # steps made since the run began
    interrupted: bool  # by a signal


def train(
    config: Config,
    run: str | Path,
    *,
    device: torch.device | str = "auto",
    resume: bool = False,
    stop_after: int | None = None,
    quiet: bool = False,
    evaluator: Any = None,
) -> Outcome:
    """Train `config` in the folder `run`, or continue what is there; every process of a `torchrun` calls this.

    Saves when `stop_after` steps in all are made, on SIGTERM, which drops the step in progress, and on Ctrl-C, which
    completes it, and then returns. `resume` insists on a checkpoint to continue from; `evaluator` judges samples every
    `training.eval_every` steps in place of the installed one (see `find_evaluator`). Raises InputError, before anything
    is written, for data, sizes or a folder that do not fit, and, with all steps saved, where clips can be read no
    longer; MissingGradients where the first step leaves a parameter without a gradient, and NonFiniteLoss where
    `training.max_nonfinite` steps had to be skipped.
    """
    settings, method = config.training, make_method(config)
    with processes(device) as process, stop_on_signals() as stop, owned_run(run, process), ExitStack() as at_end:
        quiet = quiet or not process.first
        device = process.device
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32

        # Everything that can be wrong with the input is found before the folder is touched.
        batches, sharing = plan_batch(settings, process.world_size), plan_sharing(settings, process.world_size)
        checkpoint = agree_on_checkpoint(run, config, resume, process, quiet)
        frames, height, width = method.video_size
        with process.first_goes_first():
            clips = open_clips(
                config.data,
                frames=frames,
                height=height,
                width=width,
                seed=settings.seed,
                num_classes=None if checkpoint else config.network.num_classes,
                quiet=quiet,
            )
        at_end.enter_context(closing(clips))
        config = note_data(config, clips, quiet)
        refuse_other_data(run, checkpoint, config, clips)
        conditioner = make_conditioner(config, device)
        evaluations = open_evaluations(config, run, evaluator, process=process, method=method, stop=stop, quiet=quiet)
        sharded, reshard, shards = sharing.shards > 1, settings.reshard, sharing.shards
        network = build_network(method, process, sharded=sharded, seed=settings.seed, reshard=reshard, shards=shards)
        # The smallest GPU decides for all.
        network.checkpoint_blocks = process.any(recomputes_activations(config, device, process.world_size))
        note(
            "activations are recomputed in the backward pass: they do not fit",
            quiet or settings.recomputes or not network.checkpoint_blocks,
        )
        set_attention_precision(network, settings.attention_precision)
        if checkpoint is None:
            method.begin(network, clips, device)
            if settings.init_from:
                start_from(network, settings.init_from)
            leave_zero(network, settings)
        if sharded and not isinstance(network, FSDPModule):
            shard(network, process, reshard=reshard, shards=shards)
        network.to(device)
        if settings.compile:
            network.compile_blocks()
        at_end.enter_context(threads_by_work(product_size(config, batches.micro_batch), device))
        model = replicate(network, process)
        network.train()
        settle(model, method, settings.precision, device)
        parameters = list(network.parameters())
        ema = EMA(network, settings.ema_half_life, settings.ema_ramp_up)
        traces = [PowerEMA(network, sigma_rel) for sigma_rel in settings.traces]
        optimizer = make_optimizer(network, settings)
        note(describe_groups(optimizer.param_groups), quiet)

        # Figures summed over the steps since the last line of the log: loss per level, gradient norm, counted steps.
        sums, start, nonfinite = torch.zeros(method.losses + 2, dtype=torch.float64), 0, 0
        first_clip, changes = 0, {}
        if checkpoint is not None:
            state = load_training_state(checkpoint, network=network, ema=ema, optimizer=optimizer, traces=traces)
            start, sums, nonfinite = state["step"], state["progress"]["sums"], state["progress"]["nonfinite"]
            before = read_config(checkpoint / CONFIG_FILE)
            first_clip = state["progress"].get("clips", start * before.training.batch)
            changes = differences(before, config)
            note(f"continuing from {checkpoint} after {start} of {settings.steps} steps", quiet)
            note(f"from here on with other settings: {describe_changes(changes)}", quiet or not changes)
            if ended := sorted(set(before.training.traces) - set(settings.traces)):
                note(f"averages for post-hoc EMA that end here: {', '.join(map(str, ended))}", quiet)
        end = min(settings.steps, stop_after or settings.steps)
        to_evaluate = evaluations.missing(start)
        # The run may have ended between a checkpoint and its snapshot.
        to_keep = (
            start > 0 and kept_at(settings, start) and process.from_first(not snapshot_folder(run, start).exists())
        )
        if start >= end and not to_evaluate and not to_keep:
            if process.first:
                tidy(run, checkpoint)
            note(f"nothing to do: {start} of {settings.steps} steps are made", quiet)
            return Outcome(step=start, interrupted=False)
        log, stop.in_steps = None, True  # the first process alone has a log
        if process.first:
            Path(run).mkdir(parents=True, exist_ok=True)
            tidy(run, checkpoint)
            set_aside_later(run, checkpoint, lambda text: note(text, quiet))
            save_config(config, Path(run) / CONFIG_FILE)
            note_start(run, start, device, process.world_size, changes)
            keep_data(run, clips)
            log = RunLog(run, start, quiet)
        process.wait()  # the first has made the folder
        saver = at_end.enter_context(
            Saver(run, process, network=network, ema=ema, traces=traces, optimizer=optimizer, config=config)
        )
        saver.check_folder()
        if to_keep:
            saver.save_snapshot(start)
        clips.quarantine = Quarantine(Path(run) / QUARANTINE_FILE)
        loader = make_loader(
            config.data,
            frames=frames,
            height=height,
            width=width,
            batch=settings.batch,
            seed=settings.seed,
            rank=process.rank,
            world_size=process.world_size,
            first=first_clip,
            micro_batch=batches.micro_batch,
            clips=clips,
            pin_memory=device.type == "cuda",
            stopped=lambda: stop.requested,
        )
        bar = progress(total=settings.steps, initial=start, unit="step", description=Path(run).name, quiet=quiet)
        began = line_began = time.perf_counter()
        line_start, checked = start, False
        nonfinite_before = nonfinite
        saved, saved_at = start, time.monotonic()

        def save(done, **options):
            nonlocal saved, saved_at
            if done > saved:
                saver.save(done, {"sums": sums, "nonfinite": nonfinite, "clips": clips_used(done)}, **options)
                saved, saved_at = done, time.monotonic()

        def clips_used(done):
            return first_clip + (done - start) * settings.batch

        def evaluate(done):
            nonlocal began, line_began
            before = evaluations.seconds
            complete = evaluations.make(done, network, ema, clips, conditioner, log)
            taken = evaluations.seconds - before  # is no time of steps
            began, line_began = began + taken, line_began + taken
            if not bar.disable:
                bar.start_t, bar.last_print_t = bar.start_t + taken, bar.last_print_t + taken
            return complete

        network.train()
        done, interrupted = start, to_evaluate and not evaluate(start)
        dropped: StepDropped | None = None
        for step in range(start, end if not interrupted else start):
            done = step + 1
            rate = learning_rate(settings, step)
            for group in optimizer.param_groups:
                group["lr"] = rate

            try:
                losses = accumulate(
                    model, method, loader, conditioner, batches=batches, process=process, step=step, stop=stop
                )
            except StepDropped as dropping:  # many passes take longer than there is between SIGTERM and the kill
                interrupted, done, dropped = True, step, dropping
                note(f"step {step + 1} is not made: {dropped.reason}", quiet or dropped.failed or not dropped.reason)
                save(done, keep=settings.keep)
                break
            if not checked:
                # Where the loss is not finite no gradient is, which is counted below; then the next step is looked at.
                checked = bool(process.mean(losses.clone()).isfinite().all())
                check_gradients(network, process, finite=checked)
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or float("inf"))

            # All processes learn the same figures, whether one of them is to stop, whether the first finds it
            # time to save, and whether what is being saved has failed, in one exchange.
            minutes = settings.checkpoint_minutes
            due = minutes is not None and process.first and time.monotonic() - saved_at >= 60 * minutes
            words = torch.tensor([stop.requested, due, saver.failed()], dtype=losses.dtype, device=device)
            figures = process.mean(torch.cat([losses, words]))
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            *figures, requested, due, failed, norm = torch.cat([figures, norm.reshape(1)]).cpu()
            step_figures = torch.stack([*figures, norm]).double()
            interrupted = bool(requested > 0)
            if failed > 0:
                saver.wait()  # which raises it
            if step_figures.isfinite().all():
                optimizer.step()
                for average in (ema, *traces):
                    average.update(done)
                sums[:-1] += step_figures
                sums[-1] += 1
            else:
                nonfinite += 1
                for trace in traces:  # whose profile is over all steps: the weights of the last one count once more
                    trace.update(done)
                note(f"step {done}: loss or gradient is not finite; step skipped, {nonfinite} so far", quiet)
                if (skipped := nonfinite - nonfinite_before) >= settings.max_nonfinite:
                    save(done)  # beside the others: one may want to go back further
                    raise NonFiniteLoss(
                        f"stopped at step {done}: {skipped} steps had a loss or gradient that is not finite "
                        f"(training.max_nonfinite). What was learnt before them is saved; the same command goes on "
                        f"with the next step, and may change training.lr, training.clip_norm or training.precision"
                    )
            optimizer.zero_grad()
            bar.update()

            last = done == end or interrupted
            if log and (done % settings.log_every == 0 or done == settings.steps) and sums[-1] > 0:
                now = time.perf_counter()
                *level_means, mean_norm = (sums[:-1] / sums[-1]).tolist()
                speed = (done - line_start) * settings.batch / (now - line_began)
                log.write(
                    {
                        "step": done,
                        "samples": clips_used(done),
                        "loss": sum(level_means) / method.losses,
                        "loss_per_level": level_means,
                        "gradient_norm": mean_norm,
                        "lr": rate,
                        "nonfinite": nonfinite,
                        "samples_per_second": speed,
                        "seconds_left": (settings.steps - done) * (now - began) / (done - start),
                    }
                )
                levels = " ".join(f"{value:.4f}" for value in level_means)
                bar.set_postfix_str(f"loss {levels}, norm {mean_norm:.3g}, lr {rate:.2g}, {speed:.1f} samples/s")
                line_began, line_start = now, done
            if done % settings.log_every == 0:
                sums.zero_()
            if settings.sheet_every and (done % settings.sheet_every == 0 or done == settings.steps):
                network.eval()
                with ema.applied():
                    picture = method.sheet(network, *sheet_clips(clips, conditioner))
                network.train()
                if log:
                    save_picture(Path(run) / "sheets" / f"step-{done:08d}.png", picture)
                    log.picture(picture, done)
            follows = kept_at(settings, done) or evaluations.due(done)  # what must not be lost behind this step
            if done % settings.checkpoint_every == 0 or due > 0 or last or follows:
                save(done, keep=settings.keep)
            if kept_at(settings, done) and not interrupted:
                saver.save_snapshot(done)
            if evaluations.due(done) and not interrupted:
                interrupted = not evaluate(done)
            if interrupted:
                break

        bar.close()
        loader.close()
        saver.wait()
        if log:
            log.close()
        note(f"{done} of {settings.steps} steps are made; the last checkpoint is in {run}", quiet)
        if dropped and dropped.failed:
            reason = dropped.reason or "another process of the run got no clips; its own message says why"
            raise InputError(f"{reason}. The {done} steps made before are saved in {run}; the same command goes on")
        return Outcome(step=done, interrupted=interrupted)


def accumulate(
    model: nn.Module,
    method: "Method",
    deliveries: Iterator,
    conditioner: "Conditioner",
    *,
    batches: "BatchPlan",
    process: "Processes",
    step: int,
    stop: "StopRequest | None" = None,
) -> torch.Tensor:
    """Add up the gradients of one step; returns the losses [losses], whose mean over processes is the whole batch's.

    Every sample has the same weight, whatever the size of its pass and of its process' share. deliveries: iterator over
    (videos, what they are labelled with) of this process' passes, without empty ones, as of `make_loader`. With a
    `StopRequest`, raises StepDropped on all processes where that of one of them wants no more passes, or one gets no
    clips; the gradients are then of no use.
    """
    settings = method.config.training
    losses = torch.zeros(method.losses, device=process.device)
    for index in range(batches.passes):
        chosen, reason = batches.positions(process.rank, index), None
        if chosen and not (stop and stop.at_once):
            try:
                positions, (video, delivered) = chosen, next(deliveries)
            except (LoadingStopped, InputError, OSError) as error:
                if stop is None:
                    raise
                reason = error
        if stop is not None and process.any(stop.at_once or reason is not None):
            failed = process.any(reason is not None and not isinstance(reason, LoadingStopped))
            raise StepDropped(reason, failed)
        if chosen:
            video, labels = video.to(process.device, non_blocking=True), conditioner(delivered)
        # Gradients are averaged over processes. A process without samples goes along, for the others wait for it.
        weight = process.world_size / batches.batch if chosen else 0.0
        seed_dropout(settings.seed, step, positions, model)
        with gradient_sync(model, index == batches.passes - 1):
            with mixed_precision(process.device, settings.precision):
                pass_losses = method.loss(model, video, labels, step=step, positions=positions).sum(0) * weight
            pass_losses.mean().backward()
        losses += pass_losses.detach()
    return losses


def sheet_clips(clips: "TrainingClips", conditioner: "Conditioner") -> "tuple[torch.Tensor, Labels]":
    """(uint8 [B, C, T, H, W], labels or `Conditions`) of the first clips of the run, which the sheets always show."""
    videos, delivered = default_collate([clips[number] for number in range(CLIPS)])
    return videos.to(conditioner.device), conditioner(delivered)
