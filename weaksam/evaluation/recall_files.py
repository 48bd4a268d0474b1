"""Measure the recall of proposals on disk against a ground truth, and show it as text, JSON and a plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from weaksam.config import UserError, listed
from weaksam.data.image_names import ImageNames
from weaksam.data.proposals.exchange import named_proposals
from weaksam.data.truth import read_measured_truth
from weaksam.evaluation.protocol import json_number
from weaksam.evaluation.recall import AR_IOUS, Assignment, RecallResult, proposal_recall
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals

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


@dataclass(frozen=True)
class Truths:
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


def true_objects(truth: Path, images: Path | None = None) -> Truths:
    """True objects of COCO JSON, a folder of VOC XML or of YOLO labels; with ``images`` those of its photos alone.

    YOLO needs ``images``, since its labels are relative. Raises `UserError`, also where no photo fits.
    """
    read, kept, notes = read_measured_truth(truth, images)
    numbers = {name: read.images[name].number for name in kept}
    whole = {name: number for name, number in numbers.items() if number is not None}
    names = ImageNames(kept, whole if len(whole) == len(kept) else None)
    return Truths(read.classes, {name: read.images[name].instances for name in kept}, names, notes)


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
    true = true_objects(truth, images)
    every = sorted({*counts, *AR_COUNTS, *(CURVE if curve else ())})
    measured = {}
    for name, path in sets.items():
        found, strange = named_proposals(path, true.names)
        ranked = {key: _ranked(one, order) for key, one in found.items()}
        result = proposal_recall(
            true.objects,
            {key: one.boxes for key, one in ranked.items()},
            counts=(*every, None),
            ious=AR_IOUS,
            assignment=matching,
            count_difficult=count_difficult,
            num_classes=len(true.classes) if per_class else None,
        )
        best = (
            "best-scored proposals of each image" if order == "score" else "first proposals of each image in the file"
        )
        protocol = dataclasses.replace(result.protocol, detections=f"the N {best}")
        result = dataclasses.replace(result, protocol=protocol)
        measured[name] = MeasuredSet(path, result, max(map(len, ranked.values()), default=0), strange)
    return RecallReport(truth, true.classes if per_class else (), tuple(counts), measured, true.notes)


def _ranked(one: Proposals, order: Order) -> Proposals:
    return one.by_score() if order == "score" else one


def named_sets(given: Sequence[str]) -> dict[str, Path]:
    """``NAME=PATH`` or ``PATH`` -> path by name, in order; a path alone is named after its last part."""
    sets: dict[str, Path] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        path = Path(rest) if equals and not Path(text).exists() else Path(text)
        name = name if path == Path(rest) and equals else path.stem or str(path)
        name = name if name not in sets else text
        if name in sets or path in sets.values():
            raise UserError(f"wanted every set of proposals once, found {text!r} twice: give each another name")
        sets[name] = path
    if not sets:
        raise UserError("wanted proposals to measure, found none: give --proposals PATH or --proposals NAME=PATH")
    return sets


def parse_counts(text: str) -> tuple[int, ...]:
    """``50,100`` -> (50, 100), ascending; raises `UserError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"wanted numbers of boxes such as 50,100,200, found {text!r}: write them with commas")
    return tuple(sorted({int(part) for part in parts}))


# Showing


def recall_text(report: RecallReport) -> str:
    """The tables for a terminal, what was measured, and the protocol."""
    result = report.first
    lines = [f"{result.num_truths} objects in {result.protocol.num_images} images of {report.truth}", ""]
    width = max(map(len, [*report.sets, *report.classes, "recall at IoU 0.75"]))
    counts: list[int | None] = [*report.counts, None]
    for iou in IOUS:
        rows = {name: [one.result.at(iou, count) for count in counts] for name, one in report.sets.items()}
        lines += _table(f"recall at IoU {iou:g}", ["all" if one is None else str(one) for one in counts], rows, width)
    rows = {name: [_average(one.result, count) for count in AR_COUNTS] for name, one in report.sets.items()}
    lines += _table("AR, IoU 0.5:0.95", list(map(str, AR_COUNTS)), rows, width)
    for name, one in report.sets.items() if report.classes else ():
        per_class = dict(zip(report.classes, one.result.per_class, strict=True))
        rows = {label: [found.num_truths, *_all_boxes(found)] for label, found in per_class.items()}
        lines += _table(f"{name}, all boxes", ["objects", *(f"@{iou:g}" for iou in IOUS), "AR"], rows, width)
    lines += [f"{name}: {one.boxes}; {one.path}" for name, one in report.sets.items()]
    return "\n".join([*lines, *report.notes, f"protocol: {result.protocol}"])


def _table(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[float]], width: int) -> list[str]:
    def cells(values: Sequence[str]) -> str:
        return "".join(f"{value:>9}" for value in values)

    shown = {name: [_number(value) for value in values] for name, values in rows.items()}
    return [f"{title:<{width}}{cells(heads)}", *(f"{name:<{width}}{cells(one)}" for name, one in shown.items()), ""]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else "-" if value != value else f"{value:.3f}"


def _average(result: RecallResult, count: int | None) -> float:
    return result.average_recall[result.counts.index(count)]


def _all_boxes(result: RecallResult) -> list[float]:
    return [*(result.at(iou) for iou in IOUS), _average(result, None)]


def recall_json(report: RecallReport) -> str:
    """The same as JSON: per set its rows by count (recall by IoU 0.5:0.05:0.95, AR), per class where asked for."""
    sets: dict[str, Any] = {}
    for name, one in report.sets.items():
        found = one.result.as_dict()
        if report.classes:
            found["per_class"] = dict(zip(report.classes, found["per_class"], strict=True))
        average = {str(count): json_number(_average(one.result, count)) for count in AR_COUNTS}
        sets[name] = {"path": str(one.path), "max_boxes": one.max_boxes, "ar": average, **found}
    result = report.first
    about = {"truth": str(report.truth), "num_images": result.protocol.num_images, "num_objects": result.num_truths}
    return json.dumps({**about, "protocol": str(result.protocol), "notes": list(report.notes), "sets": sets}, indent=1)


def check_plot(path: Path) -> None:
    """`UserError` where ``path`` cannot become a plot, before anything is measured."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"wanted a plot named {listed(['.png', '.svg', '.pdf'])}, found {path}: rename it")
