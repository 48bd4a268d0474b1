"""Load items (usually photos) on background threads, in order, at most ``num_ahead`` in advance."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar, overload

Item = TypeVar("Item")
Value = TypeVar("Value")


class ReadAhead(Sequence[Value], Generic[Item, Value]):
    """``load(item)`` of every item; iterating loads up to ``num_ahead`` of them in advance, with 0 each in its turn.

    ``load`` must depend on nothing but the item. A slice (``values[3:]``) loads nothing of what was left out. What
    ``load`` raises is raised when the turn of its item comes. No items give no values.
    """

    def __init__(self, items: Sequence[Item], load: Callable[[Item], Value], num_ahead: int) -> None:
        self.items, self.load, self.num_ahead = items, load, num_ahead

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> ReadAhead[Item, Value]: ...
    def __getitem__(self, index: int | slice) -> Value | ReadAhead[Item, Value]:
        if isinstance(index, slice):
            return ReadAhead(self.items[index], self.load, self.num_ahead)
        return self.load(self.items[index])

    def __iter__(self) -> Iterator[Value]:
        if self.num_ahead == 0:
            yield from map(self.load, self.items)
            return
        pool = ThreadPoolExecutor(min(self.num_ahead, os.cpu_count() or 1))  # decoding leaves Python's lock
        waiting: deque[Future[Value]] = deque()
        try:
            for item in self.items:
                waiting.append(pool.submit(self.load, item))
                if len(waiting) > self.num_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
