"""Keep the detections of a split in a store, one row per photo, and read them back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weaksam.data.stored_rows import check_row
from weaksam.store.store import Store
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

DETECTION_COLUMNS = {"boxes": "boxes", "labels": "ints", "scores": "floats"}
"""Columns of every store of detections and their kinds, see `Store`."""


def detection_store(
    folder: Path, stage: str, fingerprint: str, dataset: Dataset, masks: bool, ignored: bool = False
) -> Store:
    """A store, not filled yet, of one row of detections per photo of ``dataset``.

    Columns: ``boxes (N, 4)`` half-open xyxy in pixels, ``labels (N,)``, ``scores (N,)`` in [0, 1], with ``masks`` N RLE
    masks in ``rles``, and with ``ignored`` in ``crowd (N,)`` 1 for regions that are to be ignored, 0 for the others.
    N = 0 is a photo without detections.
    """
    columns = DETECTION_COLUMNS | ({"rles": "rles"} if masks else {}) | ({"crowd": "ints"} if ignored else {})
    return Store(folder, stage=stage, fingerprint=fingerprint, image_ids=dataset.image_ids, columns=columns)


def instances_of(store: Store) -> dict[str, Instances]:
    """The detections of a sealed store by image id, of every photo; with masks and marks where the store has them.

    A store of no photo gives none. Raises `UserError` where the store is not sealed, and for what is no detection.
    """
    return {row["image_id"]: row_instances(row, store.folder) for row in store.rows()}


def row_instances(row: Mapping[str, Any], folder: Path) -> Instances:
    """The detections in a row of the store in ``folder``; raises `UserError` for values that no detector gives."""
    check_row(row, folder, limited=True)
    crowd = row["crowd"] > 0 if "crowd" in row else None
    masks = tuple(row["rles"]) if "rles" in row else None
    return Instances(row["boxes"], row["labels"], row["scores"], masks, crowd=crowd)


def instances_key(instances: Mapping[str, Instances]) -> list[list[Any]]:
    """What of the training instances (by image id) affects a result, as plain values for a fingerprint.

    Image id, boxes, labels and masks of every image, sorted by id, and which are to be ignored (``crowd``) where some
    are; scores have no part in it. No image gives ``[]``.
    """
    return [
        [image_id, objects.boxes.tolist(), objects.labels.tolist(), list(objects.masks or ()), *_ignored(objects)]
        for image_id, objects in sorted(instances.items())
    ]


def _ignored(objects: Instances) -> list[list[bool]]:
    """The marks of regions to ignore; nothing where there is none."""
    return [] if objects.crowd is None or not bool(objects.crowd.any()) else [objects.crowd.tolist()]
