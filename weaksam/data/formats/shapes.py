"""Gather the shapes that labelling tools draw, boxes, polygons and masks, and give them as annotations."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from weaksam.config import UserError
from weaksam.data.annotations import CROSSING, Annotations, ImageTruth
from weaksam.data.class_names import note_look_alikes
from weaksam.data.findings import Findings
from weaksam.data.image_entries import composed
from weaksam.data.json_entries import JsonEntry, is_number
from weaksam.data.object_columns import ObjectColumns
from weaksam.regular_files import open_regular
from weaksam.structures.mask_polygons import crosses_itself
from weaksam.structures.masks import Rle, box_from_rle, combined_rle, rle_area, rle_from_polygons

Size = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """One object of an image: its class's name, its half-open xyxy box in pixels, its mask, or both."""

    name: str = ""
    box: Sequence[float] | None = None
    mask: Rle | None = None
    score: float | None = None
    crowd: bool = False
    points: Sequence[tuple[float, float]] = ()
    """A point on the object, or those of a line that was scribbled on it, xy in pixels; it then has no box."""
    scribble: bool = False
    """Whether the mask is a scribble on the object and not all of it."""

    def of(self, name: str, score: float | None, crowd: bool) -> Shape:
        """The same shape as an object of a class."""
        return replace(self, name=name, score=score, crowd=crowd)

    def joined(self, other: Shape) -> Shape:
        """Both as one object, of the class of the first; shapes with masks."""
        masks = [shape.mask for shape in (self, other) if shape.mask is not None]
        return replace(self, box=None, mask=combined_rle(masks, "either"))

    @property
    def corners(self) -> Sequence[float]:
        """The stated box, else the one around the mask."""
        if self.box is not None:
            return self.box
        return (0.0, 0.0, 0.0, 0.0) if self.mask is None else box_from_rle(self.mask).tolist()


@dataclass(frozen=True)
class LabelledImage:
    """One image with what a file of partial labels states of it.

    ``counts``: number of objects by class name; ``complete``: whether ``shapes`` mark all objects; ``place`` is for
    messages.
    """

    name: str
    size: Size | None
    shapes: Sequence[Shape]
    counts: Mapping[str, int]
    complete: bool
    place: str


def read_counts(entry: JsonEntry) -> dict[str, int]:
    """Whole numbers by class name under ``counts``; none where the key is missing. `UserError` for other values."""
    counts = entry.get("counts")
    if counts is None:
        return {}
    good = isinstance(counts, dict) and all(
        isinstance(name, str) and is_number(value) and float(value).is_integer() and float(value) >= 0
        for name, value in counts.items()
    )
    if not good:
        raise entry.refusal("counts", 'numbers of objects by class, such as {"apple": 3},')
    return {name.strip(): int(float(value)) for name, value in counts.items()}


def points_of(numbers: Sequence[float], size: Size, entry: JsonEntry) -> Shape:
    """The shape of a polygon ``x, y, x, y, ...`` in pixels, on a photo of ``size`` (H, W); a crossing one is noted."""
    mask = rle_from_polygons([numbers], size)
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    if crosses_itself(points, float(rle_area([mask]))):
        entry.findings.guess(CROSSING, entry.place)
    xs, ys = zip(*points, strict=True)
    return Shape(box=(min(xs), min(ys), max(xs), max(ys)), mask=mask)


class ShapedImages:
    """The images of one file with their shapes; ``classes`` are those that it lists, in order, if it does."""

    def __init__(self, path: Path, classes: Sequence[str] = ()) -> None:
        self._path, self._classes = path, tuple(classes)
        self._images: dict[str, tuple[Size | None, list[Shape]]] = {}

    def add(self, name: str, size: Size | None, shapes: Sequence[Shape], place: str) -> None:
        """Take an image of ``size`` (H, W), if it is known; raises `UserError` where it came before."""
        if name in self._images:
            raise UserError(
                f"wanted every photo once in {self._path}, found {name!r} again in {place}: keep one of them"
            )
        self._images[name] = (size, list(shapes))

    def annotations(self, what: str, findings: Findings) -> Annotations:
        """All images; labels count the listed classes, then others in alphabetical order. ``what`` is for the note."""
        known = {composed(name): label for label, name in enumerate(self._classes)}
        used = {shape.name for _, shapes in self._images.values() for shape in shapes}
        others = sorted({composed(name): name for name in used if composed(name) not in known}.values())
        names = (*self._classes, *others)
        note_look_alikes(names, str(self._path), findings)
        label_of = {composed(name): label for label, name in enumerate(names)}
        masked = any(shape.mask is not None for _, shapes in self._images.values() for shape in shapes)
        images = {}
        for name, (size, shapes) in self._images.items():
            rows = ObjectColumns()
            for shape in shapes:
                label = label_of[composed(shape.name)]
                rows.add(shape.corners, label, mask=shape.mask, score=shape.score, crowd=shape.crowd)
            objects = rows.instances(with_masks=masked and (size is not None or not shapes), size=size or (0, 0))
            images[name] = ImageTruth(objects.replace(difficult=None), None, size)
        num_empty = sum(not shapes for _, shapes in self._images.values())
        num_objects = sum(len(shapes) for _, shapes in self._images.values())
        empty = f", {num_empty} of them without objects" if num_empty else ""
        findings.count(f"{self._path} ({what}): {len(images)} images{empty}; {num_objects} objects")
        return Annotations(names, tuple(range(1, len(names) + 1)), images, findings.notes)


def xml_root(path: Path, wanted: str) -> ElementTree.Element:
    """The root of a small XML file; raises `UserError` as `refuse_entities` does, and for what is no XML."""
    try:
        with open_regular(path) as file:
            refuse_entities(file, path, wanted)
            return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"wanted {wanted} in {path}, found no XML ({error}): mend it or name another file") from None


def refuse_entities(file: BinaryIO, path: Path, wanted: str) -> None:
    """Raise `UserError` for XML that declares entities, which may grow without end, or that is not in UTF-8."""
    before = b""
    while chunk := file.read(1 << 20):
        if b"\0" in chunk:
            raise UserError(f"wanted {wanted} in UTF-8 at {path}, found null bytes: save it as UTF-8")
        if b"<!ENTITY" in before[-16:] + chunk:
            raise UserError(f"wanted {wanted} in {path}, found declarations of entities: remove them")
        before = chunk
    file.seek(0)
