"""Samples -> batches: which clips, in which order, by worker processes.

The order is a pure function of (seed, epoch, rank, world), and a loader can begin at any batch, so a run that was
stopped goes on as if it had not been. Works on every `Samples`: clips, cached features, tensors in memory.

Shapes: b clips in a batch, M modalities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lexivid.base.interrupts import finish_first, signals_later
from lexivid.base.workers import forkserver_context, start_worker

STREAMS = ("video", "flow", "audio")
_PRELOADED = ["__main__", "numpy.random", "torch", "lexivid.data.sampling"]  # once, by the server that forks workers
_PATIENCE_S = 5.0  # in which a second Ctrl-C waits, too, for workers to begin or to end


class Samples(Protocol):
    """Samples by index, see `lexivid.data.sampling.ClipSamples`. What is random about a sample depends on
    (epoch, index) alone."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    def set_epoch(self, epoch: int) -> None:
        """Called before an epoch's samples are taken."""


class Batch(NamedTuple):
    """b clips; b may be 0 when none could be read.

    Attributes:
        streams: "video", "flow", "audio" -> (b, ...) tensor; one that none of the clips has is left out, and where
            single clips lack it, their rows are zeros.
        mask: (b, M) bool. targets: (b,) int64, each clip's label, or (b, K) bool, all that hold. indices: (b,) int64,
            which clips. weights: (b, K) float32, what each pair of clip and label counts; None: all the same.
        failures: (path, reason) of clips that could not be read. warnings: (path, what to know) of those that could.
    """

    streams: dict[str, Tensor]
    mask: Tensor
    targets: Tensor
    indices: Tensor
    failures: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    weights: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The tensors that a model sees on a device."""
        return self._replace(
            streams={name: x.to(device, non_blocking=True) for name, x in self.streams.items()},
            mask=self.mask.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=True),
        )


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Samples -> a batch, without those that failed: the batch is smaller."""
    failures = tuple((str(s.get("path", "")), str(s["failed"])) for s in samples if s.get("failed") is not None)
    good = [s for s in samples if s.get("failed") is None]
    streams: dict[str, Tensor] = {}
    for name in STREAMS:
        like = next((s[name] for s in good if s.get(name) is not None), None)
        if like is not None:
            empty = torch.zeros_like(like)
            streams[name] = torch.stack([s[name] if s.get(name) is not None else empty for s in good])
    return Batch(
        streams,
        torch.stack([s["mask"] for s in good]) if good else torch.zeros(0, 0, dtype=torch.bool),
        _targets([s["target"] for s in good]),
        torch.tensor([int(s["index"]) for s in good], dtype=torch.int64),
        failures,
        tuple((str(s.get("path", "")), text) for s in good for text in s.get("warnings", ())),
        torch.stack([s["weight"] for s in good]) if good and good[0].get("weight") is not None else None,
    )


def _targets(targets: Sequence[Any]) -> Tensor:
    """Labels (b,) int64, or rows of labels (b, K) bool."""
    if targets and isinstance(targets[0], Tensor) and targets[0].ndim:
        return torch.stack(list(targets))
    return torch.tensor([int(target) for target in targets], dtype=torch.int64)


def epoch_order(num_clips: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of the clips, drawn from (seed, epoch) alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    return torch.randperm(num_clips, generator=generator).tolist()


def batch_lists(
    num_clips: int,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
) -> list[list[int]]:
    """The clips of each batch of one process: every `world`-th of each `world * batch_size` clips in order.

    Over all processes every clip comes once. At the end a process may have a smaller batch than another, or none;
    `drop_last` leaves out the clips that fill no batch of all processes.
    """
    order = epoch_order(num_clips, seed=seed, epoch=epoch) if shuffle else list(range(num_clips))
    together = batch_size * world
    stop = num_clips - num_clips % together if drop_last else num_clips
    of_rank = [order[start : min(start + together, stop)][rank::world] for start in range(0, stop, together)]
    return [indices for indices in of_rank if indices]


def load_batches(
    samples: Samples, lists: Iterable[list[int]], *, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """The batches of the listed clips, in order, prepared by worker processes (one torch thread each).

    With workers, a script that calls this needs `if __name__ == "__main__":` (see `lexivid.base.workers`).
    """
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        samples,  # type: ignore[arg-type]
        batch_sampler=list(lists),  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_start,
        pin_memory=pin_memory,
        prefetch_factor=2 if num_workers else None,
        multiprocessing_context=worker_context() if num_workers else None,
        generator=torch.Generator().manual_seed(0),  # the loader draws a seed for its workers: leave the global one be
    )
    return _Batches(loader)


class _Batches:
    """The loader's batches. Its workers end at once with whoever stops asking: nobody wants what they work on."""

    def __init__(self, loader: torch.utils.data.DataLoader[Any]) -> None:
        self._inner: Any = iter(())
        # A worker that has half begun would look in vain for its parent's queues, and say so in a traceback.
        with finish_first(patience_s=_PATIENCE_S):
            self._inner = iter(loader)

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Batch:
        try:
            return next(self._inner)
        except BaseException:
            with finish_first(patience_s=_PATIENCE_S):
                self._end()
            raise

    def _end(self) -> None:
        for worker in getattr(self._inner, "_workers", ()):
            worker.terminate()
        self._inner = iter(())  # the loader waits for its workers

    def __del__(self) -> None:
        with signals_later():
            self._end()


def worker_context() -> BaseContext:
    """How processes that load clips start."""
    return forkserver_context(_PRELOADED)


def _start(_: int) -> None:
    start_worker()


class ClipLoader:
    """Batches of one epoch after another; counts what could not be read.

    Attributes:
        samples: what is loaded. failures, warnings: (path, text) of all batches so far, each once.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        num_workers: int = 2,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> None:
        self.samples = samples
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.failures: list[tuple[str, str]] = []
        self.warnings: list[tuple[str, str]] = []
        self._order = {"shuffle": shuffle, "seed": seed, "rank": rank, "world": world, "drop_last": drop_last}
        self._batch_size = batch_size

    def __len__(self) -> int:
        """Batches of an epoch on this process."""
        return len(self._lists(0))

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the `start`-th on."""
        self.samples.set_epoch(epoch)
        lists = self._lists(epoch)[start:]
        for batch in load_batches(self.samples, lists, num_workers=self.num_workers, pin_memory=self.pin_memory):
            self.failures += [failure for failure in batch.failures if failure not in self.failures]
            self.warnings += [warning for warning in batch.warnings if warning not in self.warnings]
            yield batch

    def _lists(self, epoch: int) -> list[list[int]]:
        return batch_lists(len(self.samples), self._batch_size, epoch=epoch, **self._order)  # type: ignore[arg-type]


def make_loader(samples: Samples, *, batch_size: int, num_workers: int = 2, **options: Any) -> ClipLoader:
    """A `ClipLoader`; for options see there."""
    return ClipLoader(samples, batch_size=batch_size, num_workers=num_workers, **options)
