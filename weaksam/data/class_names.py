"""Check the names of classes that readers find, and find the class that a name in another Unicode form means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.image_entries import composed
from weaksam.data.text_files import printable

_FRACTION = re.compile(r"[+-]?\d*[.,]\d+([eE][+-]?\d+)?", re.ASCII)
"""A score or a coordinate; whole numbers may be names, as of digits."""
_NO_NAMES = frozenset({"nan"})
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Marks that nobody sees (soft hyphen, blanks without width): a name with one looks like another class."""
LONGEST = 500
"""Most letters of a class's name."""


def is_plain(name: str) -> bool:
    """Whether ``name`` can stand in any line of text: no control or invisible characters, at most `LONGEST` letters."""
    return len(name) <= LONGEST and printable(name) == name and not is_veiled(name)


def is_veiled(name: str) -> bool:
    """Whether ``name`` has a character that nobody sees, with which it looks like another name."""
    return _INVISIBLE.search(name) is not None


class ClassLabels:
    """Labels by the names of ``classes``; a name in another Unicode form than theirs is found where one class fits."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._exact = {name: label for label, name in enumerate(classes)}
        self._composed = {composed(name): label for label, name in reversed(list(enumerate(classes)))}

    def find(self, name: str) -> int | None:
        """The label of the class called ``name``, None where there is none."""
        label = self._exact.get(name)
        return self._composed.get(composed(name)) if label is None else label


def check_name(name: str, place: str) -> None:
    """Raise `UserError`, naming ``place``, for an empty name, a fraction, a missing value and what is not plain."""
    if not name or _FRACTION.fullmatch(name) or name.lower() in _NO_NAMES or not is_plain(name):
        state = repr(printable(name[:60])) if name else "none"
        raise UserError(f"wanted the name of a class as {place}, found {state}: write the class's name there")


def note_look_alikes(names: Iterable[str], place: str, findings: Findings) -> None:
    """Note names that differ in capital letters alone; they stay two classes."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(composed(name).casefold(), name)
        if first != name:
            findings.guess(f"the names {first!r} and {name!r} were read as two classes", place)
