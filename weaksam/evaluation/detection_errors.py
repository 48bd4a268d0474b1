"""Sort detections into right ones and kinds of errors, and count the kinds and the missed objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from weaksam.evaluation.matching import ignored_truths, overlaps
from weaksam.evaluation.protocol import check_iou, require_scores
from weaksam.evaluation.pseudo_gt_kinds import INSIDE, sort_boxes
from weaksam.structures.instances import Instances

ErrorKind = Literal["right", "localisation", "part", "group", "class", "background", "duplicate", "ignored"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
"""What a detection may be, see `error_kinds`."""
NEAR = 0.1
"""IoU from which on a wrong box is near an object rather than on background (Hoiem et al. 2012)."""
_OF_KIND: Mapping[str, ErrorKind] = {
    "right": "right",
    "duplicate": "duplicate",
    "wrong_class": "class",
    "group": "group",
    "part": "part",
    "ignored": "ignored",
}
"""The kinds of `sort_boxes` that are kinds of errors as they are."""


@dataclass(frozen=True)
class PhotoErrors:
    """The kinds of one photo's N detections, in their order, and bool ``missed (T,)``: the objects that none found.

    An object that is difficult or a crowd is never missed.
    """

    kinds: tuple[ErrorKind, ...]
    missed: Tensor


def error_kinds(truth: Instances, detections: Instances, iou: float = 0.5) -> PhotoErrors:
    """Sort every detection of one photo into exactly one kind; best-scored ones take objects first.

    As `sort_boxes` sorts: *right*, *duplicate*, *ignored* (on a difficult object or a crowd), *class* (it overlaps an
    object of another class by ``iou``), *group* (two or more objects of its class lie in it by `INSIDE` of their area),
    *part* (it lies in an object of its class by `INSIDE` of its area). Of the rest it is *localisation* where it
    overlaps an object of its class by `NEAR`, *class* where it so overlaps one of another class, else *background*.
    No detection has no kind; without objects every detection is background.
    """
    check_iou(iou)
    sorted_boxes = sort_boxes(truth, detections, iou)
    overlap = overlaps(detections, truth)  # (N, T)
    same = detections.labels[:, None] == truth.labels
    near_own = ((overlap >= NEAR) & same).any(dim=1).tolist()
    near_other = ((overlap >= NEAR) & ~same).any(dim=1).tolist()
    kinds: list[ErrorKind] = []
    for row, kind in enumerate(sorted_boxes.boxes):
        if kind != "wrong_place":
            kinds.append(_OF_KIND[kind])
        else:
            kinds.append("localisation" if near_own[row] else "class" if near_other[row] else "background")
    missed = torch.tensor([kind == "missed" for kind in sorted_boxes.objects], dtype=torch.bool)
    return PhotoErrors(tuple(kinds), missed)


@dataclass(frozen=True)
class ErrorCounts:
    """Detections of each kind by label, counted at a class's best-scored ones, and missed objects by label.

    A class counts as many detections as it has objects in all photos (Hoiem et al., Diagnosing Error in Object
    Detectors, ECCV 2012), so that classes and detectors compare whatever their scores. ``counts``: kind to
    ``num_classes`` numbers.
    """

    counts: Mapping[ErrorKind, tuple[int, ...]]
    missed: tuple[int, ...]
    num_truths: tuple[int, ...]
    iou: float

    @property
    def rules(self) -> str:
        """What was counted and what the kinds mean, in words."""
        return (
            f"of each class its best-scored detections, as many as it has objects (Hoiem et al. 2012); at IoU "
            f"{self.iou:g}, best score first: right; duplicate (the object has a better-scored one); class (on an "
            f"object of another class, or near it by IoU {NEAR:g} and near none of its own); group ({INSIDE:.0%} of "
            f"two or more objects of its class lie in it); part ({INSIDE:.0%} of it lie in an object of its class); "
            f"localisation (IoU {NEAR:g} or more with an object of its class); background (all else); missed: objects "
            "that no counted detection found; ignored: on a difficult object or a crowd"
        )

    def total(self, kind: ErrorKind) -> int:
        """Detections of one kind, all classes together."""
        return sum(self.counts[kind])

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return {
            "kinds": {kind: sum(values) for kind, values in self.counts.items()},
            "missed": sum(self.missed),
            "num_truths": sum(self.num_truths),
            "kinds_per_class": {kind: list(values) for kind, values in self.counts.items()},
            "missed_per_class": list(self.missed),
            "num_truths_per_class": list(self.num_truths),
            "rules": self.rules,
        }


def count_errors(
    truths: Mapping[str, Instances], detections: Mapping[str, Instances], num_classes: int, iou: float = 0.5
) -> ErrorCounts:
    """Count the kinds over the photos that ``truths`` names; a photo may have no detection, a class no object.

    Raises `UserError` for detections without scores.
    """
    num_truths = _per_class(truths, num_classes)
    counted = _best_of_each_class(truths, detections, num_truths)
    counts: dict[ErrorKind, list[int]] = {kind: [0] * num_classes for kind in ERROR_KINDS}
    missed = [0] * num_classes
    for image_id, truth in truths.items():
        of_photo = counted[image_id]
        errors = error_kinds(truth, of_photo, iou)
        for kind, label in zip(errors.kinds, of_photo.labels.tolist(), strict=True):
            counts[kind][label] += 1
        for label in truth.labels[errors.missed].tolist():
            missed[label] += 1
    return ErrorCounts({kind: tuple(of) for kind, of in counts.items()}, tuple(missed), tuple(num_truths), iou)


def _per_class(truths: Mapping[str, Instances], num_classes: int) -> list[int]:
    """Objects of each class that are to be found."""
    total = torch.zeros(num_classes, dtype=torch.int64)
    for truth in truths.values():
        total += truth.labels[~ignored_truths(truth)].bincount(minlength=num_classes)
    return total.tolist()


def _best_of_each_class(
    truths: Mapping[str, Instances], detections: Mapping[str, Instances], num_truths: list[int]
) -> dict[str, Instances]:
    """Of each class its best-scored detections over all photos, as many as ``num_truths`` says; earlier ids first."""
    nothing = Instances.empty(scored=True)
    of_photos = {image_id: detections.get(image_id, nothing) for image_id in truths}
    rows = [
        (label, -score, number, row)
        for number, of_photo in enumerate(of_photos.values())
        for row, (label, score) in enumerate(
            zip(of_photo.labels.tolist(), require_scores(of_photo).tolist(), strict=True)
        )
    ]
    room, kept = list(num_truths), [[] for _ in of_photos]  # type: list[int], list[list[int]]
    for label, _, number, row in sorted(rows):
        if room[label] > 0:
            room[label] -= 1
            kept[number].append(row)
    return {
        image_id: of_photo[torch.tensor(sorted(kept[number]), dtype=torch.int64)]
        for number, (image_id, of_photo) in enumerate(of_photos.items())
    }
