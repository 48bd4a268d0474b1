"""Name what both weak detectors, on frozen features and trained end to end, do for the stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from weaksam.engine.training import Objective
from weaksam.engine.training_job import TrainingJob
from weaksam.stages.wsod.examples import ExampleBatch, TrainingExample
from weaksam.stages.wsod.photo_features import PhotoFeatures
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances


class WeakDetector(Protocol):
    """A detector that learns from tags; the methods are called in the order in which they stand here.

    Where trained weights are found, `begin_detecting` comes at once after `training_job`.
    """

    @property
    def model(self) -> nn.Module:
        """What is trained and saved."""

    def training_job(self, folder: Path, fingerprint: str, name: str) -> TrainingJob:
        """The training of this detector as ``name``."""

    def begin_training(self) -> None:
        """Set up what must be there before the first photo is prepared."""

    def prepare(self, sample: Sample) -> None:
        """Compute what is kept of a training photo, if anything is."""

    def frozen_features(self) -> PhotoFeatures:
        """Features of the backbone as it is before the training, by which seeds are relocated."""

    def objectives(self) -> list[Objective]:
        """The detector's losses with their optimizer, then those of its adversary, if it has one."""

    def batches(self, examples: Sequence[TrainingExample]) -> Sequence[ExampleBatch]:
        """The batches of one epoch, drawn anew from the global random numbers."""

    def begin_detecting(self) -> None:
        """Make the trained weights ready for `detect`."""

    def detect(self, sample: Sample, boxes: Tensor) -> Instances:
        """Detections of one photo from its proposals ``boxes`` (N, 4) xyxy; none without proposals."""

    def detect_in(self, image: np.ndarray, boxes: Tensor) -> Instances:
        """The same on a decoded photo, uint8 RGB ``(H, W, 3)``."""
