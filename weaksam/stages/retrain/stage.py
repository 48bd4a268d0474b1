"""Retrain a real detector, torchvision's Faster R-CNN, on pseudo ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import instances_key, instances_of
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.detecting import detect_splits
from weaksam.engine.detectors.training import TrainableSettings, train_detector, training_fingerprint
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.store.files import file_sha256
from weaksam.store.store import Store, store_folder
from weaksam.store.weights import load_into, load_state
from weaksam.structures.instances import Instances


class RetrainSettings(TrainableSettings):
    """The detector that is retrained on pseudo ground truth, its training and its use."""


@dataclass(frozen=True)
class RetrainResult:
    """Where the trained detector lies and what it found."""

    weights: Path
    """Sealed safetensors weights."""
    fingerprint: str
    """Of the weights: settings, photos, backbone, boxes and seed."""
    stores: Mapping[str, Store]
    """Sealed detections of ``test`` and ``train``, those that were made."""

    def detections(self, split: str) -> dict[str, Instances]:
        """Detections of ``test`` or ``train`` by image id."""
        return instances_of(self.stores[split])


def run(
    context: RunContext,
    settings: RetrainSettings,
    pseudo_gt: Mapping[str, Instances],
    init_weights: Path | None = None,
    *,
    name: str = "retrain",
) -> RetrainResult:
    """Train on the boxes and labels of ``pseudo_gt`` (by image id) and detect on the test and training photos.

    With the true boxes as ``pseudo_gt`` and another ``name`` this measures the ceiling of the same detector. A photo
    with a tag but no box is left out of the training; one with neither is a negative. ``init_weights`` starts from
    another detector of the same shape. Writes ``OUT/<name>/detections_test.json`` and ``detections_train.json``.

    Raises:
        UserError: no box at all, or weights of another shape.
    """
    # Every random number below, the heads' first weights included, follows from the seed
    seed_everything(derive_seed(context.seed, name, "weights"))
    model = build_faster_rcnn(context.backbone, settings, len(context.train.classes))
    if init_weights is not None:
        load_into(model, load_state(init_weights, name), name)
    inputs = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "pseudo_gt": fingerprint_of(instances_key(pseudo_gt)),
        "init": file_sha256(init_weights) if init_weights is not None else "none",
        "seed": str(context.seed),
    }
    fingerprint = training_fingerprint(name, settings, inputs)
    folder = store_folder(context.out, name, "weights", fingerprint)
    train_detector(model, pseudo_gt, settings, context, folder, fingerprint, name)
    stores = detect_splits(context, settings, model, name, fingerprint, masks=False)
    return RetrainResult(folder / "weights.safetensors", fingerprint, stores)
