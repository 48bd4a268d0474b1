"""Split the cells of a column of tags into names of classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from weaksam.config import listed
from weaksam.data.findings import Findings
from weaksam.data.text_files import printable

_MARKS = {" ": "blanks", "/": "slashes", "+": "plus signs", "&": "'&'"}
"""Marks that may part tags but may stand inside of a class's name too, and what messages call them."""

_PLURAL = re.compile(r"(tags|labels|classes|categories|objects|targets|annotations|choices)'", re.IGNORECASE)


def split_cell(cell: str) -> list[str]:
    """Names of classes in one cell or text, parted by ``;``, ``|`` or ``,``; also of a list as Python writes it."""
    inner = re.fullmatch(r"\[(.*)\]", cell.strip(), re.DOTALL)
    if inner is None or "{" in cell:
        return [name.strip() for name in re.split(r"[;|,]", cell) if name.strip()] if "{" not in cell else [cell]
    quoted = [first or second for first, second in re.findall(r"'([^']*)'|\"([^\"]*)\"", inner.group(1))]
    return [name.strip() for name in quoted or re.split(r"[;|,]", inner.group(1)) if name.strip()]


def names_in_cells(
    cells: Iterable[str], labels: Sequence[str], path: Path, findings: Findings
) -> dict[str, tuple[str, ...]]:
    """The names in each of ``cells``, all those of the columns ``labels``, each once.

    Blanks, slashes and the like part names only where each part is a class of its own elsewhere, or where under a
    plural (``labels``) few words make up many cells. What was split, and what was not though it might be, is counted.
    """
    names_of = {cell: tuple(split_cell(cell)) for cell in cells}
    if any(cell.strip().startswith("[") for cell in names_of):
        findings.count(f"{path}: lists in brackets were read as names of classes")
    plural = any(_PLURAL.search(label) for label in labels)
    for mark, called in _MARKS.items():
        names = {name for of_cell in names_of.values() for name in of_cell}
        joint = {name for name in names if len(name.split(mark.strip() or None)) > 1}
        if not joint:
            continue
        shown = printable(listed(map(repr, sorted(joint)), 3))
        if _part_names(joint, names, mark, plural):
            names_of = {cell: _parted(of_cell, mark) for cell, of_cell in names_of.items()}
            findings.count(f"{path}: tags were parted at {called} ({shown})")
        elif any(part.strip() in names for name in joint for part in name.split(mark.strip() or None)):
            findings.count(
                f"{path}: {shown} were read as one class each, not parted at {called}: write ';' between tags"
            )
    return names_of


def _parted(names: Iterable[str], mark: str) -> tuple[str, ...]:
    """The parts of ``names`` between ``mark``."""
    return tuple(part.strip() for name in names for part in name.split(mark.strip() or None))


def _part_names(joint: set[str], names: set[str], mark: str, plural: bool) -> bool:
    """Whether ``mark`` surely parts the names in ``joint``, those of all ``names`` that hold it."""
    parts = {name: [part.strip() for part in name.split(mark.strip() or None)] for name in joint}
    words = {part for of_name in parts.values() for part in of_name}
    if words <= names - joint:
        return True
    num_uses = Counter(word for of_name in parts.values() for word in set(of_name))
    shared = all(num_uses[word] + (word in names) > 1 for word in words)
    return plural and shared and len(joint) > len(words)
