"""Measure the clues of a run against the truth, kind by kind."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.evaluation.cam_masks import CamMaskResult, cam_mask_quality
from weaksam.evaluation.clues import ClueResult, clue_quality
from weaksam.evaluation.truth import Truth
from weaksam.structures.clue_points import KIND_NAMES, CluePeaks, KindMapsOf, PeaksOf

ALL = "all"
"""The name under which the points of all kinds together are measured."""


@dataclass(frozen=True)
class ClueFigures:
    """Figures of the points of each kind and of all, and of the masks of each kind's maps where masks are known."""

    points: Mapping[str, ClueResult]
    masks: Mapping[str, CamMaskResult]

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        points = {name: result.as_dict() for name, result in self.points.items()}
        masks = {name: result.as_dict() for name, result in self.masks.items()}
        protocol = str(self.points[ALL].protocol)
        return {"points": points, "masks": masks, "protocol": protocol}


def measure_clues(truth: Truth, peaks_of: PeaksOf, maps_of: KindMapsOf | None = None) -> ClueFigures:
    """Measure the peaks of the photos of ``truth`` and, where their masks are known, the masks that the maps make."""
    peaks = {image_id: peaks_of(image_id) for image_id in truth.instances}
    kinds = sorted({kind for image_peaks in peaks.values() for kind in image_peaks.kinds.tolist()})
    points = {KIND_NAMES[kind]: _point_figures(truth, _of_kind(peaks, kind)) for kind in kinds}
    points[ALL] = _point_figures(truth, peaks)
    return ClueFigures(points, _mask_figures(truth, maps_of) if maps_of is not None and truth.has_masks else {})


def _of_kind(peaks: Mapping[str, CluePeaks], kind: int) -> dict[str, CluePeaks]:
    return {image_id: image_peaks.select(image_peaks.kinds == kind) for image_id, image_peaks in peaks.items()}


def _point_figures(truth: Truth, peaks: Mapping[str, CluePeaks]) -> ClueResult:
    return clue_quality(truth.instances, peaks, truth.num_classes)


def _mask_figures(truth: Truth, maps_of: KindMapsOf) -> dict[str, CamMaskResult]:
    """Quality of the masks of each kind's maps, by the kind's name."""
    kinds = sorted({kind for image_id in truth.instances for kind in maps_of(image_id)[1]})
    return {
        KIND_NAMES[kind]: cam_mask_quality(
            truth.instances, functools.partial(_maps_of_kind, maps_of, kind), truth.sizes, truth.num_classes
        )
        for kind in kinds
    }


def _maps_of_kind(maps_of: KindMapsOf, kind: int, image_id: str) -> tuple[Tensor, Tensor]:
    """Labels ``(L,)`` and maps ``(L, h, w)`` of one kind; L = 0 where the photo has no map of it."""
    labels, maps_by_kind = maps_of(image_id)
    if kind not in maps_by_kind:
        return labels[:0], torch.zeros(0, 1, 1)
    return labels, maps_by_kind[kind]
