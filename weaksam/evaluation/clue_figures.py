"""Measure the clues of a run against the truth, kind by kind, and show the figures as text and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from weaksam.config import UserError
from weaksam.evaluation.cam_masks import CamMaskResult, cam_mask_quality
from weaksam.evaluation.clues import ClueResult, PointSet, clue_quality
from weaksam.evaluation.text import table_lines
from weaksam.evaluation.truth import Truth
from weaksam.structures.clue_points import KINDS

Peaks = Callable[[str], tuple[Tensor, Tensor, Tensor, Tensor]]
"""image_id -> points ``(P, 2)`` xy, their labels, kinds and heights ``(P,)``."""
KindMaps = Callable[[str], tuple[Tensor, Mapping[int, Tensor]]]
"""image_id -> labels ``(L,)`` and the maps ``(L, h, w)`` of each kind."""
NAME_OF = {number: name for name, number in KINDS.items()}
ALL = "all"


@dataclass(frozen=True)
class ClueFigures:
    """Figures of the points of each kind and of all, and of the masks of each kind's maps where masks are known."""

    points: Mapping[str, ClueResult]
    masks: Mapping[str, CamMaskResult]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it, with the protocol in words."""
        points = {name: one.as_dict() for name, one in self.points.items()}
        masks = {name: one.as_dict() for name, one in self.masks.items()}
        protocol = str(self.points[ALL].protocol)
        return {"points": points, "masks": masks, "protocol": protocol}


def measure_clues(truth: Truth, peaks: Peaks, maps: KindMaps | None = None) -> ClueFigures:
    """Measure the peaks of the photos of ``truth`` and, where their masks are known, the masks that ``maps`` make."""
    found = {image_id: peaks(image_id) for image_id in truth.instances}
    kinds = sorted({kind for _, _, kinds, _ in found.values() for kind in kinds.tolist()})
    points = {NAME_OF[kind]: _points(truth, found, kind) for kind in kinds}
    points[ALL] = _points(truth, found, None)
    return ClueFigures(points, _masks(truth, maps) if maps is not None and truth.has_masks else {})


def _points(truth: Truth, found: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]], kind: int | None) -> ClueResult:
    sets = {}
    for image_id, (points, labels, kinds, heights) in found.items():
        mine = slice(None) if kind is None else kinds == kind
        sets[image_id] = PointSet(points[mine], labels[mine], heights[mine])
    return clue_quality(truth.instances, sets, truth.num_classes)


def _masks(truth: Truth, maps: KindMaps) -> dict[str, CamMaskResult]:
    kinds = sorted({kind for image_id in truth.instances for kind in maps(image_id)[1]})

    def of_kind(kind: int) -> Callable[[str], tuple[Tensor, Tensor]]:
        def one(image_id: str) -> tuple[Tensor, Tensor]:
            labels, every = maps(image_id)
            return (labels, every[kind]) if kind in every else (labels[:0], next(iter(every.values()), labels)[:0])

        return one

    return {
        NAME_OF[kind]: cam_mask_quality(truth.instances, of_kind(kind), truth.sizes, truth.num_classes)
        for kind in kinds
    }


def clue_text(figures: ClueFigures, classes: tuple[str, ...]) -> str:
    """Tables for a terminal, a row per kind and per class, and the protocols."""
    header = ("points", "number", "inside", "top inside", "per object", "objects hit")
    rows = [(name, *_cells(one)) for name, one in figures.points.items()]
    if len(figures.points) == 2:  # one kind, which is all
        rows = rows[:1]
    per_class = zip(classes, figures.points[ALL].per_class, strict=True)
    lines = [
        *table_lines(header, rows),
        "",
        *table_lines(header, [(name, *_cells(one)) for name, one in per_class]),
        "",
    ]
    if figures.masks:
        rows = [
            (name, _number(max(one.miou)), f"{one.best:g}", _number(one.at(0.5))) for name, one in figures.masks.items()
        ]
        lines += [*table_lines(("masks", "best mIoU", "at", "mIoU at 0.5"), rows), ""]
    protocols = [str(figures.points[ALL].protocol), *(str(one.protocol) for one in figures.masks.values())]
    return "\n".join([*lines, *(f"protocol: {one}" for one in dict.fromkeys(protocols))])


def clue_json(figures: ClueFigures, classes: tuple[str, ...]) -> str:
    """The same as JSON."""
    return json.dumps({"classes": list(classes), **figures.as_dict()}, indent=1)


def require_truth(truth: Truth | None) -> Truth:
    """`UserError` where nothing is known to measure by."""
    if truth is None:
        raise UserError("wanted the true boxes of the training photos to measure by, found none: set data.train.truth")
    return truth


def _cells(one: ClueResult) -> tuple[str, ...]:
    return (
        str(one.num_points),
        _number(one.inside),
        _number(one.top_inside),
        _number(one.points_per_object),
        _number(one.hit),
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
