"""Put boxes that are known before anything is proposed in front of a photo's proposals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.data.annotations import rle_from_box
from weaksam.structures import boxes as box_ops
from weaksam.structures.clue_points import GIVEN
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask
from weaksam.structures.photo_labels import PhotoLabels
from weaksam.structures.proposals import Proposals


def with_given_boxes(proposals: Proposals, labels: PhotoLabels, size: tuple[int, int]) -> Proposals:
    """The photo's given boxes, then its ``proposals``; ``size`` is its (H, W). Regions to ignore are none of them.

    A given box has the best score, at least 1, so that no limit cuts it off, and its own mask in the frame of the
    others; without one all of the box is its mask. No box: the proposals as they are.
    """
    rows = torch.ones(len(labels.boxes), dtype=torch.bool) if labels.boxes.crowd is None else ~labels.boxes.crowd
    masks = [labels.masks[row] for row in rows.nonzero()[:, 0].tolist()]
    return with_boxes_first(proposals, labels.boxes.boxes[rows], masks, size, GIVEN)


def with_boxes_first(
    proposals: Proposals, boxes: Tensor, masks: Sequence[Rle | None], size: tuple[int, int], source: int
) -> Proposals:
    """``boxes (N, 4)`` in photo pixels with their ``masks`` (all of the box where None), then the ``proposals``.

    ``size`` is the photo's (H, W), ``source`` what they come from (``structures.clue_points``). They have the best
    score, at least 1. No box: the proposals as they are.
    """
    if len(boxes) == 0:
        return proposals
    height, width = proposals.mask_size if len(proposals) and 0 not in proposals.mask_size else size
    framed = box_ops.scale(boxes, width / size[1], height / size[0])
    pairs = zip(masks, framed.tolist(), strict=True)
    frame = (height, width)
    rles = tuple(rle_from_box(box, frame) if rle is None else _in_frame(rle, frame) for rle, box in pairs)
    best = proposals.scores.max().clamp(min=1.0) if len(proposals) else torch.tensor(1.0)
    return Proposals(
        torch.cat([boxes, proposals.boxes]),
        torch.cat([best.expand(len(boxes)), proposals.scores]),
        torch.cat([torch.full((len(boxes),), source), proposals.sources]),
        (*rles, *proposals.rles) if proposals.has_masks else (),
        frame,
    )


def _in_frame(rle: Rle, frame: tuple[int, int]) -> Rle:
    """A photo's mask in a frame (h, w) that covers the photo."""
    mask = mask_from_rle(rle)
    if tuple(mask.shape) == frame:
        return rle
    small = F.interpolate(mask[None, None].float(), frame, mode="bilinear", antialias=True)[0, 0]
    return rle_from_mask(small >= 0.5)
