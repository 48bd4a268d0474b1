"""Decode photos on threads ahead of whoever uses them, in order and never more than a few."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from weaksam.data.images import read_image


def read_ahead(paths: Sequence[Path], num_ahead: int) -> Iterator[np.ndarray]:
    """The photos at ``paths`` as `read_image` gives them, in order; up to ``num_ahead`` are decoded in advance.

    A photo that cannot be read raises `BadImage` when its turn comes. 0 ahead reads each one when it is asked for.
    """
    if num_ahead == 0:
        yield from (read_image(path) for path in paths)
        return
    pool = ThreadPoolExecutor(min(num_ahead, os.cpu_count() or 1))  # decoding leaves Python's lock
    waiting: deque[Future[np.ndarray]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(read_image, path))
            if len(waiting) > num_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
