"""Prompt the frozen segmenter with a grid and with clue points, and keep the boxes of its masks as proposals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weaksam.artifacts import Store, stage_fingerprint, store_folder
from weaksam.config import Settings
from weaksam.data.images import read_image
from weaksam.sam.prompts import class_prompts, grid_points, predict_batches, single_prompts
from weaksam.sam.protocol import Embedding, Masks, Proposer, Segmenter
from weaksam.structures.boxes import nms, pairwise_iou
from weaksam.structures.masks import Rle, rle_from_mask

if TYPE_CHECKING:
    from weaksam.data.dataset import Dataset
    from weaksam.engine.context import RunContext

GRID, CLUE, JOINT = 0, 1, 2
COLUMNS = {"boxes": "boxes", "scores": "floats", "sources": "ints", "rles": "rles", "mask_size": "ints"}
CluePoints = Callable[[str], tuple[Tensor, Tensor]]
"""image_id -> points ``(P, 2)`` xy in photo pixels and the classes ``(P,)`` they speak for."""


class ProposalSettings(Settings):
    """Which prompts are put and which answers become proposals.

    The grid's side and thresholds are, unless given, those of ``GRID_DEFAULTS`` for the segmenter. One that lists its
    regions itself (the region tree) is asked for its ``max_proposals`` best instead of being prompted with the grid.
    """

    grid_side: int | None = Field(default=None, ge=0, le=256, description="grid points a side; 0 puts no grid")
    grid_masks: tuple[int, ...] = Field(default=(0, 1, 2), description="masks of a grid prompt to keep, 0 the smallest")
    min_pred_iou: float | None = Field(default=None, ge=0, le=1, description="grid masks must be predicted above this")
    min_stability: float | None = Field(default=None, ge=0, le=1, description="grid masks must be at least this stable")
    grid_nms_iou: float | None = Field(default=None, ge=0, le=1, description="suppression among the grid's boxes")
    clue_masks: tuple[int, ...] = Field(default=(1, 2), description="masks of a clue prompt to keep, 0 the smallest")
    nms_iou: float = Field(default=0.9, ge=0, le=1, description="suppression over all sources together")
    min_side: float = Field(default=16.0, ge=0, description="shortest side of a proposal, photo pixels")
    max_area: float = Field(default=1.0, gt=0, le=1, description="largest box, as a fraction of the photo")
    max_proposals: int = Field(default=300, ge=1, description="most proposals of a photo; clue prompts go first")
    batch_size: int = Field(default=64, ge=1, description="prompts answered at a time; changes no result")

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"batch_size"})


@dataclass(frozen=True)
class Grid:
    """Points a side and thresholds of the dense grid, see ``ProposalSettings``."""

    grid_side: int
    min_pred_iou: float
    min_stability: float
    grid_nms_iou: float


GRID_DEFAULTS = {"sam_vit": Grid(32, 0.3, 0.3, 0.3), "": Grid(16, 0.1, 0.0, 0.7)}
"""By the beginning of the segmenter's name: as published for SAM (section 2.1); milder for small models, whose
predicted IoU ranks less well, with a quarter of the points."""


@dataclass(frozen=True)
class Proposals:
    """The N proposals of one photo, clue prompts' and grid's together, best score first.

    ``boxes``: float32 ``(N, 4)`` half-open xyxy in photo pixels; ``scores``: ``(N,)`` predicted IoU; ``sources``:
    ``(N,)`` 0 grid, 1 a clue point, 2 all points of a class (the highest of the prompts a box stands for); ``rles``: N
    masks in the segmenter's working frame of ``mask_size`` (h, w), which covers the whole photo. N = 0 is a photo in
    which the segmenter found nothing.
    """

    boxes: Tensor
    scores: Tensor
    sources: Tensor
    rles: tuple[Rle, ...]
    mask_size: tuple[int, int]


@dataclass(frozen=True)
class Candidates:
    """Masks bool ``(N, h, w)`` before suppression, with boxes ``(N, 4)``, scores ``(N,)`` and sources ``(N,)``."""

    masks: Tensor
    boxes: Tensor
    scores: Tensor
    sources: Tensor

    def __getitem__(self, index: Tensor) -> Candidates:
        return Candidates(self.masks[index], self.boxes[index], self.scores[index], self.sources[index])

    @classmethod
    def cat(cls, parts: list[Candidates]) -> Candidates:
        """All ``parts`` in order; at least one."""
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in ("masks", "boxes", "scores", "sources")))


def propose(
    segmenter: Segmenter, image: np.ndarray, points: Tensor, labels: Tensor, settings: ProposalSettings
) -> Proposals:
    """Proposals of one photo, uint8 ``(H, W, 3)``; WeakSAM section 2 with one encoding instead of one per prompt set.

    ``points (P, 2)`` xy in photo pixels and ``labels (P,)`` the class each speaks for; P = 0 leaves the grid alone. No
    mask at all gives no proposals: a whole-photo box is never invented. The result does not depend on the order of
    the points. Deviations: every source is suppressed together at ``nms_iou`` (published: the cross-attention boxes
    only, in file order), small boxes are dropped here instead of in each detector, and boxes are half-open.
    """
    embedding = segmenter.encode(image)
    parts = [
        grid_candidates(segmenter, embedding, settings),
        clue_candidates(segmenter, embedding, *single_prompts(points), CLUE, settings),
        clue_candidates(segmenter, embedding, *class_prompts(points, labels), JOINT, settings),
    ]
    found = [part for part in parts if part is not None]
    if not found:
        return no_proposals()
    kept = suppress(Candidates.cat(found), embedding.size, settings)
    rles = tuple(rle_from_mask(mask) for mask in kept.masks)
    h, w = kept.masks.shape[-2:]
    return Proposals(kept.boxes, kept.scores, kept.sources, rles, (h, w))


def no_proposals() -> Proposals:
    """The answer for a photo that was never prompted."""
    return Proposals(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (), (0, 0))


def grid_of(segmenter_name: str, settings: ProposalSettings) -> Grid:
    """The settings' grid, with the defaults of the segmenter for what is not set."""
    default = next(grid for beginning, grid in GRID_DEFAULTS.items() if segmenter_name.startswith(beginning))
    given = {name: getattr(settings, name) for name in asdict(default)}
    return replace(default, **{name: value for name, value in given.items() if value is not None})


def grid_candidates(segmenter: Segmenter, embedding: Embedding, settings: ProposalSettings) -> Candidates | None:
    """Dense sampling (section 2.1): thresholds, then suppression by predicted IoU. None where the grid is off."""
    grid = grid_of(segmenter.name, settings)
    if grid.grid_side == 0:
        return None
    if isinstance(segmenter, Proposer):
        regions = segmenter.proposals(embedding, settings.max_proposals)
        return Candidates(regions.masks, regions.boxes, regions.scores, torch.full((len(regions.boxes),), GRID))
    points, point_labels = single_prompts(grid_points(embedding.size, grid.grid_side))
    parts = []
    batches = predict_batches(
        segmenter, embedding, points, point_labels, settings.batch_size, min_pred_iou=grid.min_pred_iou
    )
    for answer in batches:
        good = (answer.iou > grid.min_pred_iou) & (answer.stability >= grid.min_stability)
        parts.append(candidates_of(answer, good, settings.grid_masks, GRID))
    found = canonical_order(Candidates.cat(parts))
    return found[nms(found.boxes, found.scores, grid.grid_nms_iou)]


def clue_candidates(
    segmenter: Segmenter,
    embedding: Embedding,
    points: Tensor,
    point_labels: Tensor,
    source: int,
    settings: ProposalSettings,
) -> Candidates | None:
    """Clue prompts (section 2.2): the larger masks, whatever their predicted IoU. None where nothing is asked."""
    parts = [
        candidates_of(answer, torch.ones_like(answer.iou, dtype=torch.bool), settings.clue_masks, source)
        for answer in predict_batches(segmenter, embedding, points, point_labels, settings.batch_size)
    ]
    return Candidates.cat(parts) if parts else None


def candidates_of(answer: Masks, good: Tensor, which: tuple[int, ...], source: int) -> Candidates:
    """The masks numbered ``which`` of every prompt that are ``good (P, 3)`` and not empty."""
    wanted = torch.zeros_like(good)
    wanted[:, list(which)] = True
    wanted &= good & (answer.boxes[..., 2] > answer.boxes[..., 0])
    scores = answer.iou[wanted].float().cpu()
    return Candidates(
        answer.masks[wanted].cpu(), answer.boxes[wanted].cpu(), scores, torch.full((len(scores),), source)
    )


def suppress(found: Candidates, size: tuple[int, int], settings: ProposalSettings) -> Candidates:
    """Drop boxes too small or too large for a photo ``(H, W)``, near-duplicates and the surplus; best score first.

    A box takes over the source of the clue prompts it stands for, so that the grid never crowds a clue out.
    """
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    fits = (sides.amin(1) >= settings.min_side) & (sides.prod(1) <= settings.max_area * size[0] * size[1])
    found = canonical_order(found[fits.nonzero()[:, 0]])
    kept = found[nms(found.boxes, found.scores, settings.nms_iou)]
    stands_for = pairwise_iou(kept.boxes, found.boxes) > settings.nms_iou
    inherited = (stands_for * found.sources).amax(1) if len(kept.boxes) else kept.sources
    kept = replace(kept, sources=torch.maximum(kept.sources, inherited))
    first = (kept.sources == GRID).long().argsort(stable=True)[: settings.max_proposals]
    return kept[first.sort().values]


def canonical_order(found: Candidates) -> Candidates:
    """Best score first, ties by box coordinates, then clue prompts before the grid: no trace of the input order."""
    keys = (-found.sources, *found.boxes.flip(1).T, -found.scores)  # the last key counts most
    order = np.lexsort([key.numpy() for key in keys])
    return found[torch.from_numpy(order)]


def run(
    context: RunContext,
    settings: ProposalSettings,
    segmenter: Segmenter,
    clue_points: CluePoints,
    dataset: Dataset,
    split: str,
    *,
    clue_fingerprint: str = "",
) -> Store:
    """Propose for every photo of ``dataset`` that the store of ``split`` does not hold yet; returns it sealed.

    ``clue_fingerprint`` names what ``clue_points`` answers from (the clue store's fingerprint), so that other clues
    make another store. Columns: ``COLUMNS``; ``mask_size`` is ``[h, w]``.
    """
    inputs = {"dataset": dataset.fingerprint, "segmenter": segmenter.fingerprint, "clues": clue_fingerprint}
    fingerprint = stage_fingerprint("proposals", settings, inputs)
    folder = store_folder(context.out, "proposals", split, fingerprint)
    store = Store(folder, stage="proposals", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=COLUMNS)

    def row(image_id: str) -> dict[str, Any]:
        found = propose(segmenter, read_image(dataset.by_id[image_id].path), *clue_points(image_id), settings)
        return {
            "image_id": image_id,
            "boxes": found.boxes,
            "scores": found.scores,
            "sources": found.sources,
            "rles": list(found.rles),
            "mask_size": torch.tensor(found.mask_size),
        }

    store.fill(row, progress=f"proposals ({split})")
    return store
