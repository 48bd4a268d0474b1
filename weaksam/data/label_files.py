"""Read the objects in one file of any tool: COCO or Label Studio's JSON, CVAT's XML, or a CSV table."""

from __future__ import annotations

import re
from pathlib import Path

from weaksam.config import UserError
from weaksam.data.annotations import Annotations
from weaksam.data.findings import Findings
from weaksam.data.formats import coco, cvat, label_studio, label_studio_tasks, object_tables, voc_pictures
from weaksam.regular_files import open_regular

_HEAD_BYTES = 1 << 16
_TASKS = re.compile(rb'^(\xef\xbb\xbf)?\s*\[\s*\{.*"(annotations|predictions|completions|drafts|data)"\s*:', re.DOTALL)
"""How a list of tasks begins; a list of COCO results has none of these keys."""


def labels_in(path: Path) -> Path:
    """Where the labels lie in a folder that ``weaksam export`` or a tool wrote; any other path as it is.

    VOC's ``Annotations`` beside ``ImageSets``, ``SegmentationObject`` alone, Label Studio's ``tasks.json``, CVAT's
    ``annotations.xml``, and the only JSON file in ``annotations``.
    """
    if not path.is_dir():
        return path
    if (path / "Annotations").is_dir() and (path / "ImageSets").is_dir():
        return path / "Annotations"
    if voc_pictures.has_pictures(path / voc_pictures.OBJECTS):
        return path / voc_pictures.OBJECTS
    files = [path / label_studio.TASKS, path / "annotations.xml"]
    of_coco = sorted((path / "annotations").glob("*.json")) if (path / "annotations").is_dir() else []
    files += of_coco if len(of_coco) == 1 else []
    return next((file for file in files if file.is_file()), path)


def read_label_file(path: Path, findings: Findings | None = None) -> Annotations:
    """The images and objects of a file, told by its ending and by how it begins, see the readers of each format.

    Raises `UserError` for a file of another kind.
    """
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return cvat.read_images(path, findings)
    if suffix == ".csv":
        return object_tables.read_table(path, findings)
    if suffix != ".json":
        raise UserError(
            "wanted true boxes as .json (COCO, Label Studio), .xml (CVAT), .csv or a folder of VOC .xml or YOLO .txt, "
            f"found the file {path}"
        )
    if holds_tasks(path):
        return label_studio_tasks.read_tasks(path, findings)
    return coco.read_instances(path, findings)


def label_file_classes(path: Path) -> tuple[str, ...]:
    """The class names of a file in its order; the objects of a COCO file are not looked at."""
    if path.suffix.lower() == ".json" and not holds_tasks(path):
        return coco.read_classes(path)
    return read_label_file(path).classes


def numbers_classes(path: Path) -> bool:
    """Whether a file numbers its classes itself, as COCO does."""
    return path.suffix.lower() == ".json" and not holds_tasks(path)


def holds_tasks(path: Path) -> bool:
    """Whether a JSON file begins as Label Studio's tasks do; False where it cannot be opened."""
    try:
        with open_regular(path) as file:
            return _TASKS.match(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False
