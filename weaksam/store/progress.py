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
        self._learned: tuple[float, int] | None = None
        """When the first item was done that this run did, and how many were then."""
        drawn = sys.stderr.isatty() and not is_silent()
        self._bar = tqdm(total=total, desc=label, delay=1.0, dynamic_ncols=True, leave=False) if drawn else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._wrote_line:
            self._write_line()

    def skip(self, steps: int) -> None:
        """Count ``steps`` that an earlier run did; the time left is estimated from the others."""
        self.done += steps
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
        self._learned = self._learned or (now, self.done)
        silence = min(max(QUIET_SECONDS, (now - self._start) / 10), LONGEST_SILENCE)
        if now - self._last_line >= silence and self.done < self.total:
            self._last_line = now
            self._write_line()

    def _write_line(self) -> None:
        self._wrote_line = True
        now = time.monotonic()
        say(plain_line(self.label, self.done, self.total, now - self._start, self.note, self._left(now)), error=True)

    def _left(self, now: float) -> float | None:
        """Seconds left, by the items since the first, which also waits for what is loaded once; None before two."""
        if self._learned is None or self.done == self._learned[1]:
            return None
        since, before = self._learned
        return (now - since) / (self.done - before) * (self.total - self.done)


def progress(iterable: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield from ``iterable``, showing how many of ``total`` items are done and the time left."""
    with Progress(total, label) as shown:
        for item in iterable:
            yield item
            shown.update()


def plain_line(
    label: str, done: int, total: int, seconds: float, note: str = "", seconds_left: float | None = None
) -> str:
    """One line such as ``proposals: 60/240 (25 %), 0:10 gone, 0:30 left``; no estimate where there is none yet."""
    share = f"{100 * done // total} %" if total else "100 %"
    left = f", {clock(seconds_left)} left" if seconds_left is not None else ""
    behind = f", {note}" if note else ""
    return f"{label}: {done}/{total} ({share}), {clock(seconds)} gone{left}{behind}"


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``, rounded to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
