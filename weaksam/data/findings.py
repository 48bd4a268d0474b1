"""Gather what a reader has to say besides what it returns: faults, what was taken for what, and counts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from weaksam.config import UserError


@dataclass
class Findings:
    """What was noticed while a file or folder was read; nothing at first.

    Faults end the reading with a `UserError`, unless ``gather`` is set, as ``weaksam data check`` does to list all of
    them: then the faulty entry is left out and reading goes on.
    """

    gather: bool = False
    faults: list[str] = field(default_factory=list)
    """Sentences on what cannot be read."""
    guesses: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The locations by what was taken there for what."""
    counts: list[str] = field(default_factory=list)
    """What was read and what was left out, a line for each reader."""

    def fault(self, sentence: str) -> None:
        """Raise `UserError` with ``sentence``, or gather it."""
        if not self.gather:
            raise UserError(sentence)
        self.faults.append(sentence)

    def guess(self, text: str, location: str) -> None:
        """Note what something at ``location`` (a file and where in it) was taken for, as a phrase in the past."""
        self.guesses[text].append(location)

    def take(self, other: Findings) -> None:
        """Note all that ``other`` gathered; its first fault is raised unless faults are gathered here too."""
        for sentence in other.faults:
            self.fault(sentence)
        for text, places in other.guesses.items():
            self.guesses[text] += places
        self.counts += other.counts

    def count(self, line: str) -> None:
        """Note how much was read and how much was left out."""
        self.counts.append(line)

    @property
    def notes(self) -> tuple[str, ...]:
        """Counts and guesses for the protocol: each guess once, with its number of locations and the first of them."""
        guesses = []
        for text, locations in self.guesses.items():
            times = f"{len(locations)} times, first in " if len(locations) > 1 else ""
            guesses.append(f"{text} ({times}{locations[0]})")
        return (*self.counts, *guesses)

    @property
    def problems(self) -> tuple[str, ...]:
        """All faults, and each guess at each location, a sentence or phrase each."""
        located = [f"{location}: {text}" for text, of_text in self.guesses.items() for location in of_text]
        return (*self.faults, *located)
