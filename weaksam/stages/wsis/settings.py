"""Define the settings of the pseudo masks and of the Mask R-CNN that is trained on them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam.engine.detectors.training import TrainableSettings
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings


class WsisSettings(MaskDetectorSettings, TrainableSettings):
    """Pseudo masks, the Mask R-CNN trained on them and its use."""

    mask_choice: Literal["predicted_iou", "box_agreement"] = "predicted_iou"
    """Of the segmenter's three masks per box take the one it trusts most, or whose own box agrees best."""
    init_from_retrain: bool = True
    """Start from the retrained detector, so that only the mask head is new; ``init`` goes before it."""
    num_epochs: int = Field(6, ge=1)
    """Passes over the training photos."""
    max_boxes: int = Field(50, ge=1)
    """Detections kept per photo, best first; every one costs a pasted mask."""
    detect_train: bool = False
    """Detect on the training photos too."""
