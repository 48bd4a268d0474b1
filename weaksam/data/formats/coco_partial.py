"""Read COCO JSON that labels photos in part: boxes, masks, points, scribbles, counts, and photos that are complete."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.formats.coco import SECTIONS, read_categories
from weaksam.data.formats.coco_entries import CategoryLabels, StatedBoxes, read_box
from weaksam.data.formats.coco_masks import read_mask
from weaksam.data.formats.shapes import LabelledImage, Shape, read_counts
from weaksam.data.json_entries import FileId, JsonEntry, as_file_id, is_number, json_entries, listed_keys, shown
from weaksam.data.text_files import read_json


def read_labelled(path: Path, findings: Findings) -> list[LabelledImage]:
    """What a COCO file labels of each of its images.

    An annotation with ``bbox`` or ``segmentation`` is an object, one with ``point`` ([x, y]) or ``keypoints`` (x, y, v,
    ...; those with v > 0) and no box a point each, one with a segmentation and ``scribble`` 1 a scribble. ``counts``
    ({"apple": 3}) and ``complete`` are keys of an image. What cannot be read is a fault; another file raises
    `UserError`.
    """
    content = read_json(path, "a COCO file of labels")
    missing = [name for name in SECTIONS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        state = listed_keys(content) if isinstance(content, dict) else shown(content)
        raise UserError(
            f"wanted a COCO file with the lists {', '.join(SECTIONS)} at {path}, found {state}: add {missing[0]!r}, or "
            "name another file"
        )
    names = read_categories(content["categories"], path, findings)
    labels = CategoryLabels(
        {number: row for row, number in enumerate(names)}, {n: row for row, n in enumerate(names.values())}
    )
    images: dict[FileId, JsonEntry] = {}
    for entry in json_entries(content["images"], "image", path, findings):
        try:
            images[entry.file_id("id")] = entry
        except UserError as error:
            findings.fault(str(error))
    shapes, boxes = defaultdict[FileId, list[Shape]](list), StatedBoxes()
    for entry in json_entries(content["annotations"], "annotation", path, findings):
        try:
            image_id = as_file_id(entry.get("image_id"))
            if image_id is None or image_id not in images:
                raise entry.refusal("image_id", "the id of an image of the file")
            name = list(names.values())[labels.label(entry)]
            shapes[image_id] += _shapes(entry, name, images[image_id].size(), boxes)
        except UserError as error:
            findings.fault(str(error))
    boxes.check(path, findings)
    labelled = []
    for image_id, entry in images.items():
        try:
            name, counts, complete = entry.text("file_name"), read_counts(entry), entry.flag("complete")
            labelled.append(LabelledImage(name, entry.size(), shapes[image_id], counts, complete, entry.place))
        except UserError as error:
            findings.fault(str(error))
    return labelled


def _shapes(entry: JsonEntry, name: str, size: tuple[int, int] | None, boxes: StatedBoxes) -> list[Shape]:
    """The object, points or scribble of one annotation."""
    mask = read_mask(entry, size)
    if entry.flag("scribble"):
        if mask is None:
            raise entry.refusal("segmentation", "the pixels of the scribble")
        return [Shape(name=name, mask=mask, scribble=True)]
    crowd = entry.flag("iscrowd")
    if entry.get("bbox") in (None, []):
        if mask is not None:
            return [Shape(name=name, mask=mask, crowd=crowd)]
        return [Shape(name=name, points=(point,)) for point in _points(entry)]
    x, y, width, height = read_box(entry)
    boxes.add((x, y, width, height), size)
    return [Shape(name=name, box=(x, y, x + width, y + height), mask=mask, crowd=crowd)]


def _points(entry: JsonEntry) -> list[tuple[float, float]]:
    """The points of an annotation without a box, at least one."""
    point, keypoints = entry.get("point"), entry.get("keypoints")
    values: Any = [*point, 1] if isinstance(point, list) and len(point) == 2 else keypoints
    good = isinstance(values, list) and len(values) % 3 == 0 and all(map(is_number, values))
    numbers = entry.numbers(values) if good else []
    points = [(numbers[at], numbers[at + 1]) for at in range(0, len(numbers), 3) if numbers[at + 2] > 0]
    if not points:
        key = "point" if point is not None else "keypoints" if keypoints is not None else "bbox"
        raise entry.refusal(key, "a bbox, a segmentation, a point [x, y] or keypoints that are labelled")
    return points
