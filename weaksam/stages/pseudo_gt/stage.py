"""Make the pseudo ground truth of the training images and write it as a store and a COCO file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.formats.coco import write_instances
from weaksam.engine.context import RunContext
from weaksam.stages.pseudo_gt.adaptive import adaptive_pseudo_gt
from weaksam.stages.pseudo_gt.paper import paper_pseudo_gt
from weaksam.stages.pseudo_gt.ranking import scores_of
from weaksam.stages.pseudo_gt.released import released_pseudo_gt
from weaksam.stages.pseudo_gt.settings import (
    AdaptivePaperSettings,
    AdaptiveReleasedSettings,
    AdaptiveSettings,
    GivenPseudoGtSettings,
    PseudoGtSettings,
    TopKSettings,
)
from weaksam.stages.pseudo_gt.topk import topk_pseudo_gt
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.instances import Instances


def run(context: RunContext, settings: PseudoGtSettings, detections: Store | Mapping[str, Instances]) -> Store:
    """Make the pseudo ground truth of the training images, one row per image, and write OUT/pseudo_gt/train.json.

    ``detections``: what the weak detector found on the training images, its sealed store or instances by image id;
    an image it does not name has none and keeps an empty row.
    """
    by_id = instances_of(detections) if isinstance(detections, Store) else detections

    def choose(image_id: str) -> Instances:
        of_image = by_id.get(image_id, Instances.empty(scored=True))
        return choose_pseudo_gt(of_image, context.train.by_id[image_id].tags, settings)

    return _write(context, settings, choose, {"detections": _fingerprint(detections)})


def run_given(context: RunContext, settings: GivenPseudoGtSettings, given: Mapping[str, Instances]) -> Store:
    """Take the pseudo ground truth that `read_given` read for every training image, as `run` leaves it."""
    return _write(context, settings, lambda image_id: given[image_id], {"given": _fingerprint(given)})


def choose_pseudo_gt(detections: Instances, tags: Iterable[int], settings: PseudoGtSettings) -> Instances:
    """Pseudo ground truth of one image by the rule that the settings name; not for the rule ``given``."""
    if isinstance(settings, AdaptiveSettings):
        return adaptive_pseudo_gt(detections, tags, settings)
    if isinstance(settings, AdaptivePaperSettings):
        return paper_pseudo_gt(detections, tags, settings)
    if isinstance(settings, AdaptiveReleasedSettings):
        return released_pseudo_gt(detections, tags, settings)
    return topk_pseudo_gt(detections, tags, settings.k if isinstance(settings, TopKSettings) else 1)


def _write(
    context: RunContext, settings: PseudoGtSettings, choose: Callable[[str], Instances], inputs: Mapping[str, str]
) -> Store:
    """The sealed store of what ``choose`` gives for each training image, and the COCO file beside it."""
    fingerprint = stage_fingerprint("pseudo_gt", settings, {"data": context.train.fingerprint, **inputs})
    folder = store_folder(context.out, "pseudo_gt", "train", fingerprint)
    store = detection_store(folder, "pseudo_gt", fingerprint, context.train, masks=False)

    def row(image_id: str) -> dict[str, Any]:
        pseudo_gt = choose(image_id)
        return {"boxes": pseudo_gt.boxes, "labels": pseudo_gt.labels, "scores": scores_of(pseudo_gt)}

    store.fill(row, "pseudo ground truth")
    by_id = instances_of(store)
    write_instances(context.out / "pseudo_gt" / "train.json", context.train, by_id)
    num_boxes = sum(len(boxes) for boxes in by_id.values())
    num_empty = sum(len(boxes) == 0 for boxes in by_id.values())
    context.log.write("pseudo_gt", boxes=num_boxes, images=len(by_id), images_without_box=num_empty)
    return store


def _fingerprint(detections: Store | Mapping[str, Instances]) -> str:
    """Of a store its own, of instances one over boxes, labels and scores."""
    if isinstance(detections, Store):
        return detections.fingerprint
    rows = {
        image_id: [of_image.boxes.tolist(), of_image.labels.tolist(), scores_of(of_image).tolist()]
        for image_id, of_image in detections.items()
    }
    return fingerprint_of(rows)
