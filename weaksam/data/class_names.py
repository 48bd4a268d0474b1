"""Check the names of classes that readers find: no numbers for names, and none that differ by case alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.text_files import printable

_FRACTION = re.compile(r"[+-]?\d*[.,]\d+([eE][+-]?\d+)?", re.ASCII)
"""A score or a coordinate; whole numbers may be names, as of digits."""
_NO_NAMES = frozenset({"nan"})


def check_name(name: str, place: str) -> None:
    """Raise `UserError`, naming ``place``, for an empty name and for one that is a fraction or a missing value."""
    if not name or _FRACTION.fullmatch(name) or name.lower() in _NO_NAMES:
        state = repr(printable(name)) if name else "none"
        raise UserError(f"wanted the name of a class as {place}, found {state}: write the class's name there")


def note_look_alikes(names: Iterable[str], place: str, findings: Findings) -> None:
    """Note names that differ in capital letters alone; they stay two classes."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            findings.guess(f"the names {first!r} and {name!r} were read as two classes", place)
