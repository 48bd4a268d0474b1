"""Read and write VOC's result files: the detections of one class in a split, one a line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from weaksam.config import UserError
from weaksam.data.text_files import read_text
from weaksam.store.files import atomic_file
from weaksam.structures.boxes import inclusive_from_xyxy, xyxy_from_inclusive
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

_FILE_NAME = re.compile(r"(?:comp[^_]*_)(?:.*_)?det_(?P<split>[^_]+)_(?P<class_name>.+)\.txt")
"""comp4_det_test_cat.txt; tools put a random mark after ``comp4``."""


def result_files(path: Path) -> dict[str, Path]:
    """VOC result files by class name: those in the folder ``path``, or ``path`` itself; none give none.

    Raises `UserError` where a class has two, as of two splits.
    """
    file_of: dict[str, Path] = {}
    for file in sorted(path.glob("*.txt")) if path.is_dir() else [path]:
        match = _FILE_NAME.fullmatch(file.name)
        if match is None:
            continue
        name = match["class_name"]
        if name in file_of:
            raise UserError(
                f"wanted one result file of each class in {path}, found {file_of[name].name} and {file.name}: "
                "keep those of one split and one competition in a folder"
            )
        file_of[name] = file
    return file_of


def read_result_file(path: Path) -> list[tuple[str, float, list[float]]]:
    """Image name, score and half-open xyxy box of every line ``name score x1 y1 x2 y2``; an empty file gives none.

    VOC counts pixels from 1 and names the last one inside. Raises `UserError` for another line.
    """
    detections = []
    for name, (score, *corners) in _parsed_lines(path):
        from_zero = torch.tensor([corners], dtype=torch.float64) - 1
        detections.append((name, score, xyxy_from_inclusive(from_zero)[0].tolist()))
    return detections


def write_results(folder: Path, dataset: Dataset, detections: Mapping[str, Instances], *, split: str = "test") -> None:
    """Write ``comp4_det_<split>_<class>.txt`` of every class, best score first; names are written without ending."""
    lines: dict[int, list[tuple[float, str]]] = {label: [] for label in range(len(dataset.classes))}
    for image_id, objects in detections.items():
        name = Path(image_id).stem
        scores = torch.zeros(0) if objects.scores is None else objects.scores
        corners = (inclusive_from_xyxy(objects.boxes.double()) + 1).tolist()
        for label, score, box in zip(objects.labels.tolist(), scores.tolist(), corners, strict=True):
            lines[label].append((score, f"{name} {score:.6f} {' '.join(f'{value:.3f}' for value in box)}\n"))
    for label, of_class in lines.items():
        best_first = sorted(of_class, key=lambda line: -line[0])
        with atomic_file(folder / f"comp4_det_{split}_{dataset.classes[label]}.txt") as temporary:
            temporary.write_text("".join(text for _, text in best_first), encoding="utf-8")


def _parsed_lines(path: Path) -> Iterator[tuple[str, list[float]]]:
    """Image name and ``score, x1, y1, x2, y2`` of every line as it is written there."""
    for number, line in enumerate(read_text(path, "VOC results").splitlines(), start=1):
        name, *values = line.rsplit(maxsplit=5) or [""]
        if not name:
            continue
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = []
        if len(numbers) != 5 or not all(map(math.isfinite, numbers)):
            raise UserError(
                f"wanted 'name score x1 y1 x2 y2' on line {number} of {path}, found {line[:60]!r}: mend that line"
            )
        yield name, numbers
