"""Read and write COCO ground truth: boxes, polygons, RLE and crowds, and write results lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam.config import UserError
from weaksam.data.annotations import Annotations, ImageTruth, ObjectRows
from weaksam.data.findings import Findings
from weaksam.data.formats.coco_entries import CategoryLabels, ObjectReader
from weaksam.data.image_entries import ImageEntries, ImageEntry, composed, read_image_entries
from weaksam.data.json_entries import FileId, JsonEntry, as_file_id, attempt, json_entries, listed_keys, shown
from weaksam.data.text_files import read_json
from weaksam.store.files import write_json_atomic
from weaksam.structures.boxes import area
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_area

Entry = dict[str, Any]
"""One annotation or result of a COCO file."""
SECTIONS = ("images", "annotations", "categories")
"""The lists of an instances file."""


def read_instances(path: Path, findings: Findings | None = None) -> Annotations:
    """The images, objects and categories of a COCO instances file, by ``file_name``.

    Classes come in the order of their ids, and keep their ids. Objects get masks if any object of the file has one
    (polygons, RLE as run lengths or as text); among them one without gets its box as mask. A box of no area stays.
    ``iscrowd`` gives ``crowd``, the extra keys ``score`` and ``difficult`` are read where they are. Images without
    annotations are there, empty. ``findings`` take counts, guesses and faults; a fault, a file of another shape too,
    raises `UserError` unless it gathers them.
    """
    findings = findings or Findings()
    content = _instances_content(path)
    names = _read_categories(content["categories"], path, findings)
    labels = CategoryLabels(
        {number: label for label, number in enumerate(names)},
        {name: label for label, name in enumerate(names.values())},
    )
    entries = read_image_entries(content["images"], path, findings)
    by_image = _annotations_by_image(content["annotations"], entries, path, findings)
    reader = ObjectReader(labels)
    rows_of = {
        entry.file_id: _image_rows(reader, entry, by_image.get(entry.file_id, []), findings)
        for entry in entries.by_id.values()
    }
    reader.boxes.check(path, findings)
    images = {
        entry.name: _image_truth(*rows_of[entry.file_id], entry, with_masks=reader.num_masks > 0)
        for entry in entries.by_id.values()
    }
    findings.count(_summary(path, [truth.instances for truth in images.values()], len(names)))
    return Annotations(tuple(names.values()), tuple(names), images, findings.notes)


def _instances_content(path: Path) -> dict[str, list[Any]]:
    """The parsed file, after checking that it has the three lists."""
    content = read_json(path, "a COCO instances file")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in SECTIONS):
        state = listed_keys(content) if isinstance(content, dict) else shown(content)
        state = "a list (COCO results?)" if isinstance(content, list) else state
        wrong = [key for key in SECTIONS if isinstance(content, dict) and key in content]
        other = [f"{key!r} as {shown(content[key])}" for key in wrong if not isinstance(content[key], list)]
        raise UserError(
            f"wanted a COCO instances file with {', '.join(SECTIONS)} at {path}, found {other[0] if other else state}: "
            "name another file or add the missing list"
        )
    return content


def _read_categories(content: list[Any], path: Path, findings: Findings) -> dict[int, str]:
    """Class names by id, in the order of the ids; an id or a name of two categories is a fault."""
    names: dict[int, str] = {}
    for entry in json_entries(content, "category", path, findings):
        category = attempt(findings, _category, entry)
        if category is None:
            continue
        number, name = category
        if names.get(number) == name:
            findings.guess("a category that is listed twice was taken once", entry.place)
        elif number in names:
            state = f"{number} for {names[number]!r} and {name!r}"
            findings.fault(f"wanted every category id of {path} once, found {state}: give each its own")
        elif composed(name) in map(composed, names.values()):
            findings.fault(f"wanted every category of {path} once, found {name!r} twice: merge the two")
        else:
            names[number] = name
    return dict(sorted(names.items()))


def _category(entry: JsonEntry) -> tuple[int, str]:
    """Id and name of a category; `UserError` for an entry without them."""
    number = as_file_id(entry.get("id"))
    if not isinstance(number, int):
        raise entry.refusal("id", "a whole number")
    return number, entry.text("name").strip()


def _annotations_by_image(
    content: list[Any], entries: ImageEntries, path: Path, findings: Findings
) -> dict[FileId, list[JsonEntry]]:
    """The annotations of each image in the file's order; one of no image of the file is a fault."""
    by_image: dict[FileId, list[JsonEntry]] = defaultdict(list)
    first_of: dict[FileId, Any] = {}
    for entry in json_entries(content, "annotation", path, findings):
        image_id = as_file_id(entry.get("image_id"))
        if image_id is None:
            findings.fault(str(entry.refusal("image_id", "the id of an image of the file")))
        elif image_id in entries.by_id:
            by_image[image_id].append(entry)
        elif image_id not in entries.left_out:
            findings.fault(
                f"wanted every annotation of {path} to name an image, found image_id {image_id!r} in {entry.place}: "
                "mend the entry or add the image"
            )
        own_id = as_file_id(entry.get("id"))
        if own_id is not None and own_id in first_of:
            _say_repeat(entry, first_of[own_id], findings)
        elif own_id is not None:
            first_of[own_id] = entry.values
    return by_image


def _say_repeat(entry: JsonEntry, first: Mapping[str, Any], findings: Findings) -> None:
    """Say of an annotation whose id came before that it is an object of its own, or a fault if it is the same one."""
    if entry.values == first:
        findings.fault(f"wanted every annotation once, found {entry.place} there twice, word for word: remove one")
    else:
        findings.guess("an annotation with the id of another was read as an object of its own", entry.place)


def _image_rows(
    reader: ObjectReader, image: ImageEntry, annotations: Sequence[JsonEntry], findings: Findings
) -> tuple[ObjectRows, tuple[int, int] | None]:
    """The objects of one image that can be read, and its size, that of its masks where the file does not state it."""
    rows, size = ObjectRows.none(), image.size
    for annotation in annotations:
        try:
            score = None if annotation.get("score") is None else annotation.number("score")
            size = reader.add(rows, annotation, size, score)
        except UserError as error:
            findings.fault(str(error))
    return rows, size


def _image_truth(rows: ObjectRows, size: tuple[int, int] | None, image: ImageEntry, *, with_masks: bool) -> ImageTruth:
    """The objects of one image as a value; without a size an object's box cannot stand for its mask."""
    drawable = with_masks and (size is not None or all(mask is not None for mask in rows.masks))
    number, text = (image.file_id, "") if isinstance(image.file_id, int) else (None, image.file_id)
    return ImageTruth(rows.instances(with_masks=drawable, size=size or (0, 0)), number, size, text)


def _summary(path: Path, objects: Sequence[Instances], num_classes: int) -> str:
    """How much was read of an instances file, in one line."""
    counts = {
        "crowd": sum(int(of_image.crowd.sum()) for of_image in objects if of_image.crowd is not None),
        "difficult": sum(int(of_image.difficult.sum()) for of_image in objects if of_image.difficult is not None),
        "without area": sum(int((area(of_image.boxes) == 0).sum()) for of_image in objects),
    }
    special = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    num_empty = sum(len(of_image) == 0 for of_image in objects)
    empty = f", {num_empty} of them without objects" if num_empty else ""
    text = f"{path}: {len(objects)} images{empty}; {sum(map(len, objects))} objects of {num_classes} classes"
    return f"{text} ({special})" if special else text


# Writing


def write_instances(path: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write ``instances`` (by image id) as a COCO instances file, with every image of ``dataset``.

    An image that is not in ``instances`` is written without annotations. Scores are kept under ``score``.
    """
    annotations: list[Entry] = []
    for sample in dataset.samples:
        objects = instances.get(sample.image_id, Instances.empty())
        areas = rle_area(objects.masks) if objects.masks is not None else area(objects.boxes)
        for row, entry in enumerate(object_entries(objects, dataset.category_ids)):
            entry = {"id": len(annotations) + 1, "image_id": sample.file_id, **entry, "area": float(areas[row])}
            entry["iscrowd"] = int(objects.crowd is not None and bool(objects.crowd[row]))
            entry.setdefault("segmentation", [])
            if objects.difficult is not None:
                entry["difficult"] = int(objects.difficult[row])
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
