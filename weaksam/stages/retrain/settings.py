"""Define the settings of the detector that is retrained on pseudo ground truth, one class for each kind."""

from __future__ import annotations

from typing import ClassVar, Literal

from weaksam.engine.detectors.dino import TrainableDinoSettings
from weaksam.engine.detectors.training import TrainableSettings


class RetrainSettings(TrainableSettings):
    """Faster R-CNN on pseudo ground truth, its training and its use."""

    # The kind is told by the other fields, so that what was trained before there were two is found again
    _not_fingerprinted: ClassVar[frozenset[str]] = TrainableSettings._not_fingerprinted | {"detector"}

    detector: Literal["faster_rcnn"] = "faster_rcnn"


class DinoRetrainSettings(TrainableDinoSettings):
    """DINO on pseudo ground truth, its training and its use."""

    detector: Literal["dino"] = "dino"


AnyRetrainSettings = RetrainSettings | DinoRetrainSettings
