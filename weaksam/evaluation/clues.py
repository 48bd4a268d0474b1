"""Measure clue points: the pointing game, points per object, and the share of objects that have a point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.evaluation.matching import ignored_truths
from weaksam.evaluation.protocol import Protocol, check_images, check_labels, json_number
from weaksam.structures.clue_points import CluePeaks
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class ClueResult:
    """Figures of clue points; every share is in [0, 1] and nan where there is nothing to divide by.

    inside: share of points in a true box of their class. top_inside: the same of the highest point of every class of
    every image. hit: share of objects with a point of their class inside. num_points, num_objects: what was counted.
    per_class: the same for the points and objects of each class alone; a point of no class belongs to none of them.
    """

    inside: float
    top_inside: float
    hit: float
    num_points: int
    num_objects: int
    protocol: Protocol
    per_class: tuple[ClueResult, ...] = ()

    @property
    def points_per_object(self) -> float:
        """Points for each object."""
        return self.num_points / self.num_objects if self.num_objects else math.nan

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        shares = {name: json_number(getattr(self, name)) for name in ("inside", "top_inside", "hit")}
        counts = {"num_points": self.num_points, "num_objects": self.num_objects}
        figures = {**shares, "points_per_object": json_number(self.points_per_object), **counts}
        figures |= {"protocol": str(self.protocol)}
        return figures | ({"per_class": [result.as_dict() for result in self.per_class]} if self.per_class else {})


@dataclass
class _Counts:
    """Counts summed over images; ``add`` takes the points and the objects of one image."""

    points: int = 0
    inside: int = 0
    tops: int = 0
    tops_inside: int = 0
    objects: int = 0
    hit: int = 0

    def add(self, inside: Tensor, tops: Tensor, hit: Tensor) -> None:
        self.points, self.inside = self.points + len(inside), self.inside + int(inside.sum())
        self.tops, self.tops_inside = self.tops + int(tops.sum()), self.tops_inside + int((inside & tops).sum())
        self.objects, self.hit = self.objects + len(hit), self.hit + int(hit.sum())

    def result(self, protocol: Protocol, per_class: tuple[ClueResult, ...] = ()) -> ClueResult:
        def share(part: int, whole: int) -> float:
            return part / whole if whole else math.nan

        shares = share(self.inside, self.points), share(self.tops_inside, self.tops), share(self.hit, self.objects)
        return ClueResult(*shares, self.points, self.objects, protocol, per_class)


def clue_quality(truths: Mapping[str, Instances], peaks: Mapping[str, CluePeaks], num_classes: int) -> ClueResult:
    """Measure the clue points of images against their true objects; an image that ``peaks`` lacks has none.

    A point is right inside any true box of its class, which holds its left and top edge and not the others; a point of
    no class (-1) inside any true box. Difficult objects and crowds can make a point right, and are not asked for.
    """
    check_images(peaks, truths, "clue points")
    check_labels(truths, num_classes, "true objects")
    total, per_class = _Counts(), [_Counts() for _ in range(num_classes)]
    for image_id, truth in truths.items():
        image_peaks = peaks.get(image_id, CluePeaks.none())
        is_right = _inside(image_peaks.points, truth.boxes)  # (P, N)
        is_right &= (image_peaks.labels[:, None] == truth.labels) | (image_peaks.labels[:, None] < 0)
        is_top, is_counted = _highest_of_class(image_peaks), ~ignored_truths(truth)
        total.add(is_right.any(dim=1), is_top, is_right.any(dim=0)[is_counted])
        for label, counts in enumerate(per_class):
            of_class = image_peaks.labels == label
            objects = is_counted & (truth.labels == label)
            counts.add(is_right[of_class].any(dim=1), is_top[of_class], is_right[of_class][:, objects].any(dim=0))
    protocol = Protocol(
        "clue points",
        "a point is right inside any true box of its class (of no class: of any)",
        "difficult objects and crowds are not asked for",
        "all points together, all objects together",
        "every point; top: the highest of a class in an image",
        len(truths),
    )
    return total.result(protocol, tuple(counts.result(protocol) for counts in per_class))


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether each of ``points`` (P, 2) lies in each of the half-open ``boxes`` (N, 4): ``(P, N)``."""
    x, y = points[:, :1], points[:, 1:]
    return (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])


def _highest_of_class(peaks: CluePeaks) -> Tensor:
    """Which peaks, bool ``(P,)``, are the highest of their class, the first of equals; one of no class never is."""
    is_highest = torch.zeros(len(peaks.labels), dtype=torch.bool)
    for label in peaks.labels[peaks.labels >= 0].unique():
        heights = torch.where(peaks.labels == label, peaks.heights, -math.inf)
        is_highest[heights.argmax()] = True
    return is_highest
