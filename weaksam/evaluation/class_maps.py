"""Measure class maps of photos: mean IoU over the dataset, the confusion matrix, and F of the boundaries by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from weaksam.config import UserError
from weaksam.evaluation.label_maps import IGNORED
from weaksam.evaluation.protocol import Protocol, json_number, mean_over_classes
from weaksam.evaluation.semantic import class_ious, pixel_confusion

UNLABELLED = 255
"""The class of pixels of a true map that are not measured."""
TOLERANCE = 0.0075
"""Distance within which boundaries meet, as a share of the photo's diagonal (Perazzi et al., CVPR 2016: 0.008)."""
_SIDES = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)


@dataclass(frozen=True)
class ClassMapResult:
    """What class maps are worth, of C classes: nan for a class without a true pixel (or boundary).

    ``ious`` and ``boundary_f``: in [0, 1], by class. ``confusion``: pixels by true class (rows) and class, int64
    ``(C, C)``.
    """

    ious: tuple[float, ...]
    boundary_f: tuple[float, ...]
    confusion: np.ndarray
    protocol: Protocol

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes with a true pixel; nan where there is no pixel."""
        return mean_over_classes(self.ious)

    @property
    def mean_boundary_f(self) -> float:
        """Mean F over the classes with a true boundary; nan where there is none."""
        return mean_over_classes(self.boundary_f)

    @property
    def accuracy(self) -> float:
        """Share of the measured pixels whose class is right; nan where there is no pixel."""
        total = int(self.confusion.sum())
        return float(np.trace(self.confusion)) / total if total else float("nan")

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """The figures as JSON can hold them, by the names of ``classes``, with the protocol in words."""
        return {
            "mean_iou": json_number(self.mean_iou),
            "mean_boundary_f": json_number(self.mean_boundary_f),
            "accuracy": json_number(self.accuracy),
            "iou": {name: json_number(value) for name, value in zip(classes, self.ious, strict=True)},
            "boundary_f": {name: json_number(value) for name, value in zip(classes, self.boundary_f, strict=True)},
            "confusion": self.confusion.tolist(),
            "protocol": str(self.protocol),
        }


def measure_class_maps(
    maps: Iterable[tuple[np.ndarray, np.ndarray]],
    num_classes: int,
    *,
    wraps: bool = False,
    tolerance: float = TOLERANCE,
) -> ClassMapResult:
    """Measure pairs of a true and a predicted class map, integers ``(H, W)`` of one size, over all pixels together.

    Pixels that are `UNLABELLED` in the true map are left out. ``wraps``: the left and the right edge of the maps meet,
    as a panorama's do. No maps give nan. Raises `UserError` for maps of two sizes and a true class outside [0, C).
    """
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    met = np.zeros((4, num_classes), dtype=np.int64)  # predicted: met, all; true: met, all
    num = 0
    for truth, predicted in maps:
        truth, predicted = _checked(truth, predicted, num_classes)
        known = truth != IGNORED
        confusion += pixel_confusion(truth, predicted, num_classes - 1)
        for label in np.union1d(truth[known], predicted[known]).tolist():
            met[:, label] += _met_boundaries(truth == label, predicted == label, known, wraps, tolerance)
        num += 1
    occurs = confusion.sum(axis=1) > 0
    ious = np.where(occurs, class_ious(confusion), np.nan)
    precision, recall = met[0] / np.maximum(met[1], 1), met[2] / np.maximum(met[3], 1)
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    protocol = Protocol(
        metric="mean IoU of class maps",
        matching=f"boundaries meet within {tolerance:.2%} of the diagonal{', across the seam too' if wraps else ''}",
        difficult="unlabelled pixels left out",
        average="pixels of all photos together, mean over classes with a true pixel",
        detections="one class a pixel",
        num_images=num,
    )
    boundary_f = np.where(met[3] > 0, f, np.nan)
    return ClassMapResult(tuple(ious.tolist()), tuple(boundary_f.tolist()), confusion, protocol)


def _checked(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both maps in int64, unlabelled pixels as `IGNORED`."""
    if truth.shape != predicted.shape:
        raise UserError(
            f"wanted class maps of one size, found a true one of {truth.shape[1]} x {truth.shape[0]} and a predicted "
            f"one of {predicted.shape[1]} x {predicted.shape[0]} pixels: give maps of the same photos"
        )
    truth = np.where(truth == UNLABELLED, IGNORED, truth.astype(np.int64))
    if truth.size and int(truth.max()) >= num_classes:
        raise UserError(
            f"wanted classes 0 to {num_classes - 1} (and {UNLABELLED} for none) in the true class maps, found "
            f"{int(truth.max())}: give the labels of these {num_classes} classes"
        )
    return truth, predicted.astype(np.int64)


def _met_boundaries(
    truth: np.ndarray, predicted: np.ndarray, known: np.ndarray, wraps: bool, tolerance: float
) -> tuple[int, int, int, int]:
    """Pixels of the predicted boundary that meet the true one, all of them, and the same of the true one."""
    reach = max(1, round(tolerance * float(np.hypot(*truth.shape))))
    lines = [_boundary(mask, wraps) & known for mask in (predicted, truth)]
    counts: list[int] = []
    for line, other in (lines, lines[::-1]):
        near = _near(other, reach, wraps)
        counts += [int((line & near).sum()), int(line.sum())]
    return counts[0], counts[1], counts[2], counts[3]


def _boundary(mask: np.ndarray, wraps: bool) -> np.ndarray:
    """Pixels of a bool mask ``(H, W)`` with a neighbour to a side that is not of it; a photo's edge is no boundary."""
    padded = np.pad(np.pad(mask, ((1, 1), (0, 0)), "edge"), ((0, 0), (1, 1)), "wrap" if wraps else "edge")
    return mask & ~ndimage.binary_erosion(padded, _SIDES, border_value=1)[1:-1, 1:-1]


def _near(line: np.ndarray, reach: int, wraps: bool) -> np.ndarray:
    """Pixels ``(H, W)`` within ``reach`` pixels of a line."""
    if not line.any():
        return np.zeros_like(line)
    side = min(reach, line.shape[1]) if wraps else 0
    padded = np.pad(line, ((0, 0), (side, side)), "wrap") if side else line
    near: np.ndarray = ndimage.distance_transform_edt(~padded) <= reach
    return near[:, side : near.shape[1] - side]
