"""Offsets from a proposal to the object it belongs to: encode, decode, learn."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.models.wsod.refinement import Targets

SHIFT_STRETCH, GROWTH_STRETCH = 10.0, 5.0
"""Factors of the offsets in x and y, and in width and height (Fast R-CNN)."""

_MOST_GROWTH = math.log(1000 / 16)
_SMALLEST_SIDE = 1e-6


def encode_boxes(proposals: Tensor, wanted: Tensor) -> Tensor:
    """Offsets ``(N, 4)`` from xyxy ``proposals`` (N, 4) to xyxy ``wanted`` (N, 4), stretched.

    Shift of the centre in widths and heights of the proposal, and the logarithm of how much it must grow. A side
    without length counts as a millionth of a pixel, so that every offset is finite.
    """
    centre, side = _centre_and_side(proposals)
    wanted_centre, wanted_side = _centre_and_side(wanted)
    shift, growth = (wanted_centre - centre) / side, (wanted_side / side).log()
    return torch.cat([SHIFT_STRETCH * shift, GROWTH_STRETCH * growth], dim=1)


def decode_boxes(proposals: Tensor, deltas: Tensor) -> Tensor:
    """Boxes ``(N, M, 4)`` xyxy that stretched offsets ``deltas`` (N, M, 4) make of ``proposals`` (N, 4).

    A side grows at most 62.5-fold, so that wild offsets stay finite.
    """
    centre, side = (part[:, None] for part in _centre_and_side(proposals))
    moved = centre + deltas[..., :2] / SHIFT_STRETCH * side
    half = side * (deltas[..., 2:] / GROWTH_STRETCH).clamp(max=_MOST_GROWTH).exp() / 2
    return torch.cat([moved - half, moved + half], dim=-1)


def mirrored_deltas(deltas: Tensor) -> Tensor:
    """Offsets ``(..., 4)`` seen in the photo mirrored left to right: the shift in x changes its sign."""
    return torch.cat([-deltas[..., :1], deltas[..., 1:]], dim=-1)


def box_loss(deltas: Tensor, targets: Targets, boxes: Tensor, wanted: Tensor | None = None) -> Tensor:
    """``sum over foreground of (w_r * smooth L1 of the target class's offsets) / R``, a scalar.

    ``deltas`` (R, C + 1, 4), background in column 0, ``boxes`` (R, 4) xyxy of the RoIs, ``wanted`` the xyxy boxes that
    ``targets.seed`` numbers (the RoIs themselves if not given; at least one if there are RoIs). WeakSAM's MIST
    (specification, section 3.2): beta 1, summed over the four numbers, divided by all RoIs. Without RoIs or foreground
    it is 0.
    """
    if len(boxes) == 0:
        return deltas.sum()
    chosen = deltas[torch.arange(len(boxes), device=deltas.device), targets.target]  # (R, 4)
    offsets = encode_boxes(boxes, (boxes if wanted is None else wanted)[targets.seed])
    each = F.smooth_l1_loss(chosen, offsets, reduction="none", beta=1.0).sum(dim=1)
    weight = targets.weight.masked_fill(targets.target == 0, 0.0)
    return (weight * each).sum() / len(boxes)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sides ``(N, 2)`` each, sides at least a millionth of a pixel."""
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=_SMALLEST_SIDE)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, side
