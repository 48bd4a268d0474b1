"""Define the settings of the pseudo masks and of the network that is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from weaksam.engine.detectors.mask2former_settings import TrainableMask2FormerSettings
from weaksam.engine.detectors.training import TrainableSettings
from weaksam.engine.pseudo_masks import PromptedMaskSettings
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings

_ONE_ROUND: dict[str, Any] = {"rounds": 1, "agreed_iou": 0.8, "agreed_masks": "segmenter"}


class PseudoMaskSettings(PromptedMaskSettings):
    """How pseudo boxes become masks, and how far each mask is believed."""

    _as_before: ClassVar[Mapping[str, Any]] = {
        "mask_weights": "off",
        "min_mask_quality": 0.0,
        **_ONE_ROUND,
    }

    mask_weights: Literal["off", "quality", "certainty"] = "off"
    """How far a mask counts in the losses of the masks: all alike, each by its quality (predicted IoU times agreement
    with its box), or each by how far the views of ``ensemble_views`` agree on it (the mean of 1 - entropy over the
    pixels that any of them has)."""
    min_mask_quality: float = Field(0.0, ge=0, le=1)
    """Masks of lower quality do not train the masks. Mask R-CNN still learns their boxes; Mask2Former, which learns
    masks alone, takes them as regions to ignore."""
    rounds: int = Field(1, ge=1)
    """Trainings. After each but the last, the network's masks of the pseudo boxes are compared with the segmenter's:
    in the next one, which starts as the first did, a mask counts by the IoU of the two."""
    agreed_iou: float = Field(0.8, ge=0, le=1)
    """From this IoU on the two masks agree, and the next training learns what ``agreed_masks`` says."""
    agreed_masks: Literal["segmenter", "network", "mean"] = "segmenter"
    """Where the two agree: the segmenter's mask, the network's, or the pixels that have at least half in the mean of
    the segmenter's mask (once) and the network's probabilities on the photo and its mirror image (twice)."""

    @model_validator(mode="after")
    def _certain_of_views(self) -> Self:
        if self.mask_weights == "certainty" and self.ensemble_views < 2:
            raise ValueError("mask_weights=certainty wants views that agree or do not: set ensemble_views to 2 or more")
        return self

    def of_each_training(self) -> dict[str, Any]:
        """The settings that a single training is not told, at what leaves its fingerprint as it was."""
        return dict(_ONE_ROUND)


class WsisSettings(PseudoMaskSettings, MaskDetectorSettings, TrainableSettings):
    """Pseudo masks, the Mask R-CNN trained on them and its use."""

    # The kind is told by the other fields, so that what was trained before there were two is found again
    _not_fingerprinted: ClassVar[frozenset[str]] = TrainableSettings._not_fingerprinted | {"network"}

    network: Literal["mask_rcnn"] = "mask_rcnn"
    init_from_retrain: bool = True
    """Start from the retrained detector, so that only the mask head is new; ``init`` goes before it."""
    num_epochs: int = Field(6, ge=1)
    """Passes over the training photos."""
    max_boxes: int = Field(50, ge=1)
    """Detections kept per photo, best first; every one costs a pasted mask."""
    detect_train: bool = False
    """Detect on the training photos too."""


class Mask2FormerWsisSettings(PseudoMaskSettings, TrainableMask2FormerSettings):
    """Pseudo masks, the Mask2Former trained on them and its use."""

    network: Literal["mask2former"] = "mask2former"
    num_epochs: int = Field(12, ge=1)
    """Passes over the training photos."""
    max_boxes: int = Field(50, ge=1)
    """Pairs of mask and class kept per photo, best first; published: 100."""
    detect_train: bool = False
    """Detect on the training photos too."""
    init: Path | None = None
    """Weights to start from: a folder that a training sealed, a .safetensors file, or a published Mask2Former (a folder
    that transformers wrote, or detectron2's .pkl); every tensor must fit."""


AnyWsisSettings = WsisSettings | Mask2FormerWsisSettings
