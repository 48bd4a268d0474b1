"""Write the tasks of Label Studio, with pre-annotations to correct, and the labels that its project needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from weaksam.data.formats.brush_runs import encode_brush
from weaksam.store.files import write_json_rows_atomic, write_text_atomic
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances, ignored
from weaksam.structures.mask_polygons import polygon_from_rle
from weaksam.structures.masks import Rle

TASKS, LABEL_CONFIG = "tasks.json", "label_config.xml"
LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio calls the files of a local folder that it serves, in front of their paths."""
IGNORED = "ignored"
"""The note on a region that is to be ignored, for which Label Studio has no mark."""


def write_tasks(
    folder: Path,
    dataset: Dataset,
    instances: Mapping[str, Instances],
    *,
    masks: Literal["rle", "polygons"] = "rle",
    address: str = LOCAL_FILES,
) -> None:
    """Write ``tasks.json``, a task for every photo of ``dataset``, and ``label_config.xml`` for the project.

    Objects are predictions, which annotators accept or correct: boxes are rectangles in percent of the photo, masks
    brushes (``rle``: exact) or polygons (one for each object, see `polygon_from_rle`). ``address`` stands before each
    photo's path. A photo without objects has an empty prediction.
    """
    tasks = (
        _task(number, sample, instances.get(sample.image_id, Instances.empty()), dataset.classes, masks, address)
        for number, sample in enumerate(dataset, start=1)
    )
    write_json_rows_atomic(folder / TASKS, tasks)
    write_text_atomic(folder / LABEL_CONFIG, label_config(dataset.classes))


def label_config(classes: tuple[str, ...]) -> str:
    """The labelling interface for boxes, polygons and brushes of ``classes``, in their order."""
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in classes)
    kinds = {"box": "RectangleLabels", "polygon": "PolygonLabels", "brush": "BrushLabels"}
    tools = "".join(f'\n  <{tag} name="{name}" toName="image">{labels}\n  </{tag}>' for name, tag in kinds.items())
    return f'<View>\n  <Image name="image" value="$image" zoom="true"/>{tools}\n</View>'


def _task(
    number: int, sample: Sample, objects: Instances, classes: tuple[str, ...], masks: str, address: str
) -> dict[str, Any]:
    """One photo with its prediction."""
    regions = list(_regions(sample, objects, classes, masks))
    prediction: dict[str, Any] = {"model_version": "weaksam", "result": regions}
    if objects.scores is not None and len(objects):
        prediction["score"] = float(objects.scores.mean())
    return {"id": number, "data": {"image": address + quote(sample.image_id)}, "predictions": [prediction]}


def _regions(sample: Sample, objects: Instances, classes: tuple[str, ...], masks: str) -> Iterator[dict[str, Any]]:
    """The region of each object."""
    height, width = sample.size
    common = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    to_ignore = ignored(objects)
    for row, box in enumerate(objects.boxes.tolist()):
        name = classes[int(objects.labels[row])]
        rle = None if objects.masks is None else objects.masks[row]
        region: dict[str, Any] = {"id": f"object{row + 1}", **common, **_shape(box, rle, name, (height, width), masks)}
        if objects.scores is not None:
            region["score"] = float(objects.scores[row])
        if bool(to_ignore[row]):
            region["meta"] = {"text": [IGNORED]}
        yield region


def _shape(box: list[float], rle: Rle | None, name: str, size: tuple[int, int], masks: str) -> dict[str, Any]:
    """Kind, tool and value of a region: a brush or a polygon of a mask, a rectangle where there is none."""
    height, width = size
    if rle is not None and masks == "rle":
        value = {"format": "rle", "rle": encode_brush(rle), "brushlabels": [name]}
        return {"type": "brushlabels", "from_name": "brush", "value": value}
    polygon = None if rle is None else polygon_from_rle(rle)
    if polygon is not None:
        points = [[100 * x / width, 100 * y / height] for x, y in polygon.tolist()]
        value = {"points": points, "closed": True, "polygonlabels": [name]}
        return {"type": "polygonlabels", "from_name": "polygon", "value": value}
    x1, y1, x2, y2 = box
    sides = {"x": 100 * x1 / width, "y": 100 * y1 / height}
    sides |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height, "rotation": 0}
    return {"type": "rectanglelabels", "from_name": "box", "value": {**sides, "rectanglelabels": [name]}}
