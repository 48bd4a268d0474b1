"""Let others fill the missing parts of a store: a block says who, and `Store.fill_parts` asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from weaksam.store.parts import StorePart
from weaksam.store.progress import Progress

Rows = Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
"""The rows of the images of one part, in order; a function of the images and the settings alone."""


class WritableStore(Protocol):
    """What helpers need of a store: its folder and parts, what is missing, and a part's writing."""

    folder: Path
    parts: tuple[StorePart, ...]

    def missing_parts(self) -> list[StorePart]:
        """The parts that are not on disk yet, in order."""

    def write(self, part: StorePart, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one part atomically."""


class PartHelpers(Protocol):
    """Processes, perhaps of other machines, that compute parts."""

    def fill(self, store: WritableStore, rows: Rows, shown: Progress) -> None:
        """Let every missing part of ``store`` be written; ``shown`` counts the photos. Raises `UserError`."""


_helpers: PartHelpers | None = None


def part_helpers() -> PartHelpers | None:
    """Who fills stores in this process; None where it does so itself, and shares by claims."""
    return _helpers


@contextmanager
def filled_by(helpers: PartHelpers) -> Iterator[None]:
    """Inside, stores are filled by ``helpers``, but those whose rows cost nothing."""
    global _helpers
    before, _helpers = _helpers, helpers
    try:
        yield
    finally:
        _helpers = before
