"""Seed refinement branches with several far-apart regions of every tagged class (MIST)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.models.wsod.targets import Seeds, empty_seeds, without_padding
from weaksam.stages.wsod.seeds.overlaps import Compare, Overlaps, best_ranked, stand_apart

_FEWEST_FOR_SHARE = 10


class MistSettings(Settings):
    """The rule ``mist``: far-apart regions of every tagged class (MIST, Ren et al., CVPR 2020)."""

    rule: Literal["mist"] = "mist"
    share: float = Field(0.15, gt=0, le=1, description="share of the proposals that are candidates of a class")
    max_iou: float = Field(0.2, gt=0, le=1, description="seeds of a class overlap by less than this IoU")
    compare: Compare = Field(
        "ranked",
        description="what a seed must be far from: all better candidates (ranked, the released code) or the better "
        "ones that are seeds themselves (kept, the paper)",
    )


def mist_seeds(
    sources: Sequence[Tensor],
    present: Tensor,
    overlaps: Overlaps,
    *,
    share: float = 0.15,
    max_iou: float = 0.2,
    compare: Compare = "ranked",
) -> list[Seeds]:
    """Each branch's seeds: of every present class far-apart RoIs, best first (MIST, Ren et al., CVPR 2020, alg. 1).

    ``sources`` holds the scores ``(R, C)`` that seed each branch, all of one device and type; ``present`` (T,) labels.
    Of each class the best ``share`` of the R RoIs (rounded down; one RoI if R < 10) are candidates; one stays if its
    IoU is below ``max_iou`` with all better candidates (``compare="ranked"``, the released code; ``docs/method.md,
    MIST``) or with those that stayed (``"kept"``, the paper). Half-open boxes need no ``+ 1``. Equal scores: the lower
    RoI first. The weight is the score. No RoI or no tag: no seed; no source: an empty list.
    """
    if len(sources) == 0 or len(sources[0]) == 0 or len(present) == 0:
        return [empty_seeds(scores) for scores in sources]
    of_present = torch.cat([scores.T[present] for scores in sources])  # (B * T, R)
    roi = best_ranked(of_present, mist_candidates(of_present.shape[1], share))  # (B * T, k)
    keep = stand_apart(roi, overlaps.near(max_iou), compare)
    label = torch.where(keep, present.repeat(len(sources))[:, None], -1)
    columns = [column.view(len(sources), -1) for column in (roi, label, of_present.gather(1, roi))]
    return [without_padding(Seeds(*of_branch)) for of_branch in zip(*columns, strict=True)]


def mist_candidates(num_rois: int, share: float) -> int:
    """Candidates of a class among ``num_rois`` >= 1: their ``share``, rounded down; one below 10 RoIs, never none."""
    return 1 if num_rois < _FEWEST_FOR_SHARE else max(1, int(share * num_rois))
