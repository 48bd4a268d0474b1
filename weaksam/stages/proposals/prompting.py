"""Prompt the frozen segmenter with a grid and with clue points, and keep the boxes of its masks as proposals."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.sam.batches import BatchLimit, predict_batches
from weaksam.sam.protocol import Embedding, Masks, RegionLister, Segmenter
from weaksam.stages.proposals.candidates import Candidates, MaskPile, candidates_of, canonical_order, masks_numbered
from weaksam.stages.proposals.prompts import PlannedPrompts, clue_prompts, grid_prompts
from weaksam.stages.proposals.settings import ProposalSettings, grid_of
from weaksam.stages.proposals.suppression import choose_candidates
from weaksam.stages.proposals.tiles import propose_in_tiles
from weaksam.structures.boxes import inclusive_from_xyxy, nms
from weaksam.structures.clue_points import GRID, CluePoints
from weaksam.structures.proposals import Proposals


def propose(
    segmenter: Segmenter,
    image: np.ndarray,
    clues: CluePoints | None = None,
    settings: ProposalSettings | None = None,
) -> Proposals:
    """Propose boxes and masks for one photo by prompting a frozen segmenter (docs/method.md, Proposals).

    ``image`` is an upright RGB photo, uint8 ``(H, W, 3)``; it is encoded once. ``clues`` are points that prompt beside
    the grid, none if not given; ``settings`` are the default ones if not given. Returns N `Proposals`: half-open xyxy
    ``boxes (N, 4)`` in photo pixels, ``scores (N,)`` (predicted IoU), ``sources (N,)`` and the masks as RLE. A photo in
    which the segmenter finds nothing has none (N = 0): a whole-photo box is never invented. With ``settings.tile`` the
    photo is proposed for in tiles, see `propose_in_tiles`.

    Raises:
        UserError: the image is not uint8 ``(H, W, 3)``, or the parts of ``clues`` do not fit together.
    """
    clues = CluePoints.none() if clues is None else clues
    _check_photo(image)
    _check_clues(clues)
    return propose_photo(segmenter, image, clues, settings or ProposalSettings())


def propose_photo(
    segmenter: Segmenter,
    image: np.ndarray,
    clues: CluePoints,
    settings: ProposalSettings,
    limit: BatchLimit | None = None,
) -> Proposals:
    """`propose` for what was checked: the photo whole, or tile by tile where the settings say so."""

    def propose_whole(part: np.ndarray, of_part: CluePoints) -> Proposals:
        return propose_encoded(segmenter, segmenter.encode(part), of_part, settings, limit)

    return (
        propose_whole(image, clues)
        if settings.tile is None
        else propose_in_tiles(propose_whole, image, clues, settings)
    )


def propose_encoded(
    segmenter: Segmenter,
    embedding: Embedding,
    clues: CluePoints,
    settings: ProposalSettings,
    limit: BatchLimit | None = None,
) -> Proposals:
    """Propose for one photo that is encoded already, see `propose`.

    By the default rules the result does not depend on the order of the points; by the original ones boxes come in the
    order grid, coarse, fine, cross and only the cross boxes are suppressed, first seen first. ``limit`` bounds the
    prompts of a batch (``batch_size`` of the settings if None).
    """
    if settings.suppression == "best_first":
        clues = clues.in_canonical_order()
    prompter = _PhotoPrompter(segmenter, embedding, settings, limit or BatchLimit(settings.batch_size))
    candidates = Candidates.cat([prompter.grid_candidates(), prompter.clue_candidates(clues)])
    kept = choose_candidates(candidates, embedding.size, settings)
    masks = prompter.pile
    return Proposals(kept.boxes, kept.scores, kept.sources, masks.rles(kept.rows), masks.frame)


class _PhotoPrompter:
    """Prompts one encoded photo and lays the masks of the answers on its ``pile``."""

    def __init__(
        self, segmenter: Segmenter, embedding: Embedding, settings: ProposalSettings, limit: BatchLimit
    ) -> None:
        """``limit`` bounds the prompts of a batch."""
        self.segmenter, self.embedding, self.settings, self.limit = segmenter, embedding, settings, limit
        self.pile = MaskPile()

    def grid_candidates(self) -> Candidates:
        """Candidates of the dense grid, or the regions that the segmenter lists instead; none if the grid is off.

        Thresholds of predicted IoU and stability, then suppression by predicted IoU (docs/method.md, Proposals).
        """
        grid = grid_of(self.segmenter.name, self.settings)
        if grid.grid_side == 0:
            return Candidates.none()
        if self.settings.ask_for_regions and isinstance(self.segmenter, RegionLister):
            return self._listed_regions(self.segmenter)
        parts: list[Candidates] = []
        planned = grid_prompts(self.embedding.size, grid.grid_side)
        for answer, prompts in self._answers(planned, grid.min_pred_iou):
            good = (answer.iou > grid.min_pred_iou) & (answer.stability >= grid.min_stability)
            wanted = masks_numbered(answer, self.settings.grid_masks) & good.cpu()
            parts.append(candidates_of(answer, wanted, prompts.sources, self.pile)[0])
        candidates = Candidates.cat(parts)
        if self.settings.suppression == "best_first":
            candidates = canonical_order(candidates)
        inclusive = self.settings.grid_corners == "inclusive"
        corners = inclusive_from_xyxy(candidates.boxes) if inclusive else candidates.boxes
        return candidates[nms(corners, candidates.scores, grid.grid_nms_iou)]

    def clue_candidates(self, clues: CluePoints) -> Candidates:
        """Candidates of the clue points, alone and by class: the larger masks, whatever their predicted IoU.

        In the published order, see `clue_prompts`.
        """
        settings, parts = self.settings, [Candidates.none()]
        positions: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
        for planned in clue_prompts(clues, settings.kinds, settings.joint_kinds, settings.joint_of_one):
            for answer, prompts in self._answers(planned):
                wanted = masks_numbered(answer, settings.clue_masks)
                candidates, rows = candidates_of(answer, wanted, prompts.sources, self.pile, settings.keep_empty)
                parts.append(candidates)
                positions.append(prompts.positions[rows])
        return Candidates.cat(parts)[torch.cat(positions).argsort(stable=True)]

    def _listed_regions(self, segmenter: RegionLister) -> Candidates:
        """The segmenter's own list of regions, as candidates of the grid."""
        most = sys.maxsize if self.settings.max_proposals is None else self.settings.max_proposals
        regions = segmenter.regions(self.embedding, most)
        sources = torch.full((len(regions.boxes),), GRID)
        return Candidates(regions.boxes, regions.scores, sources, self.pile.add(regions.masks))

    def _answers(
        self, planned: PlannedPrompts, min_pred_iou: float | None = None
    ) -> Iterator[tuple[Masks, PlannedPrompts]]:
        """The answers batch by batch, each with the part of ``planned`` that it answers."""
        start = 0
        for answer in predict_batches(self.segmenter, self.embedding, planned.prompts, self.limit, min_pred_iou):
            end = start + len(answer)
            yield answer, planned.between(start, end)
            start = end


def _check_photo(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"wanted a photo as uint8 (H, W, 3), found {image.dtype} {image.shape}: convert it, for example with "
            "numpy.asarray(photo.convert('RGB')) of a PIL image"
        )


def _check_clues(clues: CluePoints) -> None:
    points, labels, kinds = (tuple(part.shape) for part in clues)
    if points != (*labels, 2) or len(labels) != 1 or kinds != labels:
        raise UserError(
            f"wanted clue points (P, 2) with labels and kinds (P,), found {points}, {labels} and {kinds}: give each "
            "point one label (-1: no class) and one kind"
        )
