"""Move boxes towards the weighted mean of the candidates that overlap them."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals


class BoxVotingSettings(Settings):
    """How far boxes move to the weighted mean of the proposals that overlap them, see `voted_boxes`."""

    share: float = Field(default=0.5, ge=0, le=1, description="share of the way from a box to the vote; 0: boxes stay")
    least_iou: float = Field(default=0.6, gt=0, le=1, description="least IoU of a proposal that votes")
    power: float = Field(default=4.0, ge=0, description="the IoU to this power is a vote's weight")
    num_proposals: int = Field(default=300, ge=1, description="best proposals of a photo that may vote")


NO_VOTING = BoxVotingSettings(share=0)
"""Boxes stay where they are."""


def voted_boxes(
    boxes: Tensor,
    candidates: Tensor,
    weights: Tensor,
    *,
    least_iou: float = 0.6,
    power: float = 4.0,
    share: float = 0.5,
) -> Tensor:
    """Boxes ``(N, 4)`` moved by ``share`` of the way to a vote of the ``candidates`` (M, 4) that overlap them.

    The vote is the mean of the corners of the candidates with an IoU of ``least_iou`` or more, each weighted by IoU to
    the ``power`` times its own ``weights`` (M,) or, per box, (N, M), of at least 0. Box voting of Gidaris and Komodakis
    (ICCV 2015), with the IoU in the weight and the box kept in part; both ours. Boxes are xyxy of one frame, ``share``
    is in [0, 1]: 0 leaves all boxes. A box for which no candidate votes stays as it is; no boxes give none.
    """
    iou = pairwise_iou(boxes.double(), candidates.double())  # (N, M)
    votes = torch.where(iou >= least_iou, iou**power * weights.double(), 0.0)
    total = votes.sum(dim=1, keepdim=True)
    vote = votes @ candidates.double() / total.clamp(min=torch.finfo(torch.float64).tiny)
    moved = boxes.double() + share * (vote - boxes.double())
    return torch.where(total > 0, moved, boxes.double()).to(boxes.dtype)


def voted_detections(detections: Instances, proposals: Proposals, settings: BoxVotingSettings) -> Instances:
    """Detections of a photo whose boxes moved towards the proposals that overlap them, see `voted_boxes`.

    The first ``settings.num_proposals`` proposals of the photo vote, weighted by their scores, of which negative ones
    count as 0. Labels, scores and order stay, masks too. No proposals leave all boxes.
    """
    if settings.share == 0:
        return detections
    first = settings.num_proposals
    boxes = voted_boxes(
        detections.boxes,
        proposals.boxes[:first],
        proposals.scores[:first].clamp(min=0),
        least_iou=settings.least_iou,
        power=settings.power,
        share=settings.share,
    )
    return detections.replace(boxes=boxes)
