"""Detections of a split in a sealed store, a row per photo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weaksam.store.store import Store
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


def detection_store(folder: Path, stage: str, fingerprint: str, dataset: Dataset, masks: bool) -> Store:
    """A store of one row of detections per photo: boxes, labels, scores, and RLE masks if asked."""
    columns = {"boxes": "boxes", "labels": "ints", "scores": "floats"} | ({"rles": "rles"} if masks else {})
    return Store(folder, stage=stage, fingerprint=fingerprint, image_ids=dataset.image_ids, columns=columns)


def instances_of(store: Store) -> dict[str, Instances]:
    """The detections of a sealed store, by image id."""
    return {
        row["image_id"]: Instances(
            row["boxes"], row["labels"], row["scores"], tuple(row["rles"]) if "rles" in row else None
        )
        for row in store.rows()
    }


def instances_key(instances: Mapping[str, Instances]) -> list:
    """What of the training instances affects the result, as plain values for a fingerprint."""
    return [
        [image_id, found.boxes.tolist(), found.labels.tolist(), list(found.masks or ())]
        for image_id, found in sorted(instances.items())
    ]
