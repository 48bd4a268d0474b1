"""Describe the conditions of a measurement, filter detections, and check what is compared."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.structures.boxes import batched_nms
from weaksam.structures.instances import Instances
from weaksam.structures.mask_boundaries import BOUNDARY_RATIO
from weaksam.structures.masks import Rle

Geometry = Literal["boxes", "masks", "boundaries"]
"""What is compared: the boxes of the instances, their masks, or masks and boundaries (the smaller of both IoUs)."""
BOUNDARIES = f"boundaries within {BOUNDARY_RATIO:.0%} of the photo's diagonal, the smaller of mask and boundary IoU"
"""How boundaries are compared, for the protocol."""
PAINTED_MIN_SCORE = 0.5
"""Score from which a detection is painted into a map of an image (mIoU, PQ)."""
AP_IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""The thresholds over which AP (.5:.95) is the mean."""


@dataclass(frozen=True)
class DetectionFilter:
    """How detections are thinned before they are scored; the default keeps all of them.

    min_score: detections with a lower score are dropped.
    nms_iou: greedy suppression within each class above this IoU of the boxes, in (0, 1]; None for none.
    max_per_image: the best-scored detections of an image that are kept, all classes together; None for all.
    Passing detections through the same filter twice changes nothing, so a detector's own filter may be named here.
    Raises `UserError` for an IoU outside (0, 1].
    """

    min_score: float | None = None
    nms_iou: float | None = None
    max_per_image: int | None = None

    def __post_init__(self) -> None:
        if self.nms_iou is not None:
            check_iou(self.nms_iou)

    def __str__(self) -> str:
        nms = "no further NMS" if self.nms_iou is None else f"NMS at IoU {self.nms_iou:g} per class"
        cap = "all boxes of an image" if self.max_per_image is None else f"at most {self.max_per_image} boxes per image"
        floor = "" if self.min_score is None else f", scores of at least {self.min_score:g}"
        return f"{nms}, {cap}{floor}"


@dataclass(frozen=True)
class Protocol:
    """The conditions of one measurement, in words; ``str`` gives the line that is printed beside the figure."""

    metric: str
    matching: str
    difficult: str
    average: str
    detections: str
    num_images: int

    def __str__(self) -> str:
        conditions = [getattr(self, field.name) for field in fields(self) if field.name not in ("metric", "num_images")]
        return f"{self.metric}: {'; '.join(part for part in conditions if part)}; {self.num_images} images"


def keep_detections(detections: Instances, keep: DetectionFilter) -> Instances:
    """The detections of one image that pass ``keep``, in their given order; no detections give none."""
    if keep == DetectionFilter() or len(detections) == 0:
        return detections
    scores = require_scores(detections)
    if keep.min_score is not None:
        detections = detections[scores >= keep.min_score]
    if keep.nms_iou is not None and len(detections):
        chosen = batched_nms(detections.boxes, require_scores(detections), detections.labels, keep.nms_iou)
        detections = detections[chosen.sort().values]
    if keep.max_per_image is not None and len(detections) > keep.max_per_image:
        order = require_scores(detections).argsort(descending=True, stable=True)
        detections = detections[order[: keep.max_per_image].sort().values]
    return detections


def require_scores(detections: Instances) -> Tensor:
    """The scores ``(N,)`` of detections; UserError where they have none, and no rows are no scores."""
    if detections.scores is None and len(detections) == 0:
        return torch.zeros(0)
    if detections.scores is None:
        raise UserError(
            "detections need a score each to be ranked, found instances without scores: "
            "give the detector's output, not a ground truth"
        )
    return detections.scores


def require_masks(instances: Instances, what: str) -> tuple[Rle, ...]:
    """The masks of instances; UserError where they have none, and no rows are no masks."""
    if instances.masks is None and len(instances):
        raise UserError(f"masks can only be compared where {what} have them, found boxes alone: compare boxes instead")
    return instances.masks or ()


def mask_size(*parts: Sequence[Rle]) -> tuple[int, int] | None:
    """The one size (H, W) of all masks of an image, None where there is none; UserError where there are several."""
    sizes = sorted({(int(rle["size"][0]), int(rle["size"][1])) for part in parts for rle in part})
    if len(sizes) > 1:
        (height, width), (other_height, other_width), *_ = sizes
        raise UserError(
            f"wanted all masks of an image in its own size, found {width} x {height} and {other_width} x "
            f"{other_height} pixels: give masks of the same photos"
        )
    return sizes[0] if sizes else None


def check_images(image_ids: Collection[str], evaluated: Collection[str], what: str) -> None:
    """UserError where ``what`` belong to images, ``image_ids``, none of which is ``evaluated``.

    Images that are not evaluated take no part, and an evaluated one may be missing: nothing was made of it.
    """
    if image_ids and not set(image_ids) & set(evaluated):
        raise UserError(
            f"{what} must belong to the {len(evaluated)} images with a truth, found {len(image_ids)} others "
            f"(first: {min(image_ids)}): evaluate on the split they were made for"
        )


def image_order(image_ids: Iterable[str]) -> list[str]:
    """Image ids with their numbers in counting order ("9.jpg" before "10.jpg"), which decides between equal scores.

    It is the order of COCO's image numbers, so that tied scores rank here as they do in pycocotools.
    """
    return sorted(image_ids, key=lambda image_id: (_text_and_numbers(image_id), image_id))


def check_iou(iou: float) -> None:
    """UserError where a matching threshold is not in (0, 1]."""
    if not 0 < iou <= 1:
        raise UserError(f"an IoU threshold must lie in (0, 1], found {iou}: give a share such as 0.5")


def check_labels(instances: Mapping[str, Instances], num_classes: int, what: str) -> None:
    """UserError where a label lies outside ``0 .. num_classes - 1``."""
    for image_id, image_instances in instances.items():
        labels = image_instances.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise UserError(
                f"{what} must have labels in 0..{num_classes - 1}, found others in image {image_id}: "
                "map the dataset's category ids to class indices first"
            )


def mean_over_classes(values: Sequence[float]) -> float:
    """Mean of the values that are not nan (a nan marks a class without a true object); nan where none is left."""
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def json_number(value: float) -> float | None:
    """The value as JSON can hold it: nan becomes null."""
    return None if math.isnan(value) else float(value)


def _text_and_numbers(image_id: str) -> list[str | int]:
    """Text and whole numbers in turn, text first, so that two ids compare piece by piece."""
    pieces = re.split("([0-9]+)", image_id)
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)]
