"""Parse and check the lines of YOLO label files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.text_files import printable, read_text

TOLERANCE = 0.01
"""Coordinates may leave [0, 1] by this much: rounding, and boxes drawn to the very edge."""


@dataclass(frozen=True)
class LabelLine:
    """One line of a label file: class number, the numbers after it, and its place in words.

    ``numbers`` are a box (centre, width, height), perhaps with a sixth number, or the points of a polygon; all but the
    sixth are shares of the photo's width and height.
    """

    class_number: int
    numbers: Sequence[float]
    place: str

    @property
    def is_polygon(self) -> bool:
        """Whether the numbers are points."""
        return len(self.numbers) >= 6


def parse_lines(path: Path, names: Mapping[int, str], findings: Findings) -> list[LabelLine]:
    """The lines of a label file whose class numbers are keys of ``names``; blank lines are none.

    A line is ``class cx cy w h``, perhaps with a sixth number, see `are_scores`, or ``class x1 y1 x2 y2 x3 y3 ..`` for
    a polygon, in shares of the photo. Other lines, among them pixels, are faults.
    """
    lines = []
    for row, text in enumerate(read_text(path, "YOLO labels").split("\n"), start=1):
        if text.strip():
            try:
                lines.append(_parse(text, names, f"line {row} of {path}", findings))
            except UserError as error:
                findings.fault(str(error))
    return lines


def looks_like_labels(path: Path) -> bool:
    """Whether the first line that is not blank is a line of labels; False for a file that is no text."""
    try:
        lines = (line for line in read_text(path, "YOLO labels").split("\n") if line.strip())
    except UserError:
        return False
    numbers = [_number(part) for part in next(lines, "").split()]
    return len(numbers) >= 5 and None not in numbers


def are_scores(lines: Iterable[Iterable[LabelLine]], findings: Findings) -> bool:
    """Whether the sixth numbers of a set of label files are confidences, noted as a guess; False without any.

    They are confidences where all are in [0, 1], and track ids, which are left out, where all are whole. Anything else
    is a fault.
    """
    sixth = [line for of_file in lines for line in of_file if len(line.numbers) == 5]
    if not sixth:
        return False
    odd = [line for line in sixth if not 0 <= line.numbers[4] <= 1]
    broken = next((line for line in sixth if line.numbers[4] < 0 or line.numbers[4] != int(line.numbers[4])), None)
    if odd and broken is not None:
        findings.fault(
            f"wanted a confidence in [0, 1] as sixth number on {odd[0].place}, found {odd[0].numbers[4]:g} and, on "
            f"{broken.place}, {broken.numbers[4]:g}: leave the column out"
        )
        return False
    meaning = "track id and left out" if odd else "confidence, which no true object has: all count alike"
    for place in dict.fromkeys(line.place.partition(" of ")[2] for line in sixth):
        findings.guess(f"the sixth number of a line was taken for a {meaning}", place)
    return not odd


def _parse(text: str, names: Mapping[int, str], place: str, findings: Findings) -> LabelLine:
    """One line; raises `UserError`, naming ``place``, for another."""
    parts = text.split()
    parsed = [_number(part) for part in parts]
    values = [value for value in parsed if value is not None]
    if len(values) < len(parsed):
        separate = ": separate numbers by spaces and write decimal points" if "," in text else ": mend that line"
        raise UserError(f"wanted numbers on {place}, found {printable(text[:40])!r}{separate}")
    class_number, *numbers = values
    if len(numbers) not in (4, 5) and (len(numbers) < 6 or len(numbers) % 2):
        raise UserError(
            f"wanted 4 numbers (box) or at least 3 points after the class on {place}, "
            f"found {len(numbers)} numbers: mend that line"
        )
    if class_number not in names:
        count = len(names)
        known = f"below {count}" if max(names) == count - 1 else f"that has a name ({_ranges(names)})"
        raise UserError(f"wanted a class number {known} on {place}, found {class_number:g}: mend it or add its name")
    _check_range(numbers, place)
    if len(numbers) == 6:
        findings.guess("six numbers after a class were taken for the three points of a polygon", place)
    return LabelLine(int(class_number), numbers, place)


def _number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _check_range(numbers: Sequence[float], place: str) -> None:
    """Raise `UserError` for a coordinate that is no share of the photo."""
    shares = numbers if len(numbers) >= 6 else numbers[:4]
    sides = () if len(numbers) >= 6 else numbers[2:4]
    outside = next((value for value in shares if not -TOLERANCE <= value <= 1 + TOLERANCE), None)
    if outside is None:
        outside = next((value for value in sides if value < 0), None)
    if outside is not None:
        advice = "divide pixels by its width or height" if outside > 1 else "mend that line"
        raise UserError(
            f"wanted shares of the photo's width and height, in [0, 1], on {place}, found a coordinate of {outside:g}: "
            f"{advice}"
        )


def _ranges(names: Mapping[int, str]) -> str:
    """The class numbers that have a name, for a sentence."""
    numbers = [str(number) for number in names]
    return ", ".join(numbers if len(numbers) <= 8 else [*numbers[:7], "..", numbers[-1]])
