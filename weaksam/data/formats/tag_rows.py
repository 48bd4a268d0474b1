"""Join the rows of a tag file, a photo's name and names of classes each, and refuse classes that cannot be meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from weaksam.data.class_names import LONGEST, is_veiled
from weaksam.data.findings import Findings
from weaksam.data.image_names import composed
from weaksam.data.photos import is_photo_name
from weaksam.data.text_files import printable, quoted

FLAGS = {"": 0, "0": 0, "-1": 0, "0.0": 0, "-1.0": 0, "false": 0, "no": 0, "-": 0}
FLAGS |= {"1": 1, "1.0": 1, "true": 1, "yes": 1, "x": 1}
"""What a cell or value under a class may say, in small letters: whether the class is in the photo."""
_BLANKS = frozenset({"nan", "none", "null", "na", "n/a", "<na>", "-", "--", "?"})
"""Words, in small letters, that stand for an empty cell."""
_DECIMAL = re.compile(r"[-+]?(\d*\.\d+|\d+\.)(e[-+]?\d+)?%?|[-+]?\d+e[-+]?\d+|-\d+|\d+ ?%", re.IGNORECASE)
_ADVICE = {
    "a number": "write names, and of scores only those over a threshold",
    "a photo's name": "write the photo first and then its classes",
    "JSON": "write names with ';' between them",
    "an invisible character": "remove it",
    "control characters": "write it in UTF-8",
    "a long text": f"write names of at most {LONGEST} letters, with ';' between them",
}
"""What to do about a name that is no class, by what is wrong with it."""


@dataclass(frozen=True)
class TagRows:
    """Class names by image name as a source states them; ``classes`` in its own order, or None where it has none.

    An image with no names is an image without any class. ``complete`` is False where unlisted photos are simply not
    part of the split (VOC lists), True where every photo should have a row.
    """

    rows: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...] | None = None
    complete: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        """The stated classes, else all names that occur, sorted."""
        if self.classes is not None:
            return self.classes
        return tuple(sorted({name for names in set(self.rows.values()) for name in names}))


@dataclass(frozen=True)
class TagRow:
    """One row of a file: the photo's name, the classes' names as written, and the ``place`` of it (``line 3``)."""

    place: str
    file: str
    names: Sequence[str]


def join_rows(
    rows: Iterable[TagRow], path: Path, findings: Findings, about: str = "", classes: tuple[str, ...] | None = None
) -> TagRows:
    """The rows of ``path`` with those of one photo joined; how many there are is counted in ``findings``.

    ``about``: what the count says too, such as which columns were read. Classes in two Unicode forms are one, and a
    word such as ``nan`` is no class. Raises (or gathers) `UserError` for a name that is a number, a photo or JSON.
    """
    reader = _NameReader(path, findings, classes or ())
    joined: dict[str, tuple[str, ...] | dict[str, None]] = {}
    num_rows = num_blank = 0
    for row in rows:
        num_rows += 1
        names = reader.read(row)
        num_blank += not names
        before = joined.setdefault(row.file, names)
        if isinstance(before, dict):
            before.update(dict.fromkeys(names))
        elif before is not names:
            joined[row.file] = dict.fromkeys((*before, *names))
    blank = f", {num_blank} without a tag" if num_blank else ""
    joint = ", joined by photo" if num_rows > len(joined) else ""
    findings.count(f"{path}: {num_rows} rows of {len(joined)} photos{joint}{blank}{about}")
    for file, of_file in joined.items():
        if isinstance(of_file, dict):
            joined[file] = tuple(of_file)
    return TagRows(cast(dict[str, tuple[str, ...]], joined), classes)


class _NameReader:
    """Read the names of rows, of which those that came before without a word are known."""

    def __init__(self, path: Path, findings: Findings, classes: Sequence[str]) -> None:
        self._path, self._findings = path, findings
        self._spellings = {composed(name): name for name in classes}
        self._plain: dict[str, str] = {}  # of a name as written that needs no word, empty for none
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}

    def read(self, row: TagRow) -> tuple[str, ...]:
        """The classes of a row, each once; equal ones are one object."""
        names = [self._plain[name] if name in self._plain else self._read_name(name, row) for name in row.names]
        classes = tuple(dict.fromkeys(name for name in names if name))
        return self._tuples.setdefault(classes, classes)

    def _read_name(self, written: str, row: TagRow) -> str:
        """The class that a name means, without blanks around it; empty where it is none."""
        name = written.strip()
        problem = class_problem(name)
        if name.lower() in _BLANKS:
            self._findings.guess(f"{name!r} was read as no tag", f"{self._path}, {row.place}")
            return ""
        if problem:
            self._findings.fault(
                f"wanted class names in {self._path}, found {quoted(name[:60])} ({problem}) for {quoted(row.file)} in "
                f"{row.place}: {_ADVICE[problem]}"
            )
            return ""
        spelling = self._spellings.setdefault(composed(name), name) if name else ""
        if spelling != name:
            place = f"{self._path}, {row.place}"
            self._findings.guess(f"{name!r} in two Unicode forms was taken for one class", place)
        else:
            self._plain[written] = spelling
        return spelling


def class_problem(name: str) -> str:
    """What makes ``name`` no class, a noun; empty where it may be one. Whole numbers may be."""
    if len(name) > LONGEST:
        return "a long text"
    if _DECIMAL.fullmatch(name):
        return "a number"
    if is_photo_name(name):
        return "a photo's name"
    if name.startswith(("{", "[", '"')):
        return "JSON"
    if is_veiled(name):
        return "an invisible character"
    return "" if printable(name) == name else "control characters"


def refuse_similar(names: Iterable[str], source: object, findings: Findings) -> None:
    """Refuse (or gather) classes of which two differ by case or blanks alone, each pair once."""
    spelling: dict[str, str] = {}
    for name in names:
        first = spelling.setdefault(" ".join(name.casefold().split()), name)
        if first != name:
            findings.fault(
                f"wanted one spelling of each class in {source}, found {first!r} and {name!r}: write them alike, or "
                "list both in data.classes"
            )
