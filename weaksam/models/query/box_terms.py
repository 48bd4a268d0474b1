"""Costs and losses between predicted and true boxes and classes, as detectors with object queries use them.

Boxes are centre x, y, width and height as shares of the photo. The generalised IoU is the same in shares as in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert, sigmoid_focal_loss

from weaksam.models.full_precision import full_precision
from weaksam.models.query.box_numbers import UNMATCHED

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0
"""Weights of the three losses in mmdet's DINO."""
_CLASS_COST, _ALPHA, _GAMMA = 2.0, 0.25, 2.0
_EPSILON = 1e-12


def generalised_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """GIoU ``(...)`` in [-1, 1] of boxes ``(..., 4)``, which are broadcast (Rezatofighi et al., CVPR 2019).

    Two boxes without area at one place have 0.
    """
    left1, top1, right1, bottom1 = box_convert(boxes1, "cxcywh", "xyxy").unbind(-1)
    left2, top2, right2, bottom2 = box_convert(boxes2, "cxcywh", "xyxy").unbind(-1)
    width = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    height = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    shared = width * height
    areas = (right1 - left1) * (bottom1 - top1) + (right2 - left2) * (bottom2 - top2)
    union = (areas - shared).clamp(min=_EPSILON)
    hull_width = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    hull_height = torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    hull = (hull_width * hull_height).clamp(min=_EPSILON)
    return shared / union - (hull - union) / hull


def matching_costs(logits: Tensor, boxes: Tensor, labels: Tensor, true_boxes: Tensor) -> Tensor:
    """Cost ``(M, B, N, T)`` of giving a query a true box: focal cost, L1 distance and GIoU, weighted 2, 5 and 2.

    ``logits`` (M, B, N, C), ``boxes`` (M, B, N, 4); ``labels`` (B, T), ``true_boxes`` (B, T, 4).
    """
    sets, _, num_queries, _ = logits.shape
    of_labels = full_precision(logits).gather(-1, labels[None, :, None].expand(sets, -1, num_queries, -1))
    share = of_labels.sigmoid()
    as_object = -_ALPHA * (1 - share) ** _GAMMA * (share + _EPSILON).log()
    as_background = -(1 - _ALPHA) * share**_GAMMA * (1 - share + _EPSILON).log()
    distance = torch.cdist(full_precision(boxes), true_boxes.expand(sets, -1, -1, -1), p=1)
    overlap = generalised_iou(full_precision(boxes)[..., None, :], true_boxes[:, None])
    return _CLASS_COST * (as_object - as_background) + L1_WEIGHT * distance - GIOU_WEIGHT * overlap


def focal_losses(logits: Tensor, labels: Tensor, unknown: Tensor | None = None) -> Tensor:
    """Focal loss ``(...)`` of each query, summed over the classes of ``logits`` (..., C); label -1 is background.

    Without those that are ``unknown``, bool (..., C), at background queries.
    """
    wanted = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    losses: Tensor = sigmoid_focal_loss(full_precision(logits), wanted.to(full_precision(logits)), _ALPHA, _GAMMA)
    if unknown is not None:
        losses = losses.masked_fill(unknown & (labels == UNMATCHED)[..., None], 0.0)
    return losses.sum(-1)
