"""Say where in the training photos an object may be that no pseudo box holds, and where a reviewer saw none."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from weaksam.config import UserError, fingerprint_of
from weaksam.data.detection_stores import instances_key
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.batches import PhotoRegions
from weaksam.engine.detectors.result import DetectorResult
from weaksam.models.detectors.negatives import NegativeSettings
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

_SAME_IOU = 0.5
"""IoU with a pseudo box of its class from which on a detection is that object."""


def doubtful_regions(
    context: RunContext,
    settings: NegativeSettings,
    pseudo_gt: Mapping[str, Instances],
    weak_detector: DetectorResult | None,
    label: str,
) -> tuple[PhotoRegions, dict[str, str]]:
    """What a training with these ``settings`` reads of the weak detector and of a review; both may be empty.

    As regions by name with their fingerprints: ``doubtful`` ones, and those that a reviewer ``rejected``, which the
    rule ``all`` does not need, for to it they are background as they are. Photos that are labelled completely are
    ``complete`` among the fingerprints. The log says how many regions of how many
    photos are doubtful. Raises:
        UserError: the rule wants a weak detector and there is none.
    """
    regions: dict[str, Mapping[str, Instances]] = {}
    if context.rejected and settings.rule != "all":
        regions["rejected"] = context.rejected
    if settings.rule == "detections":
        regions["doubtful"] = _doubtful(context, settings, pseudo_gt, weak_detector, label)
    inputs = {name: fingerprint_of(instances_key(of_photos)) for name, of_photos in regions.items()}
    if context.complete:
        inputs["complete"] = fingerprint_of(context.complete)
    return regions, inputs


def _doubtful(
    context: RunContext,
    settings: NegativeSettings,
    pseudo_gt: Mapping[str, Instances],
    weak_detector: DetectorResult | None,
    label: str,
) -> dict[str, Instances]:
    """`doubtful_detections` of the training photos, with a line in the log."""
    if weak_detector is None:
        raise UserError(
            f"{label}.negatives.rule=detections wants the weak detector's detections, found no weak detector: take "
            f"{label}.negatives.rule=tags"
        )
    detections = weak_detector.detections("train")
    doubtful = doubtful_detections(detections, pseudo_gt, context.train, settings.min_score)
    num_photos = sum(len(of_photo) > 0 for of_photo in doubtful.values())
    num_regions = sum(map(len, doubtful.values()))
    context.log.write("doubtful regions", stage=label, photos=num_photos, regions=num_regions)
    return doubtful


def doubtful_detections(
    detections: Mapping[str, Instances], pseudo_gt: Mapping[str, Instances], dataset: Dataset, min_score: float
) -> dict[str, Instances]:
    """Detections of tagged classes with at least ``min_score`` that no pseudo box of their class holds, by image id.

    A pseudo box holds those that it overlaps by an IoU of 0.5 or more; pseudo boxes that are ignored hold none. Every
    photo of ``dataset`` is there; one without a tag or a detection has none.
    """
    nothing = Instances.empty(scored=True)
    doubtful = {}
    for sample in dataset:
        of_photo = detections.get(sample.image_id, nothing)
        assert of_photo.scores is not None, "detections have scores"
        tagged = torch.isin(of_photo.labels, torch.tensor(sample.tags, dtype=torch.int64))
        candidates = of_photo[tagged & (of_photo.scores >= min_score)]
        boxes = pseudo_gt.get(sample.image_id, Instances.empty()).without_crowd()
        same = candidates.labels[:, None] == boxes.labels
        held = (same & (pairwise_iou(candidates.boxes, boxes.boxes) >= _SAME_IOU)).any(dim=1)
        doubtful[sample.image_id] = candidates[~held]
    return doubtful
