"""Measure and convert boxes, float32 ``(N, 4)``: x1, y1, x2, y2 in pixels, origin 0, half-open (width = x2 - x1)."""

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from weaksam.structures.devices import in_float64


def area(boxes: Tensor) -> Tensor:
    """Area ``(N,)`` in square pixels of xyxy boxes ``(N, 4)``; 0 where a box is empty or inverted."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def pairwise_intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Shared area ``(N, M)`` in square pixels of xyxy boxes ``(N, 4)`` and ``(M, 4)``; 0 where they do not meet."""
    # x and y one after the other: whole rows of memory instead of pairs, half the time on a CPU
    width, height = (
        torch.min(boxes1[:, None, end], boxes2[:, end]) - torch.max(boxes1[:, None, start], boxes2[:, start])
        for start, end in ((0, 2), (1, 3))
    )
    return width.clamp(min=0) * height.clamp(min=0)


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU ``(N, M)`` in [0, 1] of xyxy boxes ``(N, 4)`` and ``(M, 4)``; 0 where both are empty."""
    intersection = pairwise_intersection(boxes1, boxes2)
    union = area(boxes1)[:, None] + area(boxes2) - intersection
    return _ratio(intersection, union)


def pairwise_ioa(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Share ``(N, M)`` in [0, 1] of each box of ``boxes1`` (N, 4) that lies in ``boxes2`` (M, 4): |b1 & b2| / |b1|.

    0 where the first box is empty.
    """
    intersection = pairwise_intersection(boxes1, boxes2)
    return _ratio(intersection, area(boxes1)[:, None].expand_as(intersection))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, and 0 where the denominator is 0."""
    empty = denominator <= 0
    return torch.where(empty, torch.zeros_like(numerator), numerator / denominator.masked_fill(empty, 1))


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes ``(N, 4)`` cut to an image of ``size`` (H, W); one that lies outside becomes empty at the border."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def scale(boxes: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Boxes ``(N, 4)`` in a frame resized by ``scale_x`` and ``scale_y`` (new size / old size)."""
    # Column by column: a factor made a tensor would be copied to the device, which waits
    return torch.stack([boxes[:, side] * (scale_x, scale_y)[side % 2] for side in range(4)], dim=1)


def hflip(boxes: Tensor, width: float) -> Tensor:
    """Boxes ``(N, 4)`` in the image mirrored left to right, ``width`` pixels wide."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def xyxy_from_xywh(boxes: Tensor) -> Tensor:
    """Half-open xyxy ``(N, 4)`` from COCO's x, y, width, height ``(N, 4)``."""
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def xywh_from_xyxy(boxes: Tensor) -> Tensor:
    """COCO's x, y, width, height ``(N, 4)`` from half-open xyxy ``(N, 4)``."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


def xyxy_from_inclusive(boxes: Tensor) -> Tensor:
    """Half-open xyxy ``(N, 4)`` from boxes whose last two numbers name the last pixel inside (origin 0)."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])


def inclusive_from_xyxy(boxes: Tensor) -> Tensor:
    """Boxes ``(N, 4)`` whose last two numbers name the last pixel inside (origin 0), from half-open xyxy."""
    return boxes - boxes.new_tensor([0, 0, 1, 1])


def xyxy_from_yolo(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Half-open xyxy pixels ``(N, 4)`` from YOLO's centre x, y, width, height, each relative to ``size`` (H, W)."""
    height, width = size
    pixels = boxes * boxes.new_tensor([width, height, width, height])
    half = pixels[:, 2:] / 2
    return torch.cat([pixels[:, :2] - half, pixels[:, :2] + half], dim=1)


def yolo_from_xyxy(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """YOLO's relative centre x, y, width, height ``(N, 4)`` from half-open xyxy pixels, image ``size`` (H, W)."""
    height, width = size
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre, boxes[:, 2:] - boxes[:, :2]], dim=1) / boxes.new_tensor([width, height, width, height])


def nms(boxes: Tensor, scores: Tensor, nms_iou: float) -> Tensor:
    """Indices ``(K,)`` int64 of the boxes kept by greedy suppression above ``nms_iou``, best score first.

    Equal scores keep their input order; no boxes give no indices.
    """
    return torchvision_nms(boxes.float(), scores.float(), nms_iou)


def nms_first_seen(boxes: Tensor, nms_iou: float) -> Tensor:
    """Indices ``(K,)`` int64, ascending, of boxes kept by suppression without scores: the first stays, and so on.

    Each box in turn deletes the later ones that overlap it by more than ``nms_iou``, so the result depends on the
    order. Computed in float64: whole-pixel boxes get the IoU that old WSOD code finds with its ``+ 1``.
    """
    exact = in_float64(boxes)
    turn = -torch.arange(len(boxes), dtype=torch.float64, device=exact.device)
    return torchvision_nms(exact, turn, nms_iou).to(boxes.device)


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float) -> Tensor:
    """:func:`nms` within each label separately; indices ``(K,)`` int64 over all labels, best score first."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    # Move each label to its own place; float64 so that the shift costs no precision
    exact = in_float64(boxes)
    places = in_float64(labels) * (exact.max() - exact.min() + 1)
    return torchvision_nms(exact + places[:, None], in_float64(scores), nms_iou).to(boxes.device)
