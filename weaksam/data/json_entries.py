"""Check the values of one entry of a JSON file, and name the entry and the key of a value that cannot be meant."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.text_files import is_utf8

FileId = int | str
"""How a file numbers an image or a category: a whole number, or a text that is none."""
LARGEST = 1e7
"""No coordinate, side or score of a file is larger, in pixels or as a number."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOST_DIGITS = 300
_AS_NUMBERS = "numbers written as text were read as numbers"

Value = TypeVar("Value")


@dataclass(slots=True)
class JsonEntry:
    """One object in a JSON file: its ``values``; it is the ``index``-th, from 1, of a list ``of`` something.

    ``findings`` take the guesses. Every method raises `UserError`, naming place and key, for a value that cannot be
    meant.
    """

    values: dict[str, Any]
    of: str
    index: int
    path: Path
    findings: Findings

    @property
    def place(self) -> str:
        """Which entry of which file it is, in words, with its own id."""
        own_id = self.values.get("id")
        named = isinstance(own_id, int | str) and is_utf8(str(own_id)) and len(str(own_id)) < 40
        return f"{self.of} {self.index}{f' (id {own_id})' if named else ''} in {self.path}"

    def refusal(self, key: str, wanted: str) -> UserError:
        """The error for the value of ``key``, which should have been ``wanted``."""
        state = shown(self.values[key]) if key in self.values else f"none among {listed_keys(self.values)}"
        return UserError(f"wanted {wanted} as {key!r} of {self.place}, found {state}: mend the entry")

    def get(self, key: str) -> Any:
        """The value of ``key``; None where it is missing or null."""
        return self.values.get(key)

    def number(self, key: str) -> float:
        """A finite number, also where it is written as text."""
        value = self.get(key)
        if not is_number(value):
            raise self.refusal(key, "a finite number")
        return self.numbers([value])[0]

    def numbers(self, values: Sequence[Any]) -> list[float]:
        """Values that `is_number` holds for, as floats; a guess where some are text."""
        if any(isinstance(value, str) for value in values):
            self.findings.guess(_AS_NUMBERS, self.place)
        return [float(value) for value in values]

    def text(self, key: str) -> str:
        """A text of at least one letter; a whole number is read as its digits."""
        value = self.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            self.findings.guess(f"a number as {key!r} was read as text", self.place)
            value = str(value)
        if not isinstance(value, str) or not value.strip() or not is_utf8(value):
            raise self.refusal(key, "a text")
        return value

    def file_id(self, key: str) -> FileId:
        """A whole number, or a text; digits as text and floats such as 7.0 are the number."""
        number = as_file_id(self.get(key))
        if number is None:
            raise self.refusal(key, "a whole number or a text")
        return number

    def flag(self, key: str) -> bool:
        """Whether 1 or true is stated; 0, false, null and a missing key are false."""
        value = self.values.get(key)
        if value is None:
            return False
        if value in (None, "") or (isinstance(value, int | float) and value in (0, 1)) or value in ("0", "1"):
            return value in (1, "1")
        raise self.refusal(key, "0 or 1")

    def size(self) -> tuple[int, int] | None:
        """``height`` and ``width`` as (H, W); None where either is missing, null or 0."""
        height, width = self.values.get("height"), self.values.get("width")
        if type(height) is int and type(width) is int and 0 < height <= LARGEST and 0 < width <= LARGEST:
            return height, width
        sides = []
        for key in ("height", "width"):
            if self.get(key) is None:
                return None
            side = self.number(key)
            if side < 0 or not side.is_integer():
                raise self.refusal(key, "a whole number of pixels")
            sides.append(int(side))
        return (sides[0], sides[1]) if all(sides) else None


def json_entries(
    content: Iterable[Any], of: str, path: Path, findings: Findings, start: int = 1
) -> Iterator[JsonEntry]:
    """The objects of a list ``of`` something in ``path``, numbered from ``start``; any other value is a fault."""
    for index, values in enumerate(content, start=start):
        if isinstance(values, dict):
            yield JsonEntry(values, of, index, path, findings)
        else:
            findings.fault(
                f"wanted an object with keys as {of} {index} in {path}, found {shown(values)}: mend the list"
            )


def attempt(findings: Findings, read: Callable[..., Value], *arguments: Any) -> Value | None:
    """What ``read`` returns; None where it raises a `UserError` that ``findings`` gather as a fault."""
    try:
        return read(*arguments)
    except UserError as error:
        findings.fault(str(error))
        return None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of sensible size, also one written as text."""
    if isinstance(value, str):
        text = value.strip()
        value = float(text) if len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= LARGEST if isinstance(value, float) else abs(value) <= LARGEST


def as_file_id(value: Any) -> FileId | None:
    """The whole number that a JSON value states, also as digits or as 7.0; other text as it is; None for the rest."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not value.strip() or not is_utf8(value):
        return None
    text = value.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else text


def shown(value: Any) -> str:
    """A JSON value as text of at most 80 characters, for a sentence."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 60, 60
    return short.repr(value)[:80]


def listed_keys(values: dict[str, Any]) -> str:
    """The keys of an object, at most eight of them."""
    return f"the keys {', '.join(map(repr, sorted(map(str, values))[:8]))}" if values else "no keys"
