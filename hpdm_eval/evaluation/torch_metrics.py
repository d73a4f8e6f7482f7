"""FVD and its kin as `torchmetrics.Metric`s, for a training loop: update, compute, reset.

B clips, T frames, H rows, W columns; videos are uint8 [B, T, H, W, 3] or float [B, 3, T, H, W].
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.evaluation.api import check_options, for_one, resolve, split_settings
from hpdm_eval.evaluation.comparison import judge_warnings
from hpdm_eval.evaluation.figure import Figure
from hpdm_eval.evaluation.incoming import (
    MEMORY,
    OF_FILES,
    Gathered,
    Role,
    SharedNetwork,
    collect,
    fingerprint,
    parts_of,
    shared_network,
)
from hpdm_eval.evaluation.received import Received, comparison_of, open_reference, read_reference, receive
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.metrics.registry import MetricInfo, get_metric
from hpdm_eval.protocols import DEFAULT, Protocol
from hpdm_eval.support.distributed import rank_and_size

with contextlib.suppress(ImportError):
    import_torchvision()  # which torchmetrics imports where it is installed
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

LISTS = ("rows", "clips", "rejected")  # states of every role, see `Gathered`
WIDTHS = {"clips": 6, "rejected": 4}
REAL = "real_"  # what states of the reference begin with
OF_TORCHMETRICS = (
    "compute_on_cpu",
    "dist_sync_on_step",
    "process_group",
    "dist_sync_fn",
    "distributed_available_fn",
    "sync_on_compute",
    "compute_with_cache",
)


class FeatureMetric(Metric):
    """Base of the metrics on features; a subclass names a registered metric.

    reference: a path to real clips, which are read as `hpdm-eval` reads them, features cached; a file of statistics
    that `hpdm-eval stats` wrote; or None: then real videos come by `update(videos, real=True)`. protocol: a name, a
    YAML file, or a `Protocol`. settings: the metric's own options; fields of `Protocol` (backbone, frames, num_samples,
    value_range, ...) and of `Evaluation` (seed, batch, weights, ...); arguments of `torchmetrics.Metric`. as_tensor:
    `compute` returns a float32 tensor, for loggers that call it themselves; the `Figure` is then in `figure`.
    reset_real_features: whether `reset` forgets the real videos too, as in torchmetrics' own FID.

    What can be found wrong before the first video is, here, by InputError: the network is loaded, the reference opened.

    Clips count in the order in which they come, over several processes one of each in turn, as a `DistributedSampler`
    hands them out, so that a figure does not depend on how many there are. (Another order moves its last bits, and its
    interval within its own uncertainty.) A sampler that repeats clips to make shares equal adds those to the figure,
    unless `num_samples` is their true number: of more clips, the first count, and the record says so.

    Metrics of one network, in a `MetricCollection` or not, run it once for each clip.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better: bool
    metric: ClassVar[str]  # name in the registry

    def __init__(
        self,
        reference: Place | None = None,
        protocol: str | Protocol = DEFAULT,
        *,
        as_tensor: bool = False,
        reset_real_features: bool = True,
        quiet: bool = True,
        **settings: Any,
    ) -> None:
        of_torchmetrics = {key: settings.pop(key) for key in OF_TORCHMETRICS if key in settings}
        of_torchmetrics.setdefault("dist_sync_fn", None)
        super().__init__(**of_torchmetrics)
        info = get_metric(self.metric)
        self._options, self._evaluation = _settle(info, reference, protocol, quiet, settings)
        self._per_frame, self._as_tensor = info.needs == "frames", as_tensor
        self._reset_real = reset_real_features
        self._started: float | None = None  # of the first update
        self._where: torch.device | None = None  # device of the latest videos
        self._read: Received | None = None  # the reference, once it was
        self._network: SharedNetwork | None = None
        self.figure: Figure | None = None
        judge_warnings(self._evaluation)
        network = self._extract(self._chosen_device() or torch.device("cpu"))
        if self._evaluation.reference is not None:
            open_reference(self._evaluation, network)
        for prefix in ("", REAL):
            for name in LISTS:
                self.add_state(prefix + name, default=[], dist_reduce_fx="cat")
            for name in ("seen", "beyond"):
                self.add_state(prefix + name, default=torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(prefix + "lowest", default=torch.tensor(float("inf")), dist_reduce_fx="min")
        # Equal states make a compute group of a MetricCollection: these keep apart what looks at clips differently.
        self.add_state("settings", default=fingerprint(self._evaluation, self._per_frame), dist_reduce_fx="max")

    def update(self, videos: Any, real: bool = False) -> None:
        """Add videos, uint8 [B, T, H, W, 3] or float [B, 3, T, H, W] in [-1, 1], on the device they are on.

        `value_range="0..1"` and "0..255" of the class say that floats are in another range; a list of clips
        [T, H, W, 3] may have some of different sizes. real: they are of the reference. Where a protocol starts at
        random, a clip's number draws the start. Clips that are too short are counted and listed in the record. Raises
        InputError for other shapes and for values that are in no range.
        """
        info = get_metric(self.metric)
        if real and not info.reference:
            return  # beside metrics that have one, in a MetricCollection
        if real and self._evaluation.reference is not None:
            raise InputError(f"{self.metric} has the reference {self._evaluation.reference}; leave out real=True")
        self._started = self._started or time.time()
        role, prefix = Role.of("reference" if real else "samples", self._evaluation), REAL * real
        for clips in parts_of(videos):
            self._where = self._chosen_device() or clips.device
            rank, size = rank_and_size()
            seen = int(getattr(self, prefix + "seen"))
            have = sum(len(part) for part in getattr(self, prefix + "clips"))
            found = collect(clips, role, self._extract(self._where), first=rank + size * seen, step=size, have=have)
            for name in LISTS:
                if len(rows := getattr(found, name)):
                    getattr(self, prefix + name).append(rows.to(self.device))
            for name in ("seen", "beyond"):
                setattr(self, prefix + name, getattr(self, prefix + name) + getattr(found, name))
            lowest = getattr(self, prefix + "lowest")
            setattr(self, prefix + "lowest", lowest.clamp(max=found.lowest))

    def compute(self) -> Figure | torch.Tensor:
        """The `Figure` of all videos so far, of all processes: value, ci95, record; `float(figure)` is its value.

        Raises InputError where there is nothing to compute it from.
        """
        info, evaluation = get_metric(self.metric), self._evaluation
        network = self._extract(self._where or self._chosen_device() or self.device)
        samples = self._received("samples", "", network)
        reference = None
        if info.reference and evaluation.reference is None:
            reference = self._received("reference", REAL, network)
        elif info.reference:
            shared = self._is_synced and self.process_group is None  # all processes are here, and share the work
            self._read = reference = self._read or read_reference(evaluation, network, shared)
        started = self._started or time.time()
        comparison = comparison_of(evaluation, network, samples, reference, started)
        self.figure = Figure(comparison.record(info, self._options))
        return self.figure.tensor(self.device) if self._as_tensor else self.figure

    def forward(self, *arguments: Any, **keywords: Any) -> None:
        """`update` alone: a figure of one batch says nothing, so none is computed."""
        self.update(*arguments, **keywords)

    def reset(self) -> None:
        """Forget all videos; the network stays, a reference that was read from a path, and where `reset_real_features`
        is False the real videos."""
        kept = [] if self._reset_real else [name for name in self._defaults if name.startswith(REAL)]
        states = {name: getattr(self, name) for name in kept}
        states = {name: list(state) if isinstance(state, list) else state for name, state in states.items()}
        super().reset()  # which empties lists in place
        for name, state in states.items():
            setattr(self, name, state)
        self._started = None

    def __getstate__(self) -> dict[str, Any]:
        # A network is loaded again where it is needed: copies and checkpoints do not carry it.
        return {**super().__getstate__(), "_network": None}

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        # torchmetrics gathers nothing of an empty list, or one axis of it, while other processes wait for all.
        for prefix in ("", REAL):
            for name in LISTS:
                if not len(getattr(self, prefix + name)):
                    setattr(self, prefix + name, [_no_rows(name).to(self.device)])
        super()._sync_dist(_filling(dist_sync_fn), process_group)

    def _chosen_device(self) -> torch.device | None:
        """The device that was asked for, None: that of the videos."""
        return None if self._evaluation.device == "auto" else choose_device(self._evaluation.device)

    def _extract(self, device: torch.device) -> SharedNetwork:
        if self._network is None or self._network.device != device:
            self._network = None  # before another one takes memory
            self._network = shared_network(self._evaluation, self._per_frame, device)
        return self._network

    def _received(self, role: str, prefix: str, network: SharedNetwork) -> Received:
        states = {name: getattr(self, prefix + name) for name in LISTS}
        gathered = Gathered(
            **{name: _joined(state) if len(state) else _no_rows(name) for name, state in states.items()},
            **{name: getattr(self, prefix + name).item() for name in ("seen", "beyond", "lowest")},
        )
        return receive(gathered, Role.of(role, self._evaluation), network.backbone, self._evaluation.group_by)


class FVD(FeatureMetric):
    """Fréchet video distance: lower is better.

    >>> import torch, hpdm_eval
    >>> real, fake = torch.randint(0, 256, (2, 12, 8, 32, 32, 3), dtype=torch.uint8)
    >>> fvd = hpdm_eval.FVD(backbone="shapes3d", frames=8, resolution=32)
    >>> fvd.update(real, real=True)
    >>> fvd.update(fake[:6]); fvd.update(fake[6:])
    >>> figure = fvd.compute()
    >>> figure.record.num_samples, figure.record.protocol["frames"], float(figure) == figure.value
    (12, 8, True)
    """

    metric = "fvd"
    higher_is_better = False


class KVD(FeatureMetric):
    """Kernel video distance: lower is better. See `FVD` for its use."""

    metric = "kvd"
    higher_is_better = False


class PRDC(FeatureMetric):
    """Precision, recall, density and coverage: higher is better; the value is the coverage, `record.details` hold all.

    See `FVD` for its use.
    """

    metric = "prdc"
    higher_is_better = True


class FID(FeatureMetric):
    """Fréchet distance of single frames: lower is better. All frames' features are kept: 8 KiB each. See `FVD`."""

    metric = "fid"
    higher_is_better = False


class InceptionScore(FeatureMetric):
    """Inception Score of samples, without a reference: higher is better. See `FVD` for its use."""

    metric = "is"
    higher_is_better = True

    def __init__(self, protocol: str | Protocol = DEFAULT, **settings: Any) -> None:
        super().__init__(None, protocol, **settings)


def _settle(
    info: MetricInfo, reference: Place | None, protocol: str | Protocol, quiet: bool, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Evaluation]:
    """(the metric's own options, the Evaluation) of a class's arguments; raises InputError for those there are not."""
    known = {option.name for option in info.options}
    options = check_options(info, {key: value for key, value in settings.items() if key in known})
    own, changes = split_settings({key: value for key, value in settings.items() if key not in known})
    if of_files := [key for key in OF_FILES if key in own]:
        raise InputError(f"{of_files[0]} is a setting of samples in files; leave it out")
    evaluation = Evaluation(
        protocol=resolve(protocol, changes), samples=MEMORY, reference=reference, quiet=quiet, **own
    )
    evaluation = for_one(info, evaluation, changes)
    return options, evaluation if info.reference else replace(evaluation, reference=None)


def _joined(state: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    return state if isinstance(state, torch.Tensor) else torch.cat(state)


def _no_rows(name: str) -> torch.Tensor:
    return torch.zeros(0, 0) if name == "rows" else torch.zeros(0, WIDTHS[name], dtype=torch.int64)


class _filling:
    """A function that gathers a state, and gives those of processes that had no rows the width of the others."""

    def __init__(self, gather: Callable[..., Any]):
        self._gather = gather

    def __call__(self, state: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        gathered = self._gather(state, group=group)
        if state.ndim != 2:
            return gathered
        width = max(part.shape[1] for part in gathered)
        return [part if len(part) else part.new_zeros(0, width) for part in gathered]
