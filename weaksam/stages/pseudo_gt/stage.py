"""Make the pseudo ground truth of the training images and write it as a store and a COCO file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.formats.coco import write_instances
from weaksam.engine.context import RunContext
from weaksam.stages.pseudo_gt.adaptive import adaptive_pseudo_gt
from weaksam.stages.pseudo_gt.ranking import scores_of
from weaksam.stages.pseudo_gt.settings import PseudoGtSettings
from weaksam.stages.pseudo_gt.top1 import top1_pseudo_gt
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.instances import Instances


def run(context: RunContext, settings: PseudoGtSettings, detections: Store | Mapping[str, Instances]) -> Store:
    """Make the pseudo ground truth of the training images, one row per image, and write OUT/pseudo_gt/train.json.

    ``detections``: what the weak detector found on the training images, its sealed store or instances by image id;
    an image it does not name has none and keeps an empty row.
    """
    inputs = {"data": context.train.fingerprint, "detections": _fingerprint(detections)}
    fingerprint = stage_fingerprint("pseudo_gt", settings, inputs)
    folder = store_folder(context.out, "pseudo_gt", "train", fingerprint)
    store = detection_store(folder, "pseudo_gt", fingerprint, context.train, masks=False)
    detections_by_id = instances_of(detections) if isinstance(detections, Store) else detections

    def row(image_id: str) -> dict[str, Any]:
        tags = context.train.by_id[image_id].tags
        pseudo_gt = _choose(detections_by_id.get(image_id, Instances.empty(scored=True)), tags, settings)
        return {"boxes": pseudo_gt.boxes, "labels": pseudo_gt.labels, "scores": scores_of(pseudo_gt)}

    store.fill(row, "pseudo ground truth")
    by_id = instances_of(store)
    write_instances(context.out / "pseudo_gt" / "train.json", context.train, by_id)
    num_boxes = sum(len(boxes) for boxes in by_id.values())
    num_empty = sum(len(boxes) == 0 for boxes in by_id.values())
    context.log.write("pseudo_gt", boxes=num_boxes, images=len(by_id), images_without_box=num_empty)
    return store


def _choose(detections: Instances, tags: tuple[int, ...], settings: PseudoGtSettings) -> Instances:
    """Pseudo ground truth of one image by the method that the settings name."""
    if settings.method == "top1":
        return top1_pseudo_gt(detections, tags)
    return adaptive_pseudo_gt(detections, tags, settings)


def _fingerprint(detections: Store | Mapping[str, Instances]) -> str:
    """Of a store its own, of instances one over boxes, labels and scores."""
    if isinstance(detections, Store):
        return detections.fingerprint
    rows = {
        image_id: [of_image.boxes.tolist(), of_image.labels.tolist(), scores_of(of_image).tolist()]
        for image_id, of_image in detections.items()
    }
    return fingerprint_of(rows)
