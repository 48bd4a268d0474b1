"""Make the pseudo ground truth of the training images and write it as a store and a COCO file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weaksam.config import fingerprint_of, listed
from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.formats.coco import write_instances
from weaksam.engine.context import RunContext
from weaksam.evaluation.presence import tag_presence
from weaksam.stages.pseudo_gt.adaptive import adaptive_pseudo_gt
from weaksam.stages.pseudo_gt.paper import paper_pseudo_gt
from weaksam.stages.pseudo_gt.ranking import scores_of
from weaksam.stages.pseudo_gt.released import released_pseudo_gt
from weaksam.stages.pseudo_gt.review import NO_REVIEW, Review
from weaksam.stages.pseudo_gt.settings import (
    AdaptivePaperSettings,
    AdaptiveReleasedSettings,
    AdaptiveSettings,
    ChoosingSettings,
    GivenPseudoGtSettings,
    PseudoGtSettings,
    TopKSettings,
)
from weaksam.stages.pseudo_gt.thresholds import class_thresholds, reaches, with_threshold
from weaksam.stages.pseudo_gt.topk import topk_pseudo_gt
from weaksam.stages.pseudo_gt.zones import with_ignored
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import labels_fingerprint
from weaksam.structures.proposals import Proposals
from weaksam.structures.trusted_labels import trusted
from weaksam.terminal import say


def run(
    context: RunContext,
    settings: PseudoGtSettings,
    detections: Store | Mapping[str, Instances],
    review: Review = NO_REVIEW,
    proposals: Store | None = None,
) -> Store:
    """Make the pseudo ground truth of the training images, one row per image, and write OUT/pseudo_gt/train.json.

    ``detections``: what the weak detector found on the training images, its sealed store or instances by image id;
    an image it does not name has none and keeps an empty row. What was labelled beside the tags (``context.labels``)
    overrules them, see `trusted_labels`; ``proposals`` of the training images serve points that no detection holds.
    ``review``: what a reviewer decided on the boxes that come of it; raises `UserError` where that is about others.
    """
    by_id = instances_of(detections) if isinstance(detections, Store) else detections
    tags = {sample.image_id: sample.tags for sample in context.train}
    chosen = choose_all(by_id, tags, len(context.train.classes), settings)
    ignores = isinstance(settings, ChoosingSettings) and settings.ignores
    if isinstance(settings, ChoosingSettings) and settings.class_threshold != "off":
        thresholds = class_thresholds(by_id, tags, len(context.train.classes), settings)
        context.log.write("class thresholds", scores=dict(zip(context.train.classes, thresholds, strict=True)))
    chosen, inputs = with_labels(context, chosen, by_id, proposals), {"detections": _fingerprint(detections)}
    return _write(context, settings, chosen, inputs | _of_labels(context, proposals), ignores, review)


def choose_all(
    detections: Mapping[str, Instances], tags: Mapping[str, Sequence[int]], num_classes: int, settings: PseudoGtSettings
) -> dict[str, Instances]:
    """Pseudo ground truth of every image of ``tags`` (image id to labels) from detections by image id.

    By the rule that the settings name; with ``ignore_from`` other detections follow, marked ``crowd``, and with
    ``class_threshold`` chosen ones below it. Not for the rule ``given``. An image without detections has no box.
    """
    nothing = Instances.empty(scored=True)
    believed = {
        image_id: choose_pseudo_gt(detections.get(image_id, nothing), of_image, settings)
        for image_id, of_image in tags.items()
    }
    if not isinstance(settings, ChoosingSettings) or not settings.ignores:
        return believed
    thresholds = class_thresholds(detections, tags, num_classes, settings)
    presence = tag_presence(detections, tags, num_classes)
    zones = {}
    for image_id, of_image in tags.items():
        chosen = believed[image_id]
        zones[image_id] = chosen[reaches(chosen, thresholds)]
        if settings.ignore_from is not None:
            of_photo = detections.get(image_id, nothing)
            zones[image_id] = with_ignored(zones[image_id], of_photo, of_image, presence, settings.ignore_from)
        if settings.class_threshold != "off":
            zones[image_id] = with_threshold(zones[image_id], chosen, thresholds)
    return zones


def run_given(
    context: RunContext,
    settings: GivenPseudoGtSettings,
    given: Mapping[str, Instances],
    review: Review = NO_REVIEW,
    proposals: Store | None = None,
) -> Store:
    """Take the pseudo ground truth that `read_given` read for every training image, as `run` leaves it."""
    ignores = any(boxes.crowd is not None for boxes in given.values())
    chosen, inputs = with_labels(context, given, given, proposals), {"given": _fingerprint(given)}
    return _write(context, settings, chosen, inputs | _of_labels(context, proposals), ignores, review)


def with_labels(
    context: RunContext,
    chosen: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    proposals: Store | None = None,
) -> dict[str, Instances]:
    """Pseudo ground truth that was ``chosen`` of ``detections``, overruled by what was labelled on the photos.

    See `trusted_labels.trusted`; a photo without labels keeps its boxes; labels of other photos do nothing.
    """
    nothing, overruled = Instances.empty(scored=True), dict(chosen)
    for image_id, labels in context.labels.items():
        if image_id not in chosen:
            continue
        of_photo = None
        if proposals is not None and len(labels.marks.labels):
            of_photo = Proposals.from_row(proposals.read(image_id, "boxes", "scores", "sources", "mask_size"))
        guesses, candidates = (boxes.get(image_id, nothing) for boxes in (chosen, detections))
        candidates = candidates.without_crowd()
        guesses, candidates = (boxes.replace(scores=scores_of(boxes)) for boxes in (guesses, candidates))
        overruled[image_id] = trusted(guesses, candidates, labels, of_photo)
    return overruled


def _of_labels(context: RunContext, proposals: Store | None) -> dict[str, str]:
    """Fingerprints of what was labelled and of what its points may take; none where nothing was."""
    labels = labels_fingerprint(context.labels, "boxes", "marks", "counts", "complete")
    marked = labels_fingerprint(context.labels, "marks") and proposals is not None
    return ({"labels": labels} if labels else {}) | (
        {"proposals": proposals.fingerprint} if marked and proposals is not None else {}
    )


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
    context: RunContext,
    settings: PseudoGtSettings,
    chosen: Mapping[str, Instances],
    inputs: Mapping[str, str],
    ignores: bool,
    review: Review,
) -> Store:
    """The sealed store of what was ``chosen`` for each training image and reviewed, and the COCO file beside it.

    ``ignores``: whether the store has a column of what is to be ignored.
    """
    ignores |= any(boxes.crowd is not None for boxes in chosen.values())
    if review.files:
        chosen, inputs = review.apply(chosen, context.train), {**inputs, "review": review.fingerprint}
    fingerprint = stage_fingerprint("pseudo_gt", settings, {"data": context.train.fingerprint, **inputs})
    folder = store_folder(context.out, "pseudo_gt", "train", fingerprint)
    store = detection_store(folder, "pseudo_gt", fingerprint, context.train, masks=False, ignored=ignores)

    def row(image_id: str) -> dict[str, Any]:
        boxes = chosen[image_id]
        columns = {"boxes": boxes.boxes, "labels": boxes.labels, "scores": scores_of(boxes)}
        return columns | ({"crowd": _marks(boxes).long()} if ignores else {})

    store.fill(row, "pseudo ground truth", cheap=True)
    by_id = instances_of(store)
    write_instances(context.out / "pseudo_gt" / "train.json", context.train, by_id)
    _log(context, by_id)
    return store


def _log(context: RunContext, by_id: Mapping[str, Instances]) -> None:
    """Log how much is believed and how much ignored, and the classes that have a tag and no box at all."""
    believed = {image_id: boxes.without_crowd() for image_id, boxes in by_id.items()}
    num_boxes = sum(map(len, believed.values()))
    num_empty = sum(len(boxes) == 0 for boxes in believed.values())
    counts = {"boxes": num_boxes, "images": len(by_id), "images_without_box": num_empty}
    num_ignored = sum(map(len, by_id.values())) - num_boxes
    if num_ignored:
        only = sum(len(boxes) > 0 and len(believed[image_id]) == 0 for image_id, boxes in by_id.items())
        counts |= {"ignored": num_ignored, "images_with_ignored_alone": only}
    context.log.write("pseudo_gt", **counts)
    tagged = {label for sample in context.train for label in sample.tags}
    lost = tagged - {label for boxes in believed.values() for label in boxes.labels.tolist()}
    if lost:
        names = listed([context.train.classes[label] for label in sorted(lost)])
        context.log.write("pseudo_gt", classes_without_box=names)
        say(f"pseudo_gt: tagged classes without any box, which the detector will not learn: {names}", error=True)


def _marks(boxes: Instances) -> Tensor:
    """Bool ``(N,)``: which boxes are to be ignored."""
    return torch.zeros(len(boxes), dtype=torch.bool) if boxes.crowd is None else boxes.crowd


def _fingerprint(detections: Store | Mapping[str, Instances]) -> str:
    """Of a store its own, of instances one over boxes, labels, scores and, where there are some, marks."""
    if isinstance(detections, Store):
        return detections.fingerprint
    rows = {
        image_id: [of_image.boxes.tolist(), of_image.labels.tolist(), scores_of(of_image).tolist()]
        + ([] if of_image.crowd is None else [of_image.crowd.tolist()])
        for image_id, of_image in detections.items()
    }
    return fingerprint_of(rows)
