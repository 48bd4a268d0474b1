"""Detect on photos with a trained torchvision detector, into sealed stores and COCO files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.formats.coco import write_results
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.photos import ResizedPhoto, load_photo
from weaksam.engine.detectors.training import TrainableSettings
from weaksam.models.detectors.faster_rcnn import detect, instances_from
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, paste_masks
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.boxes import batched_nms, hflip
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


def detect_splits(
    context: RunContext, settings: TrainableSettings, model: GeneralizedRCNN, name: str, fingerprint: str
) -> dict[str, Store]:
    """Detect on the test photos (where there are any) and, if asked, the training photos.

    ``fingerprint``: of the weights of ``model``. Each split gives a sealed store, with masks where the model gives
    them, and ``OUT/<name>/detections_<split>.json`` (COCO results).
    """
    model.to(context.device).eval()
    splits = {"test": context.test} | ({"train": context.train} if settings.detect_train else {})
    stores: dict[str, Store] = {}
    for split, dataset in splits.items():
        if dataset is None:
            continue
        inputs = {"weights": fingerprint, "photos": dataset.fingerprint}
        store_key = stage_fingerprint(f"{name} {split}", settings, inputs)
        folder = store_folder(context.out, name, split, store_key)
        store = detection_store(folder, name, store_key, dataset, masks=isinstance(model, MaskRCNN))
        stores[split] = store.fill(_row_of(model, dataset, settings, context.device), f"{name}: detect {split}")
        write_results(context.out / name / f"detections_{split}.json", dataset, instances_of(store))
    return stores


def _row_of(
    model: GeneralizedRCNN, dataset: Dataset, settings: TrainableSettings, device: torch.device
) -> Callable[[str], dict[str, Any]]:
    """The function that detects on a photo and gives its row of the store."""

    def row(image_id: str) -> dict[str, Any]:
        photo = load_photo(dataset.by_id[image_id], settings.short_side, settings.long_side)
        detections = detect_photo(model, photo, settings, device)
        columns = {"boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores}
        return columns if detections.masks is None else columns | {"rles": list(detections.masks)}

    return row


def detect_photo(
    model: GeneralizedRCNN, photo: ResizedPhoto, settings: TrainableSettings, device: torch.device
) -> Instances:
    """Detections of one photo in its original frame, best first, with masks where the model gives them.

    With ``flip_test`` the boxes of the mirrored photo are added and both suppressed together (boxes only).
    """
    image = photo.image.to(device)
    frame = (image.shape[1], image.shape[2])
    (raw,) = detect(model, [image])
    detections = instances_from(raw, frame, photo.size)
    if "masks" in raw:
        assert isinstance(settings, MaskDetectorSettings)
        masks = paste_masks(raw["masks"], detections.boxes, photo.size, settings.mask_threshold)
        return detections.replace(masks=masks)
    if not settings.flip_test:
        return detections
    (raw,) = detect(model, [image.flip(-1)])
    mirrored = instances_from({**raw, "boxes": hflip(raw["boxes"], frame[1])}, frame, photo.size)
    both = Instances.cat([detections, mirrored])
    return both[batched_nms(both.boxes, both.scores, both.labels, settings.nms_iou)[: settings.max_boxes]]
