"""Turn pseudo boxes into pseudo masks with the segmenter, and train torchvision's Mask R-CNN on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import fingerprint_of
from weaksam.data.formats.coco import write_instances
from weaksam.data.images import read_image
from weaksam.engine.context import RunContext
from weaksam.engine.detection import (
    TrainableSettings,
    detect_splits,
    instances_key,
    instances_of,
    train_detector,
    training_fingerprint,
)
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.weights import load_state
from weaksam.models.backbones.build import backbone_fingerprint
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn, start_from_detector
from weaksam.sam.protocol import Masks, Segmenter
from weaksam.store.store import Store, file_sha256, store_folder
from weaksam.structures.boxes import area, clip, pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, rle_from_mask

_FULL_AT_ONCE = 8
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


def masks_of_boxes(
    segmenter: Segmenter, image: np.ndarray, boxes: Tensor, choice: Literal["predicted_iou", "box_agreement"]
) -> tuple[list[Rle], Tensor]:
    """One RLE mask per box ``(P, 4)`` on a photo uint8 ``(H, W, 3)``, and the predicted IoU ``(P,)`` of each.

    Where all three masks of a box are empty, its mask is the box itself with a predicted IoU of 0.
    """
    masks = segmenter.predict(segmenter.encode(image), boxes=boxes)
    k_index = choose_masks(masks, boxes, choice)
    p_index = torch.arange(len(boxes))
    rles: list[Rle] = []
    for start in range(0, len(boxes), _FULL_AT_ONCE):
        chunk = slice(start, start + _FULL_AT_ONCE)
        full = masks.full(p_index[chunk], k_index[chunk]).cpu()
        rles += [
            rle_from_mask(mask if mask.any() else box_mask(box, masks.size))
            for mask, box in zip(full, boxes[chunk], strict=True)
        ]
    chosen = masks.iou[p_index, k_index].float().cpu()
    return rles, torch.where(_is_empty(masks)[p_index, k_index].cpu(), torch.zeros_like(chosen), chosen)


def choose_masks(masks: Masks, boxes: Tensor, choice: Literal["predicted_iou", "box_agreement"]) -> Tensor:
    """Which of the three masks ``(P,)`` int64 to take for each prompt box ``(P, 4)``; an empty mask comes last."""
    if choice == "predicted_iou":
        merit = masks.iou
    else:
        merit = torch.stack([pairwise_iou(masks.boxes[:, k], boxes.to(masks.boxes)).diagonal() for k in range(3)], 1)
    return merit.masked_fill(_is_empty(masks), -1.0).argmax(dim=1)


def box_mask(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool mask ``(H, W)`` of all pixels that a box ``(4,)`` touches in a photo of ``size``."""
    x1, y1, x2, y2 = clip(box[None], size)[0].tolist()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)] = True
    return mask


def _is_empty(masks: Masks) -> Tensor:
    """Whether each mask ``(P, 3)`` covers nothing."""
    return (area(masks.boxes.reshape(-1, 4)) <= 0).reshape(masks.boxes.shape[:2])
