"""Pair each detection with the true object of its class that it overlaps most, as PASCAL VOC does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weaksam.evaluation.protocol import (
    DetectionFilter,
    Geometry,
    check_images,
    check_labels,
    image_order,
    keep_detections,
    mask_size,
    require_masks,
)
from weaksam.structures.boxes import pairwise_iou, xyxy_from_inclusive
from weaksam.structures.instances import Instances
from weaksam.structures.mask_boundaries import pairwise_boundary_iou
from weaksam.structures.masks import pairwise_mask_iou


@dataclass(frozen=True)
class Pairs:
    """All detections of a set, best score first, each with the truth of its class and image that it overlaps most.

    scores, labels, iou, truth: ``(D,)``; ``truth`` counts over all truths of the set, -1 where there is none.
    truth_labels, truth_ignored: ``(T,)``; ignored truths are difficult or crowd.
    """

    scores: np.ndarray
    labels: np.ndarray
    iou: np.ndarray
    truth: np.ndarray
    truth_labels: np.ndarray
    truth_ignored: np.ndarray

    def num_truths(self, num_classes: int) -> np.ndarray:
        """Truths per class ``(num_classes,)`` that count, ignored ones left out."""
        return np.bincount(self.truth_labels[~self.truth_ignored], minlength=num_classes)

    def judge(self, iou: float) -> tuple[np.ndarray, np.ndarray]:
        """Two bool ``(D,)``: the detections that hit, and those that are ignored; the rest are false.

        A detection hits when its best truth overlaps it by ``iou`` or more and no better-scored one took that truth;
        it is ignored when that truth is.
        """
        close = (self.truth >= 0) & (self.iou >= iou)
        ignored = np.zeros(len(close), dtype=bool)
        ignored[close] = self.truth_ignored[self.truth[close]]
        candidates = np.flatnonzero(close & ~ignored)
        hits = np.zeros(len(close), dtype=bool)
        hits[candidates[np.unique(self.truth[candidates], return_index=True)[1]]] = True
        return hits, ignored


def pair_detections(
    truths: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    num_classes: int,
    *,
    geometry: Geometry = "boxes",
    pixel_inclusive: bool = False,
    keep: DetectionFilter | None = None,
) -> Pairs:
    """Pair every detection with its best truth; equal scores stand by image id, then in the given order.

    An image without an entry in ``detections`` has none; instances without scores rank as equals. UserError where
    detections name other images than ``truths``, or where a label is not in ``0 .. num_classes - 1``.
    """
    check_images(detections, truths, "detections")
    check_labels(truths, num_classes, "true objects")
    check_labels(detections, num_classes, "detections")
    image_ids, keep = image_order(truths), keep or DetectionFilter()
    kept = [keep_detections(detections.get(image_id, Instances.empty(scored=True)), keep) for image_id in image_ids]
    ordered_truths = [truths[image_id] for image_id in image_ids]
    iou, truth, num_truths_before = [], [], 0
    for image_detections, image_truth in zip(kept, ordered_truths, strict=True):
        best_iou, index = _best_truth(image_detections, image_truth, geometry, pixel_inclusive)
        iou.append(best_iou)
        truth.append(np.where(index >= 0, index + num_truths_before, -1))
        num_truths_before += len(image_truth)
    scores = _joined([_scores_or_ones(image_detections) for image_detections in kept], np.float64)
    order = np.argsort(-scores, kind="stable")
    return Pairs(
        scores=scores[order],
        labels=_joined([image_detections.labels.numpy() for image_detections in kept], np.int64)[order],
        iou=_joined(iou, np.float64)[order],
        truth=_joined(truth, np.int64)[order],
        truth_labels=_joined([image_truth.labels.numpy() for image_truth in ordered_truths], np.int64),
        truth_ignored=_joined([ignored_truths(image_truth).numpy() for image_truth in ordered_truths], np.bool_),
    )


def overlaps(
    detections: Instances, truth: Instances, geometry: Geometry = "boxes", pixel_inclusive: bool = False
) -> Tensor:
    """IoU ``(D, T)`` float64 of the boxes, masks or boundaries of two sets of instances; 0 where both are empty.

    ``pixel_inclusive`` reads x2 and y2 of both as the last pixel inside, as the `+1` of old VOC tools does.
    """
    if geometry != "boxes":
        masks = require_masks(detections, "detections"), require_masks(truth, "true objects")
        mask_size(*masks)
        # The float32 quotient is rounded back, so that 7/10 is not below 0.7
        compare = pairwise_mask_iou if geometry == "masks" else pairwise_boundary_iou
        return compare(*masks).double().mul(1e7).round().div(1e7)
    boxes, true_boxes = exact_boxes(detections.boxes), exact_boxes(truth.boxes)
    if pixel_inclusive:
        boxes, true_boxes = xyxy_from_inclusive(boxes), xyxy_from_inclusive(true_boxes)
    return pairwise_iou(boxes, true_boxes)


def exact_boxes(boxes: Tensor) -> Tensor:
    """Boxes ``(N, 4)`` float64 rounded to a thousandth of a pixel, so that 61.87 is 61.87 again and not its float32.

    An IoU that is exactly a threshold, as it is for many annotated boxes, is then not lost to a rounding error.
    """
    return (boxes.double() * 1000).round() / 1000


def ignored_truths(truth: Instances) -> Tensor:
    """Bool ``(T,)``: truths marked difficult or crowd, which need not be found and are not false when found."""
    flags = torch.zeros(len(truth), dtype=torch.bool)
    for mark in (truth.difficult, truth.crowd):
        if mark is not None:
            flags = flags | mark
    return flags


def _best_truth(
    detections: Instances, truth: Instances, geometry: Geometry, pixel_inclusive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Highest IoU ``(D,)`` with a truth of the same class, and its index ``(D,)``, -1 where the class is not there."""
    if len(detections) == 0 or len(truth) == 0:
        return np.zeros(len(detections)), np.full(len(detections), -1)
    iou = overlaps(detections, truth, geometry, pixel_inclusive)
    iou[detections.labels[:, None] != truth.labels] = -1
    index = iou.numpy().argmax(axis=1)  # the first of equals
    best = iou.numpy()[np.arange(len(detections)), index]
    return best, np.where(best >= 0, index, -1)


def _scores_or_ones(instances: Instances) -> np.ndarray:
    return np.ones(len(instances)) if instances.scores is None else instances.scores.double().numpy()


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
