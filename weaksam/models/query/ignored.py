"""Decide which queries lie in a region to ignore, so that they are not taught to be background."""

from __future__ import annotations

from torch import Tensor

MOSTLY = 0.5
"""Share of a query's area above which it lies in an ignored region."""


def lies_in_ignored(inside: Tensor, area: Tensor) -> Tensor:
    """Bool, shaped as its inputs: whether more than half of an ``area`` lies ``inside`` regions to ignore.

    Both in the same unit: pixels of a box, or points of a mask. Without area nothing lies anywhere (ours).
    """
    return inside > MOSTLY * area
