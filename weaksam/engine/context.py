"""Hold what every stage of one run shares: output folder, seed, device, data, log and backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from weaksam.engine.log import RunLog
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.text.settings import Phrases
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import PhotoLabels


@dataclass(frozen=True)
class RunContext:
    """One run as its stages see it."""

    out: Path
    """Folder that every stage writes below."""
    seed: int
    """At least 0; every random number of the run follows from it."""
    device: torch.device
    """Where networks are trained and used."""
    train: Dataset
    """The training photos."""
    test: Dataset | None
    """The test photos; None where there are none."""
    log: RunLog
    """Events of the run."""
    backbone: BackboneSettings
    """The network that clues, weak detector and detectors start from."""
    prompts: Mapping[str, Phrases] = field(default_factory=dict)
    """Phrases that stand for a class's name in text-prompted models, by class."""
    rejected: Mapping[str, Instances] = field(default_factory=dict)
    """Boxes of the training photos, by image id, of which a reviewer said that no object of their class is there."""
    labels: Mapping[str, PhotoLabels] = field(default_factory=dict)
    """What was labelled on training photos beside their tags, by image id; photos without any are not there."""

    @property
    def complete(self) -> frozenset[str]:
        """The training photos all of whose objects are labelled, which are background elsewhere."""
        return frozenset(image_id for image_id, of_photo in self.labels.items() if of_photo.complete)
