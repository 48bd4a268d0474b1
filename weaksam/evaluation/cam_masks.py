"""Measure the mean IoU of the masks that class maps make at a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from weaksam.evaluation.label_maps import true_classes
from weaksam.evaluation.protocol import Protocol, json_number
from weaksam.evaluation.semantic import class_ious, pixel_confusion
from weaksam.structures.instances import Instances

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(2, 19))
"""0.10, 0.15, .., 0.90: heights of the normalised map."""
ClassMapsOf = Callable[[str], tuple[Tensor, Tensor]]
"""image_id -> labels ``(L,)`` and their maps ``(L, h, w)``."""


@dataclass(frozen=True)
class CamMaskResult:
    """Mean IoU in [0, 1] over the background and the classes that occur, for each of ``thresholds``.

    per_class: IoU at the best threshold, background first, nan for a class that occurs nowhere. The best threshold is
    chosen with the truth at hand, as papers do: it says what the maps hold, not what a user would get.
    """

    thresholds: tuple[float, ...]
    miou: tuple[float, ...]
    per_class: tuple[float, ...]
    protocol: Protocol

    @property
    def best(self) -> float:
        """The threshold of the highest mean IoU, the lowest of equals; nan where nothing was measured."""
        if all(map(math.isnan, self.miou)):
            return math.nan
        return self.thresholds[int(np.nanargmax(self.miou))]

    def at(self, threshold: float) -> float:
        """Mean IoU at one of the thresholds."""
        return self.miou[self.thresholds.index(threshold)]

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null, with the protocol in words."""
        return {
            "best": json_number(max(self.miou)),
            "best_threshold": json_number(self.best),
            "by_threshold": {
                f"{threshold:g}": json_number(value)
                for threshold, value in zip(self.thresholds, self.miou, strict=True)
            },
            "per_class": [json_number(value) for value in self.per_class],
            "protocol": str(self.protocol),
        }


def cam_mask_quality(
    truths: Mapping[str, Instances],
    maps_of: ClassMapsOf,
    sizes: Mapping[str, tuple[int, int]],
    num_classes: int,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> CamMaskResult:
    """Mean IoU of thresholded class maps against the true masks of images of ``sizes`` (H, W).

    A map is cut at 0, resized to the image and stretched to [0, 1]; a pixel belongs to the class whose map is highest
    there, if that reaches the threshold, else to the background. Pixels of all images are counted together.
    """
    confusion = np.zeros((len(thresholds), num_classes + 1, num_classes + 1), dtype=np.int64)
    for image_id, truth in truths.items():
        true_pixels = true_classes(truth, sizes[image_id])
        height, label = strongest_class(*maps_of(image_id), sizes[image_id])
        for index, threshold in enumerate(thresholds):
            map_pixels = np.where(height >= threshold, label + 1, 0)
            confusion[index] += pixel_confusion(true_pixels, map_pixels, num_classes)
    ious = np.stack([class_ious(at_threshold) for at_threshold in confusion])  # (T, C + 1)
    occurs = confusion[0].sum(axis=1) > 0
    miou = ious[:, occurs].mean(axis=1) if occurs.any() else np.full(len(thresholds), np.nan)
    best = ious[int(miou.argmax())]
    protocol = Protocol(
        "mean IoU of class maps",
        "a pixel goes to the strongest of the normalised maps of the image's tags, if that reaches the threshold",
        "crowds and difficult objects are left out; where objects overlap the smaller one counts",
        "mean over background and classes, pixels of all images together; the best threshold is chosen by the truth",
        f"thresholds {thresholds[0]:g} to {thresholds[-1]:g}",
        len(truths),
    )
    per_class = tuple(float(iou) if is_there else math.nan for iou, is_there in zip(best, occurs, strict=True))
    return CamMaskResult(thresholds, tuple(miou.tolist()), per_class, protocol)


def strongest_class(labels: Tensor, maps: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The greatest of the normalised maps ``(L, h, w)`` at every pixel ``(H, W)``, and its label; 0 where L = 0."""
    if len(labels) == 0:
        return np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.int64)
    large = F.interpolate(maps[None].relu(), size=size, mode="bilinear", align_corners=False)[0]
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    height, index = ((large - low) / (high - low + 1e-8)).max(dim=0)
    return height.numpy(), labels[index].numpy()
