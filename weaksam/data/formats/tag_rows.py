"""Join the rows of a tag file, a photo's name and names of classes each, and refuse classes that cannot be meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from pathlib import Path
from typing import NamedTuple

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


class TagRow(NamedTuple):
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
    joiner = RowJoiner(path, findings, classes)
    for row in rows:
        joiner.add(row)
    return joiner.tag_rows(about)


class RowJoiner:
    """Join the rows of a file one by one or many at a time, see `join_rows`."""

    def __init__(self, path: Path, findings: Findings, classes: tuple[str, ...] | None = None) -> None:
        self._path, self._findings, self._classes = path, findings, classes
        self._reader = _NameReader(path, findings, classes or ())
        self._tags: dict[str, tuple[str, ...]] = {}  # by photo, of its first row
        self._joint: dict[str, dict[str, None]] = {}  # by photo, of all rows where they differ
        self._num_rows = self._num_blank = 0

    def add(self, row: TagRow) -> None:
        """Take one row."""
        self._join((row.file,), (self._reader.read(row),))

    def add_all(self, files: Sequence[str], names: Sequence[tuple[str, ...]], place: Callable[[int], str]) -> None:
        """Take the rows of ``files`` with their ``names``; ``place`` says where the row of a number, from 0, is."""
        known = [self._reader.known.get(of_row) for of_row in names]
        classes = [
            self._reader.read(TagRow(place(row), files[row], names[row])) if of_row is None else of_row
            for row, of_row in enumerate(known)
        ]
        self._join(files, classes)

    def _join(self, files: Sequence[str], classes: Sequence[tuple[str, ...]]) -> None:
        """Take rows with their classes, of which equal ones are one object."""
        self._num_rows += len(files)
        self._num_blank += classes.count(())
        firsts = list(map(self._tags.setdefault, files, classes))
        if not all(map(is_, firsts, classes)):
            for file, first, of_row in zip(files, firsts, classes, strict=True):
                if first is not of_row:
                    self._joint.setdefault(file, dict.fromkeys(first)).update(dict.fromkeys(of_row))

    def tag_rows(self, about: str = "") -> TagRows:
        """All that was taken; how many rows there were is counted, and what the count says too is ``about``."""
        blank = f", {self._num_blank} without a tag" if self._num_blank else ""
        joint = ", joined by photo" if self._num_rows > len(self._tags) else ""
        num_photos = f"{self._num_rows} rows of {len(self._tags)} photos"
        self._findings.count(f"{self._path}: {num_photos}{joint}{blank}{about}")
        self._tags.update({file: tuple(of_file) for file, of_file in self._joint.items()})
        return TagRows(self._tags, self._classes)


class _NameReader:
    """Read the names of rows, of which those that came before without a word are known."""

    def __init__(self, path: Path, findings: Findings, classes: Sequence[str]) -> None:
        self._path, self._findings = path, findings
        self._spellings = {composed(name): name for name in classes}
        self._plain: dict[str, str] = {}  # of a name as written that needs no word, empty for none
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.known: dict[tuple[str, ...], tuple[str, ...]] = {}
        """The classes of all names of a row as written, where they need no word and came before in a tuple."""

    def read(self, row: TagRow) -> tuple[str, ...]:
        """The classes of a row, each once; equal ones are one object."""
        names = [self._plain[name] if name in self._plain else self._read_name(name, row) for name in row.names]
        classes = tuple(dict.fromkeys(name for name in names if name))
        classes = self._tuples.setdefault(classes, classes)
        if isinstance(row.names, tuple) and all(name in self._plain for name in row.names):
            self.known[row.names] = classes
        return classes

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
