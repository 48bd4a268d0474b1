"""Choose which candidates of a photo become proposals: by size, overlap, equal corners and a limit on their number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from weaksam.stages.proposals.candidates import Candidates, canonical_order
from weaksam.stages.proposals.settings import Dedupe, ProposalSettings, Suppression
from weaksam.structures.boxes import area, inclusive_from_xyxy, nms, nms_first_seen, pairwise_iou
from weaksam.structures.clue_points import CROSS, GRID

LEAST_SIDES = {"mist_voc": 20.0, "mist_coco": 2.0}
"""Shortest side in pixels that the loaders of MIST keep."""
OICR_SIDE = 20.0
"""Pixels that both sides must exceed in OICR's loader."""
_CELL_SIDES = {"pixel": 1, "eighth": 8}


def choose_candidates(candidates: Candidates, photo_size: tuple[int, int], settings: ProposalSettings) -> Candidates:
    """Of all candidates of a photo ``(H, W)`` those that become proposals, in order (docs/method.md, Proposals).

    By score: sizes first, so that a box too small suppresses nothing, then suppression in canonical order. In the order
    of the prompts: suppression first and sizes after it, where the original's detectors have them.
    """
    first_seen = settings.suppression == "first_seen"
    if not first_seen:
        candidates = canonical_order(filter_by_size(candidates, photo_size, settings))
    everything = torch.ones(len(candidates), dtype=torch.bool)
    scope = candidates.sources == CROSS if settings.suppress == "cross" else everything
    candidates = suppress_duplicates(candidates, scope, settings.nms_iou, settings.suppression)
    if first_seen:
        candidates = filter_by_size(candidates, photo_size, settings)
    return at_most(drop_equal_corners(candidates, settings.dedupe), settings.max_proposals)


def suppress_duplicates(candidates: Candidates, scope: Tensor, nms_iou: float, rule: Suppression) -> Candidates:
    """Greedy suppression above ``nms_iou`` among the candidates in ``scope`` (N,) bool; the others all stay, in order.

    ``first_seen`` is the published rule, whose result depends on the input order: the first box stays, all that
    overlap it by more go. ``best_first`` takes them by score; with ties in canonical order it depends on nothing else.
    A box takes over the highest source of those it stands for, so that the grid never crowds a clue out.
    """
    rows = scope.nonzero()[:, 0]
    in_scope = candidates[rows]
    if rule == "first_seen":
        keep = nms_first_seen(in_scope.boxes, nms_iou)
    else:
        keep = nms(in_scope.boxes, in_scope.scores, nms_iou)
    sources = candidates.sources.clone()
    sources[rows[keep]] = _inherited_sources(in_scope, keep, nms_iou)
    stays = ~scope
    stays[rows[keep]] = True
    return candidates.with_sources(sources)[stays.nonzero()[:, 0]]


def _inherited_sources(candidates: Candidates, keep: Tensor, nms_iou: float) -> Tensor:
    """For each kept box the highest source among the boxes that it overlaps by more than ``nms_iou``, or its own."""
    own = candidates.sources[keep]
    prompted = candidates[(candidates.sources != GRID).nonzero()[:, 0]]  # the grid's is the lowest source
    if len(keep) == 0 or len(prompted) == 0:
        return own
    stands_for = pairwise_iou(candidates.boxes[keep], prompted.boxes) > nms_iou
    return torch.maximum(own, (stands_for * prompted.sources).amax(1))


def filter_by_size(candidates: Candidates, photo_size: tuple[int, int], settings: ProposalSettings) -> Candidates:
    """The candidates of a photo ``(H, W)`` that ``size_rule`` and ``max_area`` of the settings admit, in order.

    ``min_side``: both sides at least ``min_side`` pixels; ``oicr``: both above 20; ``mist_voc`` and ``mist_coco``: both
    at least 20 or 2; ``none``: any side. Sides are those of half-open boxes.
    """
    rule = settings.size_rule
    shortest = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]).amin(1)
    fits = area(candidates.boxes) <= settings.max_area * photo_size[0] * photo_size[1]
    if rule == "oicr":
        fits &= shortest > OICR_SIDE
    elif rule != "none":
        fits &= shortest >= (settings.min_side if rule == "min_side" else LEAST_SIDES[rule])
    return candidates[fits.nonzero()[:, 0]]


def drop_equal_corners(candidates: Candidates, rule: Dedupe) -> Candidates:
    """The first of all candidates whose inclusive corners round alike, in order; WSOD detectors' loaders do this.

    ``eighth``: round(corner / 8), OICR's; ``pixel``: round(corner), MIST's; ``none``: all. Corners are compared as they
    are, where the originals compare one hash that collides from 1,000 pixels on.
    """
    if rule == "none":
        return candidates
    corners = inclusive_from_xyxy(candidates.boxes).double().numpy()
    cells = np.round(corners / _CELL_SIDES[rule]).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return candidates[torch.from_numpy(np.sort(first))]


def at_most(candidates: Candidates, max_proposals: int | None) -> Candidates:
    """At most ``max_proposals`` candidates in their order; the grid's go first, its last ones before its first."""
    if max_proposals is None or len(candidates) <= max_proposals:
        return candidates
    kept = (candidates.sources == GRID).long().argsort(stable=True)[:max_proposals]
    return candidates[kept.sort().values]
