"""Parse the objects of one VOC XML file, in any encoding, without following its entities."""

from __future__ import annotations

import codecs
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import torch

from weaksam.config import UserError, listed
from weaksam.data.class_names import check_name
from weaksam.data.findings import Findings
from weaksam.regular_files import read_regular
from weaksam.structures.boxes import xyxy_from_inclusive
from weaksam.terminal import printable

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DECLARED = re.compile(rb"<\?xml[^>]*\bencoding\s*=\s*[\"']([^\"']+)[\"']")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}
"""Encodings that files name although they hold letters of a wider one."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_FLAGS = {"": False, "0": False, "0.0": False, "false": False, "no": False}
_FLAGS |= {"1": True, "1.0": True, "true": True, "yes": True}
_UNKNOWN_FLAGS = frozenset({"unspecified", "unknown", "none", "null", "nan"})
LARGEST = 1e7
"""No corner or side is larger, in pixels."""
_MOST_BYTES = 64 << 20
"""No file of one photo is larger."""
_MAX_DEPTH = 100
"""Most elements in each other; VOC has four."""
_NO_ENCODINGS = frozenset({"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"})
"""What Python can decode and no file is in; some take hours for a megabyte."""


@dataclass(frozen=True)
class XmlObject:
    """One object as a file states it: class name, half-open xyxy box and whether it is difficult."""

    name: str
    box: list[float]
    difficult: bool


@dataclass(frozen=True)
class XmlImage:
    """One file: its objects, its (H, W) and its ``<filename>``, None and empty where it does not state them."""

    objects: list[XmlObject]
    size: tuple[int, int] | None
    file_name: str


def parse_xml(path: Path, findings: Findings) -> XmlImage | None:
    """What a VOC XML file states; None for a file that cannot be read, which is a fault, as is an object without a box.

    Tags are read without their namespace, in capitals or not. Entities are not expanded: a file that declares some is
    a fault.
    """
    try:
        root = _root(path, findings)
        size = _size(root, path, findings)
    except UserError as error:
        findings.fault(str(error))
        return None
    objects = []
    for number, element in enumerate(root.iter("object"), start=1):
        try:
            objects.append(_parse_object(element, f"object {number} of {path}", findings))
        except UserError as error:
            findings.fault(str(error))
    return XmlImage(objects, size, (root.findtext("filename") or "").strip())


class _BoundedBuilder(ElementTree.TreeBuilder):
    """Builds the tree of the file at ``path``; `UserError` for elements too deep in each other."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._depth = path, 0

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        """Open an element."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UserError(f"wanted VOC XML in {self._path}, found elements more than {_MAX_DEPTH} deep: mend it")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        """Close an element."""
        self._depth -= 1
        return super().end(tag)


def _root(path: Path, findings: Findings) -> ElementTree.Element:
    """The root of an XML file, with plain tags in small letters; raises `UserError` for any other file."""
    text = _decoded(path, findings)
    if "<!ENTITY" in text:
        raise UserError(f"wanted VOC XML in {path}, found declarations of entities, which are not read: remove them")
    try:
        parser = ElementTree.XMLParser(target=_BoundedBuilder(path))
        parser.feed(text)
        root = parser.close()
    except UserError:
        raise
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise UserError(f"wanted VOC XML in {path}, found an error ({error}): mend or remove the file") from None
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2].lower()
    if root.tag != "annotation":
        raise UserError(
            f"wanted <annotation> around the objects of {path}, found <{printable(str(root.tag)[:40])}>: give VOC XML "
            "or remove the file"
        )
    return root


def _decoded(path: Path, findings: Findings) -> str:
    """The text of an XML file by its byte order mark or its declaration, else as UTF-8; raises `UserError`."""
    try:
        data = read_regular(path, _MOST_BYTES)
    except OSError as error:
        what = "a folder" if isinstance(error, IsADirectoryError) else error.strerror
        raise UserError(f"wanted VOC XML in {path}, found a file that cannot be read ({what}): mend it") from None
    if not data.strip():
        raise UserError(f"wanted VOC XML in {path}, found an empty file: write it again or remove it")
    match = _DECLARED.match(data[:400].lstrip())
    declared = match[1].decode("ascii", "replace").lower() if match else ""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not encoding and data[:4] in (b"<\0?\0", b"\0<\0?", b"<\0a\0", b"\0<\0a"):
        encoding = "utf-16-le" if data[0] else "utf-16-be"
    if not encoding and declared.startswith(("utf-16", "utf16", "ucs")):
        findings.guess(f"a file that says {declared} and is not was read as utf-8", str(path))
        encoding = "utf-8"
    encoding = encoding or _WIDER.get(declared, declared) or "utf-8"
    try:
        if codecs.lookup(encoding).name.replace("-", "_") in _NO_ENCODINGS:
            raise LookupError(encoding)
        return data.decode(encoding)
    except LookupError:
        raise UserError(
            f"wanted an encoding that exists in the first line of {path}, found {printable(declared)!r}: mend it"
        ) from None
    except ValueError as error:
        line = data[: error.start].count(b"\n") + 1 if isinstance(error, UnicodeDecodeError) else 1
        says = f"says {declared}" if declared else "names no encoding"
        raise UserError(
            f"wanted VOC XML in {path}, found a file that {says} and is not {encoding.removesuffix('-sig')} in line "
            f'{line}: write its encoding into the first line (<?xml version="1.0" encoding="gbk"?>) or save it as UTF-8'
        ) from None


def _size(root: ElementTree.Element, path: Path, findings: Findings) -> tuple[int, int] | None:
    """(H, W) as the file states it, None where it does not."""
    texts = [(root.findtext(f"size/{key}") or "").strip() for key in ("height", "width")]
    values = [float(text) if _NUMBER.fullmatch(text) else 0.0 for text in texts]
    if all(1 <= value <= LARGEST for value in values):
        return int(values[0]), int(values[1])
    if root.find("size") is not None:
        text = f"a <size> of {printable(texts[1][:20]) or 'nothing'} x {printable(texts[0][:20]) or 'nothing'}"
        findings.guess(f"{text} was taken for unknown", str(path))
    return None


def _parse_object(element: ElementTree.Element, place: str, findings: Findings) -> XmlObject:
    """One <object>; raises `UserError`, naming ``place``, where name or box cannot be meant."""
    for tag in ("name", "bndbox"):
        if len(element.findall(tag)) > 1:
            raise UserError(f"wanted one <{tag}> in {place}, found {len(element.findall(tag))}: keep one")
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"wanted a <name> in {place}, found none: mend or remove the object")
    check_name(name, f"<name> of {place}")
    return XmlObject(name, _box(element, place, findings), _difficult(element, place, findings))


def _difficult(element: ElementTree.Element, place: str, findings: Findings) -> bool:
    text = (element.findtext("difficult") or "").strip().lower()
    if text in _UNKNOWN_FLAGS:
        findings.guess(f"<difficult>{text}</difficult> was taken for not difficult", place)
    elif text not in _FLAGS:
        raise UserError(f"wanted 0 or 1 as <difficult> of {place}, found {printable(text[:40])!r}: mend it")
    return _FLAGS.get(text, False)


# Boxes


def _box(element: ElementTree.Element, place: str, findings: Findings) -> list[float]:
    """Half-open xyxy of one object: of its own <bndbox>, else around its <polygon> or <robndbox>."""
    bndbox = element.find("bndbox")
    if bndbox is not None:
        return _corners(bndbox, place, findings)
    for tag, around in (("polygon", _around_polygon), ("robndbox", _around_rotated)):
        shape = element.find(tag)
        if shape is not None:
            findings.guess(f"the box around a <{tag}> was taken for a missing <bndbox>", place)
            return around(shape, place)
    children = listed([f"<{printable(str(child.tag))}>" for child in element]) or "nothing"
    raise UserError(f"wanted a <bndbox> in {place}, found {children}: draw its box or remove the object")


def _corners(bndbox: ElementTree.Element, place: str, findings: Findings) -> list[float]:
    """Half-open xyxy of a <bndbox>; corners the wrong way round are swapped, with a note."""
    x1, y1, x2, y2 = (_number(bndbox, key, place) for key in ("xmin", "ymin", "xmax", "ymax"))
    if max(x1, y1, x2, y2) <= 1 and any(value != int(value) for value in (x1, y1, x2, y2)):
        raise UserError(
            f"wanted corners in pixels in {place}, found shares of the photo ({x1:g}, {y1:g}, {x2:g}, {y2:g}): "
            "multiply them by its width and height"
        )
    # An empty box ends one pixel before it begins
    if x2 < x1 - 1 or y2 < y1 - 1:
        findings.guess("corners the wrong way round were swapped", place)
        x1, x2 = (x2, x1) if x2 < x1 - 1 else (x1, x2)
        y1, y2 = (y2, y1) if y2 < y1 - 1 else (y1, y2)
    if min(x1, y1) < 0:
        findings.guess("corners before the photo's first pixel were moved to it", place)
    # VOC's first pixel is 1; files of other tools that start at 0 stay inside the photo
    from_zero = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64) - 1
    return xyxy_from_inclusive(from_zero)[0].clamp(min=0).tolist()


def _around_polygon(polygon: ElementTree.Element, place: str) -> list[float]:
    """The box around the points of a <polygon>, whose numbers are edges: ``<x1> <y1> ..`` or ``<pt><x> <y>``."""
    points = [polygon, *polygon]
    xs, ys = (
        [_value(child, place) for point in points for child in point if re.fullmatch(rf"{axis}\d*", str(child.tag))]
        for axis in "xy"
    )
    if len(xs) < 2 or len(xs) != len(ys):
        raise UserError(
            f"wanted at least two points in the <polygon> of {place}, found {len(xs)} x and {len(ys)} y: mend it"
        )
    return [max(0.0, min(xs)), max(0.0, min(ys)), max(xs), max(ys)]


def _around_rotated(shape: ElementTree.Element, place: str) -> list[float]:
    """The box around a <robndbox> of centre, width, height and an angle in radians."""
    cx, cy, width, height = (_number(shape, key, place) for key in ("cx", "cy", "w", "h"))
    angle = _number(shape, "angle", place) if shape.find("angle") is not None else 0.0
    if abs(angle) > 2 * math.pi or min(width, height) < 0:
        raise UserError(
            f"wanted sides and an angle in radians in the <robndbox> of {place}, found {width:g}, {height:g} and "
            f"{angle:g}: mend it"
        )
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_x, half_y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return [max(0.0, cx - half_x), max(0.0, cy - half_y), cx + half_x, cy + half_y]


def _number(parent: ElementTree.Element, key: str, place: str) -> float:
    """The number in the child ``key``; raises `UserError` where there is none."""
    children = parent.findall(key)
    if len(children) != 1:
        raise UserError(
            f"wanted one <{key}> and so four numbers in <{parent.tag}> of {place}, found {len(children)}: mend the file"
        )
    return _value(children[0], place)


def _value(element: ElementTree.Element, place: str) -> float:
    """The finite number that an element holds; raises `UserError` for anything else."""
    text = (element.text or "").strip()
    if _NUMBER.fullmatch(text) is None or abs(float(text)) > LARGEST:
        advice = "write a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", text) else "mend the file"
        raise UserError(
            f"wanted a number in pixels (one of four numbers) as <{element.tag}> of {place}, "
            f"found {printable(text[:40])!r}: {advice}"
        )
    return float(text)
