"""Measure average precision as PASCAL VOC does, of boxes, masks or boundaries, at any IoU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from weaksam.evaluation.matching import Pairs, pair_detections
from weaksam.evaluation.protocol import (
    AP_IOUS,
    BOUNDARIES,
    DetectionFilter,
    Geometry,
    Protocol,
    check_iou,
    json_number,
    mean_over_classes,
    require_scores,
)
from weaksam.structures.instances import Instances

Interpolation = Literal["11-point", "all-point"]
MASK_IOUS = (0.25, 0.5, 0.7, 0.75)
"""The thresholds at which weakly supervised instance segmentation reports mask AP on VOC."""


@dataclass(frozen=True)
class VocResult:
    """Average precision by IoU threshold, per class (nan for a class without a counted truth) and as their mean.

    ap: threshold -> ``num_classes`` values in [0, 1]. num_truths, num_detections: counts per class.
    """

    ap: Mapping[float, tuple[float, ...]]
    num_truths: tuple[int, ...]
    num_detections: tuple[int, ...]
    protocol: Protocol

    def mean(self, iou: float = 0.5) -> float:
        """Mean over the classes that have a truth, in [0, 1]; nan where none has."""
        return mean_over_classes(self.ap[iou])

    def average(self) -> float:
        """AP .5:.95: the mean of `mean` over `AP_IOUS`, in [0, 1]; nan where one of them was not measured."""
        if not set(AP_IOUS) <= set(self.ap):
            return math.nan
        return sum(self.mean(iou) for iou in AP_IOUS) / len(AP_IOUS)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        return {
            "average": json_number(self.average()),
            "mean": {f"{iou:g}": json_number(self.mean(iou)) for iou in self.ap},
            "per_class": {f"{iou:g}": [json_number(value) for value in values] for iou, values in self.ap.items()},
            "num_truths": list(self.num_truths),
            "num_detections": list(self.num_detections),
            "protocol": str(self.protocol),
        }

    def __str__(self) -> str:
        figures = ", ".join(f"AP{round(iou * 100)} {self.mean(iou):.3f}" for iou in self.ap)
        return f"{figures} ({self.protocol})"


def voc_ap(
    truths: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    num_classes: int,
    *,
    ious: Sequence[float] = (0.5,),
    geometry: Geometry = "boxes",
    interpolation: Interpolation = "all-point",
    pixel_inclusive: bool = False,
    keep: DetectionFilter | None = None,
) -> VocResult:
    """VOC average precision of scored detections over the images that ``truths`` names.

    A detection is compared with the truth of its class it overlaps most; the first to reach the threshold takes it,
    later ones are false. Truths marked difficult or crowd are ignored: not counted, and a detection on one is
    neither right nor wrong (VOC development kit). No detections give 0 for every class that has a truth.
    ``pixel_inclusive`` is for boxes whose x2, y2 name the last pixel inside.
    """
    for iou in ious:
        check_iou(iou)
    for image_detections in detections.values():
        require_scores(image_detections)
    keep = keep or DetectionFilter()
    pairs = pair_detections(
        truths, detections, num_classes, geometry=geometry, pixel_inclusive=pixel_inclusive, keep=keep
    )
    return VocResult(
        ap={float(iou): _per_class(pairs, num_classes, float(iou), interpolation) for iou in ious},
        num_truths=tuple(pairs.num_truths(num_classes).tolist()),
        num_detections=tuple(np.bincount(pairs.labels, minlength=num_classes).tolist()),
        protocol=Protocol(
            metric=f"VOC AP of {geometry}",
            matching=_matching(geometry, pixel_inclusive),
            difficult="difficult and crowd truths ignored",
            average=f"{interpolation} average, mean over classes with a truth",
            detections=str(keep),
            num_images=len(truths),
        ),
    )


def average_precision(hits: np.ndarray, num_truths: int, interpolation: Interpolation = "all-point") -> float:
    """Average precision in [0, 1] of one class from bool ``hits`` (D,), best score first.

    "11-point" means the best precision at a recall of at least 0, 0.1, .., 1 (VOC to 2009); "all-point" is the area
    under the precision envelope (VOC from 2010). nan where there is no truth, 0 where there is no detection.
    The eleven levels are floating-point multiples of 0.1 as in every published Python evaluator, so that figures
    compare: a recall of exactly 3/10, 6/10 or 7/10 falls one rounding error short of its level.
    """
    if num_truths == 0:
        return math.nan
    if len(hits) == 0:
        return 0.0
    num_hits = np.cumsum(hits)
    precision = num_hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if interpolation == "all-point":
        return float(envelope[hits].sum() / num_truths)
    first = np.searchsorted(num_hits / num_truths, np.linspace(0, 1, 11))  # where each level of recall is first reached
    return float(envelope[first[first < len(hits)]].sum() / 11)


def _matching(geometry: Geometry, pixel_inclusive: bool) -> str:
    """What is matched with what, in words."""
    kinds = (", pixel-inclusive" if pixel_inclusive else "") + (f"; {BOUNDARIES}" if geometry == "boundaries" else "")
    return f"each detection to the truth it overlaps most{kinds}"


def _per_class(pairs: Pairs, num_classes: int, iou: float, interpolation: Interpolation) -> tuple[float, ...]:
    """Average precision of each class."""
    hits, ignored = pairs.judge(iou)
    num_truths = pairs.num_truths(num_classes)
    counted = [(pairs.labels == label) & ~ignored for label in range(num_classes)]
    return tuple(
        average_precision(hits[of_class], int(num_truths[label]), interpolation)
        for label, of_class in enumerate(counted)
    )
