"""Seed refinement branches with every region near a class's best score, suppressed class by class."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.models.wsod.targets import Seeds, empty_seeds
from weaksam.structures.boxes import batched_nms


class ScoreSeedSettings(Settings):
    """How a branch is seeded from the scores of the branch before it."""

    score_share: float = Field(
        0.9, gt=0, le=1, description="seeds taken from scores reach this share of their class's best score"
    )
    score_nms: Literal["per_class", "all_classes"] = Field(
        "per_class",
        description="how they are suppressed: class by class at wsod.nms_iou, or all classes together at IoU 0.5 as in "
        "WeakSAM's released OICR",
    )


class ScoresSettings(ScoreSeedSettings):
    """The rule ``scores``: every branch, the first too, is seeded from scores."""

    rule: Literal["scores"] = "scores"


def separate_seeds(scores: Tensor, tags: Tensor, boxes: Tensor, *, share: float, nms_iou: float) -> Seeds:
    """Several instances per class: RoIs scoring at least ``share`` of the class's best, after an NMS inside each class.

    ``scores`` (R, C) >= 0, ``tags`` (C,) in {0, 1}, ``boxes`` (R, 4) xyxy. Like WeakSAM's released OICR
    (``docs/method.md, OICR``), but suppressed per class (ours), so that two classes never compete for one place. The
    weight of a seed is its score. No RoI or no tag: no seed.
    """
    if scores.shape[0] == 0 or not bool(tags.any()):
        return empty_seeds(scores)
    chosen = (scores >= share * scores.amax(dim=0)) & (tags > 0) & (scores > 0)
    index, label = chosen.nonzero(as_tuple=True)
    weight = scores[index, label]
    keep = batched_nms(boxes[index], weight, label, nms_iou)
    return Seeds(index[keep], label[keep], weight[keep])
