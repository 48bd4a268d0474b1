"""Read the options of the measuring commands: class names, sets of proposals, numbers of boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from weaksam.config import UserError, listed
from weaksam.data.text_files import read_text


def parse_classes(text: str | None) -> tuple[str, ...] | None:
    """Class names of ``a,b,c`` or of a file with one a line; None for None. Raises `UserError` for repeated ones."""
    if text is None:
        return None
    is_file = os.path.exists(text) and not os.path.isdir(text)
    lines = read_text(Path(text), "class names (one a line)").splitlines() if is_file else text.split(",")
    names = tuple(name.strip() for name in lines if name.strip())
    if not names or len(set(names)) < len(names):
        raise UserError(f"wanted class names, each once, in {text[:200]!r}, found {listed(names) or 'none'}: mend it")
    return names


def parse_sets(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=PATH`` or ``PATH`` -> path by name, in order; a path alone is named after its last part.

    Raises `UserError` where there is none, or one twice.
    """
    sets: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        is_named = bool(equals) and not Path(text).exists()
        path = Path(rest) if is_named else Path(text)
        name = name if is_named else path.stem or str(path)
        name = name if name not in sets else text
        if name in sets or path in sets.values():
            raise UserError(f"wanted every set of proposals once, found {text!r} twice: give each another name")
        sets[name] = path
    if not sets:
        raise UserError("wanted proposals to measure, found none: give --proposals PATH or --proposals NAME=PATH")
    return sets


def parse_counts(text: str) -> tuple[int, ...]:
    """``50,100`` -> (50, 100), ascending; raises `UserError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"wanted numbers of boxes such as 50,100,200, found {text!r}: write them with commas")
    return tuple(sorted({int(part) for part in parts}))
