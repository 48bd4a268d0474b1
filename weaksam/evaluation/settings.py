"""Define the settings of the evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam.config import Settings
from weaksam.evaluation.protocol import AP_IOUS, PAINTED_MIN_SCORE


class EvaluationSettings(Settings):
    """How detections are measured; every figure is printed with its protocol."""

    interpolation: Literal["all-point", "11-point"] = Field("all-point", description="VOC average precision")
    ious: tuple[float, ...] = Field(
        AP_IOUS,
        description="IoU thresholds of VOC's box AP, each in (0, 1]; 0.5 among them; AP .5:.95 wants all of its ten",
    )
    recall_counts: tuple[int, ...] = Field(
        (10, 50, 100, 200), description="proposal counts at which recall is measured"
    )
    painted_min_score: float = Field(
        PAINTED_MIN_SCORE, ge=0, le=1, description="score from which a detection is painted, for mIoU and PQ"
    )
