"""Find the place of a key among millions of them in little memory: sorted hashes instead of a dict."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable

import numpy as np


class KeyIndex:
    """Places 0 .. N - 1 of N keys, each once; ``key_at`` gives the key of a place, so that none are kept here."""

    def __init__(self, keys: Iterable[Hashable], key_at: Callable[[int], Hashable]) -> None:
        hashes = np.frombuffer(array("q", map(hash, keys)), dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._places = array("q", hashes[order].tobytes()), array("q", order.tobytes())
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
    values = np.frombuffer(hashes, dtype=np.int64) if len(hashes) else np.zeros(0, dtype=np.int64)
    order = np.argsort(values, kind="stable")
    equal = values[order][1:] == values[order][:-1]
    in_order = np.zeros(len(values), dtype=bool)
    in_order[1:] |= equal
    in_order[:-1] |= equal
    mask = np.zeros(len(values), dtype=bool)
    mask[order] = in_order
    return mask
