"""Define the settings of the pseudo masks and of the network that is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from weaksam.config import Settings
from weaksam.engine.detectors.mask2former_settings import TrainableMask2FormerSettings
from weaksam.engine.detectors.training import TrainableSettings
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings


class PseudoMaskSettings(Settings):
    """How pseudo boxes become masks."""

    mask_choice: Literal["predicted_iou", "box_agreement"] = "predicted_iou"
    """Of the segmenter's three masks per box take the one it trusts most, or whose own box agrees best."""


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
