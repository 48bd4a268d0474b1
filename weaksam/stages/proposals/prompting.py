"""Prompt the frozen segmenter with a grid and with clue points, and keep the boxes of its masks as proposals."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from weaksam.sam.batches import BatchLimit, predict_batches
from weaksam.sam.protocol import Embedding, RegionLister, Segmenter
from weaksam.stages.proposals.candidates import Candidates, MaskPile, candidates_of, canonical_order
from weaksam.stages.proposals.prompts import PlannedPrompts, clue_prompts, grid_prompts
from weaksam.stages.proposals.settings import ProposalSettings, grid_of
from weaksam.stages.proposals.suppression import best_of, deduped, sized, suppress_duplicates
from weaksam.structures.boxes import inclusive_from_xyxy, nms
from weaksam.structures.clue_points import COARSE, CROSS, GRID, CluePoints
from weaksam.structures.proposals import Proposals


def propose(
    segmenter: Segmenter,
    image: np.ndarray,
    points: Tensor,
    labels: Tensor,
    settings: ProposalSettings,
    kinds: Tensor | None = None,
) -> Proposals:
    """Proposals of one photo, uint8 ``(H, W, 3)``, encoded once: see `propose_encoded`.

    ``points (P, 2)`` xy in photo pixels, ``labels (P,)`` the class each speaks for (-1: none) and ``kinds (P,)`` the
    map each was found on (see ``CluePoints``; all coarse if not given). P = 0 leaves the grid alone.
    """
    clues = CluePoints.of(points, labels, COARSE) if kinds is None else CluePoints(points, labels, kinds)
    return propose_encoded(segmenter, segmenter.encode(image), clues, settings)


def propose_encoded(
    segmenter: Segmenter,
    embedding: Embedding,
    clues: CluePoints,
    settings: ProposalSettings,
    limit: BatchLimit | None = None,
) -> Proposals:
    """Proposals of one encoded photo; WeakSAM section 2, with one encoding where the original makes 4 + 2C.

    No mask at all gives no proposals: a whole-photo box is never invented. By the default rules the result does not
    depend on the order of the points; by the original ones boxes come in the order grid, coarse, fine, cross and only
    the cross boxes are suppressed, first seen first. ``limit`` bounds the prompts of a batch (``batch_size`` if None).
    """
    limit = limit or BatchLimit(settings.batch_size)
    if settings.suppression == "best_first":
        clues = clues.in_canonical_order()
    pile = MaskPile()
    found = Candidates.cat(
        [
            grid_candidates(segmenter, embedding, settings, pile, limit),
            clue_candidates(segmenter, embedding, clues, settings, pile, limit),
        ]
    )
    kept = choose(found, embedding.size, settings)
    return Proposals(kept.boxes, kept.scores, kept.sources, pile.rles(kept.rows), pile.frame)


def grid_candidates(
    segmenter: Segmenter, embedding: Embedding, settings: ProposalSettings, pile: MaskPile, limit: BatchLimit
) -> Candidates:
    """Dense sampling (section 2.1): thresholds, then suppression by predicted IoU, best first. None if it is off."""
    grid = grid_of(segmenter.name, settings)
    if grid.grid_side == 0:
        return Candidates.none()
    if settings.ask_for_regions and isinstance(segmenter, RegionLister):
        most = sys.maxsize if settings.max_proposals is None else settings.max_proposals
        regions = segmenter.regions(embedding, most)
        sources = torch.full((len(regions.boxes),), GRID)
        return Candidates(regions.boxes, regions.scores, sources, pile.add(regions.masks))
    planned = grid_prompts(embedding.size, grid.grid_side)
    parts: list[Candidates] = []
    batches = predict_batches(segmenter, embedding, planned.prompts, limit, min_pred_iou=grid.min_pred_iou)
    for answer in batches:
        good = (answer.iou > grid.min_pred_iou) & (answer.stability >= grid.min_stability)
        parts.append(candidates_of(answer, planned.sources[: len(answer)], settings.grid_masks, pile, good)[0])
    found = Candidates.cat(parts)
    if settings.suppression == "best_first":
        found = canonical_order(found)
    corners = inclusive_from_xyxy(found.boxes) if settings.grid_corners == "inclusive" else found.boxes
    return found[nms(corners, found.scores, grid.grid_nms_iou)]


def clue_candidates(
    segmenter: Segmenter,
    embedding: Embedding,
    clues: CluePoints,
    settings: ProposalSettings,
    pile: MaskPile,
    limit: BatchLimit,
) -> Candidates:
    """Clue prompts (section 2.2): the larger masks, whatever their predicted IoU, in the published order."""
    parts: list[Candidates] = []
    places: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
    for planned in clue_prompts(clues, settings.kinds, settings.joint_kinds, settings.joint_of_one):
        for found, at in _answers(segmenter, embedding, planned, settings, pile, limit):
            parts.append(found)
            places.append(at)
    return Candidates.cat(parts)[torch.cat(places).argsort(stable=True)]


def _answers(
    segmenter: Segmenter,
    embedding: Embedding,
    planned: PlannedPrompts,
    settings: ProposalSettings,
    pile: MaskPile,
    limit: BatchLimit,
) -> Iterator[tuple[Candidates, Tensor]]:
    """Candidates of each batch of the ``planned`` prompts, with the place ``(N,)`` of the prompt each comes from."""
    start = 0
    for answer in predict_batches(segmenter, embedding, planned.prompts, limit):
        end = start + len(answer)
        found, which = candidates_of(
            answer, planned.sources[start:end], settings.clue_masks, pile, empty=settings.keep_empty
        )
        yield found, planned.places[start:end][which]
        start = end


def choose(found: Candidates, size: tuple[int, int], settings: ProposalSettings) -> Candidates:
    """Of all candidates of a photo ``(H, W)`` those that become proposals, in order.

    By score: sizes first, so that a box too small suppresses nothing, then suppression in canonical order. In the order
    of the prompts: suppression first and sizes after it, where the original's detectors have them.
    """
    first_seen = settings.suppression == "first_seen"
    if not first_seen:
        found = canonical_order(of_size(found, size, settings))
    scope = found.sources == CROSS if settings.suppress == "cross" else torch.ones(len(found), dtype=torch.bool)
    found = suppress_duplicates(found, scope, settings.nms_iou, settings.suppression)
    if first_seen:
        found = of_size(found, size, settings)
    return best_of(deduped(found, settings.dedupe), settings.max_proposals)


def of_size(found: Candidates, size: tuple[int, int], settings: ProposalSettings) -> Candidates:
    """The candidates of a photo ``(H, W)`` that the settings' size rule admits."""
    return sized(found, size, settings.size_rule, settings.min_side, settings.max_area)
