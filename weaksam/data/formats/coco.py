"""Read and write COCO JSON: ground truth with boxes, polygons, RLE and crowds, and results lists."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam.config import UserError, did_you_mean
from weaksam.data.annotations import Annotations, ImageTruth, ObjectRows
from weaksam.data.image_names import ImageNames, Key
from weaksam.data.text_files import read_json
from weaksam.store.files import write_json_atomic
from weaksam.structures.boxes import area
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, box_from_rle, rle_area, rle_from_counts, rle_from_polygons

Entry = dict[str, Any]
"""One annotation or result of a COCO file."""


def read_instances(path: Path) -> Annotations:
    """The images, objects and categories of a COCO instances file, by ``file_name``.

    Classes come in the order of their ids, and keep their ids. Objects get masks if any object of the file has one
    (polygons, RLE as run lengths or as text); among them one without gets its box as mask. A box of no area stays.
    ``iscrowd`` gives ``crowd``, the extra keys ``score`` and ``difficult`` are read where they are. Images without
    annotations are there, empty. Raises `UserError` for a file of another shape.
    """
    content = _instances_content(path)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names = tuple(str(category["name"]).strip() for category in categories)
    _refuse_repeats(names, path)
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    by_image: dict[Any, list[Entry]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation.get("image_id")].append(annotation)
    with_masks = any(annotation.get("segmentation") for annotation in content["annotations"])
    images = {}
    for entry in content["images"]:
        size = (int(entry["height"]), int(entry["width"])) if "height" in entry and "width" in entry else None
        rows = ObjectRows.none()
        for annotation in by_image.pop(entry["id"], []):
            _add(rows, annotation, label_of, size, path)
        truth = rows.instances(with_masks=with_masks, size=size or (0, 0))
        images[str(entry["file_name"])] = ImageTruth(truth, int(entry["id"]), size)
    if by_image:
        unknown = next(iter(by_image))
        raise UserError(
            f"wanted every annotation of {path} to name an image, found image_id {unknown!r}: mend the file"
        )
    return Annotations(names, tuple(int(category["id"]) for category in categories), images)


def write_instances(path: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write ``instances`` (by image id) as a COCO instances file, with every image of ``dataset``.

    An image that is not in ``instances`` is written without annotations. Scores are kept under ``score``.
    """
    annotations: list[Entry] = []
    for sample in dataset.samples:
        objects = instances.get(sample.image_id, Instances.empty())
        areas = rle_area(objects.masks) if objects.masks is not None else area(objects.boxes)
        for row, entry in enumerate(object_entries(objects, dataset.category_ids)):
            entry = {"id": len(annotations) + 1, "image_id": sample.number, **entry, "area": float(areas[row])}
            entry["iscrowd"] = int(objects.crowd is not None and bool(objects.crowd[row]))
            entry.setdefault("segmentation", [])
            if objects.difficult is not None:
                entry["difficult"] = int(objects.difficult[row])
            annotations.append(entry)
    images = [
        {"id": sample.number, "file_name": sample.image_id, "width": sample.size[1], "height": sample.size[0]}
        for sample in dataset.samples
    ]
    categories = [
        {"id": number, "name": name, "supercategory": "object"}
        for number, name in zip(dataset.category_ids, dataset.classes, strict=True)
    ]
    write_json_atomic(path, {"images": images, "annotations": annotations, "categories": categories})


def read_results(path: Path, dataset: Dataset) -> dict[str, Instances]:
    """Detections by image id from a COCO results list; every image of ``dataset`` is there, empty where it has none.

    ``image_id`` is a number of ``dataset`` or, as some tools write it, a photo's name with or without ending. Raises
    `UserError` where the list names an image or a category that ``dataset`` does not have.
    """
    content = read_json(path, "a COCO results list")
    if not isinstance(content, list):
        raise UserError(
            f"wanted a COCO results list in {path}, found a JSON {type(content).__name__}: name another file"
        )
    names = ImageNames(dataset.image_ids, {sample.image_id: sample.number for sample in dataset.samples})
    image_of: dict[Key, str | None] = {}
    label_of = {number: label for label, number in enumerate(dataset.category_ids)}
    rows = {sample.image_id: ObjectRows.none() for sample in dataset.samples}
    for entry in content:
        key = entry.get("image_id")
        key = int(key) if isinstance(key, float) and key.is_integer() else key
        if isinstance(key, str | int) and key not in image_of:
            image_of[key] = names.find(key, str(path))
        image_id = image_of[key] if isinstance(key, str | int) else None
        if image_id is None:
            raise UserError(f"wanted results of {dataset.name} in {path}, found image_id {key!r}: name its own file")
        _add(rows[image_id], {"score": 1.0, **entry}, label_of, dataset.by_id[image_id].size, path)
    with_masks = any(entry.get("segmentation") for entry in content)
    detections = {}
    for sample in dataset.samples:
        objects = rows[sample.image_id].instances(with_masks=with_masks, size=sample.size)
        detections[sample.image_id] = objects.replace(difficult=None, crowd=None)
    return detections


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
        results.extend({"image_id": sample.number, **entry} for entry in entries)
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


def _instances_content(path: Path) -> dict[str, list[Entry]]:
    """The parsed file, after checking that it has the three lists and their keys."""
    content = read_json(path, "a COCO instances file")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _WANTED):
        kind = "a list (COCO results?)" if isinstance(content, list) else f"the keys {sorted(content)[:8]}"
        raise UserError(f"wanted a COCO instances file with {', '.join(_WANTED)} at {path}, found {kind}")
    for key, fields in _WANTED.items():
        for entry in content[key]:
            missing = [field for field in fields if field not in entry]
            if missing:
                raise UserError(f"wanted {missing[0]!r} in every entry of {key!r} in {path}, found {str(entry)[:80]}")
    return content


_WANTED = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


def _refuse_repeats(names: Sequence[str], path: Path) -> None:
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"wanted every category of {path} once, found {repeated[0]!r} twice: merge the two")


def _add(
    rows: ObjectRows, annotation: Entry, label_of: Mapping[Any, int], size: tuple[int, int] | None, path: Path
) -> None:
    """Append one COCO annotation or result to ``rows``."""
    category = annotation.get("category_id")
    if category not in label_of:
        hint = did_you_mean(str(category), map(str, label_of))
        raise UserError(f"wanted a category id of the dataset in {path}, found {category!r}{hint}: mend the file")
    mask = _mask(annotation.get("segmentation"), size, path)
    box = annotation.get("bbox")
    if box is None and mask is not None:
        corners = box_from_rle(mask).tolist()
    elif isinstance(box, list) and len(box) == 4 and all(math.isfinite(value) for value in box):
        x, y, width, height = box
        corners = [x, y, x + width, y + height]
    else:
        raise UserError(f"wanted a bbox of four numbers in every annotation of {path}, found {box!r}: mend the file")
    rows.add(
        corners,
        label_of[category],
        mask=mask,
        score=annotation.get("score"),
        difficult=bool(annotation.get("difficult", 0)),
        crowd=bool(annotation.get("iscrowd", 0)),
    )


def _mask(segmentation: Any, size: tuple[int, int] | None, path: Path) -> Rle | None:
    """RLE of a COCO segmentation in any of its three forms; None where there is none."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        if size is None:
            raise UserError(f"wanted width and height of every image in {path} to draw polygons, found none: add them")
        return rle_from_polygons(segmentation, size)
    counts, (height, width) = segmentation["counts"], segmentation["size"]
    if isinstance(counts, list):
        return rle_from_counts(counts, (height, width))
    return {"size": [int(height), int(width)], "counts": counts}
