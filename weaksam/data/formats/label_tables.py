"""Read a CSV table that labels photos in part: a box, a point or a count on each line, or a photo that is complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weaksam.config import UserError
from weaksam.data.class_names import check_name
from weaksam.data.findings import Findings
from weaksam.data.formats.object_tables import OBJECT_KEYS, columns_of, line_entry, line_shape
from weaksam.data.formats.shapes import LabelledImage, Shape
from weaksam.data.formats.tables import read_cells
from weaksam.data.json_entries import JsonEntry

_KEYS: Mapping[str, tuple[str, ...]] = {
    **OBJECT_KEYS,
    "x": ("x", "pointx", "px"),
    "y": ("y", "pointy", "py"),
    "count": ("count", "counts", "number", "num"),
    "complete": ("complete",),
}
"""What a column may be called, in small letters without separators."""
_YES = ("1", "true", "yes")


def read_labelled(path: Path, findings: Findings) -> list[LabelledImage]:
    """What a table with a head labels of each photo, in the order in which they come.

    A line with ``x1, y1, x2, y2`` is a box, one with ``x, y`` a point, one with ``count`` the number of objects of its
    class, and ``complete`` 1 on any of a photo's lines says that all its objects are labelled. Columns are known by
    their names, as in a table of boxes. What cannot be read is a fault; raises `UserError` where columns are missing.
    """
    rows = read_cells(path)
    columns = columns_of(path, rows[0].cells if len(rows) else (), findings, _KEYS, ("file",))
    if not {"x", "x1", "count", "complete"} & set(columns):
        raise UserError(
            f"wanted points (x, y), boxes (x1, y1, x2, y2), counts (count) or complete in the columns of {path}, found "
            f"{', '.join(columns)}: add one of them"
        )
    lines: dict[str, list[JsonEntry]] = {}
    for row in rows[1:]:
        entry = line_entry(row, columns, path)
        lines.setdefault(str(entry.get("file") or ""), []).append(entry)
    images = []
    for name, of_photo in lines.items():
        try:
            images.append(_image(name, of_photo, path))
        except UserError as error:
            findings.fault(str(error))
    return images


def _image(name: str, lines: list[JsonEntry], path: Path) -> LabelledImage:
    """What all lines of one photo say."""
    if not name:
        raise UserError(f"wanted a photo on every line of {path}, found none on {lines[0].place}: name it")
    size = next((size for line in lines if (size := line.size()) is not None), None)
    shapes, counts = list[Shape](), dict[str, int]()
    for line in lines:
        if line.get("x1") is not None:
            shapes.append(line_shape(line, size))
        elif line.get("x") is not None:
            shapes.append(Shape(name=_class(line), points=((line.number("x"), line.number("y")),)))
        if line.get("count") is not None:
            count, name_of_class = line.number("count"), _class(line)
            if count < 0 or not count.is_integer():
                raise line.refusal("count", "a whole number of objects")
            if counts.setdefault(name_of_class, int(count)) != count:
                raise UserError(
                    f"wanted one count of {name_of_class!r} on {name} in {path}, found {counts[name_of_class]} and "
                    f"{int(count)}: keep one of them"
                )
    complete = any(str(line.get("complete") or "").lower() in _YES for line in lines)
    return LabelledImage(name, size, shapes, counts, complete, lines[0].place)


def _class(line: JsonEntry) -> str:
    """The class of a line."""
    name = str(line.get("label") or "")
    check_name(name, f"the label on {line.place}")
    return name
