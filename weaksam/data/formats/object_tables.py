"""Write and read objects as a CSV table: one line for each object, and one for each photo without objects."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from weaksam.config import UserError, listed
from weaksam.data.annotations import Annotations
from weaksam.data.class_names import check_name
from weaksam.data.findings import Findings
from weaksam.data.formats.coco_masks import read_mask
from weaksam.data.formats.shapes import Shape, ShapedImages
from weaksam.data.formats.tables import TableRow, read_cells
from weaksam.data.json_entries import JsonEntry
from weaksam.store.files import atomic_file
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances, ignored

COLUMNS = ("file", "width", "height", "label", "x1", "y1", "x2", "y2", "score", "ignored")
"""Columns of every table, in their order; ``mask`` follows where there are masks."""
MASK = "mask"
OBJECT_KEYS: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "image", "imageid", "imagename", "path", "filepath", "photo"),
    "label": ("label", "class", "classname", "category", "name"),
    "x1": ("x1", "xmin", "left"),
    "y1": ("y1", "ymin", "top"),
    "x2": ("x2", "xmax", "right"),
    "y2": ("y2", "ymax", "bottom"),
    "width": ("width", "imagewidth"),
    "height": ("height", "imageheight"),
    "score": ("score", "confidence"),
    "ignored": ("ignored", "iscrowd", "difficult"),
    "mask": ("mask", "rle"),
}
"""What a column may be called, in small letters without separators."""
_NEEDED = ("file", "label", "x1", "y1", "x2", "y2")


def write_table(path: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write one line for each object: see `COLUMNS`; corners are half-open pixels, ``mask`` is COCO's text of runs.

    A photo without objects has one line, with an empty label.
    """
    masked = any(objects.masks is not None for objects in instances.values())
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, MASK) if masked else COLUMNS)
        for sample in dataset:
            writer.writerows(_lines(sample, instances.get(sample.image_id, Instances.empty()), dataset.classes, masked))


def _lines(sample: Sample, objects: Instances, classes: Sequence[str], masked: bool) -> Iterator[list[Any]]:
    """The lines of one photo."""
    start = [sample.image_id, sample.size[1], sample.size[0]]
    if not len(objects):
        yield [*start, *[""] * (len(COLUMNS) - 3 + masked)]
    to_ignore = ignored(objects)
    for row, box in enumerate(objects.boxes.tolist()):
        score = "" if objects.scores is None else f"{float(objects.scores[row]):.7g}"
        mask = [] if not masked else ["" if objects.masks is None else objects.masks[row]["counts"]]
        corners = [f"{value:.7g}" for value in box]
        yield [*start, classes[int(objects.labels[row])], *corners, score, int(to_ignore[row]), *mask]


def read_table(path: Path, findings: Findings | None = None) -> Annotations:
    """The objects of a CSV table with a head; classes in alphabetical order.

    Columns are known by their names (``filename``, ``class``, ``xmin`` and the like too), in any order; others are not
    used, which is said. A line without a label lists a photo. Raises `UserError` where a column is missing.
    """
    findings = findings or Findings()
    rows = read_cells(path)
    columns = columns_of(path, rows[0].cells if len(rows) else (), findings)
    entries = (line_entry(row, columns, path) for row in rows[1:])
    images, seen = ShapedImages(path), dict[str, list[JsonEntry]]()
    for name, of_photo in groupby(entries, key=lambda entry: str(entry.get("file") or "")):
        seen.setdefault(name, []).extend(of_photo)
    for name, of_name in seen.items():
        try:
            if not name:
                raise UserError(f"wanted a photo on every line of {path}, found none on {of_name[0].place}: name it")
            size = next((size for entry in of_name if (size := entry.size()) is not None), None)
            shapes = [line_shape(entry, size) for entry in of_name if entry.get("label") or entry.get("x1")]
            images.add(name, size, shapes, of_name[0].place)
        except UserError as error:
            findings.fault(str(error))
    return images.annotations("table of boxes", findings)


def columns_of(
    path: Path,
    head: Sequence[str],
    findings: Findings,
    keys: Mapping[str, tuple[str, ...]] = OBJECT_KEYS,
    needed: Sequence[str] = _NEEDED,
) -> dict[str, int]:
    """The number of each column that is used; `UserError` where a ``needed`` one is missing or one comes twice.

    ``keys``: what each may be called, in small letters without separators.
    """
    plain = [re.sub(r"[\W_]+", "", cell.lower()) for cell in head]
    columns: dict[str, int] = {}
    for key, names in keys.items():
        fits = [number for number, cell in enumerate(plain) if cell in names]
        exact = [number for number in fits if plain[number] == key]
        fits = exact or fits
        if len(fits) > 1:
            both = listed([repr(head[number]) for number in fits])
            raise UserError(f"wanted one column for {key!r} in {path}, found {both}: remove or rename one")
        if fits:
            columns[key] = fits[0]
    missing = [key for key in needed if key not in columns]
    if missing:
        raise UserError(
            f"wanted a table of boxes with the columns {', '.join(needed)} in {path}, found no {listed(missing)} "
            f"among {listed([repr(cell[:40]) for cell in head], 12) or 'none'}: rename the columns in its first line"
        )
    unused = [repr(cell) for number, cell in enumerate(head) if number not in columns.values()]
    if unused:
        findings.count(f"{path}: columns not used: {listed(unused, 6)}")
    return columns


def line_entry(row: TableRow, columns: Mapping[str, int], path: Path) -> JsonEntry:
    """One line with its cells by column; empty ones are not there."""
    cells = {key: row.cells[number] for key, number in columns.items() if number < len(row.cells)}
    return JsonEntry({key: cell for key, cell in cells.items() if cell}, "line", row.line, path, Findings())


def line_shape(entry: JsonEntry, size: tuple[int, int] | None) -> Shape:
    """The object of one line."""
    name = str(entry.get("label") or "")
    check_name(name, f"the label on {entry.place}")
    x1, y1, x2, y2 = (entry.number(key) for key in ("x1", "y1", "x2", "y2"))
    if x2 < x1 or y2 < y1:
        raise entry.refusal("x2", "corners with x1 <= x2 and y1 <= y2")
    if max(x1, y1, x2, y2) <= 1 and any(value % 1 for value in (x1, y1, x2, y2)):
        raise UserError(f"wanted corners in pixels on {entry.place}, found shares of the photo: multiply by its sides")
    score = entry.number("score") if entry.get("score") is not None else None
    shape = Shape(box=(x1, y1, x2, y2), mask=_mask(entry, size))
    return shape.of(name, score, str(entry.get("ignored") or "0").lower() in ("1", "true", "yes"))


def _mask(entry: JsonEntry, size: tuple[int, int] | None) -> Any:
    """The mask in a line, None without one."""
    counts = entry.get("mask")
    if counts is None:
        return None
    if size is None:
        raise entry.refusal("width", "the photo's width and height beside a mask")
    stated = {"segmentation": {"size": list(size), "counts": counts}}
    return read_mask(JsonEntry(stated, entry.of, entry.index, entry.path, entry.findings), size)
