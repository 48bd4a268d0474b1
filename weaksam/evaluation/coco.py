"""Measure COCO box, mask and boundary AP with faster-coco-eval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster

from weaksam.evaluation.matching import exact_boxes, ignored_truths
from weaksam.evaluation.protocol import (
    AP_IOUS,
    BOUNDARIES,
    DetectionFilter,
    Geometry,
    Protocol,
    check_images,
    check_labels,
    image_order,
    json_number,
    keep_detections,
    require_masks,
    require_scores,
)
from weaksam.structures.boxes import area, xywh_from_xyxy
from weaksam.structures.instances import Instances
from weaksam.structures.mask_boundaries import pairwise_boundary_iou
from weaksam.structures.masks import rle_area

MAX_DETECTIONS = (1, 10, 100)
"""Detections per image and class at which COCO measures recall; AP takes the last."""

FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
"""The twelve figures of COCO's summary, in its order."""


@dataclass(frozen=True)
class CocoResult:
    """The twelve COCO figures in [0, 1], nan where no true object is in the size range.

    per_class: AP by class. by_iou: AP by IoU, at each of `AP_IOUS`.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: tuple[float, ...]
    by_iou: Mapping[float, float]
    protocol: Protocol

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        figures = {name: json_number(getattr(self, name)) for name in FIGURES}
        per_class = [json_number(value) for value in self.per_class]
        by_iou = {f"{iou:g}": json_number(value) for iou, value in self.by_iou.items()}
        return {**figures, "per_class": per_class, "by_iou": by_iou, "protocol": str(self.protocol)}

    def __str__(self) -> str:
        return f"COCO AP {self.ap:.3f}, AP50 {self.ap50:.3f}, AP75 {self.ap75:.3f} ({self.protocol})"


def coco_ap(
    truths: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    num_classes: int,
    *,
    geometry: Geometry = "boxes",
    keep: DetectionFilter | None = None,
) -> CocoResult:
    """COCO AP and AR of scored detections over the images that ``truths`` names.

    At most 100 detections count per image and class. Truths marked difficult are treated as crowd regions, that is
    ignored. An object's size is its mask's area where it has a mask, else its box's. No detections give 0.
    """
    check_images(detections, truths, "detections")
    check_labels(truths, num_classes, "true objects")
    check_labels(detections, num_classes, "detections")
    keep = keep or DetectionFilter()
    numbers = {image_id: number for number, image_id in enumerate(image_order(truths), start=1)}
    results = [
        row
        for image_id, number in numbers.items()
        if image_id in detections
        for row in _result_rows(keep_detections(detections[image_id], keep), number, geometry)
    ]
    # Classes without a truth have no AP; with them the tables of tens of thousands of classes take gigabytes
    labels = sorted({label for truth in truths.values() for label in truth.labels.tolist()}) or [0]
    evaluation = _evaluate(_dataset(truths, numbers, labels, geometry), results, geometry)
    figures = {name: _or_nan(value) for name, value in zip(FIGURES, evaluation.stats, strict=False)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class with a truth), all sizes
    per_label = {label: _or_nan(precision[:, :, row].mean()) for row, label in enumerate(labels)}
    return CocoResult(
        **figures,
        per_class=tuple(per_label.get(label, math.nan) for label in range(num_classes)),
        by_iou={iou: _mean_precision(of_iou) for iou, of_iou in zip(AP_IOUS, precision, strict=True)},
        protocol=Protocol(
            metric=f"COCO AP of {geometry}",
            matching="IoU 0.5:0.05:0.95, each detection to the free truth it overlaps most"
            + (f"; {BOUNDARIES}" if geometry == "boundaries" else ""),
            difficult="difficult and crowd truths ignored",
            average="101-point average, mean over classes with a truth",
            detections=f"{keep}, at most {MAX_DETECTIONS[-1]} per image and class",
            num_images=len(truths),
        ),
    )


class BoundaryEvaluation(COCOeval_faster):  # type: ignore[misc]
    """COCO's evaluation on the smaller of mask and boundary IoU: boundary AP of Cheng et al. (CVPR 2021).

    The library has it as ``iouType="boundary"``, which outlines every mask; here only those that overlap a truth are.
    """

    def computeIoU(self, imgId: int, catId: int) -> Any:
        """IoU ``(detections, truths)`` of one image and class, detections by score; a crowd keeps COCO's mask IoU."""
        mask_iou = super().computeIoU(imgId, catId)
        if len(mask_iou) == 0:
            return mask_iou
        (((truths,),), ((detections,),)) = (
            dataset.get_instances([imgId], [catId], True) for dataset in (self.gt_dataset, self.dt_dataset)
        )
        detections = sorted(detections, key=lambda row: -row["score"])[: len(mask_iou)]
        crowd = torch.tensor([bool(row["iscrowd"]) for row in truths])
        masks = [[row["segmentation"] for row in rows] for rows in (detections, truths)]
        return pairwise_boundary_iou(*masks, crowd, mask_iou=torch.from_numpy(mask_iou)).numpy()


def _evaluate(truth: dict[str, Any], results: list[dict[str, Any]], geometry: Geometry) -> COCOeval_faster:
    """The finished evaluation of a list of COCO results against a COCO dataset."""
    dataset = COCO(truth, print_function=_silent)
    evaluator = BoundaryEvaluation if geometry == "boundaries" else COCOeval_faster
    iou_type = "bbox" if geometry == "boxes" else "segm"
    evaluation = evaluator(dataset, dataset.loadRes(results), iou_type, print_function=_silent, rle_iou_max_workers=1)
    evaluation.params.maxDets = list(MAX_DETECTIONS)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _dataset(
    truths: Mapping[str, Instances], numbers: Mapping[str, int], labels: Sequence[int], geometry: Geometry
) -> dict[str, Any]:
    """The truths as one COCO dictionary of the classes ``labels``; ids are label + 1, those of images count from 1."""
    annotations = [
        row for image_id, number in numbers.items() for row in _truth_rows(truths[image_id], number, geometry)
    ]
    return {
        "images": [_image_row(truths[image_id], number) for image_id, number in numbers.items()],
        "annotations": [{**row, "id": index} for index, row in enumerate(annotations, start=1)],
        "categories": [{"id": label + 1, "name": str(label)} for label in labels],
    }


def _image_row(truth: Instances, number: int) -> dict[str, Any]:
    """An image's entry; its size matters for polygons only, which are RLE here."""
    height, width = truth.masks[0]["size"] if truth.masks else (0, 0)
    return {"id": number, "height": height, "width": width}


def _truth_rows(truth: Instances, number: int, geometry: Geometry) -> list[dict[str, Any]]:
    sizes = area(exact_boxes(truth.boxes)) if truth.masks is None else rle_area(truth.masks)
    rows = _shape_rows(truth, geometry, "true objects")
    crowd = ignored_truths(truth).tolist()
    for row, label, size, flag in zip(rows, truth.labels.tolist(), sizes.tolist(), crowd, strict=True):
        row.update(image_id=number, category_id=label + 1, area=size, iscrowd=int(flag))
    return rows


def _result_rows(detections: Instances, number: int, geometry: Geometry) -> list[dict[str, Any]]:
    rows = _shape_rows(detections, geometry, "detections")
    for row, label, score in zip(rows, detections.labels.tolist(), require_scores(detections).tolist(), strict=True):
        row.update(image_id=number, category_id=label + 1, score=score)
    return rows


def _shape_rows(instances: Instances, geometry: Geometry, what: str) -> list[dict[str, Any]]:
    """One dictionary per instance with its bbox or its segmentation, whichever is compared."""
    if geometry == "boxes":
        return [{"bbox": box} for box in xywh_from_xyxy(exact_boxes(instances.boxes)).tolist()]
    return [{"segmentation": dict(rle)} for rle in require_masks(instances, what)]


def _mean_precision(precision: np.ndarray) -> float:
    """Mean of the precisions ``(recall, class)`` that are known, as COCO takes it; nan where none is."""
    known = precision[precision > -1]
    return float(known.mean()) if len(known) else math.nan


def _or_nan(value: float) -> float:
    """The figure, or nan where COCO says -1: there was nothing to measure."""
    return math.nan if value < 0 else float(np.float64(value))


def _silent(*_: object) -> None:
    """Take the library's progress lines and print nothing."""
