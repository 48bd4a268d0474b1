"""Prompt the segmenter with boxes and choose one of the three masks of each."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Masks, Segmenter
from weaksam.structures.boxes import area, clip, pairwise_iou
from weaksam.structures.masks import Rle, rle_from_mask

_FULL_AT_ONCE = 8


def masks_of_boxes(
    segmenter: Segmenter, image: np.ndarray, boxes: Tensor, choice: Literal["predicted_iou", "box_agreement"]
) -> tuple[list[Rle], Tensor]:
    """One RLE mask per box ``(P, 4)`` on a photo uint8 ``(H, W, 3)``, and the predicted IoU ``(P,)`` of each.

    Where all three masks of a box are empty, its mask is the box itself with a predicted IoU of 0.
    """
    masks = segmenter.predict(segmenter.encode(image), Prompts(boxes=boxes))
    k_index = choose_masks(masks, boxes, choice)
    p_index = torch.arange(len(boxes))
    rles: list[Rle] = []
    for start in range(0, len(boxes), _FULL_AT_ONCE):
        chunk = slice(start, start + _FULL_AT_ONCE)
        full = masks.full(p_index[chunk], k_index[chunk]).cpu()
        rles += [
            rle_from_mask(mask if mask.any() else box_mask(box, masks.size))
            for mask, box in zip(full, boxes[chunk], strict=True)
        ]
    chosen = masks.iou[p_index, k_index].float().cpu()
    return rles, torch.where(_is_empty(masks)[p_index, k_index].cpu(), torch.zeros_like(chosen), chosen)


def choose_masks(masks: Masks, boxes: Tensor, choice: Literal["predicted_iou", "box_agreement"]) -> Tensor:
    """Which of the three masks ``(P,)`` int64 to take for each prompt box ``(P, 4)``; an empty mask comes last."""
    if choice == "predicted_iou":
        merit = masks.iou
    else:
        merit = torch.stack([pairwise_iou(masks.boxes[:, k], boxes.to(masks.boxes)).diagonal() for k in range(3)], 1)
    return merit.masked_fill(_is_empty(masks), -1.0).argmax(dim=1)


def box_mask(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool mask ``(H, W)`` of all pixels that a box ``(4,)`` touches in a photo of ``size``."""
    x1, y1, x2, y2 = clip(box[None], size)[0].tolist()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)] = True
    return mask


def _is_empty(masks: Masks) -> Tensor:
    """Whether each mask ``(P, 3)`` covers nothing."""
    return (area(masks.boxes.reshape(-1, 4)) <= 0).reshape(masks.boxes.shape[:2])
