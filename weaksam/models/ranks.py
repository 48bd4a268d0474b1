"""Let the processes that compute one training step together know what a loss needs of the whole batch.

Every process (rank) computes the losses of its own photos and divides them by what the whole batch has: boxes, regions,
points. The sum over all ranks of losses and gradients is then that of one process. `weaksam.engine.distributed` starts
the group; without it there is one rank and nothing here exchanges anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


class Ranks:
    """The processes of one job; alone it is rank 0 of 1.

    All ranks must call the methods that exchange something in the same order. Numbers of Python go by way of the CPU,
    tensors by way of their own device, so that neither waits for a GPU that computes something else.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.counts = True
        """Whether what this rank computes now is part of the batch, see `share`."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> tuple[Sequence[Item], bool]:
        """This rank's items of a batch in their order, and whether they count.

        Where there are fewer items than ranks, the ranks left over take the first item, which counts for nothing
        there: they compute and exchange as all the others do. No items give none.
        """
        begin, end = (len(items) * number // self.size for number in (self.rank, self.rank + 1))
        return (items[begin:end], True) if end > begin or len(items) == 0 else (items[:1], False)

    @contextmanager
    def counting(self, counts: bool) -> Iterator[None]:
        """Inside, what this rank computes counts or does not."""
        before, self.counts = self.counts, counts
        try:
            yield
        finally:
            self.counts = before

    def total(self, number: int) -> int:
        """The sum of ``number`` over all ranks whose photos count."""
        if self.size == 1:
            return number
        return int(self._reduced(torch.tensor(number if self.counts else 0), dist.ReduceOp.SUM))

    def largest(self, number: int) -> int:
        """The greatest ``number`` of all ranks."""
        return number if self.size == 1 else int(self._reduced(torch.tensor(number), dist.ReduceOp.MAX))

    def sum(self, values: Tensor) -> Tensor:
        """``values`` (any shape, without a gradient) summed over all ranks whose photos count; on the same device."""
        if self.size == 1:
            return values
        counted = values.detach().clone() if self.counts else torch.zeros_like(values)
        return self._reduced(counted, dist.ReduceOp.SUM)

    def sum_with_gradient(self, values: Tensor) -> Tensor:
        """As `sum`; the gradient of the losses of all ranks comes back to the ``values`` of each.

        All ranks must go backward through it together.
        """
        if self.size == 1:
            return values
        total: Tensor = _Sum.apply(values if self.counts else values * 0, self)
        return total

    def concatenated(self, values: Tensor) -> tuple[Tensor, int]:
        """``values`` (n, ...) of all ranks whose photos count in one tensor ``(N, ...)``, and where this rank's begin.

        A rank whose values do not count finds them at the end all the same; n differs between ranks and may be 0.
        """
        if self.size == 1:
            return values, 0
        if values.dtype == torch.bool:  # which not every backend sends
            as_bytes, begin = self.concatenated(values.byte())
            return as_bytes.bool(), begin
        counted = len(values) if self.counts else 0
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = counted
        of_ranks: list[int] = self._reduced(lengths, dist.ReduceOp.SUM).tolist()
        padded = values.new_zeros(max(*of_ranks, 1), *values.shape[1:])
        padded[:counted] = values[:counted].detach()
        received = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(received, padded)
        rows = [of_rank[:length] for of_rank, length in zip(received, of_ranks, strict=True)]
        if not self.counts:
            return torch.cat([*rows, values.detach()]), sum(of_ranks)
        return torch.cat(rows), sum(of_ranks[: self.rank])

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The block runs on the first rank alone, and then on all others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def from_first(self, value: Any) -> Any:
        """The ``value`` of the first rank, on every rank; plain values alone."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def of_all(self, value: Any) -> list[Any]:
        """The ``value`` of every rank, on every rank; plain values alone."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.total(0)

    @staticmethod
    def _reduced(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        dist.all_reduce(values, operation)
        return values


class _Sum(torch.autograd.Function):
    """A sum over all ranks, whose gradient is the sum of the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Ranks) -> Tensor:
        ctx.group, ctx.counts = group, group.counts
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone() if ctx.counts else torch.zeros_like(gradients[0])
        dist.all_reduce(total)
        return total, None


_ranks = Ranks()


def ranks() -> Ranks:
    """The processes that train together; this one alone where no group was started."""
    return _ranks


@contextmanager
def ranks_are(group: Ranks) -> Iterator[None]:
    """Inside, `ranks` gives ``group``."""
    global _ranks
    before, _ranks = _ranks, group
    try:
        yield
    finally:
        _ranks = before
