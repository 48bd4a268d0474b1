"""Compute the curves of precision over recall of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from weaksam.evaluation.matching import pair_detections
from weaksam.structures.instances import Instances

MOST_POINTS = 80
"""Points of a curve at most; the first and the last are always among them."""


@dataclass(frozen=True)
class PrecisionRecall:
    """One class's curve: ``recall (P,)`` and ``precision (P,)`` in [0, 1] of its best 1, 2, .. detections.

    P = 0 where the class has no detection or no object.
    """

    recall: np.ndarray
    precision: np.ndarray


def precision_recall(
    truths: Mapping[str, Instances], detections: Mapping[str, Instances], num_classes: int, iou: float = 0.5
) -> list[PrecisionRecall]:
    """The curve of every class over the photos that ``truths`` names, matched as VOC's AP is (see `voc_ap`).

    Raises `UserError` as `pair_detections` does. Where a class has more than `MOST_POINTS` detections, points are
    left out at even distances.
    """
    pairs = pair_detections(truths, detections, num_classes)
    hits, ignored = pairs.judge(iou)
    num_truths = pairs.num_truths(num_classes)
    return [_curve(hits[(pairs.labels == label) & ~ignored], int(num_truths[label])) for label in range(num_classes)]


def _curve(hits: np.ndarray, num_truths: int) -> PrecisionRecall:
    if num_truths == 0 or len(hits) == 0:
        return PrecisionRecall(np.zeros(0), np.zeros(0))
    num_hits = np.cumsum(hits)
    rows = np.unique(np.linspace(0, len(hits) - 1, min(MOST_POINTS, len(hits))).round().astype(int))
    return PrecisionRecall(num_hits[rows] / num_truths, num_hits[rows] / (rows + 1))
