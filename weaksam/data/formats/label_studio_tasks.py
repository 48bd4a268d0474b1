"""Read the tasks that Label Studio exports as JSON: rectangles, polygons, brushes and keypoints of annotations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from weaksam.config import UserError, listed
from weaksam.data.annotations import Annotations
from weaksam.data.class_names import check_name
from weaksam.data.findings import Findings
from weaksam.data.formats.brush_runs import decode_brush
from weaksam.data.formats.label_studio import IGNORED, LABEL_CONFIG
from weaksam.data.formats.shapes import LabelledImage, Shape, ShapedImages, points_of, read_counts, xml_root
from weaksam.data.json_entries import LARGEST, JsonEntry, is_number, json_entries, shown
from weaksam.data.photo_limits import MOST_PIXELS
from weaksam.data.text_files import read_json

COMPLETE, SCRIBBLE = "complete", "scribble"
"""The choice that all objects of a photo are labelled, and the note on a brush that is a scribble."""
_TOLERANCE = 1.0
"""Regions may leave their photo by so many percent of its side, as annotators draw to the very edge."""


def are_tasks(content: Any) -> bool:
    """Whether the content of a JSON file is a list of Label Studio's tasks."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and isinstance(first.get("data"), dict)


def read_tasks(path: Path, findings: Findings | None = None) -> Annotations:
    """The regions of every task of a file by its photo's name; classes in the order of the labels of the project.

    Those are in ``label_config.xml`` beside it; without one classes are in alphabetical order. Of a task the newest
    annotation that was not cancelled counts, else its newest prediction. A region noted as "ignored" is a crowd. Other
    kinds of regions are left out, with a count. Raises `UserError` for other content.
    """
    findings = findings or Findings()
    images = ShapedImages(path, _project_labels(path.parent / LABEL_CONFIG))
    for entry in _tasks(path, findings):
        try:
            name, regions = _photo_name(entry), _regions(entry)
            size = _size_among(regions)
            shapes = [shape for region in regions for shape in _shapes(region, size, _READERS)]
            images.add(name, size, shapes, entry.place)
        except UserError as error:
            findings.fault(str(error))
    return images.annotations("Label Studio's tasks", findings)


def read_labelled(path: Path, findings: Findings) -> list[LabelledImage]:
    """What the tasks of a file label of each photo, see `read_tasks`, with keypoints too.

    A brush noted as "scribble" is a scribble. ``counts`` and ``complete`` in a task's ``data`` count its objects and
    say that all are labelled; a choice "complete" says so, too.
    """
    images = []
    for entry in _tasks(path, findings):
        try:
            data, regions = entry.get("data"), _regions(entry)
            of_data = JsonEntry(data if isinstance(data, dict) else {}, "data of task", entry.index, path, findings)
            drawn = [region for region in regions if region.get("type") != "choices"]
            size = _size_among(drawn)
            shapes = [
                shape for region in drawn for shape in _shapes(region, size, _READERS | {"keypointlabels": _point})
            ]
            complete = of_data.flag("complete") or any(map(_chooses_complete, regions))
            images.append(LabelledImage(_photo_name(entry), size, shapes, read_counts(of_data), complete, entry.place))
        except UserError as error:
            findings.fault(str(error))
    return images


def _chooses_complete(region: JsonEntry) -> bool:
    """Whether a region is the annotator's choice "complete"."""
    choices = region.values["value"].get("choices")
    return region.get("type") == "choices" and isinstance(choices, list) and COMPLETE in choices


def _tasks(path: Path, findings: Findings) -> Iterator[JsonEntry]:
    """The tasks of a file; `UserError` for other content."""
    content = read_json(path, "Label Studio's tasks")
    if not are_tasks(content):
        state = f"a list that begins with {shown(content[0])}" if isinstance(content, list) and content else "none"
        raise UserError(
            f"wanted Label Studio's tasks, each with 'data', in {path}, found {state}: export JSON, not CSV"
        )
    yield from json_entries(content, "task", path, findings)


def _size_among(regions: Sequence[JsonEntry]) -> tuple[int, int] | None:
    """The (H, W) that the first region which states one does."""
    return next((size for region in regions if (size := _size(region)) is not None), None)


def _project_labels(path: Path) -> tuple[str, ...]:
    """The names of labels in the order of a project's interface; none where there is no such file."""
    if not path.is_file():
        return ()
    labels = (element.get("value", "") for element in xml_root(path, "a labelling interface").iter("Label"))
    return tuple(dict.fromkeys(name for name in labels if name))


def _photo_name(entry: JsonEntry) -> str:
    """The photo of a task: the value under ``image``, else the first text, without the address of a local folder."""
    data = entry.get("data")
    texts = [text for text in data.values() if isinstance(text, str)] if isinstance(data, dict) else []
    name = data.get("image", texts[0] if texts else None) if isinstance(data, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise entry.refusal("data", "the address of a photo, as 'image',")
    local = name.partition("?d=")[2]
    return unquote(local) if local else name


def _regions(entry: JsonEntry) -> list[JsonEntry]:
    """The regions of the annotation that counts, else of the prediction; none of a task that has neither."""
    for key in ("annotations", "completions", "predictions"):
        answers = entry.get(key)
        if answers is None:
            continue
        if not isinstance(answers, list) or not all(isinstance(answer, dict | int) for answer in answers):
            raise entry.refusal(key, "a list of answers with their results")
        kept = [answer for answer in answers if isinstance(answer, dict) and not answer.get("was_cancelled")]
        if kept:
            results = kept[-1].get("result")
            if not isinstance(results, list):
                raise entry.refusal(key, "answers with a list 'result'")
            of_task = f"region of {entry.place}, number"
            regions = list(json_entries(results, of_task, entry.path, entry.findings))
            return [region for region in regions if isinstance(region.get("value"), dict)]
    return []


def _size(region: JsonEntry) -> tuple[int, int] | None:
    """The (H, W) of the photo that a region states."""
    sides = [region.get("original_height"), region.get("original_width")]
    if not all(type(side) is int and 0 < side <= LARGEST for side in sides) or sides[0] * sides[1] > MOST_PIXELS:
        return None
    return sides[0], sides[1]


def _shapes(
    region: JsonEntry, size: tuple[int, int] | None, readers: Mapping[str, Callable[..., Shape]]
) -> Iterator[Shape]:
    """The shape of a region with labels of a kind that ``readers`` have; others are passed over."""
    kind, value = region.get("type"), region.get("value")
    names = value.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or kind not in readers or not isinstance(names, list) or not names:
        region.findings.guess("a region that is no labelled rectangle, polygon or brush was left out", region.place)
        return
    if size is None:
        raise region.refusal("original_width", "the photo's width and height in whole pixels")
    if region.get("image_rotation") not in (None, 0):
        raise region.refusal("image_rotation", "regions of an upright photo (0)")
    if len(names) > 1:
        region.findings.guess("of several labels of a region the first counts", region.place)
    name = names[0] if isinstance(names[0], str) else ""
    check_name(name.strip(), f"the label of {region.place}")
    meta = region.get("meta")
    notes = meta["text"] if isinstance(meta, dict) and isinstance(meta.get("text"), list) else []
    score = region.number("score") if region.get("score") is not None else None
    shape = readers[kind](region, value, size).of(name.strip(), score, IGNORED in notes)
    yield replace(shape, scribble=kind == "brushlabels" and SCRIBBLE in notes)


def _point(region: JsonEntry, value: dict[str, Any], size: tuple[int, int]) -> Shape:
    """A keypoint in percent."""
    x, y = _percents(region, [value.get(key) for key in ("x", "y")])
    return Shape(points=((x * size[1] / 100, y * size[0] / 100),))


def _rectangle(region: JsonEntry, value: dict[str, Any], size: tuple[int, int]) -> Shape:
    """A rectangle in percent; the box around it where it is turned."""
    x, y, width, height = _percents(region, [value.get(key) for key in ("x", "y", "width", "height")])
    scale_y, scale_x = size[0] / 100, size[1] / 100
    left, top, right, bottom = x * scale_x, y * scale_y, (x + width) * scale_x, (y + height) * scale_y
    rotation = value.get("rotation") or 0
    if not is_number(rotation):
        raise region.refusal("value", "a rotation in degrees")
    if float(rotation) % 360 == 0:
        return Shape(box=(left, top, right, bottom))
    region.findings.guess("the box around a turned rectangle was taken", region.place)
    angle = math.radians(float(rotation))
    offsets = [(0.0, 0.0), (right - left, 0.0), (right - left, bottom - top), (0.0, bottom - top)]
    turned = [
        (left + dx * math.cos(angle) - dy * math.sin(angle), top + dx * math.sin(angle) + dy * math.cos(angle))
        for dx, dy in offsets
    ]
    xs, ys = zip(*turned, strict=True)
    return Shape(box=(max(0.0, min(xs)), max(0.0, min(ys)), min(size[1], max(xs)), min(size[0], max(ys))))


def _polygon(region: JsonEntry, value: dict[str, Any], size: tuple[int, int]) -> Shape:
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3 or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise region.refusal("value", "at least three points [x, y]")
    numbers = _percents(region, [number for point in points for number in point])
    scales = (size[1] / 100, size[0] / 100)
    return points_of([number * scales[place % 2] for place, number in enumerate(numbers)], size, region)


def _brush(region: JsonEntry, value: dict[str, Any], size: tuple[int, int]) -> Shape:
    data = value.get("rle")
    if value.get("format") != "rle" or not isinstance(data, list):
        raise region.refusal("value", "a brush with 'format' rle")
    if not all(type(byte) is int and 0 <= byte < 256 for byte in data):
        raise region.refusal("value", "bytes as 'rle'")
    try:
        return Shape(mask=decode_brush(data, size))
    except ValueError as error:
        raise UserError(
            f"wanted a brush that fills its photo in {region.place}, found {error}: draw it again"
        ) from None


_READERS: Mapping[str, Callable[..., Shape]] = {
    "rectanglelabels": _rectangle,
    "polygonlabels": _polygon,
    "brushlabels": _brush,
}
"""What reads a region of each kind that is an object."""


def _percents(region: JsonEntry, values: Sequence[Any]) -> list[float]:
    """Finite numbers that lie in their photo, in percent of its sides."""
    if not all(is_number(value) for value in values):
        raise region.refusal("value", "finite numbers in percent of the photo")
    numbers = region.numbers(values)
    outside = [f"{number:g}" for number in numbers if not -_TOLERANCE <= number <= 100 + _TOLERANCE]
    if outside:
        raise UserError(
            f"wanted percent of the photo's sides, 0 to 100, in {region.place}, found {listed(outside, 3)}: draw the "
            "region inside of its photo"
        )
    return [min(max(number, 0.0), 100.0) for number in numbers]
