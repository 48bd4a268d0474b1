"""Define the settings of the detector that is retrained on pseudo ground truth."""

from __future__ import annotations

from weaksam.engine.detectors.training import TrainableSettings


class RetrainSettings(TrainableSettings):
    """The detector that is retrained on pseudo ground truth, its training and its use."""
