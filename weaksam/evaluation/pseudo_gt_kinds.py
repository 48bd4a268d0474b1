"""Sort pseudo boxes and true objects into kinds: right, or how a box is wrong; found or missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from weaksam.evaluation.matching import exact_boxes, ignored_truths, overlaps
from weaksam.structures.boxes import pairwise_ioa
from weaksam.structures.instances import Instances

BoxKind = Literal["right", "duplicate", "wrong_class", "group", "part", "wrong_place", "ignored"]
BOX_KINDS: tuple[BoxKind, ...] = get_args(BoxKind)
"""Kinds of pseudo boxes, in the order in which they are decided but for ``ignored``; see `sort_boxes`."""
ObjectKind = Literal["found", "missed", "ignored"]
OBJECT_KINDS: tuple[ObjectKind, ...] = get_args(ObjectKind)
"""Kinds of true objects: found by a right box, missed, or ignored (difficult or crowd)."""
INSIDE = 0.75
"""Share of a shape's area from which on it lies inside another: of a part in its object, of objects in a group."""


@dataclass(frozen=True)
class SortedBoxes:
    """The kinds of one photo's N boxes and T objects, and the object ``(N,)`` of its class that each box overlaps most.

    ``met``: int64, -1 for a box that meets no object of its class.
    """

    boxes: tuple[BoxKind, ...]
    objects: tuple[ObjectKind, ...]
    met: Tensor


def sort_boxes(truth: Instances, boxes: Instances, iou: float = 0.5) -> SortedBoxes:
    """Sort every pseudo box and every true object of one photo into exactly one kind; best-scored boxes go first.

    A box that overlaps the object of its class nearest to it by ``iou`` or more is *ignored* where that object is
    difficult or a crowd, *right* where no better one took the object, else a *duplicate*. Any other box is of the first
    kind that fits: *wrong_class* (it overlaps an object of another class by ``iou`` or more), *group* (at least two
    objects of its class lie in it by `INSIDE` of their area), *part* (it lies in an object of its class by `INSIDE` of
    its area), *wrong_place* (all else: beside, loosely around or far from the objects of its class).
    """
    if len(boxes) == 0 or len(truth) == 0:
        objects = _object_kinds(truth, set())
        return SortedBoxes(("wrong_place",) * len(boxes), objects, torch.full((len(boxes),), -1))
    overlap = overlaps(boxes, truth)  # (N, T)
    same = boxes.labels[:, None] == truth.labels
    own, nearest = overlap.masked_fill(~same, 0).max(dim=1)
    wrong = _wrong_kinds(truth, boxes, same, overlap.masked_fill(same, 0).amax(dim=1) >= iou)
    ignored = ignored_truths(truth).tolist()
    taken: set[int] = set()
    kinds: list[BoxKind] = list(wrong)
    scores = torch.ones(len(boxes)) if boxes.scores is None else boxes.scores
    for row in scores.argsort(descending=True, stable=True).tolist():
        index = int(nearest[row])
        if own[row] >= iou:
            kinds[row] = "ignored" if ignored[index] else "duplicate" if index in taken else "right"
            taken.add(index)
    return SortedBoxes(tuple(kinds), _object_kinds(truth, taken), torch.where(own > 0, nearest, -1))


def _wrong_kinds(truth: Instances, boxes: Instances, same: Tensor, fits_other: Tensor) -> list[BoxKind]:
    """The kind of each box ``(N,)`` if it is wrong; ``same`` (N, T) objects of its class, ``fits_other`` (N,)."""
    exact, exact_truth = exact_boxes(boxes.boxes), exact_boxes(truth.boxes)
    holds = (pairwise_ioa(exact_truth, exact).T >= INSIDE) & same  # (N, T): the object lies in the box
    is_group = holds.sum(dim=1) >= 2
    is_part = ((pairwise_ioa(exact, exact_truth) >= INSIDE) & same).any(dim=1)
    columns = zip(fits_other.tolist(), is_group.tolist(), is_part.tolist(), strict=True)
    return [
        "wrong_class" if other else "group" if group else "part" if part else "wrong_place"
        for other, group, part in columns
    ]


def _object_kinds(truth: Instances, taken: set[int]) -> tuple[ObjectKind, ...]:
    """The kind of each object, of which those numbered in ``taken`` were found."""
    return tuple(
        "ignored" if is_ignored else "found" if number in taken else "missed"
        for number, is_ignored in enumerate(ignored_truths(truth).tolist())
    )


@dataclass(frozen=True)
class KindCounts:
    """Number of boxes and objects of each kind by label, at the IoU from which a box is on an object.

    ``boxes`` and ``objects`` map each kind to ``num_classes`` counts; a box counts for its own class.
    """

    boxes: Mapping[BoxKind, tuple[int, ...]]
    objects: Mapping[ObjectKind, tuple[int, ...]]
    iou: float

    @property
    def rules(self) -> str:
        """What the kinds mean, in words."""
        return (
            f"at IoU {self.iou:g}, best score first: right, duplicate (on an object that has a better box), wrong "
            f"class (fits an object of another class), group ({INSIDE:.0%} of two or more objects of its class lie in "
            f"it), part ({INSIDE:.0%} of it lie in an object of its class), wrong place (all else); ignored: difficult "
            "or crowd"
        )

    def total(self, kind: BoxKind) -> int:
        """Boxes of one kind, all classes together."""
        return sum(self.boxes[kind])

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON can hold them: totals by kind, and per class."""
        per_class = {name: list(counts) for name, counts in self.boxes.items()}
        of_objects = {name: list(counts) for name, counts in self.objects.items()}
        return {
            "boxes": {name: sum(counts) for name, counts in self.boxes.items()},
            "objects": {name: sum(counts) for name, counts in self.objects.items()},
            "boxes_per_class": per_class,
            "objects_per_class": of_objects,
            "rules": self.rules,
        }


def count_kinds(
    truths: Mapping[str, Instances], pseudo_gt: Mapping[str, Instances], num_classes: int, iou: float = 0.5
) -> KindCounts:
    """The kinds of all pseudo boxes and true objects of the photos that ``truths`` names; a photo may have none.

    Pseudo boxes marked ``crowd`` are left out: they teach nothing.
    """
    boxes: dict[BoxKind, list[int]] = {kind: [0] * num_classes for kind in BOX_KINDS}
    objects: dict[ObjectKind, list[int]] = {kind: [0] * num_classes for kind in OBJECT_KINDS}
    for image_id, truth in truths.items():
        of_photo = pseudo_gt.get(image_id, Instances.empty()).without_crowd()
        kinds = sort_boxes(truth, of_photo, iou)
        for box_kind, label in zip(kinds.boxes, of_photo.labels.tolist(), strict=True):
            boxes[box_kind][label] += 1
        for object_kind, label in zip(kinds.objects, truth.labels.tolist(), strict=True):
            objects[object_kind][label] += 1
    return KindCounts(
        {kind: tuple(counts) for kind, counts in boxes.items()},
        {kind: tuple(counts) for kind, counts in objects.items()},
        iou,
    )
