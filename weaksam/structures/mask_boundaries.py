"""Compute the boundary of a mask and the boundary IoU of two sets of masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from weaksam.structures.masks import Rle, mask_from_rle, pairwise_mask_iou, rle_from_mask

BOUNDARY_RATIO = 0.02
"""Width of a boundary as a share of the photo's diagonal, as published."""


def boundary_width(size: tuple[int, int], ratio: float = BOUNDARY_RATIO) -> int:
    """Width in pixels, at least 1, of the boundary of a mask in a photo of ``size`` (H, W)."""
    return max(1, round(ratio * float(np.hypot(*size))))


def boundary_from_rle(rle: Rle, ratio: float = BOUNDARY_RATIO) -> Rle:
    """The pixels of a mask within `boundary_width` of its contour or of the photo's edge; empty where the mask is.

    Distance is that of Cheng et al. (CVPR 2021): steps to one of the eight neighbours.
    """
    mask = mask_from_rle(rle)
    x, y, width, height = (int(value) for value in coco_mask.toBbox(rle))
    inside = mask[y : y + height, x : x + width]
    inside &= ~_eroded(inside, boundary_width((mask.shape[0], mask.shape[1]), ratio))  # a view: changes the mask
    return rle_from_mask(mask)


def _eroded(mask: Tensor, width: int) -> Tensor:
    """The pixels of a bool mask ``(H, W)`` whose square of ``width`` pixels on every side lies in it; (H, W).

    What lies beyond the frame is background.
    """
    kept = F.pad(mask, (width,) * 4)
    for axis in (0, 1):
        covered = 1  # each pixel stands for so many in a row; those of two shifts stand for up to twice as many
        while covered < 2 * width + 1:
            shift = min(covered, 2 * width + 1 - covered)
            length = kept.shape[axis] - shift
            kept = kept.narrow(axis, 0, length) & kept.narrow(axis, shift, length)
            covered += shift
    return kept


def pairwise_boundary_iou(
    rles1: Sequence[Rle], rles2: Sequence[Rle], crowd: Tensor | None = None, *, mask_iou: Tensor | None = None
) -> Tensor:
    """The smaller of mask IoU and boundary IoU ``(N, M)`` in [0, 1], as boundary AP takes it; 0 where both are empty.

    ``crowd`` (M,) bool marks ``rles2`` that are crowd regions, which keep the mask IoU of COCO's rule (their boundary
    is no object's). ``mask_iou`` (N, M): the mask IoUs where they are known already. float32.
    """
    iou = pairwise_mask_iou(rles1, rles2, crowd) if mask_iou is None else mask_iou.clone()
    compared = iou > 0
    if crowd is not None:
        compared &= ~crowd
    rows, columns = compared.any(1).nonzero()[:, 0].tolist(), compared.any(0).nonzero()[:, 0].tolist()
    if rows:
        boundaries1 = [boundary_from_rle(rles1[row]) for row in rows]
        boundaries2 = [boundary_from_rle(rles2[column]) for column in columns]
        place = torch.meshgrid(torch.tensor(rows), torch.tensor(columns), indexing="ij")
        smaller = torch.minimum(iou[place], pairwise_mask_iou(boundaries1, boundaries2).to(iou.dtype))
        iou[place] = torch.where(compared[place], smaller, iou[place])
    return iou
