"""Propose for photos far larger than the segmenter's input, tile by tile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.stages.proposals.settings import ProposalSettings
from weaksam.structures.boxes import nms
from weaksam.structures.clue_points import CluePoints
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask
from weaksam.structures.proposals import Proposals
from weaksam.structures.tiling import Tile, agreeing_groups, in_photo, joined_groups, tiles_of

_SAME_IOU = 0.7
"""IoU, in what two tiles share, from which two of their proposals are one region."""


def propose_in_tiles(
    propose: Callable[[np.ndarray, CluePoints], Proposals],
    image: np.ndarray,
    clues: CluePoints,
    settings: ProposalSettings,
) -> Proposals:
    """The proposals of ``propose`` on each tile of a photo, uint8 ``(H, W, 3)``, joined in its frame, best first.

    A tile is prompted with the ``clues`` inside it. Proposals of neighbouring tiles that agree in what both see are one
    region: the box around them, the union of their masks, the best score and the highest source. Of regions that
    overlap by more than ``settings.nms_iou`` the best stays. A photo no larger than a tile is proposed for whole.
    """
    size = (image.shape[0], image.shape[1])
    assert settings.tile is not None, "propose whole photos otherwise"
    tiles = tiles_of(size, settings.tile, settings.tile_overlap)
    if len(tiles) == 1:
        return propose(image, clues)
    parts: list[Instances] = []
    sources: list[Tensor] = []
    for tile in tiles:
        proposals = propose(np.ascontiguousarray(tile.cut(image)), clues_in(clues, tile))
        parts.append(in_photo(_as_instances(proposals, tile), tile, size))
        sources.append(proposals.sources)
    roots = agreeing_groups(parts, tiles, _SAME_IOU)
    joined = joined_groups(Instances.cat(parts), roots)
    assert joined.scores is not None
    highest = _highest_sources(torch.cat(sources), roots)
    kept = nms(joined.boxes, joined.scores, settings.nms_iou)
    return Proposals(joined.boxes, joined.scores, highest, joined.masks or (), size)[kept]


def clues_in(clues: CluePoints, tile: Tile) -> CluePoints:
    """The clue points inside ``tile``, in its frame."""
    corner = clues.points.new_tensor([tile.left, tile.top])
    end = clues.points.new_tensor([tile.right, tile.bottom])
    inside = clues.select(((clues.points >= corner) & (clues.points < end)).all(dim=1))
    return CluePoints(inside.points - corner, inside.labels, inside.kinds)


def _as_instances(proposals: Proposals, tile: Tile) -> Instances:
    """Proposals of a tile as instances of one class, their masks in its full size."""
    size = (tile.bottom - tile.top, tile.right - tile.left)
    masks = tuple(_in_size(rle, size) for rle in proposals.rles)
    return Instances(proposals.boxes, torch.zeros(len(proposals), dtype=torch.int64), proposals.scores, masks)


def _in_size(rle: Rle, size: tuple[int, int]) -> Rle:
    """A mask of a smaller frame at ``size`` (h, w)."""
    if tuple(rle["size"]) == size:
        return rle
    mask = mask_from_rle(rle)[None, None].float()
    return rle_from_mask(F.interpolate(mask, size, mode="nearest-exact")[0, 0] > 0.5)


def _highest_sources(sources: Tensor, roots: list[int]) -> Tensor:
    """The highest of ``sources`` (N,) in each group, in the order of the groups' first rows."""
    highest: dict[int, int] = {}
    for root, source in zip(roots, sources.tolist(), strict=True):
        highest[root] = max(highest.get(root, source), source)
    return torch.tensor(list(highest.values()), dtype=torch.int64)
