"""Measure instance masks by panoptic quality: PQ, SQ and RQ of Kirillov et al. (CVPR 2019), things only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from weaksam.evaluation.label_maps import detected_object_map, painted_size, true_object_map
from weaksam.evaluation.matching import ignored_truths
from weaksam.evaluation.protocol import (
    PAINTED_MIN_SCORE,
    DetectionFilter,
    Protocol,
    check_images,
    check_labels,
    image_order,
    json_number,
    keep_detections,
    mean_over_classes,
)
from weaksam.structures.instances import Instances

MIN_FREE = 0.5
"""Share of a mask that better-scored ones must leave free, else it is dropped (the paper's rule for overlaps)."""


@dataclass(frozen=True)
class PanopticResult:
    """Counts of each class and the summed IoU of its pairs, from which PQ = SQ x RQ follow; nan without any segment.

    num_pairs: detections and true objects that overlap by IoU > 0.5 (true positives). num_false: other detections.
    num_missed: other true objects. iou_sum: IoU of the pairs, added up.
    """

    iou_sum: tuple[float, ...]
    num_pairs: tuple[int, ...]
    num_false: tuple[int, ...]
    num_missed: tuple[int, ...]
    protocol: Protocol

    @property
    def sq(self) -> tuple[float, ...]:
        """Segmentation quality by class in [0, 1]: mean IoU of the pairs, 0 without a pair."""
        return tuple(
            iou / max(pairs, 1) if total else math.nan
            for iou, pairs, total in zip(self.iou_sum, self.num_pairs, self._totals(), strict=True)
        )

    @property
    def rq(self) -> tuple[float, ...]:
        """Recognition quality by class in [0, 1]: pairs / (pairs + half of the false and of the missed), F1."""
        totals = zip(self.num_pairs, self._totals(), strict=True)
        return tuple(pairs / total if total else math.nan for pairs, total in totals)

    @property
    def pq(self) -> tuple[float, ...]:
        """Panoptic quality by class in [0, 1]: the product of both."""
        return tuple(sq * rq for sq, rq in zip(self.sq, self.rq, strict=True))

    def _totals(self) -> tuple[float, ...]:
        counts = zip(self.num_pairs, self.num_false, self.num_missed, strict=True)
        return tuple(pairs + 0.5 * false + 0.5 * missed for pairs, false, missed in counts)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        qualities = {"pq": self.pq, "sq": self.sq, "rq": self.rq}
        return {
            **{name: json_number(mean_over_classes(values)) for name, values in qualities.items()},
            "per_class": [json_number(value) for value in self.pq],
            "sq_per_class": [json_number(value) for value in self.sq],
            "rq_per_class": [json_number(value) for value in self.rq],
            "num_pairs": list(self.num_pairs),
            "num_false": list(self.num_false),
            "num_missed": list(self.num_missed),
            "protocol": str(self.protocol),
        }

    def __str__(self) -> str:
        pq, sq, rq = (mean_over_classes(values) for values in (self.pq, self.sq, self.rq))
        return f"PQ {pq:.3f}, SQ {sq:.3f}, RQ {rq:.3f} ({self.protocol})"


def panoptic_quality(
    truths: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    num_classes: int,
    *,
    min_score: float = PAINTED_MIN_SCORE,
    min_free: float = MIN_FREE,
    keep: DetectionFilter | None = None,
) -> PanopticResult:
    """PQ of instance masks over the images that ``truths`` names, each pixel of an image in one mask at most.

    Detections of at least ``min_score`` (all where they have no scores) take their pixels in the order of their scores;
    one of which less than ``min_free`` is free is dropped. Where true objects overlap the smaller keeps the pixels; an
    object without a pixel left is none. Difficult and crowd objects need not be found, and a detection of their class
    with more than half of its pixels on them is not false. An image without any mask adds nothing. Raises `UserError`
    where masks are missing or of several sizes.
    """
    check_images(detections, truths, "detections")
    check_labels(truths, num_classes, "true objects")
    check_labels(detections, num_classes, "detections")
    keep = keep or DetectionFilter()
    nothing = np.zeros(0, dtype=np.int64)
    parts = [_ImagePairs(nothing, nothing, nothing, np.zeros(0))]
    for image_id in image_order(truths):
        kept = keep_detections(detections.get(image_id, Instances.empty(scored=True)), keep)
        size = painted_size(truths[image_id], kept)
        if size is not None:
            detected = detected_object_map(kept, size, min_score, min_free)
            parts.append(pair_segments(truths[image_id], true_object_map(truths[image_id], size), kept, detected))
    paired, false, missed, ious = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return PanopticResult(
        iou_sum=tuple(np.bincount(paired, weights=ious, minlength=num_classes).tolist()),
        num_pairs=tuple(np.bincount(paired, minlength=num_classes).tolist()),
        num_false=tuple(np.bincount(false, minlength=num_classes).tolist()),
        num_missed=tuple(np.bincount(missed, minlength=num_classes).tolist()),
        protocol=Protocol(
            metric="panoptic quality of masks, things only",
            matching=f"IoU > 0.5; detections of score >= {min_score:g} take pixels by score, dropped below "
            f"{min_free:.0%} free; of true objects the smaller",
            difficult="difficult and crowd truths ignored",
            average="mean over classes with a true or a painted object",
            detections=str(keep),
            num_images=len(truths),
        ),
    )


class _ImagePairs(NamedTuple):
    """Of one image the labels of the paired, the false and the missed, ``(N,)`` each, and the IoU of the pairs."""

    paired: np.ndarray
    false: np.ndarray
    missed: np.ndarray
    iou: np.ndarray


def pair_segments(
    truth: Instances, true_rows: np.ndarray, detections: Instances, detected_rows: np.ndarray
) -> _ImagePairs:
    """Pair the segments of two maps of rows ``(H, W)``, see `object_map`; those without a pixel take no part."""
    num_true, num_detected = len(truth), len(detections)
    places = (detected_rows.astype(np.int64) + 1) * (num_true + 1) + true_rows + 1
    shared = np.bincount(places.ravel(), minlength=(num_detected + 1) * (num_true + 1))
    shared = shared.reshape(num_detected + 1, num_true + 1)
    detected_area, true_area = shared.sum(1)[1:], shared.sum(0)[1:]
    shared = shared[1:, 1:] * (detections.labels[:, None] == truth.labels).numpy()  # (D, T), of equal classes
    iou = shared / np.maximum(detected_area[:, None] + true_area - shared, 1)
    ignored = ignored_truths(truth).numpy()
    rows, columns = np.nonzero((iou > 0.5) & ~ignored)  # no segment is in two pairs, as segments are disjoint
    is_false, is_missed = detected_area > 0, (true_area > 0) & ~ignored
    is_false[rows], is_missed[columns] = False, False
    is_false &= shared[:, ignored].sum(1) <= 0.5 * detected_area
    labels, true_labels = detections.labels.numpy(), truth.labels.numpy()
    return _ImagePairs(labels[rows], labels[is_false], true_labels[is_missed], iou[rows, columns])
