"""How an epoch is cut into steps and micro-batches (samples and batches themselves: `lexivid.data.loader`).

The order is a pure function of (seed, epoch): a run can stop anywhere and go on, and N processes that each take their
share of every global batch train the same model as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lexivid.data.loader import epoch_order


class Plan(NamedTuple):
    """How an epoch is cut up: every step takes `accumulate` micro-batches on each process."""

    batch_size: int  # clips of one step over all processes
    micro_batch: int  # clips of one forward pass of one process
    accumulate: int
    num_steps: int  # of an epoch

    @classmethod
    def of(cls, num_clips: int, *, batch_size: int, micro_batch: int | None, world: int) -> Plan:
        """An epoch leaves out the last, incomplete batch; fewer clips than a batch are one batch.

        Raises:
            ValueError: the batch cannot be shared out equally.
        """
        batch_size = min(batch_size, num_clips)
        if batch_size < world:
            raise ValueError(f"a batch of {batch_size} clips cannot be shared by {world} processes")
        batch_size -= batch_size % world
        per_rank = batch_size // world
        micro = min(micro_batch or per_rank, per_rank)
        while per_rank % micro:  # the largest that divides a process's share
            micro -= 1
        return cls(batch_size, micro, per_rank // micro, num_clips // batch_size)


def micro_batches(
    num_clips: int, plan: Plan, *, seed: int, epoch: int, rank: int = 0, world: int = 1, start_step: int = 0
) -> Iterator[list[int]]:
    """The clips of each micro-batch of one process: of every global batch, every `world`-th clip from `rank` on."""
    order = epoch_order(num_clips, seed=seed, epoch=epoch)
    for step in range(start_step, plan.num_steps):
        of_rank = order[step * plan.batch_size : (step + 1) * plan.batch_size][rank::world]
        for start in range(0, len(of_rank), plan.micro_batch):
            yield of_rank[start : start + plan.micro_batch]


def even_batches(num_clips: int, batch_size: int, *, rank: int = 0, world: int = 1) -> list[list[int]]:
    """All clips in order, shared out so that every process gets as many batches; some may see a clip twice."""
    per_rank = -(-num_clips // world)
    of_rank = [min(rank + i * world, num_clips - 1) for i in range(per_rank)]
    return [of_rank[start : start + batch_size] for start in range(0, per_rank, batch_size)]


class MemorySamples:
    """Samples that are there already, as a list of dictionaries; nothing about them is random."""

    def __init__(self, samples: Sequence[Mapping[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {"index": index, **self.samples[index]}

    def set_epoch(self, epoch: int) -> None:
        """Nothing changes."""
