"""Keep many lines of text in little memory: those that say the same of many names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

from weaksam.terminal import all_printable


class Lines(Sequence[str]):
    """Lines in the order in which they were added, none at first; equal to any sequence of the same lines.

    Lines next to each other that say the same of several names are kept as these names, and written when they are read.
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._parts: list[tuple[str, list[str], str]] = []  # what stands before the names, the names, and after them
        for line in lines:
            self.add(line)

    def add(self, line: str) -> None:
        """Append a line; what is not plain text in it is escaped."""
        self.add_about("", line, "")

    def add_about(self, before: str, name: str, after: str) -> None:
        """Append the line that ``before``, ``name`` and ``after`` make; what is not plain text in it is escaped."""
        if not self._parts or (self._parts[-1][0], self._parts[-1][2]) != (before, after):
            self._parts.append((before, [], after))
        self._parts[-1][1].append(name)

    def add_about_all(self, before: str, names: Sequence[str], after: str) -> None:
        """Append the line of each of ``names``, see `add_about`; no names give no line."""
        if names:
            self.add_about(before, names[0], after)
            self._parts[-1][1].extend(islice(names, 1, None))

    def extend(self, lines: Lines) -> None:
        """Append ``lines``."""
        self._parts += lines._parts

    def __iter__(self) -> Iterator[str]:
        return all_printable(f"{before}{name}{after}" for before, names, after in self._parts for name in names)

    def __len__(self) -> int:
        return sum(len(names) for _, names, _ in self._parts)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return list(self)[row]
        number = range(len(self))[row]
        return next(islice(self, number, None))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def __repr__(self) -> str:
        return f"Lines({list(self)!r})"
