"""Write COCO instances and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from weaksam.config import UserError
from weaksam.store.files import write_json_atomic
from weaksam.structures.boxes import area
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.mask_polygons import polygons_from_rle
from weaksam.structures.masks import rle_area

Entry = dict[str, Any]
"""One annotation or result of a COCO file."""


def write_instances(
    path: Path,
    dataset: Dataset,
    instances: Mapping[str, Instances],
    numbers: Mapping[str, Mapping[str, Sequence[float] | Tensor]] | None = None,
    *,
    polygons: bool = False,
) -> None:
    """Write ``instances`` (by image id) as a COCO instances file, with every image of ``dataset``.

    An image that is not in ``instances`` is written without annotations. Scores are kept under ``score``, further
    ``numbers`` (by their key, then by image id one for each object) under their own keys. Masks are run lengths, or
    with ``polygons`` one polygon for each part (of all but crowds, see `polygons_from_rle`).
    """
    annotations: list[Entry] = []
    for sample in dataset.samples:
        objects = instances.get(sample.image_id, Instances.empty())
        areas = rle_area(objects.masks) if objects.masks is not None else area(objects.boxes)
        for row, entry in enumerate(object_entries(objects, dataset.category_ids)):
            entry = {"id": len(annotations) + 1, "image_id": sample.file_id, **entry, "area": float(areas[row])}
            entry["iscrowd"] = int(objects.crowd is not None and bool(objects.crowd[row]))
            entry.setdefault("segmentation", [])
            if polygons and objects.masks is not None and not entry["iscrowd"]:
                parts = polygons_from_rle(objects.masks[row])
                entry["segmentation"] = [part.reshape(-1).tolist() for part in parts]
            if objects.difficult is not None:
                entry["difficult"] = int(objects.difficult[row])
            entry |= {key: _short(float(of[sample.image_id][row])) for key, of in (numbers or {}).items()}
            annotations.append(entry)
    images = [
        {"id": sample.file_id, "file_name": sample.image_id, "width": sample.size[1], "height": sample.size[0]}
        for sample in dataset.samples
    ]
    categories = [
        {"id": number, "name": name, "supercategory": "object"}
        for number, name in zip(dataset.category_ids, dataset.classes, strict=True)
    ]
    write_json_atomic(path, {"images": images, "annotations": annotations, "categories": categories})


def write_results(path: Path, dataset: Dataset, detections: Mapping[str, Instances]) -> None:
    """Write detections (by image id) as a COCO results list: ``bbox`` xywh, ``score`` and, where given, RLE masks.

    Raises `UserError` for detections without scores.
    """
    results: list[Entry] = []
    for sample in dataset.samples:
        objects = detections.get(sample.image_id, Instances.empty())
        if len(objects) and objects.scores is None:
            raise UserError(f"wanted scored detections to write {path}, found none on {sample.image_id}: give scores")
        entries = object_entries(objects, dataset.category_ids)
        results.extend({"image_id": sample.file_id, **entry} for entry in entries)
    write_json_atomic(path, results)


def object_entries(objects: Instances, category_ids: Sequence[int]) -> list[Entry]:
    """The part of an entry that truth and results share, per object: category, box, and mask and score where given.

    ``category_ids``: the file's number by label. No objects give no entries.
    """
    entries: list[Entry] = []
    for row, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        # Widths stay float64, so that x + width gives x2 back exactly
        box = [_short(x1), _short(y1), x2 - x1, y2 - y1]
        entry: Entry = {"category_id": category_ids[int(objects.labels[row])], "bbox": box}
        if objects.masks is not None:
            entry["segmentation"] = objects.masks[row]
        if objects.scores is not None:
            entry["score"] = _short(float(objects.scores[row]))
        entries.append(entry)
    return entries


def _short(value: float) -> float:
    """The float64 of fewest digits that is the same float32."""
    return float(str(np.float32(value)))
