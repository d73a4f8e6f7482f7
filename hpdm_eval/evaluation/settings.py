"""What an evaluation is of and how it is made, as commands and Python say it alike."""

import os
from dataclasses import dataclass
from typing import Any

from hpdm.support.errors import InputError
from hpdm_eval.protocols import Protocol

Place = str | os.PathLike[str]
SHARDS = "shards"  # folder of the shards of an evaluation, where none is named


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One set of samples, what it is compared with, and every setting but those of a metric."""

    protocol: Protocol
    samples: Place
    reference: Place | None = None  # clips or a file of statistics
    seed: int = 0  # of random starts, subsets, orders and intervals
    device: str = "auto"
    quiet: bool = False

    # how clips are read, see `hpdm_eval.clips.source.open_clips`
    grid: str | None = None  # of the samples
    reference_grid: str | None = None
    match: str | None = None  # of the samples
    split_lists: Place | None = None
    strict: bool = False
    workers: int | None = None
    limit: int | None = None  # most clips of either set, for a quick look

    # the network, see `hpdm_eval.backbones.load_backbone`; its name is the protocol's
    weights: Place | None = None
    c3d_mean: Place | None = None
    unverified: bool = False
    precision: str = "fp32"
    batch: int = 8
    cache: bool = True
    verify_cache: bool = False

    group_by: str = "auto"  # which clips are no independent draws, see `hpdm_eval.clips.selection.sources_of`
    trained_with: tuple[str, ...] = ()  # networks whose features the samples' model learnt from
    allow_trained_judge: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "limit"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is {value!r}, expected a whole number from 1")

    def reading(self, role: str) -> dict[str, Any]:
        """Keywords of `open_clips` for "samples" or "reference"."""
        of_samples = role == "samples"
        return {
            "strict": self.strict,
            "workers": self.workers,
            "split_lists": self.split_lists,
            "seed": self.seed,
            "quiet": self.quiet,
            "grid": self.grid if of_samples else self.reference_grid,
            **({"match": self.match} if of_samples else {}),
        }

    def most(self, role: str) -> int | None:
        """Clips of a role to read at most: the protocol's number, or the limit where that is less; None: all."""
        wanted = self.protocol.num_samples if role == "samples" else self.protocol.num_reference
        return min(filter(None, (wanted, self.limit)), default=None)

    @property
    def limit_entry(self) -> dict[str, int]:
        """What records and statistics hold of a limit; {} without one."""
        return {"limit": self.limit} if self.limit else {}

    @property
    def limit_remarks(self) -> tuple[str, ...]:
        """The warning that goes with a limit; none without one."""
        return (f"limited to {self.limit} clips: a quick look, no figure to compare",) * bool(self.limit)

    def path(self, role: str) -> Place:
        """Where the set of a role is; raises InputError where there is no reference."""
        if role == "samples":
            return self.samples
        if self.reference is None:
            raise InputError("there is no reference: give real clips, or their statistics")
        return self.reference
