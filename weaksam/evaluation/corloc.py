"""Measure CorLoc, correct localisation on tagged images, and the naive baselines to hold it against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.evaluation.matching import overlaps
from weaksam.evaluation.protocol import (
    Geometry,
    Protocol,
    check_images,
    check_iou,
    check_labels,
    json_number,
    mean_over_classes,
    require_scores,
)
from weaksam.evaluation.truth import Truth
from weaksam.structures.boxes import area
from weaksam.structures.instances import Instances

Tags = Mapping[str, Sequence[int]]
"""image_id -> the 0-based classes that are in the image."""


@dataclass(frozen=True)
class CorLocResult:
    """Share of correctly localised images per class (nan for a class no image is tagged with), and how many there are.

    corloc: ``num_classes`` values in [0, 1]. num_images: images tagged with each class.
    """

    corloc: tuple[float, ...]
    num_images: tuple[int, ...]
    protocol: Protocol

    def mean(self) -> float:
        """Mean over the classes that some image is tagged with, in [0, 1]; nan where there is no tag."""
        return mean_over_classes(self.corloc)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        return {
            "mean": json_number(self.mean()),
            "per_class": [json_number(value) for value in self.corloc],
            "num_images": list(self.num_images),
            "protocol": str(self.protocol),
        }

    def __str__(self) -> str:
        return f"CorLoc {self.mean():.3f} ({self.protocol})"


def corloc_and_baselines(
    truth: Truth, detections: Mapping[str, Instances], proposals: Mapping[str, Tensor] | None = None
) -> dict[str, CorLocResult]:
    """``corloc`` of detections and, with ``proposals``, of three naive baselines that know no class.

    ``corloc_largest``: the largest proposal for every tag; ``corloc_whole``: the whole image; ``corloc_random``: what a
    random proposal is expected to reach. ``proposals``: xyxy boxes ``(P, 4)`` by image id. Images without a truth take
    no part.
    """
    known, tags, num_classes = truth.instances, truth.tags, truth.num_classes
    results = {"corloc": corloc(known, truth.only(detections), tags, num_classes)}
    if proposals is None:
        return results
    boxes = truth.only(proposals)
    largest, whole = largest_proposal_detections(boxes, tags), whole_image_detections(truth.sizes, tags)
    return {
        **results,
        "corloc_largest": corloc(known, largest, tags, num_classes),
        "corloc_whole": corloc(known, whole, tags, num_classes),
        "corloc_random": random_proposal_corloc(known, boxes, tags, num_classes),
    }


def corloc(
    truths: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    tags: Tags,
    num_classes: int,
    *,
    iou: float = 0.5,
    geometry: Geometry = "boxes",
) -> CorLocResult:
    """Share of the images tagged c whose best-scored detection of c overlaps a true c by ``iou`` or more.

    Deselaers, Alexe, Ferrari (IJCV 2012). A tagged image without a detection of c is a miss, and so is one whose truth
    holds no c; a hit on a difficult object counts. The first of equal scores is the best.
    """
    for image_detections in detections.values():
        require_scores(image_detections)
    check_images(detections, truths, "detections")
    check_labels(detections, num_classes, "detections")

    def hit(image_id: str, label: int) -> float:
        of_class = _of_class(detections.get(image_id, Instances.empty(scored=True)), label)
        if len(of_class) == 0:
            return 0.0
        best = of_class[require_scores(of_class).argsort(descending=True, stable=True)[:1]]
        return float((overlaps(best, _of_class(truths[image_id], label), geometry) >= iou).any())

    return _over_tagged_images(hit, truths, tags, num_classes, iou, f"CorLoc of {geometry}", "best-scored box per tag")


def random_proposal_corloc(
    truths: Mapping[str, Instances],
    proposals: Mapping[str, Tensor],
    tags: Tags,
    num_classes: int,
    *,
    iou: float = 0.5,
) -> CorLocResult:
    """The CorLoc to be expected from one proposal drawn at random per tag: exact, so that it needs no seed.

    ``proposals``: xyxy boxes ``(P, 4)`` by image id; an image without proposals is a miss.
    """
    check_images(proposals, truths, "proposals")

    def hit(image_id: str, label: int) -> float:
        boxes = proposals.get(image_id, torch.zeros(0, 4))
        objects = _of_class(truths[image_id], label)
        if len(boxes) == 0 or len(objects) == 0:
            return 0.0
        return float((overlaps(_unlabelled(boxes), objects) >= iou).any(dim=1).double().mean())

    name = "expected CorLoc of a random proposal"
    return _over_tagged_images(hit, truths, tags, num_classes, iou, name, "one proposal at random per tag")


def largest_proposal_detections(proposals: Mapping[str, Tensor], tags: Tags) -> dict[str, Instances]:
    """For each tag of an image its largest proposal, score 1: the baseline that finds big objects.

    ``proposals``: xyxy boxes ``(P, 4)`` by image id; an image without proposals gets no detection.
    """
    detections = {}
    for image_id, labels in tags.items():
        boxes = proposals.get(image_id, torch.zeros(0, 4))
        largest = boxes[area(boxes).argmax()] if len(boxes) else None
        detections[image_id] = Instances.empty(scored=True) if largest is None else _box_for_every_tag(largest, labels)
    return detections


def whole_image_detections(sizes: Mapping[str, tuple[int, int]], tags: Tags) -> dict[str, Instances]:
    """For each tag the whole image as its box, score 1; ``sizes`` holds (height, width) by image id."""
    return {
        image_id: _box_for_every_tag(torch.tensor([0.0, 0.0, sizes[image_id][1], sizes[image_id][0]]), labels)
        for image_id, labels in tags.items()
    }


def _over_tagged_images(
    hit: Callable[[str, int], float],
    truths: Mapping[str, Instances],
    tags: Tags,
    num_classes: int,
    iou: float,
    metric: str,
    detections: str,
) -> CorLocResult:
    """Mean of ``hit(image_id, label)`` per class over the images tagged with it."""
    check_iou(iou)
    check_images(tags, truths, "tags")
    check_labels(truths, num_classes, "true objects")
    hits: list[list[float]] = [[] for _ in range(num_classes)]
    for image_id in sorted(set(tags) & set(truths)):
        for label in sorted(set(tags[image_id])):
            if not 0 <= label < num_classes:
                raise UserError(
                    f"tags must lie in 0..{num_classes - 1}, found {label} at {image_id}: map names to indices"
                )
            hits[label].append(hit(image_id, label))
    return CorLocResult(
        corloc=tuple(math.fsum(values) / len(values) if values else math.nan for values in hits),
        num_images=tuple(len(values) for values in hits),
        protocol=Protocol(
            metric=metric,
            matching=f"a hit is IoU >= {iou:g} with any true box of the class",
            difficult="difficult objects count",
            average="mean over tagged images, then over classes",
            detections=detections,
            num_images=len(set(tags) & set(truths)),
        ),
    )


def _of_class(instances: Instances, label: int) -> Instances:
    return instances[instances.labels == label]


def _unlabelled(boxes: Tensor) -> Instances:
    return Instances(boxes.float(), torch.zeros(len(boxes), dtype=torch.int64))


def _box_for_every_tag(box: Tensor, labels: Sequence[int]) -> Instances:
    classes = torch.tensor(sorted(set(labels)), dtype=torch.int64)
    return Instances(box.float().expand(len(classes), 4).clone(), classes, scores=torch.ones(len(classes)))
