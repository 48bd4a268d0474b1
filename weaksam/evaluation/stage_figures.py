"""Compute the figures of a run's stages against the true objects, which nothing else of a run reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from weaksam.evaluation import pseudo_mask_figures as masks
from weaksam.evaluation.clues import clue_quality
from weaksam.evaluation.coco import coco_ap
from weaksam.evaluation.corloc import corloc_and_baselines
from weaksam.evaluation.panoptic import panoptic_quality
from weaksam.evaluation.protocol import AP_IOUS, json_number
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.evaluation.pseudo_gt_kinds import count_kinds
from weaksam.evaluation.pseudo_gt_zones import count_zones
from weaksam.evaluation.recall import proposal_recall
from weaksam.evaluation.semantic import semantic_iou
from weaksam.evaluation.settings import EvaluationSettings
from weaksam.evaluation.truth import Truth
from weaksam.evaluation.voc import MASK_IOUS, voc_ap
from weaksam.structures.clue_points import PeaksOf
from weaksam.structures.instances import Instances

Detections = Mapping[str, Instances]
"""Detections by image id."""
Figures = dict[str, Any]
"""One result as JSON can hold it, see ``as_dict`` of the result."""


def peak_figures(truth: Truth, peaks_of: PeaksOf) -> Figures:
    """Share of clue points that lie inside a true box of their class (the pointing game), and their number.

    Points of no class (label -1) are not counted.
    """
    peaks = {image_id: peaks_of(image_id) for image_id in truth.instances}
    of_a_class = {image_id: image_peaks.select(image_peaks.labels >= 0) for image_id, image_peaks in peaks.items()}
    result = clue_quality(truth.instances, of_a_class, truth.num_classes)
    return {"inside": json_number(result.inside), "num_peaks": result.num_points, "protocol": str(result.protocol)}


def recall_figures(truth: Truth, proposals: Mapping[str, Tensor], settings: EvaluationSettings) -> Figures:
    """Proposal recall by count; proposals are boxes ``(N, 4)``, best first."""
    counts = (*settings.recall_counts, None)
    return proposal_recall(truth.instances, truth.only(proposals), counts=counts).as_dict()


def box_figures(
    truth: Truth, detections: Detections, settings: EvaluationSettings, made_by: str, of: str = ""
) -> dict[str, Figures]:
    """VOC and COCO figures of scored boxes: ``test_boxes`` and ``test_coco_boxes``; ``of`` stands before "boxes".

    ``made_by`` says how the detector chose its boxes (suppression, boxes per photo); it becomes part of the protocol.
    """
    arguments = (truth.instances, truth.only(detections), truth.num_classes)
    voc = voc_ap(*arguments, ious=settings.ious, interpolation=settings.interpolation)
    figures = {f"test_{of}boxes": voc.as_dict(), f"test_coco_{of}boxes": coco_ap(*arguments).as_dict()}
    return _with_detector(figures, made_by)


def choice_figures(
    truth: Truth | None,
    choice: Mapping[str, Any],
    candidates: Mapping[str, Detections | None],
    settings: EvaluationSettings,
) -> Figures:
    """Whose detections were chosen, with AP50, AP75 and AP .5:.95 of each candidate on the test photos beside it.

    ``choice`` says ``name``, ``reason`` and ``signals`` by candidate. ``best`` has the highest AP .5:.95, ``lost`` is
    what the choice has less than that one: 0 where the signal agreed with the truth. Without a truth, or without test
    detections (None), these are None.
    """
    rows: dict[str, Figures] = {}
    for name, detections in candidates.items():
        rows[name] = {"signal": choice["signals"].get(name)}
        if truth is not None and detections is not None:
            arguments = (truth.instances, truth.only(detections), truth.num_classes)
            ap = voc_ap(*arguments, ious=AP_IOUS, interpolation=settings.interpolation).as_dict()
            rows[name] |= {"mean": ap["mean"], "average": ap["average"]}
    averages = {name: row["average"] for name, row in rows.items() if row.get("average") is not None}
    best = max(averages, key=lambda name: averages[name]) if averages else None
    lost = None if best is None else averages[best] - averages[choice["name"]]
    return {"name": choice["name"], "reason": choice["reason"], "candidates": rows, "best": best, "lost": lost}


def mask_figures(
    truth: Truth, detections: Detections, settings: EvaluationSettings, made_by: str
) -> dict[str, Figures]:
    """What compares detected masks with true ones; empty without true masks.

    ``test_masks``: AP at `MASK_IOUS` and .5:.95; ``test_coco_masks``, ``test_coco_boundaries``: COCO's; ``test_miou``:
    `semantic_iou`; ``test_pq``: `panoptic_quality`.
    """
    if not truth.has_masks:
        return {}
    arguments = (truth.instances, truth.only(detections), truth.num_classes)
    ious = sorted({*MASK_IOUS, *AP_IOUS})
    voc = voc_ap(*arguments, ious=ious, geometry="masks", interpolation=settings.interpolation)
    min_score = settings.painted_min_score
    figures = {
        "test_masks": voc,
        "test_coco_masks": coco_ap(*arguments, geometry="masks"),
        "test_coco_boundaries": coco_ap(*arguments, geometry="boundaries"),
        "test_miou": semantic_iou(*arguments, sizes=truth.sizes, min_score=min_score),
        "test_pq": panoptic_quality(*arguments, min_score=min_score),
    }
    return _with_detector({name: result.as_dict() for name, result in figures.items()}, made_by)


def _with_detector(figures: dict[str, Figures], made_by: str) -> dict[str, Figures]:
    """``figures`` with the detector's own choice of boxes in their protocols."""
    return {
        name: {**values, "protocol": f"{values['protocol']}; detector: {made_by}"} for name, values in figures.items()
    }


def corloc_figures(truth: Truth, detections: Detections, proposals: Mapping[str, Tensor]) -> dict[str, Figures]:
    """CorLoc on the training photos, ``train_corloc``, and of the baselines: ``train_corloc_largest`` and so on.

    ``proposals`` are boxes ``(N, 4)`` half-open xyxy in photo pixels by image id.
    """
    results = corloc_and_baselines(truth, detections, proposals)
    return {f"train_{name}": result.as_dict() for name, result in results.items()}


def pseudo_mask_figures(truth: Truth, pseudo_masks: Detections) -> dict[str, Figures]:
    """Quality of pseudo masks on the training photos, all of them painted; empty without true masks.

    ``train_pseudo_masks``: precision and recall; ``train_mask_iou``, ``train_miou``, ``train_pq``: see
    `PseudoMaskFigures`.
    """
    if not truth.has_masks:
        return {}
    result = masks.pseudo_mask_figures(truth.instances, truth.only(pseudo_masks), truth.num_classes, truth.sizes)
    painted = {f"train_{name}": values for name, values in result.as_dict().items()}
    return {"train_pseudo_masks": pseudo_figures(truth, pseudo_masks, "masks"), **painted}


def pseudo_figures(truth: Truth, pseudo_gt: Detections, geometry: Literal["boxes", "masks"] = "boxes") -> Figures:
    """Precision, recall and number of pseudo boxes or pseudo masks, per photo too; of boxes also kinds and zones."""
    arguments = (truth.instances, truth.only(pseudo_gt), truth.num_classes)
    figures = pseudo_gt_quality(*arguments, geometry=geometry).as_dict()
    figures["per_photo"] = figures["number"] / len(truth.instances)
    if geometry == "masks":
        return figures
    return {**figures, "kinds": count_kinds(*arguments).as_dict(), "zones": count_zones(*arguments).as_dict()}
