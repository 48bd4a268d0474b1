"""Measure instance masks as a semantic segmentation: mean IoU of the label maps that they paint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weaksam.evaluation.label_maps import (
    IGNORED,
    detected_object_map,
    painted_size,
    pixel_classes,
    true_classes,
)
from weaksam.evaluation.protocol import (
    PAINTED_MIN_SCORE,
    DetectionFilter,
    Protocol,
    check_images,
    check_labels,
    json_number,
    keep_detections,
    mean_over_classes,
)
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class SemanticResult:
    """IoU in [0, 1] of the pixels of each class, nan for a class without a true pixel; and of the background."""

    per_class: tuple[float, ...]
    background: float
    protocol: Protocol

    @property
    def mean(self) -> float:
        """Mean IoU over the background and the classes with a true pixel (VOC's mIoU); nan where there is no pixel."""
        return mean_over_classes((self.background, *self.per_class))

    @property
    def mean_of_objects(self) -> float:
        """The same without the background; nan where no class has a true pixel."""
        return mean_over_classes(self.per_class)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        return {
            "mean": json_number(self.mean),
            "mean_of_objects": json_number(self.mean_of_objects),
            "background": json_number(self.background),
            "per_class": [json_number(value) for value in self.per_class],
            "protocol": str(self.protocol),
        }

    def __str__(self) -> str:
        return f"mIoU {self.mean:.3f}, without background {self.mean_of_objects:.3f} ({self.protocol})"


def semantic_iou(
    truths: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    num_classes: int,
    *,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    min_score: float = PAINTED_MIN_SCORE,
    keep: DetectionFilter | None = None,
) -> SemanticResult:
    """Mean IoU of the classes that instance masks paint, over the pixels of all images that ``truths`` names.

    Detections of at least ``min_score`` (all where they have no scores) are painted, the better-scored on top; true
    objects are painted with the smaller on top, and pixels of difficult and crowd ones are left out. ``sizes`` (H, W)
    by image id say how much background an image without any mask has; without them such an image adds no pixel. Raises
    `UserError` where masks are missing or of several sizes.
    """
    check_images(detections, truths, "detections")
    check_labels(truths, num_classes, "true objects")
    check_labels(detections, num_classes, "detections")
    keep = keep or DetectionFilter()
    confusion = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image_id, truth in truths.items():
        kept = keep_detections(detections.get(image_id, Instances.empty(scored=True)), keep)
        size = painted_size(truth, kept) or (sizes or {}).get(image_id, (0, 0))
        painted = pixel_classes(detected_object_map(kept, size, min_score), kept.labels.numpy() + 1)
        confusion += pixel_confusion(true_classes(truth, size), painted, num_classes)
    ious = class_ious(confusion)
    occurs = confusion.sum(axis=1) > 0
    background, *per_class = np.where(occurs, ious, np.nan).tolist()
    protocol = Protocol(
        metric="mean IoU of the painted classes",
        matching=f"detections of score >= {min_score:g} painted, the better-scored on top; of true objects the smaller",
        difficult="pixels of difficult and crowd truths left out",
        average="pixels of all images together, mean over background and classes with a true pixel",
        detections=str(keep),
        num_images=len(truths),
    )
    return SemanticResult(tuple(per_class), background, protocol)


def pixel_confusion(true_pixels: np.ndarray, pixels: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of pixels by true class (rows) and class ``(C + 1, C + 1)``, 0 the background; `IGNORED` left out."""
    counted = true_pixels != IGNORED
    pairs = true_pixels[counted] * (num_classes + 1) + pixels[counted]
    return np.bincount(pairs, minlength=(num_classes + 1) ** 2).reshape(num_classes + 1, num_classes + 1)


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """IoU ``(C + 1,)`` of a confusion matrix; 0 for a class that neither side has."""
    both = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return both / np.maximum(union, 1)
