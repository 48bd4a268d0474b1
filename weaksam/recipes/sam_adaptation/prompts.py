"""Draw the prompts of instances from their masks or boxes: box, points, a coarse polygon or its box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from weaksam.engine.seeds import derive_seed
from weaksam.structures.mask_polygons import polygon_from_rle
from weaksam.structures.masks import boxes_from_masks, mask_from_rle, rle_from_mask, rle_from_polygons

PromptKind = Literal["box", "point", "coarse_box", "coarse_mask"]
KINDS: tuple[PromptKind, ...] = ("box", "point", "coarse_box", "coarse_mask")
NUM_POINTS = 5
"""Positive points of an instance, and as many negative ones."""
TOLERANCE, LEAST_TOLERANCE = 0.05, 3.0
"""How far a coarse polygon may leave the outline: a share of its length, but at least so many pixels."""


@dataclass(frozen=True)
class InstancePrompts:
    """One prompt for each of n instances, in pixels of the network's square input.

    ``boxes (n, 4)`` xyxy half-open, or ``points (n, K, 2)`` xy with ``labels (n, K)``, 1 inside and 0 outside, or
    ``masks``, bool ``(n, S, S)``.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return next((len(given) for given in (self.boxes, self.points, self.masks) if given is not None), 0)

    def __getitem__(self, rows: Tensor) -> InstancePrompts:
        """The prompts of the instances ``rows``, indices ``(m,)``."""
        given = (self.boxes, self.points, self.labels, self.masks)
        return InstancePrompts(*(None if part is None else part[rows] for part in given))


def draw_prompts(
    kind: PromptKind, masks: Tensor, covered: tuple[int, int], seeds: tuple[int, ...], num_points: int = NUM_POINTS
) -> InstancePrompts:
    """The prompts of n instances with ``masks``, bool ``(n, S, S)``, none of them empty.

    ``covered`` (h, w): what the photo covers of the input, from its upper left; nothing is drawn on the padding.
    ``seeds``: one for each instance, from which alone its points follow. ``box``: the tight box. ``point``:
    ``num_points`` inside the mask and as many outside, uniform with replacement (WeSAM draws negatives on the padding
    too; ours does not). ``coarse_box``: the box of the mask's coarse polygon, as WeSAM's code uses it.
    ``coarse_mask``: that polygon filled, as WeSAM's paper words it.
    """
    if kind == "point":
        drawn = [_points(mask, covered, seed, num_points) for mask, seed in zip(masks, seeds, strict=True)]
        labels = torch.cat([torch.ones(num_points), torch.zeros(num_points)]).long()
        if not drawn:
            return InstancePrompts(points=torch.zeros(0, 2 * num_points, 2), labels=labels.expand(0, -1))
        return InstancePrompts(points=torch.stack(drawn), labels=labels.expand(len(drawn), -1))
    if kind == "coarse_mask":
        return InstancePrompts(masks=torch.stack([_coarse_mask(mask) for mask in masks]) if len(masks) else masks)
    boxes = boxes_from_masks(masks).float()
    if kind == "coarse_box" and len(masks):
        boxes = torch.stack([_coarse_box(mask, box) for mask, box in zip(masks, boxes, strict=True)])
    return InstancePrompts(boxes=boxes)


def instance_seeds(seed: int, image_id: str, num: int, draw: int) -> tuple[int, ...]:
    """The seed of each of a photo's ``num`` instances in the draw number ``draw``; an evaluation has draw 0."""
    return tuple(derive_seed(seed, "prompts", image_id, number, draw) for number in range(num))


def _points(mask: Tensor, covered: tuple[int, int], seed: int, num: int) -> Tensor:
    """Points ``(2 num, 2)`` xy at pixel centres: first those inside ``mask (S, S)``, then those outside.

    Where the mask covers the whole photo there is no outside, and the negative points are the corner of the padding.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = mask[: covered[0], : covered[1]]
    points = []
    for places in (seen.nonzero(), (~seen).nonzero()):
        if len(places) == 0:
            places = torch.tensor([[mask.shape[0] - 1, mask.shape[1] - 1]])
        rows = torch.randint(len(places), (num,), generator=generator)
        points.append(places[rows].flip(1) + 0.5)
    return torch.cat(points)


def _coarse_box(mask: Tensor, box: Tensor) -> Tensor:
    """The box ``(4,)`` of the mask's coarse polygon; the tight ``box`` where the polygon has no area."""
    corners = _corners(mask)
    if len(corners) == 0:
        return box
    low, high = corners.min(axis=0), corners.max(axis=0)
    if len(corners) < 3 or (high - low).min() < 1:
        return box
    return torch.tensor([*low, *high], dtype=torch.float32)


def _coarse_mask(mask: Tensor) -> Tensor:
    """The mask's coarse polygon filled, bool ``(S, S)``; the ``mask`` itself where the polygon covers no pixel."""
    filled = mask_from_rle(rle_from_polygons([_corners(mask).ravel().tolist()], (mask.shape[0], mask.shape[1])))
    return filled if filled.any() else mask


def _corners(mask: Tensor) -> np.ndarray:
    """Corners ``(M, 2)`` of the coarse polygon of ``mask (S, S)``; none of an empty mask."""
    ring = polygon_from_rle(rle_from_mask(mask))
    return np.zeros((0, 2)) if ring is None else coarse_polygon(np.asarray(ring, dtype=np.float64).reshape(-1, 2))


def coarse_polygon(ring: np.ndarray) -> np.ndarray:
    """The corners ``(M, 2)`` of the closed ``ring (N, 2)`` that Douglas and Peucker keep within the tolerance.

    The tolerance is `TOLERANCE` of its length, at least `LEAST_TOLERANCE` pixels. The ring is cut at its first corner
    and the one farthest from it.
    """
    length = float(np.linalg.norm(np.roll(ring, -1, axis=0) - ring, axis=1).sum())
    tolerance = max(TOLERANCE * length, LEAST_TOLERANCE)
    far = int(np.linalg.norm(ring - ring[0], axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    kept = sorted({0, far, *_kept(closed, 0, far, tolerance), *_kept(closed, far, len(ring), tolerance)} - {len(ring)})
    return ring[kept]


def _kept(points: np.ndarray, first: int, last: int, tolerance: float) -> list[int]:
    """Numbers between ``first`` and ``last`` of the points that a line with ``tolerance`` cannot leave out."""
    kept, waiting = [], [(first, last)]
    while waiting:
        start, end = waiting.pop()
        if end - start < 2:
            continue
        line, inside = points[end] - points[start], points[start + 1 : end] - points[start]
        size = float(np.hypot(*line))
        across = np.abs(line[0] * inside[:, 1] - line[1] * inside[:, 0]) / size if size else np.hypot(*inside.T)
        worst = int(across.argmax())
        if across[worst] > tolerance:
            kept.append(start + 1 + worst)
            waiting += [(start, start + 1 + worst), (start + 1 + worst, end)]
    return kept
