"""Show the progress of a job and the time left: a bar on a terminal, else plain lines, none in five seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from weaksam.terminal import is_silent, say

QUIET_SECONDS = 5.0
"""A job shorter than this prints no plain line; also the shortest time between two lines."""
LONGEST_SILENCE = 60.0
"""Lines come further apart as a job grows, but never further than this many seconds."""

T = TypeVar("T")


class Progress:
    """Counts ``total`` steps of the job ``label`` on the standard error stream; use as a context manager."""

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label, self.done, self.note = total, label, 0, ""
        self._start = self._last_line = time.monotonic()
        self._wrote_line = False
        self._skipped = 0
        drawn = sys.stderr.isatty() and not is_silent()
        self._bar = tqdm(total=total, desc=label, delay=1.0, dynamic_ncols=True) if drawn else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._wrote_line:
            self._write_line()

    def skip(self, steps: int) -> None:
        """Count ``steps`` that an earlier run did; the time left is estimated from the others."""
        self.done, self._skipped = self.done + steps, self._skipped + steps
        if self._bar is not None:
            self._bar.initial = self._bar.n = self.done
            self._bar.refresh()

    def update(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` more as done; ``note`` (a loss, a number found) stands behind the count."""
        self.done, self.note = self.done + steps, note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
            return
        now = time.monotonic()
        silence = min(max(QUIET_SECONDS, (now - self._start) / 10), LONGEST_SILENCE)
        if now - self._last_line >= silence and self.done < self.total:
            self._last_line = now
            self._write_line()

    def _write_line(self) -> None:
        self._wrote_line = True
        seconds = time.monotonic() - self._start
        line = plain_line(self.label, self.done, self.total, seconds, self.note, self._skipped)
        say(line, error=True)


def progress(iterable: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield from ``iterable``, showing how many of ``total`` items are done and the time left."""
    with Progress(total, label) as shown:
        for item in iterable:
            yield item
            shown.update()


def plain_line(label: str, done: int, total: int, seconds: float, note: str = "", skipped: int = 0) -> str:
    """One line such as ``proposals: 60/240 (25 %), 0:10 gone, 0:30 left``; no estimate before the first item.

    ``skipped`` of the ``done`` items were there before, so they say nothing about the time left.
    """
    share = f"{100 * done // total} %" if total else "100 %"
    left = f", {clock(seconds / (done - skipped) * (total - done))} left" if done > skipped else ""
    behind = f", {note}" if note else ""
    return f"{label}: {done}/{total} ({share}), {clock(seconds)} gone{left}{behind}"


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``, rounded to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
