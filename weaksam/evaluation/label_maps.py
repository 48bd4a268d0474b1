"""Paint the masks of an image's objects into one map, so that every pixel belongs to one object or to none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask

from weaksam.evaluation.matching import ignored_truths
from weaksam.evaluation.protocol import mask_size, require_masks
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, mask_from_rle, rle_area

IGNORED = -1
"""The class of pixels that are not measured."""


def object_map(masks: Sequence[Rle], order: Sequence[int], size: tuple[int, int], min_free: float = 0.0) -> np.ndarray:
    """The row of the object at every pixel ``(H, W)`` int32, -1 where there is none.

    ``order``: rows to paint, the topmost first; each takes the pixels that are free. One of which less than the share
    ``min_free`` in [0, 1] is free is left out.
    """
    rows = np.full(size, -1, dtype=np.int32)
    for row in order:
        x, y, width, height = (int(value) for value in coco_mask.toBbox(masks[row]))
        part = np.s_[y : y + height, x : x + width]
        mask = mask_from_rle(masks[row]).numpy()[part]
        free = mask & (rows[part] < 0)
        if np.count_nonzero(free) >= min_free * np.count_nonzero(mask):
            rows[part][free] = row
    return rows


def true_object_map(truth: Instances, size: tuple[int, int]) -> np.ndarray:
    """The row of the true object at every pixel ``(H, W)``, -1 background; where objects overlap the smaller counts."""
    masks = require_masks(truth, "true objects")
    largest_first = rle_area(masks).argsort(descending=True, stable=True)
    return object_map(masks, largest_first.flip(0).tolist(), size)


def true_classes(truth: Instances, size: tuple[int, int]) -> np.ndarray:
    """Class of every pixel ``(H, W)`` int64: 0 background, 1 + label, `IGNORED` under a crowd or difficult object.

    Where objects overlap the smaller one counts.
    """
    classes = torch.where(ignored_truths(truth), IGNORED, truth.labels + 1)
    return pixel_classes(true_object_map(truth, size), classes.numpy())


def detected_object_map(
    detections: Instances, size: tuple[int, int], min_score: float, min_free: float = 0.0
) -> np.ndarray:
    """The row of the detection at every pixel ``(H, W)``, -1 where there is none; the better-scored covers the others.

    Detections with a score below ``min_score`` are left out, those without scores are all painted; equal scores stand
    as given. ``min_free``: see `object_map` (the rule of Kirillov et al., CVPR 2019, for overlapping instances).
    """
    masks = require_masks(detections, "detections")
    scores = torch.ones(len(masks)) if detections.scores is None else detections.scores
    order = [row for row in scores.argsort(descending=True, stable=True).tolist() if scores[row] >= min_score]
    return object_map(masks, order, size, min_free)


def pixel_classes(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Class of every pixel ``(H, W)`` int64 of a map of rows: ``classes`` (N,) of its object, 0 where there is none."""
    return np.append(classes, 0)[rows]  # the row -1 is the last


def painted_size(truth: Instances, detections: Instances) -> tuple[int, int] | None:
    """The size (H, W) of an image by its masks, None where neither side has one; UserError where sizes differ."""
    return mask_size(require_masks(truth, "true objects"), require_masks(detections, "detections"))
