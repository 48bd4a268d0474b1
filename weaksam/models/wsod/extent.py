"""Tell from a box's surroundings how far its object reaches: look for what looks like the class inside and not around.

A linear regression per class tells the cells of a feature map inside the best box of every tag from all others. A box
of a class has *contrast* where its cells look more like the class than those of the ring around it. A part of an object
has little, for the ring goes on as the box does; a box that is too large has little, for it holds background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weaksam.config import Settings
from weaksam.structures.boxes import clip, pairwise_iou
from weaksam.structures.instances import Instances

FINER = 4
"""How many times finer than the map the regression's values are read, by bilinear interpolation."""
UNTAGGED = 0.3
"""Weight of a cell on a photo without the tag; one outside the box on a photo with it weighs 1."""
_LEAST = 1e-6
"""Contrast of a box whose surroundings look more like the class than it does."""


class ExtentSettings(Settings):
    """How far a detection moves to the proposal around it that scores and surroundings speak for, see `tightened`."""

    share: float = Field(
        0.5, ge=0, le=1, description="share of the way from a detection to the chosen proposal; 0: boxes stay"
    )
    least_iou: float = Field(0.6, gt=0, le=1, description="least IoU with the detection of a proposal to choose from")
    power: float = Field(2.0, ge=0, description="power of the score in score^power x contrast, by which is chosen")
    ring: float = Field(0.2, gt=0, le=2, description="width of the ring around a box, as a share of the box's sides")
    folds: int = Field(4, ge=2, description="parts of the training photos; each is judged by what the others teach")
    ridge: float = Field(0.1, gt=0, description="shrinkage of the regression, relative to a feature's mean square")


NO_EXTENT = ExtentSettings(share=0)
"""Boxes stay where they are."""


@dataclass(frozen=True)
class CellMap:
    """Features ``(K, h, w)`` of a photo of ``size`` (height, width), and how many ``cells`` (x, y) a pixel spans."""

    features: Tensor
    cells: tuple[float, float]
    size: tuple[int, int]

    def rows(self) -> Tensor:
        """The features of the cells ``(h * w, K + 1)``, a one at the end of each."""
        rows = self.features.flatten(1).T.float()
        return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)

    def inside(self, box: Tensor) -> Tensor:
        """Bool ``(h * w,)``: the cells whose centres lie in a box ``(4,)``, xyxy in pixels."""
        height, width = self.features.shape[1:]
        x = (torch.arange(width) + 0.5) / self.cells[0]
        y = (torch.arange(height) + 0.5) / self.cells[1]
        return (((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))).flatten()


class CellSums:
    """Gram matrices and sums of the cells inside and outside the boxes of each class, by fold of the photos."""

    def __init__(self, num_classes: int, depth: int, folds: int) -> None:
        width = depth + 1
        self.num_classes, self.folds = num_classes, folds
        self.grams = torch.zeros(folds, num_classes, 2, width, width)
        self.totals = torch.zeros(folds, num_classes, 2, width)

    def add(self, photo: CellMap, best: Mapping[int, Tensor], fold: int) -> None:
        """Count the cells of a photo whose tags' best boxes ``(4,)`` are ``best``, by label; none: all are outside."""
        rows = photo.rows()
        whole, total = rows.T @ rows, rows.sum(dim=0)
        weight = torch.full((self.num_classes,), UNTAGGED)
        weight[list(best)] = 1.0
        self.grams[fold, :, 0] += weight[:, None, None] * whole
        self.totals[fold, :, 0] += weight[:, None] * total
        for label, box in best.items():
            chosen = rows[photo.inside(box)]
            gram, of_chosen = chosen.T @ chosen, chosen.sum(dim=0)
            self.grams[fold, label, 0] -= gram
            self.totals[fold, label, 0] -= of_chosen
            self.grams[fold, label, 1] += gram
            self.totals[fold, label, 1] += of_chosen

    def regressions(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Weights ``(folds, C, K + 1)`` learnt on the photos of the other folds, and ``(C, K + 1)`` on all.

        Cells inside and outside weigh the same in sum, whatever their number. A class without a cell inside gets zeros,
        so that no box of it has contrast.
        """
        gram, total = self.grams.sum(dim=0), self.totals.sum(dim=0)
        of_folds = [_solved(gram - self.grams[fold], total - self.totals[fold], ridge) for fold in range(self.folds)]
        return torch.stack(of_folds), _solved(gram, total, ridge)


def _solved(grams: Tensor, totals: Tensor, ridge: float) -> Tensor:
    """Weights ``(C, K + 1)`` from Gram matrices ``(C, 2, K + 1, K + 1)`` and sums ``(C, 2, K + 1)`` of `CellSums`."""
    weights = []
    for gram, total in zip(grams.double(), totals.double(), strict=True):
        num = total[:, -1].clamp(min=1)  # cells outside, inside
        left = (gram / num[:, None, None]).sum(dim=0)
        shrink = torch.full((len(left),), ridge * float(left.diagonal()[:-1].mean()) + 1e-12, dtype=torch.float64)
        shrink[-1] = 1e-9
        inside, outside = total[1] / num[1], total[0] / num[0]
        solved = torch.linalg.solve(left + shrink.diag(), inside - outside)
        weights.append(solved if total[1, -1] >= 1 else torch.zeros_like(solved))
    return torch.stack(weights).float()


def contrast(photo: CellMap, weights: Tensor, boxes: Tensor, ring: float) -> Tensor:
    """Mean value ``(N,)`` of the cells in each box (N, 4) less that of the ring around it, by ``weights`` (K + 1,).

    The ring is as wide as ``ring`` times the box's sides and ends at the photo's edge; one that lies outside the photo
    is 0. No boxes give none.
    """
    values = torch.einsum("k,khw->hw", weights[:-1], photo.features.float()) + weights[-1]
    values = F.interpolate(values[None, None], scale_factor=FINER, mode="bilinear", align_corners=False)[0, 0]
    integral = F.pad(values.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    margin = ring * (boxes[:, 2:] - boxes[:, :2])
    larger = clip(torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1), photo.size)
    (total, area), (total_larger, area_larger) = (_summed(integral, photo, of) for of in (boxes, larger))
    around = (total_larger - total) / (area_larger - area).clamp(min=1)
    return (total / area.clamp(min=1) - around).float()


def _summed(integral: Tensor, photo: CellMap, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the values in each box ``(N, 4)`` and its number of fine cells, from an integral image."""
    per_pixel = FINER * boxes.new_tensor([*photo.cells, *photo.cells])
    limit = boxes.new_tensor([integral.shape[1] - 1, integral.shape[0] - 1] * 2)
    x1, y1, x2, y2 = (boxes * per_pixel).round().clamp(min=0).minimum(limit).long().T
    total = integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]
    return total, ((x2 - x1) * (y2 - y1)).to(integral)


def tightened(
    detections: Instances,
    photo: CellMap,
    weights: Tensor,
    boxes: Tensor,
    scores: Tensor,
    settings: ExtentSettings,
) -> Instances:
    """Detections whose boxes moved by ``settings.share`` of the way to a chosen proposal; all else stays.

    Chosen is, of the proposals ``boxes`` (N, 4) that overlap the detection by ``least_iou``, that of the greatest
    ``score^power x contrast``, with the ``scores`` (N, C) of the detection's class and `contrast` by its ``weights``
    (C, K + 1), of at least `_LEAST`. A detection that no proposal overlaps so stays. The ring as
    evidence is that of TS2C (Wei et al., ECCV 2018), there in class activation maps; regression and choice are ours.
    """
    if settings.share == 0 or len(detections) == 0 or len(boxes) == 0:
        return detections
    moved = detections.boxes.clone()
    near = pairwise_iou(detections.boxes, boxes) >= settings.least_iou  # (D, N)
    for label in detections.labels.unique().tolist():
        of_label = (detections.labels == label).nonzero()[:, 0]
        clear = contrast(photo, weights[label], boxes, settings.ring).clamp(min=_LEAST).log()
        value = scores[:, label].clamp(min=torch.finfo(scores.dtype).tiny).log() * settings.power + clear
        chosen = value.expand(len(of_label), -1).masked_fill(~near[of_label], -torch.inf).argmax(dim=1)
        moved[of_label] += settings.share * (boxes[chosen] - moved[of_label])
    return detections.replace(boxes=torch.where(near.any(dim=1)[:, None], moved, detections.boxes))
