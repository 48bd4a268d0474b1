"""Which candidates of a photo stay: near-duplicates, sizes and the surplus; WeakSAM section 2.3 and its detectors'."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from weaksam.stages.proposals.candidates import Candidates
from weaksam.structures.boxes import area, inclusive_from_xyxy, nms, nms_first_seen, pairwise_iou
from weaksam.structures.clue_points import GRID

SizeRule = Literal["none", "min_side", "oicr", "mist_voc", "mist_coco"]
Dedupe = Literal["none", "pixel", "eighth"]
Suppression = Literal["best_first", "first_seen"]

LEAST_SIDES = {"mist_voc": 20.0, "mist_coco": 2.0}
OICR_SIDE = 20.0
_CELLS = {"pixel": 1, "eighth": 8}


def suppress_duplicates(found: Candidates, scope: Tensor, nms_iou: float, rule: Suppression) -> Candidates:
    """Greedy suppression above ``nms_iou`` among the candidates in ``scope`` (N,) bool; the others all stay, in order.

    ``first_seen`` is the published rule, whose result depends on the input order: the first box stays, all that
    overlap it by more go. ``best_first`` takes them by score; with ties in canonical order it depends on nothing else.
    A box takes over the highest source of those it stands for, so that the grid never crowds a clue out.
    """
    inside = scope.nonzero()[:, 0]
    mine = found[inside]
    keep = nms_first_seen(mine.boxes, nms_iou) if rule == "first_seen" else nms(mine.boxes, mine.scores, nms_iou)
    sources = found.sources.clone()
    sources[inside[keep]] = _inherited(mine, keep, nms_iou)
    stays = ~scope
    stays[inside[keep]] = True
    return found.from_source(sources)[stays.nonzero()[:, 0]]


def _inherited(found: Candidates, keep: Tensor, nms_iou: float) -> Tensor:
    """For each kept box the highest source among the boxes that it overlaps by more than ``nms_iou``, or its own."""
    own = found.sources[keep]
    prompted = found[(found.sources != GRID).nonzero()[:, 0]]  # the grid's is the lowest source
    if len(keep) == 0 or len(prompted) == 0:
        return own
    stands_for = pairwise_iou(found.boxes[keep], prompted.boxes) > nms_iou
    return torch.maximum(own, (stands_for * prompted.sources).amax(1))


def sized(found: Candidates, size: tuple[int, int], rule: SizeRule, min_side: float, max_area: float) -> Candidates:
    """The candidates that the size ``rule`` lets through, at most ``max_area`` of a photo ``(H, W)``, in order.

    ``min_side``: both sides at least ``min_side`` pixels; ``oicr``: both above 20; ``mist_voc`` and ``mist_coco``: both
    at least 20 or 2; ``none``: any side. Sides are those of half-open boxes.
    """
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    shortest = sides.amin(1)
    fits = area(found.boxes) <= max_area * size[0] * size[1]
    if rule == "oicr":
        fits &= shortest > OICR_SIDE
    elif rule != "none":
        fits &= shortest >= (min_side if rule == "min_side" else LEAST_SIDES[rule])
    return found[fits.nonzero()[:, 0]]


def deduped(found: Candidates, rule: Dedupe) -> Candidates:
    """The first of all candidates whose inclusive corners round alike, in order; WSOD detectors' loaders do this.

    ``eighth``: round(corner / 8), OICR's; ``pixel``: round(corner), MIST's. Corners are compared as they are, where
    the originals compare one hash that collides from 1,000 pixels on.
    """
    if rule == "none":
        return found
    cells = np.round(inclusive_from_xyxy(found.boxes).double().numpy() / _CELLS[rule]).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return found[torch.from_numpy(np.sort(first))]


def best_of(found: Candidates, max_proposals: int | None) -> Candidates:
    """At most ``max_proposals`` candidates in their order; the grid's go first, its last ones before its first."""
    if max_proposals is None or len(found) <= max_proposals:
        return found
    first = (found.sources == GRID).long().argsort(stable=True)[:max_proposals]
    return found[first.sort().values]
