"""Measure what a stage made against the true boxes; the one place of a run that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.data.loading import Dataset
from weaksam.evaluation.clues import PointSet, clue_quality
from weaksam.evaluation.coco import coco_ap
from weaksam.evaluation.corloc import (
    corloc,
    largest_proposal_detections,
    random_proposal_corloc,
    whole_image_detections,
)
from weaksam.evaluation.protocol import json_number
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.evaluation.recall import proposal_recall
from weaksam.evaluation.voc import MASK_IOUS, voc_ap
from weaksam.structures.instances import Instances

Detections = Mapping[str, Instances]
Figures = dict[str, Any]


class EvaluationSettings(Settings):
    """How detections are measured; every figure is printed with its protocol."""

    interpolation: Literal["all-point", "11-point"] = Field("all-point", description="VOC average precision")
    ious: tuple[float, ...] = Field((0.5, 0.75), description="IoU thresholds of box AP, each in (0, 1]; 0.5 among them")
    recall_counts: tuple[int, ...] = Field(
        (10, 50, 100, 200), description="proposal counts at which recall is measured"
    )


@dataclass(frozen=True)
class Truth:
    """The true instances of one split by image id, with its tags and sizes; photos without truth are left out.

    ``has_masks``: whether every true instance has a mask, so that masks can be measured.
    """

    instances: dict[str, Instances]
    tags: dict[str, tuple[int, ...]]
    sizes: dict[str, tuple[int, int]]
    num_classes: int

    @property
    def has_masks(self) -> bool:
        """Whether masks can be measured."""
        with_objects = [one for one in self.instances.values() if len(one)]
        return bool(with_objects) and all(one.masks is not None for one in with_objects)

    @classmethod
    def of(cls, dataset: Dataset | None) -> Truth | None:
        """The truth of ``dataset``; None where no photo has one."""
        if dataset is None or not dataset.truths:
            return None
        known = [dataset.by_id[image_id] for image_id in dataset.truths]
        tags = {sample.image_id: sample.tags for sample in known}
        sizes = {sample.image_id: sample.size for sample in known}
        return cls(dataset.truths, tags, sizes, len(dataset.classes))

    def only(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` of the photos that have a truth."""
        return {image_id: value for image_id, value in values.items() if image_id in self.instances}


def peak_figures(truth: Truth, peaks: Callable[[str], tuple[Tensor, ...]]) -> Figures:
    """Share of clue points that lie inside a true box of their class (the pointing game), and their number.

    ``peaks``: image_id -> points ``(P, 2)`` and labels ``(P,)``; points of no class (label -1) are not counted.
    """
    found = {}
    for image_id in truth.instances:
        points, labels = peaks(image_id)[:2]
        found[image_id] = PointSet(points[labels >= 0], labels[labels >= 0], torch.zeros(int((labels >= 0).sum())))
    result = clue_quality(truth.instances, found, truth.num_classes)
    return {"inside": json_number(result.inside), "num_peaks": result.num_points, "protocol": str(result.protocol)}


def recall_figures(truth: Truth, proposals: Mapping[str, Tensor], settings: EvaluationSettings) -> Figures:
    """Proposal recall by count; proposals are boxes ``(N, 4)``, best first."""
    counts = (*settings.recall_counts, None)
    return proposal_recall(truth.instances, truth.only(proposals), counts=counts).as_dict()


def box_figures(truth: Truth, found: Detections, settings: EvaluationSettings, made_by: str) -> dict[str, Figures]:
    """VOC and COCO figures of scored boxes: ``test_boxes`` and ``test_coco_boxes``.

    ``made_by`` says how the detector chose its boxes (suppression, boxes per photo); it becomes part of the protocol.
    """
    arguments = (truth.instances, truth.only(found), truth.num_classes)
    voc = voc_ap(*arguments, ious=settings.ious, interpolation=settings.interpolation)
    figures = {"test_boxes": voc.as_dict(), "test_coco_boxes": coco_ap(*arguments).as_dict()}
    return _with_detector(figures, made_by)


def mask_figures(truth: Truth, found: Detections, settings: EvaluationSettings, made_by: str) -> dict[str, Figures]:
    """Mask AP25/50/70/75 and COCO mask AP: ``test_masks`` and ``test_coco_masks``; empty without true masks."""
    if not truth.has_masks:
        return {}
    arguments = (truth.instances, truth.only(found), truth.num_classes)
    voc = voc_ap(*arguments, ious=MASK_IOUS, geometry="masks", interpolation=settings.interpolation)
    figures = {"test_masks": voc.as_dict(), "test_coco_masks": coco_ap(*arguments, geometry="masks").as_dict()}
    return _with_detector(figures, made_by)


def _with_detector(figures: dict[str, Figures], made_by: str) -> dict[str, Figures]:
    return {name: {**one, "protocol": f"{one['protocol']}; detector: {made_by}"} for name, one in figures.items()}


def corloc_figures(truth: Truth, found: Detections, proposals: Mapping[str, Tensor]) -> dict[str, Figures]:
    """CorLoc of detections on the training photos, and of the three naive baselines."""
    known, tags, count = truth.instances, truth.tags, truth.num_classes
    boxes = truth.only(proposals)
    return {
        "train_corloc": corloc(known, truth.only(found), tags, count).as_dict(),
        "train_corloc_largest": corloc(known, largest_proposal_detections(boxes, tags), tags, count).as_dict(),
        "train_corloc_whole": corloc(known, whole_image_detections(truth.sizes, tags), tags, count).as_dict(),
        "train_corloc_random": random_proposal_corloc(known, boxes, tags, count).as_dict(),
    }


def pseudo_figures(truth: Truth, pseudo_gt: Detections, geometry: Literal["boxes", "masks"] = "boxes") -> Figures:
    """Precision, recall and number of pseudo boxes or pseudo masks."""
    return pseudo_gt_quality(truth.instances, truth.only(pseudo_gt), truth.num_classes, geometry=geometry).as_dict()


def brief(figures: Mapping[str, Any], *names: tuple[str, str]) -> str:
    """``label value`` for each (figure path such as ``test_boxes.mean.0.5``, label) that was measured, as one line."""
    shown = []
    for path, label in names:
        value: Any = figures
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            shown.append(f"{label} {value:.3f}")
    return ", ".join(shown) or "not measured"
