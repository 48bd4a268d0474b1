"""Correct localisation (CorLoc) on tagged training images, and the naive baselines to hold it against."""

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
    for one in detections.values():
        require_scores(one)
    check_images(detections, truths, "detections")
    check_labels(detections, num_classes, "detections")

    def hit(image_id: str, label: int) -> float:
        mine = _of_class(detections.get(image_id, Instances.empty()), label)
        if len(mine) == 0:
            return 0.0
        best = mine[require_scores(mine).argsort(descending=True, stable=True)[:1]]
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
        true = _of_class(truths[image_id], label)
        if len(boxes) == 0 or len(true) == 0:
            return 0.0
        return float((overlaps(_unlabelled(boxes), true) >= iou).any(dim=1).double().mean())

    name = "expected CorLoc of a random proposal"
    return _over_tagged_images(hit, truths, tags, num_classes, iou, name, "one proposal at random per tag")


def largest_proposal_detections(proposals: Mapping[str, Tensor], tags: Tags) -> dict[str, Instances]:
    """For each tag of an image its largest proposal, score 1: the baseline that finds big objects.

    ``proposals``: xyxy boxes ``(P, 4)`` by image id; an image without proposals gets no detection.
    """
    found = {}
    for image_id, labels in tags.items():
        boxes = proposals.get(image_id, torch.zeros(0, 4))
        found[image_id] = _one_box_per_tag(boxes[area(boxes).argmax()], labels) if len(boxes) else Instances.empty()
    return found


def whole_image_detections(sizes: Mapping[str, tuple[int, int]], tags: Tags) -> dict[str, Instances]:
    """For each tag the whole image as its box, score 1; ``sizes`` holds (height, width) by image id."""
    return {
        image_id: _one_box_per_tag(torch.tensor([0.0, 0.0, sizes[image_id][1], sizes[image_id][0]]), labels)
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


def _one_box_per_tag(box: Tensor, labels: Sequence[int]) -> Instances:
    wanted = torch.tensor(sorted(set(labels)), dtype=torch.int64)
    return Instances(box.float().expand(len(wanted), 4).clone(), wanted, scores=torch.ones(len(wanted)))
