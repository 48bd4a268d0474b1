"""Turn pseudo boxes into pseudo masks with the segmenter, and train torchvision's Mask R-CNN on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import instances_key, instances_of
from weaksam.data.formats.coco import write_instances
from weaksam.data.images import read_image
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.detecting import detect_splits
from weaksam.engine.detectors.training import TrainableSettings, train_detector, training_fingerprint
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn, start_from_detector
from weaksam.sam.box_masks import masks_of_boxes
from weaksam.sam.protocol import Segmenter
from weaksam.store.files import file_sha256
from weaksam.store.store import Store, store_folder
from weaksam.store.weights import load_state
from weaksam.structures.instances import Instances

_COLUMNS = {"boxes": "boxes", "labels": "ints", "scores": "floats", "predicted_iou": "floats", "rles": "rles"}


class WsisSettings(MaskDetectorSettings, TrainableSettings):
    """Pseudo masks, the Mask R-CNN trained on them and its use."""

    mask_choice: Literal["predicted_iou", "box_agreement"] = "predicted_iou"
    """Of the segmenter's three masks per box take the one it trusts most, or whose own box agrees best."""
    init_from_retrain: bool = True
    """Start from the retrained detector, so that only the mask head is new."""
    num_epochs: int = Field(6, ge=1)
    """Passes over the training photos."""
    max_boxes: int = Field(50, ge=1)
    """Detections kept per photo, best first; every one costs a pasted mask."""
    detect_train: bool = False
    """Detect on the training photos too."""


@dataclass(frozen=True)
class WsisResult:
    """The pseudo masks, the trained weights and the detections with masks."""

    pseudo_masks: Store
    """One row per training photo; see :func:`pseudo_masks_of`."""
    weights: Path
    """Sealed safetensors weights."""
    fingerprint: str
    """Of the weights."""
    stores: Mapping[str, Store]
    """Sealed detections of ``test`` and ``train``, those that were made."""

    def detections(self, split: str) -> dict[str, Instances]:
        """Detections with masks of ``test`` or ``train`` by image id."""
        return instances_of(self.stores[split])


def run(
    context: RunContext,
    settings: WsisSettings,
    segmenter: Segmenter,
    pseudo_gt: Mapping[str, Instances],
    retrain_weights: Path | None = None,
    *,
    name: str = "wsis",
) -> WsisResult:
    """Prompt the segmenter with the boxes of ``pseudo_gt``, train Mask R-CNN on the masks, detect on the test photos.

    Instances that carry masks already (the true ones, for the ceiling under another ``name``) keep them. Writes
    ``OUT/<name>/pseudo_masks_train.json`` (COCO instances) and ``OUT/<name>/detections_test.json`` (COCO results with
    RLE in the original photo's frame).

    Raises:
        UserError: no box at all, or a retrained detector of another shape.
    """
    store = make_pseudo_masks(context, settings, segmenter, pseudo_gt, name)
    pseudo = instances_of(store)
    write_instances(context.out / name / "pseudo_masks_train.json", context.train, pseudo)
    seed_everything(derive_seed(context.seed, name, "weights"))
    model = build_mask_rcnn(context.backbone, settings, len(context.train.classes))
    start = retrain_weights if settings.init_from_retrain else None
    if start is not None:
        start_from_detector(model, load_state(start, "the retrained detector"))
    inputs = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "pseudo_masks": store.fingerprint,
        "init": file_sha256(start) if start is not None else "none",
        "seed": str(context.seed),
    }
    fingerprint = training_fingerprint(name, settings, inputs)
    folder = store_folder(context.out, name, "weights", fingerprint)
    train_detector(model, pseudo, settings, context, folder, fingerprint, name)
    stores = detect_splits(context, settings, model, name, fingerprint, masks=True)
    return WsisResult(store, folder / "weights.safetensors", fingerprint, stores)


def make_pseudo_masks(
    context: RunContext, settings: WsisSettings, segmenter: Segmenter, pseudo_gt: Mapping[str, Instances], name: str
) -> Store:
    """The sealed store of one mask per pseudo box of every training photo (an empty row where there is none)."""
    fingerprint = fingerprint_of(
        {
            "stage": f"{name} pseudo masks",
            "mask_choice": settings.mask_choice,
            "segmenter": segmenter.fingerprint,
            "train": context.train.fingerprint,
            "pseudo_gt": instances_key(pseudo_gt),
        }
    )
    folder = store_folder(context.out, name, "pseudo_masks", fingerprint)
    ids = context.train.image_ids
    store = Store(folder, stage=name, fingerprint=fingerprint, image_ids=ids, columns=_COLUMNS)

    def row(image_id: str) -> dict[str, Any]:
        found = pseudo_gt.get(image_id, Instances.empty())
        rles, predicted = list(found.masks or ()), torch.ones(len(found))
        if len(found) and found.masks is None:
            image = read_image(context.train.by_id[image_id].path)
            rles, predicted = masks_of_boxes(segmenter, image, found.boxes, settings.mask_choice)
        scores = found.scores if found.scores is not None else torch.ones(len(found))
        return {"boxes": found.boxes, "labels": found.labels, "scores": scores} | {
            "predicted_iou": predicted,
            "rles": rles,
        }

    return store.fill(row, f"{name}: pseudo masks")
