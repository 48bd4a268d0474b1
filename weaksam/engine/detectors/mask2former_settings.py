"""Define how Mask2Former is trained."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from weaksam.engine.detectors.training import MergedViews, TrainingSettings
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings


class TrainableMask2FormerSettings(Mask2FormerSettings, MergedViews, TrainingSettings):
    """Mask2Former, how it is trained and how it is used; the rates are the published ones."""

    _as_before: ClassVar[dict[str, Any]] = {
        "flip_test": False,
        "test_scales": (1.0,),
        "longest_test": None,
        "nms_iou": 0.6,
    }

    flip_test: bool = False
    """Segment the mirrored photo as well and merge."""
    test_scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field((1.0,), min_length=1)
    """Segment at each of these multiples of the size, 0.25 to 4, and merge."""
    nms_iou: float = Field(0.6, gt=0, le=1)
    """Detections of one class whose mask overlaps that of a better one by more than this IoU are dropped where several
    views of a photo are merged; those of a single view are not suppressed."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate of all but the backbone, after a linear warm-up; it then falls as ``schedule`` says."""
    backbone_lr_factor: float = Field(0.1, ge=0, le=1)
    """The backbone's learning rate as a share of ``lr``: its weights are already good."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of all trained tensors but norms and embeddings, which have none."""
    clip_norm: float | None = Field(0.01, gt=0)
    """Gradients of the whole network are cut to this norm; none: not cut."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What backbone and decoder compute in; the pixel decoder and the losses stay in float32. auto: bfloat16 on a GPU
    that has it, else float32."""
    pad_views: bool = False
    """Pad every view to ``crop_size``, as published, instead of to the largest view of its batch."""
