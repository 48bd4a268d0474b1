"""Read many annotations of a COCO file at once, as long as all of them are as plain as nearly all are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from weaksam.data.formats.coco_entries import CategoryLabels
from weaksam.data.json_entries import LARGEST
from weaksam.data.plain_columns import are_only, column, whole_numbers

_RARE_KEYS = frozenset({"bbox_mode", "score", "difficult"})
"""Keys of entries that are looked at one by one."""


@dataclass(frozen=True)
class PlainObjects:
    """``N`` annotations without masks.

    ``own_ids``, ``image_ids`` and ``labels``: int64 ``(N,)``; ``boxes``: x, y, width, height in pixels, float64
    ``(N, 4)``; ``crowd``: bool ``(N,)``.
    """

    own_ids: np.ndarray
    image_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """``boxes`` as x1, y1, x2, y2, float64 ``(N, 4)``."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)


def plain_objects(block: Sequence[Any], labels: CategoryLabels) -> PlainObjects | None:
    """The annotations in ``block``; None where any has a mask or a rare key, or anything that needs a word."""
    if not are_only(block, dict) or _RARE_KEYS & set().union(*block) or not _are_without_masks(block):
        return None
    own_ids, image_ids = whole_numbers(column(block, "id")), whole_numbers(column(block, "image_id"))
    of_objects = _plain_labels(column(block, "category_id"), labels)
    boxes, crowd = _plain_boxes(column(block, "bbox")), _plain_flags(column(block, "iscrowd"))
    if own_ids is None or image_ids is None or of_objects is None or boxes is None or crowd is None:
        return None
    return PlainObjects(own_ids, image_ids, of_objects, boxes, crowd)


def _are_without_masks(block: Sequence[dict[str, Any]]) -> bool:
    segmentations = column(block, "segmentation")
    return are_only(segmentations, list, type(None)) and not any(segmentations)


def _plain_labels(categories: Sequence[Any], labels: CategoryLabels) -> np.ndarray | None:
    """The label of each of ``categories``, int64 ``(N,)``; None where any is no category's number."""
    if not are_only(categories, int):
        return None
    of_objects = list(map(labels.by_id.get, categories))
    return None if None in of_objects else np.array(of_objects, dtype=np.int64)


def _plain_boxes(boxes: Sequence[Any]) -> np.ndarray | None:
    """Boxes of four numbers from 0 to `LARGEST`, float64 ``(N, 4)``; None where any is another value."""
    if not are_only(boxes, list) or set(map(len, boxes)) != {4}:
        return None
    numbers = list(chain.from_iterable(boxes))
    if not are_only(numbers, int, float) or not 0 <= min(numbers) <= max(numbers) <= LARGEST:
        return None
    values = np.array(numbers, dtype=np.float64).reshape(-1, 4)
    return None if np.isnan(values).any() else values


def _plain_flags(flags: Sequence[Any]) -> np.ndarray | None:
    """Which of ``flags`` are 1, bool ``(N,)``; a missing one is 0, and any other value gives None."""
    if not are_only(flags, int, type(None)) or not set(flags) <= {0, 1, None}:
        return None
    return np.array([flag == 1 for flag in flags])
