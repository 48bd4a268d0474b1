"""Hold what a stage that trains a detector leaves: its weights and its detections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weaksam.data.detection_stores import instances_of
from weaksam.store.store import Store
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class DetectorResult:
    """A trained detector, weak or not, and what it detected."""

    weights: Path
    """Sealed safetensors weights."""
    fingerprint: str
    """Hex of all that decides the weights: settings, photos, backbone, what it was trained on, seed."""
    stores: Mapping[str, Store]
    """Sealed detections of the splits ``test`` and ``train``, those that were made."""

    def detections(self, split: str) -> dict[str, Instances]:
        """Detections of ``test`` or ``train`` by image id, with masks where the detector gives them."""
        return instances_of(self.stores[split])
