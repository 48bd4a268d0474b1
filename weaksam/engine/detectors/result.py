"""Train a detector, detect with it, and hold where its weights and detections lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from weaksam.data.detection_stores import instances_of
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.batches import PhotoRegions
from weaksam.engine.detectors.detecting import detect_splits
from weaksam.engine.detectors.given_proposals import SplitProposals
from weaksam.engine.detectors.mixing import Mixing
from weaksam.engine.detectors.training import (
    TORCHVISION,
    DetectorMethod,
    TrainingSettings,
    train_detector,
    training_fingerprint,
)
from weaksam.engine.kept_memory import kept_memory
from weaksam.engine.training_job import TrainingJob
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.store.store import Store, store_folder
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
    backbone: BackboneSettings
    """The network it started from, in the colours and with the strides that it was trained with."""

    def detections(self, split: str) -> dict[str, Instances]:
        """Detections of ``test`` or ``train`` by image id, with masks where the detector gives them."""
        return instances_of(self.stores[split])


def train_and_detect(
    context: RunContext,
    settings: TrainingSettings,
    model: nn.Module,
    instances: Mapping[str, Instances],
    inputs: Mapping[str, str],
    name: str,
    method: DetectorMethod = TORCHVISION,
    regions: PhotoRegions | None = None,
    files: str = "detections",
    proposals: Mapping[str, SplitProposals] | None = None,
    mixing: Mixing | None = None,
) -> DetectorResult:
    """Train ``model`` on ``instances`` (by image id) of the training photos and detect on the test photos.

    ``inputs``: fingerprints of all that the weights depend on besides settings, training photos, backbone and seed, the
    further ``regions`` of the training photos and what they are mixed by (``mixing``) among them. The box head takes
    ``proposals``, by split, beside its own. Detections are made on the training photos too where
    ``settings.detect_train`` says so. Weights and detections lie in ``OUT/<name>``, the latter in
    ``<files>_<split>.json`` too. What was finished before is only read, and an interrupted training goes on.

    Raises:
        UserError: no box at all to train on.
    """
    of_every_detector = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "seed": str(context.seed),
    }
    if proposals:
        inputs = {**inputs, "proposals": proposals["train"].fingerprint}
        regions = {**(regions or {}), "given": proposals["train"].as_regions()}
    fingerprint = training_fingerprint(name, settings, {**of_every_detector, **inputs})
    folder = store_folder(context.out, name, "weights", fingerprint)
    job = TrainingJob(
        folder,
        fingerprint,
        name,
        context.seed,
        num_epochs=settings.num_epochs,
        num_steps=settings.num_steps,
        classes=context.train.classes,
        log=context.log,
    )
    with kept_memory():
        train_detector(model, instances, settings, context, job, method, regions, mixing)
        stores = detect_splits(context, settings, model, name, fingerprint, method.detect, files, proposals)
    return DetectorResult(folder / "weights.safetensors", fingerprint, stores, context.backbone)
