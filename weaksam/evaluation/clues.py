"""How good clue points are: the pointing game, points per object, and the share of objects that have a point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weaksam.evaluation.matching import ignored_truths
from weaksam.evaluation.protocol import Protocol, check_images, check_labels, json_number
from weaksam.structures.instances import Instances


class PointSet(NamedTuple):
    """Points of one image: ``points (P, 2)`` xy, ``labels (P,)`` (-1: of no class), ``heights (P,)`` of their peaks."""

    points: Tensor
    labels: Tensor
    heights: Tensor


@dataclass(frozen=True)
class ClueResult:
    """What points say about objects; every share is in [0, 1] and nan where there is nothing to divide by.

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
        found = {**shares, "points_per_object": json_number(self.points_per_object), **counts}
        found |= {"protocol": str(self.protocol)}
        return found | ({"per_class": [one.as_dict() for one in self.per_class]} if self.per_class else {})


@dataclass
class _Counts:
    """Sums over images; ``add`` takes the points and objects of one."""

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


def clue_quality(truths: Mapping[str, Instances], points: Mapping[str, PointSet], num_classes: int) -> ClueResult:
    """Measure the ``points`` of images against their true objects; an image without points has none.

    A point is right inside any true box of its class, which holds its left and top edge and not the others; a point of
    no class (-1) inside any true box. Difficult objects and crowds can make a point right, and are not asked for.
    """
    check_images(points, truths, "clue points")
    check_labels(truths, num_classes, "true objects")
    total, per_class = _Counts(), [_Counts() for _ in range(num_classes)]
    none = PointSet(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    for image_id, true in truths.items():
        mine = points.get(image_id, none)
        fits = _inside(mine.points, true.boxes)  # (P, N)
        fits &= (mine.labels[:, None] == true.labels) | (mine.labels[:, None] < 0)
        tops, asked = _tops(mine), ~ignored_truths(true)
        total.add(fits.any(dim=1), tops, fits.any(dim=0)[asked])
        for label, counts in enumerate(per_class):
            own = mine.labels == label
            wanted = asked & (true.labels == label)
            counts.add(fits[own].any(dim=1), tops[own], fits[own][:, wanted].any(dim=0))
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


def _tops(mine: PointSet) -> Tensor:
    """Which points ``(P,)`` are the highest of their class, the first of equals; a point of no class never is."""
    tops = torch.zeros(len(mine.labels), dtype=torch.bool)
    for label in mine.labels[mine.labels >= 0].unique():
        heights = torch.where(mine.labels == label, mine.heights, -math.inf)
        tops[heights.argmax()] = True
    return tops
