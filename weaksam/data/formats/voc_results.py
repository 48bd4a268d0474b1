"""Read and write VOC's result files: the detections of one class in a split, one a line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.json_entries import LARGEST
from weaksam.data.text_files import printable, read_text
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


@dataclass(frozen=True)
class ResultLines:
    """The D detections of a result file: images' names, float64 scores ``(D,)``, half-open xyxy boxes ``(D, 4)``."""

    names: Sequence[str]
    scores: Tensor
    boxes: Tensor


def read_result_file(path: Path) -> ResultLines:
    """The detections of every line ``name score x1 y1 x2 y2``, D = 0 of an empty file; blank lines are none.

    VOC counts pixels from 1 and names the last one inside. Raises `UserError` for another line, for corners the wrong
    way round and for shares of the photo.
    """
    names, rows, numbers = [], [], []
    for number, line in enumerate(read_text(path, "VOC results").split("\n"), start=1):
        if line.strip():
            name, row = _parsed(line, f"line {number} of {path}")
            names.append(name)
            rows.append(row)
            numbers.append(number)
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    _refuse_other_corners(table[:, 1:], numbers, path)
    return ResultLines(names, table[:, 0], xyxy_from_inclusive(table[:, 1:] - 1))


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


def _parsed(line: str, place: str) -> tuple[str, list[float]]:
    """Image name and ``score, x1, y1, x2, y2`` of a line as they are written there; raises `UserError` for another."""
    name, *values = line.strip().rsplit(maxsplit=5)
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) == 5 and all(math.isfinite(number) and abs(number) <= LARGEST for number in numbers):
        return name, numbers
    advice = "mend that line"
    if "," in line:
        advice = "separate the values by blanks and write decimal points"
    raise UserError(
        f"wanted 'name score x1 y1 x2 y2' with finite numbers on {place}, found {printable(line[:60])!r}: {advice}"
    )


def _refuse_other_corners(corners: Tensor, numbers: Sequence[int], path: Path) -> None:
    """`UserError` where ``corners (D, 4)``, as they are written, are widths and heights or shares of the photo."""
    # An empty box ends one pixel before it begins, and is written with three decimals
    wrong = (corners[:, 2:] < corners[:, :2] - 1.001).any(1).nonzero()[:, 0].tolist()
    if wrong:
        shown = " ".join(f"{value:g}" for value in corners[wrong[0]].tolist())
        raise UserError(
            f"wanted corners x1 y1 x2 y2 in {path}, found {len(wrong)} boxes of {len(corners)} that end before they "
            f"begin (first: {shown} on line {numbers[wrong[0]]}): write corners, not width and height, the score first"
        )
    if len(corners) and bool((corners <= 1).all()) and bool((corners % 1 > 0).any()):
        raise UserError(
            f"wanted corners in pixels in {path}, found no number above 1 in {len(corners)} boxes, as in shares of the "
            "photo: multiply them by its sides"
        )
