"""Hold what of a split was set aside, a photo or a row of a list each, with the reason."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import overload

SHOWN_OF_REASON = 20
"""How many names of one reason logs and pages show."""
SHOWN = 100
"""How many names they show in all."""


def names_file(split: str) -> str:
    """The file in a run's folder that lists all that was set aside of a split."""
    return f"set_aside_{split}.json"


class SetAside(Sequence[tuple[str, str]]):
    """Image id (or row) and reason, a verb phrase, sorted; none at first; equal to any sequence of the same pairs.

    ``by_reason``: the names by their reason, since a list may name a million photos that are not there.
    """

    def __init__(self, by_reason: Mapping[str, Iterable[str]] | None = None) -> None:
        filled = {reason: tuple(sorted(names)) for reason, names in (by_reason or {}).items()}
        self.by_reason = {reason: names for reason, names in sorted(filled.items()) if names}

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> SetAside:
        """The same of pairs of name and reason in any order."""
        if isinstance(pairs, SetAside):
            return pairs
        by_reason: dict[str, list[str]] = {}
        for name, reason in pairs:
            by_reason.setdefault(reason, []).append(name)
        return cls(by_reason)

    def few(self) -> tuple[tuple[str, str], ...]:
        """The first `SHOWN_OF_REASON` of every reason, but no more than `SHOWN` in all, sorted."""
        firsts = (zip(names[:SHOWN_OF_REASON], repeat(reason)) for reason, names in self.by_reason.items())
        return tuple(sorted(islice((pair for of_reason in firsts for pair in of_reason), SHOWN)))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return heapq.merge(*(zip(names, repeat(reason)) for reason, names in self.by_reason.items()))

    def __len__(self) -> int:
        return sum(map(len, self.by_reason.values()))

    @overload
    def __getitem__(self, row: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[tuple[str, str], ...]: ...
    def __getitem__(self, row: int | slice) -> tuple[str, str] | tuple[tuple[str, str], ...]:
        if isinstance(row, slice):
            return tuple(self)[row]
        number = range(len(self))[row]
        return next(islice(self, number, None))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SetAside):
            return self.by_reason == other.by_reason
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self.by_reason.items()))

    def __repr__(self) -> str:
        return f"SetAside.of({list(self)!r})"
