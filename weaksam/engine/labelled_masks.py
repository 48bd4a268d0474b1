"""Let what was labelled on a photo prompt the segmenter for masks, and take labelled masks as they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from weaksam.sam.box_masks import BoxMasks
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import PhotoLabels
from weaksam.structures.trusted_labels import holding


def points_of_marks(objects: Instances, labels: PhotoLabels) -> list[Tensor]:
    """For each of N objects the points ``(P, 2)`` xy of the mark of its class in its box, P = 0 without one.

    Of several marks in a box it is the one nearest its middle.
    """
    marks = labels.marks
    held = holding(objects.boxes, objects.labels, marks)  # (N, K)
    middles = (marks.extents[:, :2] + marks.extents[:, 2:]) / 2
    distance = torch.cdist((objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2, middles)
    distance = distance.masked_fill(~held, torch.inf)
    return [
        marks.points[int(row.argmin())] if bool(of_object.any()) else torch.zeros(0, 2)
        for row, of_object in zip(distance, held, strict=True)
    ]


def with_given_masks(masks: BoxMasks, objects: Instances, labels: PhotoLabels) -> BoxMasks:
    """``masks`` of the objects, with the labelled mask, trusted wholly, where an object is a labelled box that has one.

    That is a box of its class with the same corners to the bit.
    """
    given = [row for row, rle in enumerate(labels.masks) if rle is not None]
    if not given or not len(objects):
        return masks
    boxes, classes = labels.boxes.boxes[given], labels.boxes.labels[given]
    same = (objects.boxes[:, None] == boxes).all(dim=2) & (objects.labels[:, None] == classes)  # (N, G)
    rles = list(masks.rles)
    for row, which in same.nonzero().tolist():
        rle = labels.masks[given[which]]
        assert rle is not None
        rles[row] = rle
    known = same.any(dim=1)
    trusted = {
        name: torch.where(known, 1.0, getattr(masks, name)) for name in ("predicted_iou", "stability", "box_agreement")
    }
    return replace(masks, rles=rles, **trusted)
