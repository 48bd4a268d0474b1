"""Find the known name that a word is most like, in bounded time."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

_MOST_NAMES, _LONGEST_NAME, _MOST_HINTS = 2000, 100, 100
"""Names, and letters of a name, that are compared with a name that is unknown; and how many such names are compared."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name in ``known`` most like ``name``, in any case; None where none reaches the likeness ``cutoff`` (0 to 1).

    The likeness is `difflib.SequenceMatcher.ratio`: 1 for equal names, 0 for names without a letter in common. Only the
    first 2,000 names of at most 100 letters are compared.
    """
    if len(name) > _LONGEST_NAME:
        return None
    by_lower = {other.lower(): other for other in islice(known, _MOST_NAMES) if len(other) <= _LONGEST_NAME}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'apple'?)"`` where a known name is near, else nothing."""
    near = nearest(name, known)
    return "" if near is None else f" (did you mean {near!r}?)"


class Hints:
    """Say of one word after the other what it may mean, see `did_you_mean`; of the first 100, for it takes long."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known, self._hints = tuple(known), dict[str, str]()

    def __call__(self, name: str) -> str:
        """What `did_you_mean` says of ``name``, nothing where 100 other words were asked for before it."""
        if name not in self._hints and len(self._hints) < _MOST_HINTS:
            self._hints[name] = did_you_mean(name, self._known)
        return self._hints.get(name, "")
