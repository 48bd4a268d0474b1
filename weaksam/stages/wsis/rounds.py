"""Compare the segmenter's pseudo masks with those of the network that was trained on them, for one more training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import row_instances
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.photos import load_photo
from weaksam.models.detectors.mask_rcnn import paste_masks, predict_masks
from weaksam.stages.wsis.settings import PseudoMaskSettings, WsisSettings
from weaksam.store.store import Store, store_folder
from weaksam.structures import boxes as box_ops
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, combined_rle, pairwise_mask_iou

_PROBABILITIES = {"network": (0.5,), "mean": (0.25, 0.75)}
"""Thresholds of the network's probabilities that decide an agreed mask. In the mean of the segmenter's mask t, once,
and a probability p, twice, (t + 2 p) / 3 is at least 1/2 where p >= 1/4 inside t and where p >= 3/4 elsewhere."""

NetworkMasks = Callable[[str, Instances, tuple[float, ...]], list[list[Rle] | None]]
"""``(image_id, objects, thresholds)`` -> of each object its mask at each threshold; None where the network has none."""


def compare_masks(
    context: RunContext,
    settings: PseudoMaskSettings,
    pseudo_masks: Store,
    network_masks: NetworkMasks,
    network: str,
    number: int,
    name: str,
) -> Store:
    """The sealed store of masks for training ``number`` (from 2 on) of the stage ``name``, one row per photo.

    Boxes, labels, scores and what the segmenter said are those of the sealed ``pseudo_masks``. ``agreement`` (N,) is
    the IoU of the segmenter's and the network's mask in [0, 1], 0 where the network has none; where it is at least
    ``settings.agreed_iou`` the mask is what ``settings.agreed_masks`` says. ``network`` is the fingerprint of what
    ``network_masks`` answers from. Ours; a photo without a box has an empty row.
    """
    key = {
        "stage": f"{name} masks of round {number}",
        "pseudo_masks": pseudo_masks.fingerprint,
        "network": network,
        "agreed_iou": settings.agreed_iou,
        "agreed_masks": settings.agreed_masks,
    }
    fingerprint = fingerprint_of(key)
    folder = store_folder(context.out, name, f"round_{number}_masks", fingerprint)
    image_ids = context.train.image_ids
    columns = {**pseudo_masks.columns, "agreement": "floats"}
    store = Store(folder, stage=name, fingerprint=fingerprint, image_ids=image_ids, columns=columns)

    def row(image_id: str) -> dict[str, Any]:
        known = pseudo_masks.read(image_id)
        objects = row_instances(known, pseudo_masks.folder)
        thresholds = (0.5, *_PROBABILITIES.get(settings.agreed_masks, ()))
        of_objects = network_masks(image_id, objects, thresholds) if len(objects) else []
        agreement = torch.tensor(
            [
                0.0 if masks is None else float(pairwise_mask_iou([rle], [masks[0]]))
                for rle, masks in zip(known["rles"], of_objects, strict=True)
            ]
        )
        chosen = [
            rle if masks is None or agreed < settings.agreed_iou else _agreed(rle, masks, settings)
            for rle, masks, agreed in zip(known["rles"], of_objects, agreement.tolist(), strict=True)
        ]
        return {**known, "rles": chosen, "agreement": agreement}

    return store.fill(row, f"{name}: masks of round {number}")


def _agreed(rle: Rle, masks: list[Rle], settings: PseudoMaskSettings) -> Rle:
    """The mask to learn where the segmenter's ``rle`` and the network's ``masks`` (at 0.5, then others) agree."""
    if settings.agreed_masks == "segmenter":
        return rle
    if settings.agreed_masks == "network":
        return masks[1]
    _, likely, sure = masks
    return combined_rle([combined_rle([rle, likely], "both"), sure], "either")


def masks_of_boxes_by(model: MaskRCNN, settings: WsisSettings, context: RunContext) -> NetworkMasks:
    """What a trained Mask R-CNN draws in given boxes: the mean of its probabilities on the photo and its mirror image.

    Where nothing of an object reaches a threshold, its mask is empty.
    """
    model.to(context.device).eval()

    def masks_of(image_id: str, objects: Instances, thresholds: tuple[float, ...]) -> list[list[Rle] | None]:
        sample = context.train.by_id[image_id]
        probabilities = _probabilities(model, sample, objects, settings, context.device)
        pasted = [paste_masks(probabilities, objects.boxes, sample.size, threshold) for threshold in thresholds]
        return [list(of_object) for of_object in zip(*pasted, strict=True)]

    return masks_of


def _probabilities(
    model: MaskRCNN, sample: Sample, objects: Instances, settings: WsisSettings, device: torch.device
) -> Tensor:
    """Mask probabilities ``(N, 1, 28, 28)`` in the boxes of ``objects``, of the photo and its mirror image."""
    photo = load_photo(sample, settings.short_side, settings.long_side)
    image = photo.image.to(device)
    width = image.shape[2]
    boxes = box_ops.scale(objects.boxes, width / photo.size[1], image.shape[1] / photo.size[0]).to(device)
    labels = objects.labels.to(device) + 1
    mirrored = predict_masks(model, image.flip(-1), box_ops.hflip(boxes, width), labels).flip(-1)
    return (predict_masks(model, image, boxes, labels) + mirrored) / 2


def masks_among_detections(detections: Mapping[str, Instances]) -> NetworkMasks:
    """Of each object the detected mask of its class with the greatest mask IoU; None where its class is not detected.

    Detections hold masks, no probabilities, so that it is the same at every threshold.
    """

    def masks_of(image_id: str, objects: Instances, thresholds: tuple[float, ...]) -> list[list[Rle] | None]:
        detected = detections[image_id]
        assert detected.masks is not None and objects.masks is not None
        of_objects: list[list[Rle] | None] = []
        iou = pairwise_mask_iou(objects.masks, detected.masks)
        iou = iou.masked_fill(objects.labels[:, None] != detected.labels, -1.0)
        for row in iou:
            best = int(row.argmax()) if len(row) and float(row.max()) >= 0 else None
            of_objects.append(None if best is None else [detected.masks[best]] * len(thresholds))
        return of_objects

    return masks_of
