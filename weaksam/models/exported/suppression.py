"""Suppress overlapping boxes to a mask of fixed size, as an operator that exporters keep whole."""

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("weaksam::kept_boxes", mutates_args=())
def kept_boxes(boxes: Tensor, scores: Tensor, nms_iou: float) -> Tensor:
    """Bool ``(G, N)``: boxes ``(G, N, 4)`` xyxy that no better one of their group overlaps by more than ``nms_iou``.

    Greedy, best of ``scores`` (G, N) first. Boxes whose score is not above 0 are not there: neither kept nor compared.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for group in range(len(boxes)):
        there = (scores[group] > 0).nonzero()[:, 0]
        kept[group, there[nms(boxes[group, there], scores[group, there], nms_iou)]] = True
    return kept


@kept_boxes.register_fake
def _shape_of_kept(boxes: Tensor, scores: Tensor, nms_iou: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
