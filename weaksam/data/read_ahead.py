"""Make things on threads ahead of whoever takes them, in order and never more than a few: photos above all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np

from weaksam.data.images import read_image

Item = TypeVar("Item")
Made = TypeVar("Made")


class Ahead(Sequence[Made], Generic[Item, Made]):
    """``make(item)`` of every item; going through them in order makes up to ``num_ahead`` in advance on threads.

    ``make`` must depend on nothing but the item. A part of it (``ahead[3:]``) makes nothing of what was left out. What
    ``make`` raises comes up when its turn comes. 0 ahead makes each when it is asked for.
    """

    def __init__(self, items: Sequence[Item], make: Callable[[Item], Made], num_ahead: int) -> None:
        self.items, self.make, self.num_ahead = items, make, num_ahead

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Made: ...
    @overload
    def __getitem__(self, index: slice) -> Ahead[Item, Made]: ...
    def __getitem__(self, index: int | slice) -> Made | Ahead[Item, Made]:
        if isinstance(index, slice):
            return Ahead(self.items[index], self.make, self.num_ahead)
        return self.make(self.items[index])

    def __iter__(self) -> Iterator[Made]:
        if self.num_ahead == 0:
            yield from map(self.make, self.items)
            return
        pool = ThreadPoolExecutor(min(self.num_ahead, os.cpu_count() or 1))  # decoding leaves Python's lock
        waiting: deque[Future[Made]] = deque()
        try:
            for item in self.items:
                waiting.append(pool.submit(self.make, item))
                if len(waiting) > self.num_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_ahead(paths: Sequence[Path], num_ahead: int) -> Iterator[np.ndarray]:
    """The photos at ``paths`` as `read_image` gives them, in order; up to ``num_ahead`` are decoded in advance.

    A photo that cannot be read raises `BadImage` when its turn comes.
    """
    return iter(Ahead(paths, read_image, num_ahead))
