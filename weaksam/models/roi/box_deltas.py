"""Encode and decode the offsets from a proposal to the object it belongs to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

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


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sides ``(N, 2)`` each, sides at least a millionth of a pixel."""
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=_SMALLEST_SIDE)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, side
