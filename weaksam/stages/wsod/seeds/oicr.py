"""Seed refinement branches with the best region of every tagged class, or with all regions near the best (OICR)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.models.wsod.targets import Seeds, empty_seeds, without_padding
from weaksam.stages.wsod.seeds.overlaps import kept_greedily


class OicrSettings(Settings):
    """The rule ``oicr``: all regions near the best of their class, as WeakSAM's released OICR has it."""

    rule: Literal["oicr"] = "oicr"
    share: float = Field(0.9, gt=0, le=1, description="seeds reach this share of their class's best score")


class OicrTopSettings(Settings):
    """The rule ``oicr_top``: the best region of every tagged class (OICR, Tang et al., CVPR 2017)."""

    rule: Literal["oicr_top"] = "oicr_top"


def oicr_top_seeds(scores: Tensor, present: Tensor) -> Seeds:
    """The single best RoI of every present class (OICR, Tang et al., CVPR 2017, algorithm 1), in class order.

    ``scores`` (R, C) >= 0, ``present`` (T,) labels. The weight is the score. A class whose scores are all 0, and a
    photo without RoI or tag, has no seed. The released layer also bars a RoI from seeding a second class; the paper
    does not, nor does this.
    """
    if len(scores) == 0:
        return empty_seeds(scores)
    weight, roi = scores.T.index_select(0, present).max(dim=1)
    return without_padding(Seeds(roi, torch.where(weight > 0, present, -1), weight))


def oicr_seeds(
    scores: Tensor, present: Tensor, pairwise_iou: Tensor, *, share: float = 0.9, nms_iou: float = 0.5
) -> Seeds:
    """All RoIs with at least ``share`` of their class's best score, thinned by one class-agnostic NMS, best first.

    The rule of WeakSAM's released OICR (``docs/method.md, OICR``). ``scores`` (R, C) >= 0, ``present`` (T,) labels,
    ``pairwise_iou`` (R, R) of the photo's RoIs. Within one RoI the best class always suppresses the others, so the
    NMS runs over R candidates, not R times T. Equal scores: the lower RoI, then the lower label. No RoI or no tag: no
    seed.
    """
    if len(scores) == 0 or len(present) == 0:
        return empty_seeds(scores)
    of_present = scores.T.index_select(0, present)  # (T, R)
    chosen = (of_present >= share * of_present.amax(dim=1, keepdim=True)) & (of_present > 0)
    weight, which = of_present.masked_fill(~chosen, -1.0).max(dim=0)
    label = torch.where(weight >= 0, present[which], -1)
    rois = torch.arange(len(scores), device=scores.device)
    candidates = without_padding(Seeds(rois, label, weight))
    order = candidates.weight.argsort(descending=True, stable=True)
    roi, label, weight = (column[order] for column in candidates)
    near = pairwise_iou[roi[:, None], roi] > nms_iou
    return without_padding(Seeds(roi, torch.where(kept_greedily(near, label >= 0), label, -1), weight))
