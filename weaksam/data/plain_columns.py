"""Take columns of values out of many JSON objects at once, and see whether all of them are plain."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

FAR = 2**62
"""Whole numbers nearer to 0 than this fit into int64."""


def column(block: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """The value of ``key`` of every object in ``block``, None where it is missing."""
    return [values.get(key) for values in block]


def are_only(values: Iterable[Any], *types: type) -> bool:
    """Whether each of ``values`` is of one of ``types`` itself; no values are."""
    return set(map(type, values)) <= set(types)


def whole_numbers(values: Sequence[Any], lowest: int = -FAR, highest: int = FAR) -> np.ndarray | None:
    """``values`` as int64 ``(N,)`` where all are whole numbers from ``lowest`` to ``highest``, else None."""
    if not are_only(values, int) or (values and not lowest <= min(values) <= max(values) <= highest):
        return None
    return np.array(values, dtype=np.int64)


def values_of(column: array) -> np.ndarray:
    """The values of a flat column ``(N,)`` without a copy; as long as they are held, the column cannot grow."""
    dtype = np.dtype(column.typecode)
    return np.frombuffer(column, dtype=dtype) if len(column) else np.zeros(0, dtype=dtype)
