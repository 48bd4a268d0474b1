"""Read a COCO results list as the detections on a dataset's images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.formats.coco_entries import CategoryLabels, ObjectReader
from weaksam.data.image_entries import read_image_entries
from weaksam.data.image_names import ImageNames, Key
from weaksam.data.json_entries import JsonEntry, as_file_id, json_entries, shown
from weaksam.data.object_columns import ImageRows, ObjectColumns
from weaksam.data.result_lists import ScoreReader, count_detections, read_result_list
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


def read_results(path: Path, dataset: Dataset, findings: Findings | None = None) -> dict[str, Instances]:
    """Detections by image id from a COCO results list; every image of ``dataset`` is there, empty where it has none.

    ``image_id`` is an id of ``dataset`` or, as some tools write it, a photo's name with or without ending;
    ``category_id`` an id or a class's name. A list within an object and a score under another name are taken, and
    ``findings`` say so. Raises `UserError` where the list names an image or a category that ``dataset`` does not have,
    and for an entry without a finite score or box, or with a mask of another size than its photo.
    """
    findings = findings or Findings()
    results = read_result_list(path, findings)
    scores = ScoreReader.of(results.entries, path, findings)
    finder = _ImageFinder(dataset, path, findings)
    reader = ObjectReader(_labels(dataset))
    objects, place_of = ObjectColumns(), {image_id: place for place, image_id in enumerate(dataset.image_ids)}
    _refuse_other_sections(results.sections, finder, dataset, path, findings)
    for entry in json_entries(results.entries, "result", path, findings):
        try:
            image_id = finder.image_of(entry)
            size = dataset.by_id[image_id].size
            rows = objects.of_image(place_of[image_id])
            reader.add(rows, entry, None if 0 in size else size, scores.read(entry))
        except UserError as error:
            findings.fault(str(error))
    reader.boxes.check(path, findings)
    scores.say(findings)
    rows_of = ImageRows(objects.images, len(dataset))
    detections = {
        sample.image_id: _detections(objects, rows_of.of(place), sample.size) for place, sample in enumerate(dataset)
    }
    findings.count(count_detections(path, detections))
    return detections


def _labels(dataset: Dataset) -> CategoryLabels:
    """The labels of ``dataset`` by category id and by name."""
    by_id = {number: label for label, number in enumerate(dataset.category_ids)}
    return CategoryLabels(by_id, {name: label for label, name in enumerate(dataset.classes)})


def _detections(objects: ObjectColumns, rows: np.ndarray, size: tuple[int, int]) -> Instances:
    """The detections of one image; without a size a box cannot stand for a mask that is missing."""
    drawable = bool(objects.masks) and (0 not in size or all(row in objects.masks for row in rows.tolist()))
    return objects.instances(rows, with_masks=drawable, size=size).replace(difficult=None, crowd=None)


class _ImageFinder:
    """Find the image of ``dataset`` that an entry's ``image_id`` means, each key once."""

    def __init__(self, dataset: Dataset, path: Path, findings: Findings) -> None:
        self.names, self.dataset, self.path, self.findings = ImageNames.of(dataset), dataset, path, findings
        self._image_of: dict[Key, str | None] = {}

    def find(self, key: Key) -> str | None:
        """The image that ``key`` means, None where it means none."""
        if key not in self._image_of:
            self._image_of[key] = self.names.find(key, str(self.path), self.findings)
        return self._image_of[key]

    def image_of(self, entry: JsonEntry) -> str:
        """The image of an entry; `UserError` where it names none of the dataset's."""
        stated = entry.get("image_id")
        # Text is looked up as it is: names of digits alone come before numbers
        key = stated if isinstance(stated, str) else as_file_id(stated)
        image_id = None if key is None else self.find(key)
        if image_id is None:
            raise UserError(
                f"wanted results of {self.dataset.name} in {self.path}, found image_id {shown(stated)} in "
                f"{entry.place}: name its own file"
            )
        return image_id


def _refuse_other_sections(
    sections: Mapping[str, object], finder: _ImageFinder, dataset: Dataset, path: Path, findings: Findings
) -> None:
    """A fault where the file that holds the results numbers images or classes otherwise than ``dataset``."""
    images, categories = sections.get("images"), sections.get("categories")
    if isinstance(images, list):
        for image in read_image_entries([images], path, findings):
            by_name = finder.find(image.name)
            if by_name is not None and by_name != finder.find(image.file_id):
                findings.fault(
                    f"wanted the image ids of {dataset.name} in {path}, found {image.file_id!r} for {image.name!r}: "
                    "write the ids of the truth"
                )
    if isinstance(categories, list):
        number_of = dict(zip(dataset.classes, dataset.category_ids, strict=True))
        for entry in json_entries(categories, "category", path, findings):
            name, number = entry.text("name").strip(), entry.file_id("id")
            if number_of.get(name, number) != number:
                findings.fault(
                    f"wanted the category ids of {dataset.name} in {path}, found {number!r} for {name!r}: write the "
                    "ids of the truth"
                )
