"""How the samples of one step fall to processes and to their passes through the network."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """A global batch over any number of processes up to its size, each taking its share in passes.

    Shares, contiguous in the batch, differ by one sample at most, and so do the passes of a share. All processes make
    equally many passes, for their collectives must meet; a share too small for that ends in empty ones.
    """

    batch: int  # samples per step
    world_size: int  # processes
    micro_batch: int  # most samples per pass of one process

    @property
    def per_process(self) -> int:
        """The largest share."""
        return -(-self.batch // self.world_size)

    @property
    def passes(self) -> int:
        """Passes of every process per step; their gradients are accumulated."""
        return -(-self.per_process // self.micro_batch)

    def share(self, rank: int) -> range:
        """Places in the global batch of the samples of process `rank`."""
        return range(self.batch * rank // self.world_size, self.batch * (rank + 1) // self.world_size)

    def positions(self, rank: int, index: int) -> range:
        """Places of the samples of pass `index` of process `rank`; that of pass 0 is never empty."""
        share = self.share(rank)
        first, end = (share.start - (-len(share) * i // self.passes) for i in (index, index + 1))
        return range(first, end)

    def describe(self) -> str:
        """One line for people."""
        if self.batch == self.world_size * self.passes * self.micro_batch:
            return (
                f"batch {self.batch} = {self.world_size} processes x {self.passes} passes x {self.micro_batch} samples"
            )
        least = len(self.share(0))
        each = f"{least} to {self.per_process}" if least < self.per_process else str(least)
        return (
            f"batch {self.batch} over {self.world_size} processes, {each} samples each, in {self.passes} passes of "
            f"up to {self.micro_batch} samples"
        )
