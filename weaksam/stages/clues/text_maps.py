"""Turn the boxes or masks that a text-prompted detector found into class maps and clue points."""

from __future__ import annotations

import torch
from torch import Tensor

from weaksam.structures.instances import Instances
from weaksam.structures.mask_cleaning import deepest_point
from weaksam.structures.masks import mask_from_rle

EDGE = 0.9
"""Height of a painted map at the border of a hit, whose middle has 1."""


def painted_map(hits: Instances, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A class map ``(h, w)`` in [0, 1] of the ``hits`` of one class on a photo of ``size`` (H, W); zeros without a hit.

    A cell has the share of it that a hit covers (of a hit smaller than a cell, the share of the hit), times a height
    that falls from 1 in the middle of the hit's box to `EDGE` at its border; of several hits the highest. With masks a
    cell has the share that the mask covers instead. Ours: class-map seeds look for the region that is bright inside and
    dark around, which is the hit itself.
    """
    total = torch.zeros(grid)
    for row in range(len(hits)):
        across, middle_x = _along(hits.boxes[row, 0::2], size[1], grid[1])
        down, middle_y = _along(hits.boxes[row, 1::2], size[0], grid[0])
        covered = down[:, None] * across
        if hits.masks is not None:
            mask = mask_from_rle(hits.masks[row])[None, None].float()
            covered = torch.nn.functional.adaptive_avg_pool2d(mask, grid)[0, 0]
        distance = torch.maximum(middle_y[:, None], middle_x)
        total = torch.maximum(total, covered * (1 - (1 - EDGE) * distance))
    return total


def hit_points(hits: Instances) -> Tensor:
    """A clue point ``(N, 2)`` xy for each hit: the middle of its box, or the innermost pixel of its mask."""
    points = (hits.boxes[:, :2] + hits.boxes[:, 2:]) / 2
    for row, rle in enumerate(hits.masks or ()):
        inside = deepest_point(mask_from_rle(rle))
        if inside is not None:
            points[row] = inside
    return points


def _along(interval: Tensor, side: int, cells: int) -> tuple[Tensor, Tensor]:
    """Along one side of ``cells``: the share ``(cells,)`` of each that ``interval`` (2,) covers, and its distance.

    That is the one of its nearest point from the interval's middle, in half lengths, 0 to 1.
    """
    step = side / cells
    starts = torch.arange(cells) * step
    covered = (torch.minimum(starts + step, interval[1]) - torch.maximum(starts, interval[0])).clamp(min=0)
    length, middle = float(interval[1] - interval[0]), float(interval.mean())
    nearest = torch.full_like(starts, middle).clamp(min=starts, max=starts + step)
    distance = (nearest - middle).abs() / max(length / 2, 1e-6)
    return covered / min(step, max(length, 1e-6)), distance.clamp(max=1)
