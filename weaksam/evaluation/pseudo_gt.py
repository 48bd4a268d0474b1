"""Measure pseudo ground truth: precision, recall and number of its boxes or masks, per class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weaksam.evaluation.matching import pair_detections
from weaksam.evaluation.protocol import Geometry, Protocol, check_iou, json_number, mean_over_classes
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class PseudoGtResult:
    """Precision and recall in [0, 1] and counts, per class; nan where there is nothing to divide by.

    num_boxes: pseudo boxes, those on an ignored truth left out. num_hits: those that found an object of their own.
    num_truths: counted true objects. overlap: mean IoU of the hits.
    """

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    overlap: tuple[float, ...]
    num_boxes: tuple[int, ...]
    num_hits: tuple[int, ...]
    num_truths: tuple[int, ...]
    protocol: Protocol

    def total(self) -> tuple[float, float, int]:
        """Precision, recall and number of boxes over all classes together."""
        boxes, hits, truths = sum(self.num_boxes), sum(self.num_hits), sum(self.num_truths)
        return _ratio(hits, boxes), _ratio(hits, truths), boxes

    def mean_overlap(self) -> float:
        """Mean IoU of the hits of all classes together; nan without any."""
        summed = sum(mean * hits for mean, hits in zip(self.overlap, self.num_hits, strict=True) if hits)
        return _ratio(summed, sum(self.num_hits))

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        precision, recall, number = self.total()
        return {
            "precision": json_number(precision),
            "recall": json_number(recall),
            "number": number,
            "mean_precision": json_number(mean_over_classes(self.precision)),
            "mean_recall": json_number(mean_over_classes(self.recall)),
            "per_class": [
                {
                    "precision": json_number(self.precision[label]),
                    "recall": json_number(self.recall[label]),
                    "overlap": json_number(self.overlap[label]),
                    "number": self.num_boxes[label],
                    "num_truths": self.num_truths[label],
                }
                for label in range(len(self.precision))
            ],
            "protocol": str(self.protocol),
        }

    def __str__(self) -> str:
        precision, recall, number = self.total()
        return f"PGT precision {precision:.3f}, recall {recall:.3f}, {number} boxes ({self.protocol})"


def pseudo_gt_quality(
    truths: Mapping[str, Instances],
    pseudo_gt: Mapping[str, Instances],
    num_classes: int,
    *,
    iou: float = 0.5,
    geometry: Geometry = "boxes",
) -> PseudoGtResult:
    """Precision and recall of pseudo boxes against the true ones, one pseudo box per object at most.

    Each pseudo box goes to the true object of its class it overlaps most; the best-scored one at ``iou`` or more is the
    hit, a second one on the same object is false. Boxes on difficult or crowd truths are left out, and so are pseudo
    boxes marked ``crowd``, which teach nothing.
    """
    check_iou(iou)
    pseudo_gt = {image_id: boxes.without_crowd() for image_id, boxes in pseudo_gt.items()}
    pairs = pair_detections(truths, pseudo_gt, num_classes, geometry=geometry)
    hits, ignored = pairs.judge(iou)
    num_boxes = np.bincount(pairs.labels[~ignored], minlength=num_classes)
    num_hits = np.bincount(pairs.labels[hits], minlength=num_classes)
    iou_sum = np.bincount(pairs.labels[hits], weights=pairs.iou[hits], minlength=num_classes)
    num_truths = pairs.num_truths(num_classes)
    return PseudoGtResult(
        precision=tuple(map(_ratio, num_hits, num_boxes)),
        recall=tuple(map(_ratio, num_hits, num_truths)),
        overlap=tuple(map(_ratio, iou_sum, num_hits)),
        num_boxes=tuple(num_boxes.tolist()),
        num_hits=tuple(num_hits.tolist()),
        num_truths=tuple(num_truths.tolist()),
        protocol=Protocol(
            metric=f"pseudo ground truth {geometry}",
            matching=f"one per object at IoU >= {iou:g}, best score first",
            difficult="difficult and crowd truths ignored",
            average="per class and over all classes together",
            detections="all pseudo boxes",
            num_images=len(truths),
        ),
    )


def _ratio(numerator: float, denominator: float) -> float:
    """``numerator / denominator``; nan where the denominator is 0."""
    return float(numerator / denominator) if denominator else math.nan
