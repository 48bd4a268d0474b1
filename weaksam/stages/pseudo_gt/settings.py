"""Define the settings that choose pseudo ground truth among detections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam.config import Settings


class PseudoGtSettings(Settings):
    """How detections become pseudo ground truth."""

    method: Literal["adaptive", "top1"] = Field(
        default="adaptive", description="'adaptive' keeps several boxes per class, 'top1' the best-scored one"
    )
    min_score_norm: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="lowest score kept, as a share of the way from a class's worst to its best (tau_s)",
    )
    containment: float = Field(
        default=0.85, gt=0, le=1, description="share of a box inside a larger one at which it is dropped (tau_o)"
    )
