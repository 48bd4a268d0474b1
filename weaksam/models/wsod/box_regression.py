"""Compute the loss of a refinement branch's box offsets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.models.roi.box_deltas import encode_boxes
from weaksam.models.wsod.targets import Targets


def box_loss(deltas: Tensor, targets: Targets, boxes: Tensor, wanted: Tensor | None = None) -> Tensor:
    """``sum over foreground of (w_r * smooth L1 of the target class's offsets) / R``, a scalar.

    ``deltas`` (R, C + 1, 4), background in column 0, ``boxes`` (R, 4) xyxy of the RoIs, ``wanted`` the xyxy boxes that
    ``targets.seed`` numbers (the RoIs themselves if not given; at least one if there are RoIs). beta is 1; the sum
    is over the four numbers and divided by the number of all RoIs (docs/method.md, MIST). Without RoIs or foreground it
    is 0.
    """
    if len(boxes) == 0:
        return deltas.sum()
    chosen = deltas[torch.arange(len(boxes), device=deltas.device), targets.target]  # (R, 4)
    offsets = encode_boxes(boxes, (boxes if wanted is None else wanted)[targets.seed])
    each = F.smooth_l1_loss(chosen, offsets, reduction="none", beta=1.0).sum(dim=1)
    weight = targets.weight.masked_fill(targets.target == 0, 0.0)
    return (weight * each).sum() / len(boxes)
