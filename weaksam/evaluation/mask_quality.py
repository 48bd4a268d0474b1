"""Measure pseudo masks by their mean IoU with true masks, per class and per size of the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from weaksam.evaluation.matching import ignored_truths, overlaps
from weaksam.evaluation.protocol import (
    BOUNDARIES,
    Protocol,
    check_images,
    check_labels,
    image_order,
    json_number,
)
from weaksam.structures.instances import Instances
from weaksam.structures.mask_boundaries import pairwise_boundary_iou
from weaksam.structures.masks import rle_area

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
"""COCO's ranges of an object's area in square pixels; the lower end belongs to the range."""


@dataclass(frozen=True)
class MaskMeans:
    """Means of IoU in [0, 1] over the masks and the objects of a set, nan where there is none, and their numbers.

    mask_iou: of each mask with the object that it overlaps most. boundary_iou: the same of masks and boundaries.
    object_iou: of each object with the mask that overlaps it most (average best overlap).
    """

    mask_iou: float
    boundary_iou: float
    object_iou: float
    num_masks: int
    num_objects: int

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null."""
        means = {name: json_number(getattr(self, name)) for name in ("mask_iou", "boundary_iou", "object_iou")}
        return {**means, "num_masks": self.num_masks, "num_objects": self.num_objects}


@dataclass(frozen=True)
class MaskQualityResult:
    """Mean IoU of pseudo masks: of all, by class, and by the object's size (`SIZES`)."""

    total: MaskMeans
    per_class: tuple[MaskMeans, ...]
    per_size: Mapping[str, MaskMeans]
    protocol: Protocol

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        return {
            **self.total.as_dict(),
            "per_class": [means.as_dict() for means in self.per_class],
            "per_size": {name: means.as_dict() for name, means in self.per_size.items()},
            "protocol": str(self.protocol),
        }

    def __str__(self) -> str:
        total = self.total
        return f"mean IoU of masks {total.mask_iou:.3f}, of objects {total.object_iou:.3f} ({self.protocol})"


def mask_quality(
    truths: Mapping[str, Instances], pseudo_masks: Mapping[str, Instances], num_classes: int
) -> MaskQualityResult:
    """Mean IoU of pseudo masks with the true masks of their class, over the images that ``truths`` names.

    Each mask is compared with the object of its class and image that it overlaps most, 0 where it overlaps none; each
    object with the mask that overlaps it most, 0 where none does. Two masks may share an object. Difficult and crowd
    objects are not counted, nor masks that overlap one of them most. A mask's size is its object's, its own where it
    overlaps none. Scores are not used. Raises `UserError` where masks are missing or of several sizes.
    """
    check_images(pseudo_masks, truths, "pseudo masks")
    check_labels(truths, num_classes, "true objects")
    check_labels(pseudo_masks, num_classes, "pseudo masks")
    nothing = np.zeros(0)
    parts = [
        _Comparison(nothing.astype(np.int64), nothing, nothing, nothing, nothing.astype(np.int64), nothing, nothing)
    ]
    for image_id in image_order(truths):
        parts.append(_compare(truths[image_id], pseudo_masks.get(image_id, Instances.empty(masked=True))))
    compared = _Comparison(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return MaskQualityResult(
        total=_means(compared, slice(None), slice(None)),
        per_class=tuple(
            _means(compared, compared.mask_labels == label, compared.object_labels == label)
            for label in range(num_classes)
        ),
        per_size={
            name: _means(compared, _within(compared.mask_sizes, limits), _within(compared.object_sizes, limits))
            for name, limits in SIZES.items()
        },
        protocol=Protocol(
            metric="mean IoU of pseudo masks",
            matching=f"each mask with the object of its class it overlaps most, each object with its best mask; "
            f"{BOUNDARIES}",
            difficult="difficult and crowd truths ignored",
            average="mean over masks, and over objects; small below 32 x 32 pixels, large from 96 x 96 on",
            detections="all pseudo masks",
            num_images=len(truths),
        ),
    )


class _Comparison(NamedTuple):
    """Counted masks and counted objects, each with its label, IoU (masks: of boundaries too) and area in pixels."""

    mask_labels: np.ndarray
    mask_iou: np.ndarray
    boundary_iou: np.ndarray
    mask_sizes: np.ndarray
    object_labels: np.ndarray
    object_iou: np.ndarray
    object_sizes: np.ndarray


def _compare(truth: Instances, pseudo_masks: Instances) -> _Comparison:
    """The comparison of one image."""
    iou = overlaps(pseudo_masks, truth, "masks")  # (P, T)
    iou[pseudo_masks.labels[:, None] != truth.labels] = 0
    ignored = ignored_truths(truth)
    sizes, object_sizes = rle_area(pseudo_masks.masks or ()), rle_area(truth.masks or ())
    best, boundary = torch.zeros(len(pseudo_masks)).double(), torch.zeros(len(pseudo_masks)).double()
    counted = torch.ones(len(pseudo_masks), dtype=torch.bool)
    for row in (iou > 0).any(1).nonzero()[:, 0].tolist() if len(truth) else ():
        column = int(iou[row].argmax())
        best[row], sizes[row], counted[row] = iou[row, column], object_sizes[column], ~ignored[column]
        assert pseudo_masks.masks is not None and truth.masks is not None, "overlaps has seen to it"
        boundary[row] = pairwise_boundary_iou([pseudo_masks.masks[row]], [truth.masks[column]])[0, 0]
    best_masks = iou.amax(0) if len(pseudo_masks) else torch.zeros(len(truth)).double()
    of_masks = (pseudo_masks.labels, best, boundary, sizes)
    of_objects = (truth.labels, best_masks, object_sizes)
    return _Comparison(
        *(values[counted].numpy() for values in of_masks), *(values[~ignored].numpy() for values in of_objects)
    )


def _within(areas: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Which of the areas ``(N,)`` lie in a range, its lower end included: bool ``(N,)``."""
    low, high = limits
    return (areas >= low) & (areas < high)


def _means(compared: _Comparison, masks: np.ndarray | slice, objects: np.ndarray | slice) -> MaskMeans:
    """The means over some of the masks and objects."""
    columns = (compared.mask_iou[masks], compared.boundary_iou[masks], compared.object_iou[objects])
    means = [float(values.mean()) if len(values) else float("nan") for values in columns]
    return MaskMeans(means[0], means[1], means[2], len(columns[0]), len(columns[2]))
