"""Label RoIs by true boxes, which the ceiling of the weak detector learns instead of seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from weaksam.models.wsod.targets import Targets
from weaksam.structures.boxes import pairwise_iou


def true_targets(boxes: Tensor, true_boxes: Tensor, true_labels: Tensor, *, foreground_iou: float = 0.5) -> Targets:
    """Each RoI takes the class of the true box it overlaps most, or background under ``foreground_iou``; weight 1.

    ``boxes`` (R, 4), ``true_boxes`` (T, 4) xyxy, ``true_labels`` (T,) 0-based. ``seed`` numbers true boxes, not RoIs;
    the first of equal overlaps wins. Without a true box every RoI is background (Fast R-CNN's labels, all RoIs kept).
    """
    num_rois = len(boxes)
    nothing = torch.zeros(num_rois, dtype=torch.int64, device=boxes.device)
    if len(true_boxes) == 0 or num_rois == 0:
        return Targets(nothing, boxes.new_ones(num_rois), nothing)
    overlap, best = pairwise_iou(boxes, true_boxes).max(dim=1)
    target = torch.where(overlap >= foreground_iou, true_labels[best] + 1, nothing)
    return Targets(target, boxes.new_ones(num_rois), best)
