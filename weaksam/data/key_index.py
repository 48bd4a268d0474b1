"""Find the place of a key among millions of them in little memory: sorted hashes instead of a dict."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable

import numpy as np

from weaksam.data.plain_columns import values_of


class KeyIndex:
    """Places 0 .. N - 1 of N keys, each once; ``key_at`` gives the key of a place, so that none are kept here."""

    def __init__(self, keys: Iterable[Hashable], key_at: Callable[[int], Hashable]) -> None:
        hashes = values_of(array("q", map(hash, keys)))
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes, self._places = memoryview(hashes[order]), memoryview(order)
        self._key_at = key_at

    def find(self, key: Hashable) -> int | None:
        """The place of ``key``, None where it is none of the keys."""
        number, row = hash(key), bisect_left(self._hashes, hash(key))
        while row < len(self._hashes) and self._hashes[row] == number:
            if self._key_at(self._places[row]) == key:
                return self._places[row]
            row += 1
        return None


def repeated(hashes: array[int]) -> np.ndarray:
    """Which of ``N`` hashes (int64) are there more than once, bool ``(N,)``; no hashes give none."""
    values = values_of(hashes)
    mask, ordered = np.zeros(len(values), dtype=bool), np.sort(values)
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return mask
    order, in_order = np.argsort(values, kind="stable"), np.zeros(len(values), dtype=bool)
    in_order[1:] |= equal
    in_order[:-1] |= equal
    mask[order] = in_order
    return mask
