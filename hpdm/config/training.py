"""What can be set about a training run; the defaults are those of HPDM on UCF-101 (table 8 of the paper)."""

from dataclasses import dataclass

from hpdm.batches import BatchPlan
from hpdm.config.pyramid import OVERLAPS, SHRINKS, WINDOW_ORDERS, check_branching
from hpdm.support.errors import InputError

LENGTHS = (0.05, 0.10)  # sigma_rel of the two traces from which post-hoc EMA is reconstructed, EDM2's
WIDEST_LENGTH = 12**-0.5  # that of a plain mean over all steps
OPTIMIZERS = ("lamb", "adamw")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("fp32", "bf16")
ATTENTION_PRECISIONS = ("fp32", "bf16", "fp16")
PARALLEL = ("ddp", "fsdp", "hsdp")
FIRST_PASSES = ("chosen", "whole")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run: how long, on how many samples, with which optimizer, and what it leaves behind."""

    steps: int = 40_000  # optimisation steps of the whole schedule
    batch: int = 768  # samples per step, over all processes together
    micro_batch: int | None = None  # most samples that one process holds in memory at once; None: its whole share
    seed: int = 0  # every random number of the run follows from it
    init_from: str | None = None  # start from the averaged weights of this run of the same size, with fewer levels

    optimizer: str = "lamb"  # "lamb" or "adamw"
    lr: float = 0.005  # peak learning rate
    start_gain: float | None = None  # of matrices that would start at zero, times Glorot's; None: see `leave_zero`
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-6  # added to the root of the second moment
    weight_decay: float = 0.01  # on weight matrices only; not on biases, norms and embeddings
    warmup: int = 10_000  # steps over which the learning rate rises linearly to its peak
    schedule: str = "cosine"  # after the warm-up: "cosine" falls to 0 at the last step, "constant" stays
    clip_norm: float | None = 1.0  # largest norm of the gradient of all parameters together; None: no limit

    ema_half_life: float = 6_000.0  # steps after which old weights count half in the average
    ema_ramp_up: float = 0.05  # the half-life is at most this fraction of the steps made so far
    power_ema: tuple[float, ...] | None = None  # sigma_rel of traces for post-hoc EMA; None: see `traces`

    label_dropout: float = 0.1  # share of samples that are trained without their class and text
    self_conditioning_rate: float = 0.9  # share of samples whose latents start from those of a first estimate
    first_pass: str = (
        "chosen"  # the pass that makes it: "chosen", of those samples, up to the latents, or "whole", of all
    )
    window_order: str = "coarse-first"  # how nested windows are drawn: see hpdm.pyramid.sample_windows
    branching: tuple[int, ...] | None = None  # windows per level of each sample, coarse to fine, such as [1, 2, 4]:
    # they share the coarse ones; None: one each
    shrink: str = "area"  # how coarse levels are made: see hpdm.pyramid.shrink_video

    precision: str = "fp32"  # "fp32", or "bf16" for autocast (weights, optimizer and average stay fp32)
    attention_precision: str = "fp32"  # "bf16" or "fp16": attention alone in half precision (a GPU's flash kernel)
    tf32: bool = True  # allow TF32 in matrix products of a GPU
    activation_checkpointing: bool | str = False  # recompute each block in the backward pass: less memory, more time;
    # "auto": where the planned memory is more than the GPU has
    compile: bool = False  # torch.compile of the blocks
    parallel: str = "ddp"  # several processes: "ddp" keeps whole copies, "fsdp" shards weights and optimizer over all,
    # "hsdp" over those of a node, with a copy per node
    shard_size: int | None = None  # hsdp: processes that share one copy; None: those of a node
    reshard: bool = (
        True  # sharded: free a block's whole weights after its forward pass; false: more memory, less traffic
    )

    max_nonfinite: int = 20  # steps with a loss or gradient that is not finite (they are skipped) before giving up
    log_every: int = 50  # steps per line of the log
    checkpoint_every: int = 1_000  # steps between checkpoints
    checkpoint_minutes: float | None = None  # minutes after which one is saved all the same; None: by steps alone
    keep: int = 2  # newest checkpoints that stay
    keep_weights_every: int = 0  # steps between snapshots of the averaged weights, all of which stay; 0: none
    sheet_every: int = 1_000  # steps between pictures of what the averaged network denoises; 0: none
    eval_every: int = 0  # steps between evaluations of videos that the averaged network samples, see `eval`; 0: none

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("parallel", PARALLEL),
            ("attention_precision", ATTENTION_PRECISIONS),
            ("window_order", WINDOW_ORDERS),
            ("shrink", SHRINKS),
            ("first_pass", FIRST_PASSES),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"training.{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        for name, least in (
            ("steps", 1),
            ("batch", 1),
            ("seed", 0),
            ("warmup", 0),
            ("max_nonfinite", 1),
            ("log_every", 1),
            ("checkpoint_every", 1),
            ("keep", 1),
            ("sheet_every", 0),
            ("lr", 0),
            ("weight_decay", 0),
            ("ema_ramp_up", 0),
            ("keep_weights_every", 0),
            ("eval_every", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"training.{name} must be at least {least}; got {getattr(self, name)}")
        if self.activation_checkpointing not in (True, False, AUTO):
            raise InputError(
                f"training.activation_checkpointing must be true, false or {AUTO}; got "
                f"{self.activation_checkpointing!r}"
            )
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"training.micro_batch must be at least 1; got {self.micro_batch}")
        for name in ("eps", "ema_half_life", "clip_norm", "checkpoint_minutes"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"training.{name} must be positive; got {getattr(self, name)}")
        if self.branching is not None:
            check_branching(self.branching, len(self.branching))
        if self.shard_size is not None and self.shard_size < 2:
            raise InputError(f"training.shard_size must be at least 2; got {self.shard_size}")
        if self.start_gain is not None and self.start_gain < 0:
            raise InputError(f"training.start_gain must be at least 0; got {self.start_gain}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"training.betas must lie in [0, 1); got {list(self.betas)}")
        for name in ("label_dropout", "self_conditioning_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"training.{name} must lie in [0, 1]; got {getattr(self, name)}")
        if len(set(self.traces)) < len(self.traces) or not all(0.001 <= s <= WIDEST_LENGTH for s in self.traces):
            raise InputError(
                f"training.power_ema takes lengths sigma_rel from 0.001 to {WIDEST_LENGTH:.3f}, each "
                f"once; got {list(self.traces)}"
            )

    def windows(self, levels: int) -> tuple[int, ...]:
        """Windows per level of a sample, coarse to fine."""
        return self.branching or (1,) * levels

    @property
    def recomputes(self) -> bool:
        """Whether activations are recomputed on every device; "auto" counts as no."""
        return self.activation_checkpointing is True

    @property
    def traces(self) -> tuple[float, ...]:
        """sigma_rel of the averages kept for post-hoc EMA: by default 0.05 and 0.1 where there are snapshots."""
        return self.power_ema if self.power_ema is not None else LENGTHS if self.keep_weights_every else ()


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What `training.eval_every` samples and measures; none of it changes what is learnt."""

    metrics: tuple[str, ...] = ("fvd",)  # by the names of `hpdm-eval`
    num: int = 256  # videos that are sampled; a figure is called METRIC@num
    seed: int = 0  # of the samples and of what the metrics draw, the same each time
    steps: tuple[int, ...] | None = None  # per level, coarse to fine; None: sampling.steps
    overlap: str | None = None  # axes along which tiles overlap; None: sampling.overlap
    reference: str | None = None  # folder of real clips, or statistics of `hpdm-eval stats`; None: the training data
    num_reference: int = 2_048  # clips of the training data that are the reference
    part: str | None = None  # "test": the reference is the data's part that is held out; None: the part trained on
    protocol: str | None = None  # of `hpdm-eval`; None: generic-16f, native for videos of fewer frames
    backbone: str | None = None  # network of `hpdm-eval`; None: the protocol's, shapes3d for procedural data
    minutes: float = 60.0  # after which the computation of the metrics is given up

    def __post_init__(self) -> None:
        for name, least in (("num", 2), ("seed", 0), ("num_reference", 2)):
            if getattr(self, name) < least:
                raise InputError(f"eval.{name} must be at least {least}; got {getattr(self, name)}")
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise InputError(f"eval.metrics takes names of metrics, each once; got {list(self.metrics)}")
        if self.steps is not None and (not self.steps or min(self.steps) < 1):
            raise InputError(f"eval.steps must be whole numbers of at least 1, one per level; got {list(self.steps)}")
        if self.overlap is not None and self.overlap not in OVERLAPS:
            raise InputError(f"eval.overlap must be one of {', '.join(OVERLAPS)}; got {self.overlap!r}")
        if self.part not in (None, "test"):
            raise InputError(f"eval.part must be test, or null for the part trained on; got {self.part!r}")
        if not self.minutes > 0:
            raise InputError(f"eval.minutes must be positive; got {self.minutes}")


def plan_batch(config: TrainingConfig, world_size: int) -> BatchPlan:
    """Raises InputError where there are more processes than samples."""
    if config.batch < world_size:
        raise InputError(f"training.batch of {config.batch} leaves some of {world_size} processes without a sample")
    own = -(-config.batch // world_size)
    return BatchPlan(batch=config.batch, world_size=world_size, micro_batch=min(config.micro_batch or own, own))
