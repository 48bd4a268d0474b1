"""Measure the recall of proposal files against a truth file: the figures of ``weaksam recall``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.image_names import ImageNames
from weaksam.data.proposals.exchange import named_proposals
from weaksam.data.truth import read_measured_truth
from weaksam.evaluation.protocol import json_number
from weaksam.evaluation.recall import AR_IOUS, Assignment, RecallResult, proposal_recall
from weaksam.structures.instances import Instances

IOUS = (0.5, 0.75, 0.9)
"""IoU thresholds of the table."""
COUNTS = (50, 100, 200, 300, 500)
"""Numbers of boxes of the table, before all of them."""
AR_COUNTS = (10, 100, 1000)
"""Numbers of boxes at which average recall is given, as COCO does for proposals."""
CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)
"""Numbers of boxes of the curve."""
Order = Literal["score", "file"]
"""Which boxes are the first N: the best-scored, equals in the file's order, or the first in the file."""
FIRST_BOXES: dict[Order, str] = {
    "score": "best-scored proposals of each image",
    "file": "first proposals of each image in the file",
}
"""The order in words."""


@dataclass(frozen=True)
class TrueObjects:
    """True objects by image, the classes of their labels, and what was left out, in words."""

    classes: tuple[str, ...]
    objects: Mapping[str, Instances]
    names: ImageNames
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MeasuredSet:
    """One set of proposals: where it lies, its recall, the most boxes of an image, and images the truth lacks."""

    path: Path
    result: RecallResult
    max_boxes: int
    num_strange: int

    @property
    def boxes(self) -> str:
        """How many boxes were measured, in words."""
        mean = self.result.num_proposals[self.result.counts.index(None)]
        parts = [f"{mean:.1f} boxes per image (at most {self.max_boxes})", f"{self.result.num_bare} images without any"]
        return ", ".join(parts + ([f"{self.num_strange} more images not in the truth"] if self.num_strange else []))


@dataclass(frozen=True)
class RecallReport:
    """Recall of several sets of proposals over the same truth; ``counts`` are those of the table."""

    truth: Path
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    sets: Mapping[str, MeasuredSet]
    notes: tuple[str, ...]

    @property
    def first(self) -> RecallResult:
        """The result of the first set, for what all share."""
        return next(iter(self.sets.values())).result

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them: per set rows by count (recall by IoU, AR), per class where measured."""
        shared = self.first
        return {
            "truth": str(self.truth),
            "num_images": shared.protocol.num_images,
            "num_objects": shared.num_truths,
            "protocol": str(shared.protocol),
            "notes": list(self.notes),
            "sets": {name: self._set_dict(measured) for name, measured in self.sets.items()},
        }

    def _set_dict(self, measured: MeasuredSet) -> dict[str, Any]:
        figures = measured.result.as_dict()
        if self.classes:
            figures["per_class"] = dict(zip(self.classes, figures["per_class"], strict=True))
        average = {str(count): json_number(measured.result.average_recall_at(count)) for count in AR_COUNTS}
        return {"path": str(measured.path), "max_boxes": measured.max_boxes, "ar": average, **figures}


def true_objects(truth: Path, images: Path | None = None) -> TrueObjects:
    """True objects of COCO JSON, a folder of VOC XML or of YOLO labels; with ``images`` those of its photos alone.

    YOLO needs ``images``, since its labels are relative. Raises `UserError`, also where no photo fits.
    """
    annotations, kept, notes = read_measured_truth(truth, images)
    stated = {name: annotations.images[name].number for name in kept}
    numbers = {name: number for name, number in stated.items() if number is not None}
    names = ImageNames(kept, numbers if len(numbers) == len(kept) else None)
    objects = {name: annotations.images[name].instances for name in kept}
    return TrueObjects(annotations.classes, objects, names, notes)


def measure_recall(
    sets: Mapping[str, Path],
    truth: Path,
    images: Path | None = None,
    *,
    matching: Assignment = "coco",
    order: Order = "score",
    counts: Sequence[int] = COUNTS,
    count_difficult: bool = False,
    per_class: bool = False,
    curve: bool = False,
) -> RecallReport:
    """The recall of every set of proposals (store, COCO results or flat table, by name) over the same true objects.

    With ``curve`` the counts of the plot are measured as well. Raises `UserError`.
    """
    for word, value, choices in (("matching", matching, get_args(Assignment)), ("order", order, get_args(Order))):
        if value not in choices:
            raise UserError(f"wanted the {word} to be one of {', '.join(choices)}, found {value!r}: name one of them")
    objects = true_objects(truth, images)
    all_counts = (*sorted({*counts, *AR_COUNTS, *(CURVE if curve else ())}), None)
    measured, findings = {}, Findings()
    for name, path in sets.items():
        proposals, num_strange = named_proposals(path, objects.names, findings)
        if order == "score":
            proposals = {image_id: image_proposals.by_score() for image_id, image_proposals in proposals.items()}
        result = proposal_recall(
            objects.objects,
            {image_id: image_proposals.boxes for image_id, image_proposals in proposals.items()},
            counts=all_counts,
            ious=AR_IOUS,
            assignment=matching,
            count_difficult=count_difficult,
            num_classes=len(objects.classes) if per_class else None,
        )
        protocol = dataclasses.replace(result.protocol, detections=f"the N {FIRST_BOXES[order]}")
        result = dataclasses.replace(result, protocol=protocol)
        measured[name] = MeasuredSet(path, result, max(map(len, proposals.values()), default=0), num_strange)
    return RecallReport(
        truth, objects.classes if per_class else (), tuple(counts), measured, (*objects.notes, *findings.notes)
    )
