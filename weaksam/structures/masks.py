"""Encode, decode and measure masks: bool ``(H, W)`` tensors in memory, COCO's compressed RLE at rest."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from weaksam.structures.boxes import clip

Rle = dict[str, Any]
"""A COCO compressed run-length mask: ``{"size": [height, width], "counts": str}``."""


def rle_from_mask(mask: Tensor) -> Rle:
    """RLE of a bool mask ``(H, W)``; an all-false mask is a valid RLE of area 0."""
    if mask.ndim != 2:
        raise ValueError(f"a mask must be (H, W), found shape {tuple(mask.shape)}: encode one mask at a time")
    encoded = coco_mask.encode(np.asfortranarray(mask.detach().cpu().numpy().astype(np.uint8)))
    return _with_text_counts(encoded)


def mask_from_rle(rle: Rle) -> Tensor:
    """Bool mask ``(H, W)`` of an RLE with compressed counts."""
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(rle))).bool()


def rle_from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Rle:
    """RLE of the union of polygons, each flat x, y, x, y, ... in pixels, in an image of ``size`` (H, W).

    A polygon of fewer than three points covers nothing; none at all gives an empty mask.
    """
    height, width = size
    # pycocotools reads four numbers as a box, not as a polygon of two points
    drawable = [[float(value) for value in polygon] for polygon in polygons if len(polygon) >= 6]
    if not drawable:
        return rle_from_mask(torch.zeros(height, width, dtype=torch.bool))
    return _with_text_counts(coco_mask.merge(coco_mask.frPyObjects(drawable, height, width)))


def rle_from_counts(counts: Sequence[int], size: tuple[int, int]) -> Rle:
    """Compressed RLE from COCO's uncompressed run lengths (column by column, background first), ``size`` (H, W)."""
    height, width = size
    plain = {"size": [height, width], "counts": [int(run) for run in counts]}
    return _with_text_counts(coco_mask.frPyObjects(plain, height, width))


def run_lengths(text: str) -> list[int] | None:
    """The run lengths in COCO's compressed text of them, the ``counts`` of an `Rle`; None where it is no such text.

    Each number is written as pieces of five bits, lowest first, in letters from "0" on; bit 5 says that another piece
    follows, bit 4 of the last piece is the sign. From the fourth number on it is the difference to the one before the
    last.
    """
    letters = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not len(letters) or int(letters.min()) < 0 or int(letters.max()) > 63 or int(letters[-1]) & 32:
        return None
    ends = np.flatnonzero((letters & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if int(lengths.max()) > 7:
        return None
    shifts = 5 * (np.arange(len(letters)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((letters & 31) << shifts, starts)
    numbers = np.where(letters[ends] & 16, numbers - (np.int64(1) << (5 * lengths)), numbers)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return [int(number) for number in numbers]


def rle_problem(rle: Rle) -> str | None:
    """What is wrong with an RLE that somebody else may have written, a noun phrase; None where it can be decoded."""
    height, width = rle["size"]
    if min(height, width) < 1:
        return f"a mask of {width} x {height} pixels"
    runs = run_lengths(rle["counts"])
    if runs is None or min(runs) < 0 or sum(runs) != height * width:
        return f"run lengths that do not fill a mask of {width} x {height} pixels"
    return None


def combined_rle(rles: Sequence[Rle], rule: Literal["either", "both"]) -> Rle:
    """The pixels that are in one of ``rles`` (``either``) or in all of them (``both``); one or more, of one size."""
    return _with_text_counts(coco_mask.merge(list(rles), intersect=rule == "both"))


def rle_area(rles: Sequence[Rle]) -> Tensor:
    """Area ``(N,)`` float32 in pixels; no masks give ``(0,)``."""
    if not rles:
        return torch.zeros(0)
    return torch.from_numpy(np.asarray(coco_mask.area(list(rles)), dtype=np.float32))


def pairwise_mask_iou(rles1: Sequence[Rle], rles2: Sequence[Rle], crowd: Tensor | None = None) -> Tensor:
    """IoU ``(N, M)`` float32 in [0, 1]; 0 where both are empty.

    Where ``crowd`` (M,) bool marks ``rles2`` as a crowd region, the union is the first mask alone (COCO's rule).
    """
    if not rles1 or not rles2:
        return torch.zeros(len(rles1), len(rles2))
    flags = [0] * len(rles2) if crowd is None else crowd.to(torch.int64).tolist()
    iou = np.asarray(coco_mask.iou(list(rles1), list(rles2), flags), dtype=np.float32)
    return torch.from_numpy(np.nan_to_num(iou.reshape(len(rles1), len(rles2))))


def batched_mask_nms(rles: Sequence[Rle], scores: Tensor, labels: Tensor, nms_iou: float) -> Tensor:
    """Indices int64 ``(K,)`` of the masks that stay, best first; equal scores keep their order, no masks give ``(0,)``.

    A mask goes if one of its own label that stays has a higher score and an IoU of more than ``nms_iou`` with it.
    ``scores`` and ``labels`` (N,).
    """
    stays = torch.zeros(len(rles), dtype=torch.bool)
    order = scores.argsort(descending=True, stable=True)
    for label in labels.unique().tolist():
        rows = order[labels[order] == label]
        of_label = [rles[row] for row in rows.tolist()]
        suppressing = pairwise_mask_iou(of_label, of_label) > nms_iou
        free = torch.ones(len(rows), dtype=torch.bool)
        for place, row in enumerate(rows.tolist()):
            if free[place]:
                stays[row] = True
                free &= ~suppressing[place]
    return order[stays[order]]


def box_mask(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool mask ``(H, W)`` of all pixels that a box ``(4,)`` touches in a photo of ``size``."""
    x1, y1, x2, y2 = clip(box[None], size)[0].tolist()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)] = True
    return mask


def boxes_from_masks(masks: Tensor) -> Tensor:
    """Tight half-open xyxy boxes ``(..., 4)`` float32 of bool masks ``(..., H, W)``; zeros for an empty mask."""
    height, width = masks.shape[-2:]
    if masks.numel() == 0:
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    columns, rows = masks.any(dim=-2), masks.any(dim=-1)  # (..., W), (..., H)
    # argmax finds the first of equal maxima, so it names the first true pixel from each end
    x1, y1 = columns.int().argmax(dim=-1), rows.int().argmax(dim=-1)
    x2 = width - columns.flip(-1).int().argmax(dim=-1)
    y2 = height - rows.flip(-1).int().argmax(dim=-1)
    boxes = torch.stack([x1, y1, x2, y2], dim=-1).float()
    return boxes * rows.any(dim=-1, keepdim=True)


def box_from_rle(rle: Rle) -> Tensor:
    """Tight half-open xyxy box ``(4,)`` float32 of one RLE; zeros for an empty mask."""
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    if width <= 0 or height <= 0:
        return torch.zeros(4)
    return torch.tensor([x, y, x + width, y + height])


def _with_text_counts(encoded: dict[str, Any]) -> Rle:
    """The same RLE with plain Python numbers and text counts, as JSON needs it."""
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
