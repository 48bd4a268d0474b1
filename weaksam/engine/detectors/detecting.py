"""Detect on photos with a trained detector, into sealed stores and COCO files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.formats.coco import write_results
from weaksam.data.sample_photos import rows_reading_ahead
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.given_proposals import SplitProposals
from weaksam.engine.detectors.photos import ResizedPhoto, load_scales
from weaksam.engine.detectors.training import TrainableSettings, TrainingSettings
from weaksam.models.detectors.faster_rcnn import detect, instances_from
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, paste_masks, predict_masks
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures import boxes as box_ops
from weaksam.structures.boxes import batched_nms
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances


def detect_splits(
    context: RunContext,
    settings: TrainingSettings,
    model: nn.Module,
    name: str,
    fingerprint: str,
    detect_row: Callable[[Any, Sample, Any, torch.device], Instances] | None = None,
    files: str = "detections",
    proposals: Mapping[str, SplitProposals] | None = None,
) -> dict[str, Store]:
    """Detect on the test photos (where there are any) and, if asked, the training photos.

    ``fingerprint``: of the weights of ``model``. ``detect_row(model, sample, settings, device)`` gives the detections
    of a photo, with masks; None: as torchvision's detectors do, which take ``proposals``, by split, beside their own.
    Each split gives a sealed store, with masks where the model gives them, and ``OUT/<name>/<files>_<split>.json``
    (COCO results).
    """
    model.to(context.device).eval()
    splits = {"test": context.test} | ({"train": context.train} if settings.detect_train else {})
    stores: dict[str, Store] = {}
    for split, dataset in splits.items():
        if dataset is None:
            continue
        inputs = {"weights": fingerprint, "photos": dataset.fingerprint}
        detect_one = detect_row or detect_sample
        if proposals:
            inputs["proposals"] = proposals[split].fingerprint
            detect_one = partial(detect_sample, proposals=proposals[split].boxes)
        store_key = stage_fingerprint(f"{name} {split}", settings, inputs)
        folder = store_folder(context.out, name, split, store_key)
        has_masks = detect_row is not None or isinstance(model, MaskRCNN)
        store = detection_store(folder, name, store_key, dataset, masks=has_masks)
        row = _row_of(model, dataset, settings, context.device, detect_one)
        stores[split] = store.fill_parts(rows_reading_ahead(dataset, row), f"{name}: detect {split}")
        write_results(context.out / name / f"{files}_{split}.json", dataset, instances_of(store))
    return stores


def _row_of(
    model: nn.Module,
    dataset: Dataset,
    settings: TrainingSettings,
    device: torch.device,
    detect_row: Callable[[Any, Sample, Any, torch.device], Instances],
) -> Callable[[str], dict[str, Any]]:
    """The function that detects on a photo and gives its row of the store."""

    def row(image_id: str) -> dict[str, Any]:
        detections = detect_row(model, dataset.by_id[image_id], settings, device)
        columns = {"boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores}
        return columns if detections.masks is None else columns | {"rles": list(detections.masks)}

    return row


def detect_sample(
    model: GeneralizedRCNN,
    sample: Sample,
    settings: TrainableSettings,
    device: torch.device,
    proposals: Mapping[str, Tensor] | None = None,
) -> Instances:
    """Detections of torchvision's detector on a photo that is read from its file, see `detect_photo`.

    ``proposals``: boxes ``(P, 4)`` by image id that the heads take besides.
    """
    photos = load_scales(sample, settings.short_side, settings.long_side, settings.test_scales, settings.longest_test)
    return detect_photo(model, photos, settings, device, None if proposals is None else proposals[sample.image_id])


def detect_photo(
    model: GeneralizedRCNN,
    photos: Sequence[ResizedPhoto],
    settings: TrainableSettings,
    device: torch.device,
    proposals: Tensor | None = None,
) -> Instances:
    """Detections of one photo, given at one or more scales, in its original frame, best first.

    The heads take ``proposals`` (P, 4) in that frame, if there are some, beside those of the detector itself.
    Boxes of all scales and, with ``flip_test``, of the mirror images are suppressed together. A model that gives masks
    predicts those of the boxes that are left at the first scale; its own boxes at one scale are not mirrored.
    """
    given = None if proposals is None else [proposals]
    return detect_photos(model, [photos], settings, device, given)[0]


def detect_photos(
    model: GeneralizedRCNN,
    photos: Sequence[Sequence[ResizedPhoto]],
    settings: TrainableSettings,
    device: torch.device,
    proposals: Sequence[Tensor] | None = None,
) -> list[Instances]:
    """`detect_photo` of several photos, whose views go through the network together, scale by scale.

    Photos of one size give what they give one by one, but for rounding; others are padded to the largest, which shows
    at the borders.
    """
    firsts = [scales[0] for scales in photos]
    if isinstance(model, MaskRCNN):
        assert isinstance(settings, MaskDetectorSettings)
        if len(photos[0]) == 1:
            raws = detect(model, [first.image.to(device) for first in firsts])
            return [
                _with_masks(instances_from(raw, _frame(first), first.size), raw["masks"], first, settings)
                for raw, first in zip(raws, firsts, strict=True)
            ]
    scales = list(zip(*photos, strict=True))
    views = [_boxes_of(model, of_scale, device, proposals, mirrored=False) for of_scale in scales]
    if settings.flip_test:
        views += [_boxes_of(model, of_scale, device, proposals, mirrored=True) for of_scale in scales]
    merged = [_merged(of_photo, settings) for of_photo in zip(*views, strict=True)]
    if not isinstance(model, MaskRCNN):
        return merged
    return [_masked(model, of_photo, first, settings, device) for of_photo, first in zip(merged, firsts, strict=True)]


def _merged(views: Sequence[Instances], settings: TrainableSettings) -> Instances:
    """The boxes of a photo's views, suppressed together where there are several."""
    merged = Instances.cat(views)
    if len(views) > 1:
        merged = merged[batched_nms(merged.boxes, merged.scores, merged.labels, settings.nms_iou)[: settings.max_boxes]]
    return merged


def _masked(
    model: MaskRCNN, boxes: Instances, photo: ResizedPhoto, settings: TrainableSettings, device: torch.device
) -> Instances:
    """Merged boxes of a photo with the masks that the network predicts in them at this scale."""
    assert isinstance(settings, MaskDetectorSettings)
    frame = _frame(photo)
    shown = box_ops.scale(boxes.boxes, frame[1] / photo.size[1], frame[0] / photo.size[0]).to(device)
    probabilities = predict_masks(model, photo.image.to(device), shown, boxes.labels.to(device) + 1)
    return _with_masks(boxes, probabilities, photo, settings)


def _boxes_of(
    model: GeneralizedRCNN,
    photos: Sequence[ResizedPhoto],
    device: torch.device,
    proposals: Sequence[Tensor] | None,
    mirrored: bool,
) -> list[Instances]:
    """Boxes of one view of each photo in its original's frame, in which its ``proposals`` (P, 4) lie."""
    images = [photo.image.to(device) for photo in photos]
    given = []
    for photo, of_photo in zip(photos, proposals or (), strict=False):
        frame = _frame(photo)
        in_view = box_ops.scale(of_photo, frame[1] / photo.size[1], frame[0] / photo.size[0]).to(device)
        given.append(box_ops.hflip(in_view, frame[1]) if mirrored else in_view)
    raws = detect(model, [image.flip(-1) for image in images] if mirrored else images, masks=False, given=given)
    detections = []
    for raw, photo in zip(raws, photos, strict=True):
        frame = _frame(photo)
        boxes = box_ops.hflip(raw["boxes"], frame[1]) if mirrored else raw["boxes"]
        detections.append(instances_from({**raw, "boxes": boxes}, frame, photo.size))
    return detections


def _with_masks(
    detections: Instances, probabilities: Tensor, photo: ResizedPhoto, settings: MaskDetectorSettings
) -> Instances:
    """The detections with their masks in the original photo's frame."""
    return detections.replace(masks=paste_masks(probabilities, detections.boxes, photo.size, settings.mask_threshold))


def _frame(photo: ResizedPhoto) -> tuple[int, int]:
    """``(h, w)`` that the detector sees."""
    return photo.image.shape[1], photo.image.shape[2]
