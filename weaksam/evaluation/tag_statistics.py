"""Count the tags of a split: photos of each class, tags of a photo, and classes that come together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TagStatistics:
    """Counts over N photos and C classes.

    photos: by label, photos with that tag. by_number: number of tags to photos that have so many, in order; together:
    int64 ``(C, C)``, photos that have both tags, on the diagonal those that have the one.
    """

    num_photos: int
    photos: tuple[int, ...]
    by_number: dict[int, int]
    together: np.ndarray


def tag_statistics(tags: Iterable[Collection[int]], num_classes: int) -> TagStatistics:
    """Statistics of the ``tags``, labels of each photo; no photo gives zeros."""
    together = np.zeros((num_classes, num_classes), dtype=np.int64)
    numbers: Counter[int] = Counter()
    for labels in map(sorted, map(set, tags)):
        numbers[len(labels)] += 1
        together[np.ix_(labels, labels)] += 1
    counts = tuple(np.diag(together).tolist())
    return TagStatistics(sum(numbers.values()), counts, dict(sorted(numbers.items())), together)
