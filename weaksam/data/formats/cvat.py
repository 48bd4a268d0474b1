"""Write and read "CVAT for images 1.1": one XML file of boxes, polygons and masks."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import torch

from weaksam.config import UserError
from weaksam.data.annotations import Annotations
from weaksam.data.class_names import check_name
from weaksam.data.findings import Findings
from weaksam.data.formats.shapes import LabelledImage, Shape, ShapedImages, points_of, refuse_entities
from weaksam.data.json_entries import LARGEST, JsonEntry, is_number
from weaksam.data.photo_limits import MOST_PIXELS
from weaksam.regular_files import open_regular
from weaksam.store.files import atomic_file
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances, ignored
from weaksam.structures.mask_polygons import polygons_from_rle
from weaksam.structures.masks import Rle, box_from_rle, mask_from_rle, rle_from_mask
from weaksam.terminal import printable

_SHAPES = ("box", "polygon", "mask")
_MARKS = ("points", "polyline")
_OTHERS = ("polyline", "points", "ellipse", "cuboid", "skeleton", "tag")
COMPLETE = "complete"
"""The tag of an image all of whose objects are labelled."""
_WANTED = "CVAT's annotations (CVAT for images 1.1)"
_IN_WORDS = {1: "one point", 2: "two points", 3: "three points"}
_ATTRIBUTES = {"score": ("number", "0;1;0.0001", "1"), "ignored": ("checkbox", "false", "false")}
"""Attributes of every label: kind, values and default."""

# Writing


def write_images(
    path: Path,
    dataset: Dataset,
    instances: Mapping[str, Instances],
    *,
    masks: Literal["rle", "polygons"] = "rle",
) -> None:
    """Write one XML file with every image of ``dataset``; an image without objects has no shapes.

    Masks are CVAT's masks (``rle``: exact) or polygons, one for each part, those of an object in one group. Scores and
    ignored regions are attributes, which CVAT keeps where the task's labels have them (``meta`` lists them all).
    """
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        file.writelines(_meta(dataset))
        for number, sample in enumerate(dataset):
            height, width = sample.size
            name = quoteattr(sample.image_id)
            file.write(f'  <image id="{number}" name={name} width="{width}" height="{height}">\n')
            objects = instances.get(sample.image_id, Instances.empty())
            file.writelines(_shape_lines(sample, objects, dataset.classes, masks))
            file.write("  </image>\n")
        file.write("</annotations>\n")


def _meta(dataset: Dataset) -> Iterator[str]:
    """The labels of the task, in the order of the classes."""
    yield f"  <meta>\n    <task>\n      <name>{escape(dataset.name)}</name>\n      <size>{len(dataset)}</size>\n"
    yield "      <labels>\n"
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>{kind}</input_type>"
        f"<default_value>{default}</default_value><values>{values}</values></attribute>"
        for name, (kind, values, default) in _ATTRIBUTES.items()
    )
    for name in dataset.classes:
        yield f"        <label><name>{escape(name)}</name><attributes>{attributes}</attributes></label>\n"
    yield "      </labels>\n    </task>\n  </meta>\n"


def _shape_lines(sample: Sample, objects: Instances, classes: Sequence[str], masks: str) -> Iterator[str]:
    """The shapes of each object."""
    to_ignore = ignored(objects)
    for row, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        common = f'label={quoteattr(classes[int(objects.labels[row])])} source="auto" occluded="0" z_order="0"'
        values = {} if objects.scores is None else {"score": f"{float(objects.scores[row]):.6f}"}
        values |= {"ignored": "true"} if bool(to_ignore[row]) else {}
        inner = "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in values.items())
        rle = None if objects.masks is None else objects.masks[row]
        polygons = [] if rle is None or masks == "rle" else polygons_from_rle(rle)
        if polygons:
            group = f' group_id="{row + 1}"' if len(polygons) > 1 else ""
            for polygon in polygons:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon.tolist())
                yield f'    <polygon {common} points="{points}"{group}>{inner}</polygon>\n'
        elif rle is not None and (runs := _mask_attributes(rle)):
            yield f"    <mask {common} {runs}>{inner}</mask>\n"
        else:
            corners = f'xtl="{x1:.4f}" ytl="{y1:.4f}" xbr="{x2:.4f}" ybr="{y2:.4f}"'
            yield f"    <box {common} {corners}>{inner}</box>\n"


def _mask_attributes(rle: Rle) -> str:
    """Place, size and run lengths of a mask within its box, row by row, background first; empty without a pixel."""
    x1, y1, x2, y2 = (int(value) for value in box_from_rle(rle).tolist())
    if x2 <= x1:
        return ""
    inside = mask_from_rle(rle)[y1:y2, x1:x2].numpy().reshape(-1)
    bounds = np.concatenate([[0], np.flatnonzero(inside[1:] != inside[:-1]) + 1, [inside.size]])
    runs = [*([0] if inside[0] else []), *np.diff(bounds).tolist()]
    text = ", ".join(map(str, runs))
    return f'rle="{text}" left="{x1}" top="{y1}" width="{x2 - x1}" height="{y2 - y1}"'


# Reading


def read_images(path: Path, findings: Findings | None = None) -> Annotations:
    """The shapes of every image of a file by the image's name; classes in the order of the task's labels.

    Polygons and masks of one group and label are one object. A shape whose attribute ``ignored`` is true is a crowd.
    Polylines, points and the like are left out, with a count. Raises `UserError` for other XML.
    """
    findings = findings or Findings()
    labels: list[str] = []
    images: ShapedImages | None = None
    for element in _elements(path, _WANTED):
        if element.tag == "label":
            labels.append((element.findtext("name") or "").strip())
        elif element.tag == "image":
            images = images or ShapedImages(path, [name for name in labels if name])
            _add_image(images, element, path, findings)
            element.clear()
    if images is None:
        raise UserError(f"wanted {_WANTED} in {path}, found no <image>: export the task as CVAT for images 1.1")
    return images.annotations("CVAT for images", findings)


def _elements(path: Path, wanted: str) -> Iterator[ElementTree.Element]:
    """The elements of a file as they end; `UserError` where its root is another, and for what is no XML."""
    root = None
    try:
        with open_regular(path) as file:
            refuse_entities(file, path, wanted)
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                if root is None:
                    root = element
                    if root.tag != "annotations":
                        raise UserError(
                            f"wanted {wanted} in {path}, found <{printable(str(root.tag)[:40])}>: name another file, "
                            "or the folder of VOC's XML"
                        )
                if event == "end":
                    yield element
    except ElementTree.ParseError as error:
        raise UserError(f"wanted {wanted} in {path}, found no XML ({error}): mend it or name another file") from None


def _add_image(images: ShapedImages, element: ElementTree.Element, path: Path, findings: Findings) -> None:
    """Take an image with its shapes; what cannot be read is a fault."""
    name = element.get("name", "")
    place = f"the image {printable(name[:60])!r} of {path}"
    try:
        size = _image_size(element, place)
        images.add(name, size, list(_shapes_of(element, size, path, place, findings, _SHAPES)), place)
    except UserError as error:
        findings.fault(str(error))


def read_labelled(path: Path, findings: Findings) -> list[LabelledImage]:
    """What a file labels of each image, see `read_images`: points and, as scribbles, polylines too.

    An image with the tag "complete" has all its objects labelled.
    """
    images = []
    for element in _elements(path, _WANTED):
        if element.tag != "image":
            continue
        name = element.get("name", "")
        place = f"the image {printable(name[:60])!r} of {path}"
        try:
            size = _image_size(element, place)
            shapes = list(_shapes_of(element, size, path, place, findings, (*_SHAPES, *_MARKS)))
            complete = any(tag.get("label") == COMPLETE for tag in element.iter("tag"))
            images.append(LabelledImage(name, size, shapes, {}, complete, place))
        except UserError as error:
            findings.fault(str(error))
        element.clear()
    if not images:
        findings.fault(f"wanted {_WANTED} in {path}, found no <image>: export the task as CVAT for images 1.1")
    return images


def _shapes_of(
    element: ElementTree.Element,
    size: tuple[int, int],
    path: Path,
    place: str,
    findings: Findings,
    kinds: Sequence[str],
) -> Iterator[Shape]:
    """The shapes of an image that are of ``kinds``; of a group one, and of each of several points one."""
    if not element.get("name", "").strip():
        raise UserError(f"wanted a 'name' of every <image> of {path}, found one without: add the photo's name")
    shapes: dict[tuple[str, str], Shape] = {}  # by group and class; a shape without a group by its number
    for number, child in enumerate(element, start=1):
        if child.tag not in kinds:
            if child.tag in _OTHERS and child.get("label") != COMPLETE:
                findings.guess(f"a <{child.tag}> was left out", place)
            continue
        values = dict(child.attrib)
        entry = JsonEntry(values, f"<{child.tag}>, shape {number} of {place}, number", number, path, findings)
        shape, group = _shape(child, entry, size), values.get("group_id", "0")
        alone = group in ("0", "") or shape.mask is None
        key = (f"shape {number}" if alone else group, shape.name)
        shapes[key] = shapes[key].joined(shape) if key in shapes else shape
    for shape in shapes.values():
        if shape.points and not shape.scribble:
            yield from (replace(shape, points=(point,)) for point in shape.points)
        else:
            yield shape


def _image_size(element: ElementTree.Element, place: str) -> tuple[int, int]:
    """The stated (H, W) of an image."""
    sides = [element.get(key, "") for key in ("height", "width")]
    if not all(side.isascii() and side.isdecimal() and 0 < int(side[:9]) <= LARGEST for side in sides):
        raise UserError(f"wanted whole numbers as height and width of {place}, found {sides[0]!r} and {sides[1]!r}")
    height, width = map(int, sides)
    if height * width > MOST_PIXELS:
        raise UserError(f"wanted an image of at most {MOST_PIXELS} pixels as {place}, found {width} x {height}")
    return height, width


def _shape(element: ElementTree.Element, entry: JsonEntry, size: tuple[int, int]) -> Shape:
    """One box, polygon or mask as an object."""
    name = (element.get("label") or "").strip()
    check_name(name, f"the label of {entry.place}")
    attributes = {child.get("name", ""): (child.text or "").strip() for child in element.iter("attribute")}
    score = float(attributes["score"]) if is_number(attributes.get("score")) else None
    readers = {"box": _box, "polygon": _polygon, "mask": _mask, "points": _points, "polyline": _polyline}
    return readers[element.tag](entry, size).of(name, score, attributes.get("ignored", "").lower() == "true")


def _box(entry: JsonEntry, size: tuple[int, int]) -> Shape:
    """A box; the one around it where it is turned."""
    x1, y1, x2, y2 = (entry.number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
    angle = math.radians(entry.number("rotation")) if entry.get("rotation") is not None else 0.0
    if math.sin(angle) or math.cos(angle) < 0:
        entry.findings.guess("the box around a turned box was taken", entry.place)
        cx, cy, width, height = (x1 + x2) / 2, (y1 + y2) / 2, abs(x2 - x1), abs(y2 - y1)
        half_x = (width * abs(math.cos(angle)) + height * abs(math.sin(angle))) / 2
        half_y = (width * abs(math.sin(angle)) + height * abs(math.cos(angle))) / 2
        x1, y1 = max(0.0, cx - half_x), max(0.0, cy - half_y)
        x2, y2 = min(float(size[1]), cx + half_x), min(float(size[0]), cy + half_y)
    return Shape(box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))


def _polygon(entry: JsonEntry, size: tuple[int, int]) -> Shape:
    values = _numbers(entry, 3)
    if min(values) < -max(size) or max(values) > 2 * max(size):
        raise entry.refusal("points", f"points on its image of {size[1]} x {size[0]} pixels")
    return points_of(values, size, entry)


def _points(entry: JsonEntry, size: tuple[int, int]) -> Shape:
    values = _numbers(entry, 1)
    return Shape(points=tuple(zip(values[::2], values[1::2], strict=True)))


def _polyline(entry: JsonEntry, size: tuple[int, int]) -> Shape:
    values = _numbers(entry, 2)
    return Shape(points=tuple(zip(values[::2], values[1::2], strict=True)), scribble=True)


def _numbers(entry: JsonEntry, least: int) -> list[float]:
    """x, y, x, y, ... of at least so many ``points``."""
    numbers = [part for point in str(entry.get("points") or "").split(";") for part in point.split(",")]
    if len(numbers) < 2 * least or len(numbers) % 2 or not all(map(is_number, numbers)):
        raise entry.refusal("points", f"at least {_IN_WORDS[least]} x,y;x,y;x,y")
    return [float(number) for number in numbers]


def _mask(entry: JsonEntry, size: tuple[int, int]) -> Shape:
    """A mask of run lengths within a rectangle."""
    left, top, width, height = (int(entry.number(key)) for key in ("left", "top", "width", "height"))
    runs = [part.strip() for part in str(entry.get("rle") or "").split(",")]
    if not all(run.isascii() and run.isdecimal() and len(run) < 10 for run in runs):
        raise entry.refusal("rle", "run lengths")
    lengths = np.array(runs, dtype=np.int64)
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[1] or top + height > size[0]:
        raise UserError(
            f"wanted a mask within its image of {size[1]} x {size[0]} pixels as {entry.place}, found one of {width} x "
            f"{height} at {left}, {top}: mend it"
        )
    if int(lengths.sum()) != width * height:
        raise entry.refusal("rle", f"run lengths that fill {width} x {height} pixels")
    mask = torch.zeros(size, dtype=torch.bool)
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    mask[top : top + height, left : left + width] = torch.from_numpy(inside)
    return Shape(mask=rle_from_mask(mask))
