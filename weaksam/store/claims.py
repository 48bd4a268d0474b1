"""Share work between processes on one disk: who works on a piece holds its claim, a file that it touches.

A claim is a lease. Its holder touches the file every few seconds; where the file stands still for half a minute, as
seen on the observer's own clock, the holder is dead and another process takes the piece. Times of the file are only
compared with each other, never with a clock, so that clocks of machines may differ. On one machine the process itself
is asked for, so that the pieces of one that was killed are free at once. System locks are not used, as not every
network disk has some that hold between machines.

A holder that stood still for long may lose its claim and work on: both then do the same piece. That costs time and
nothing else, as both write the same bytes under the same name (see `weaksam.store.parts`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from weaksam.store.owner import BEAT_SECONDS, SILENCE_SECONDS, process_start, this_machine

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Holder:
    """Who wrote a claim: machine, process, and a number that no other claim bears; empty where it is damaged."""

    nonce: str = ""
    machine: str = ""
    pid: int = 0
    process: str = ""
    """When the process began, as its system counts."""

    @classmethod
    def of_this_process(cls) -> Holder:
        """This process, for a claim to come."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, this_machine(), pid, process_start(pid) or "")

    @classmethod
    def read(cls, text: str) -> Holder:
        """The holder in a claim's text; a claim that is written just now, or was cut short, says nothing."""
        try:
            values = json.loads(text)
            return cls(str(values["nonce"]), str(values["machine"]), int(values["pid"]), str(values["process"]))
        except (ValueError, KeyError, TypeError):
            return cls()

    def text(self) -> str:
        """The text of the claim."""
        return json.dumps({"nonce": self.nonce, "machine": self.machine, "pid": self.pid, "process": self.process})

    def is_dead(self) -> bool:
        """Whether it ran on this machine and does so no more; False of another machine's, which nobody sees."""
        return bool(self.machine) and self.machine == this_machine() and process_start(self.pid) != self.process


@dataclass(frozen=True)
class _Seen:
    """A claim as it was seen: its holder, the file's time (of the disk's clock), and since when both are so (ours)."""

    holder: Holder
    touched: int
    since: float


class Claims:
    """The pieces of work that processes have claimed, each a file in ``folder`` that its holder touches.

    ``clock`` gives the observer's own seconds, ``silence`` how many of them a claim may stand still.
    """

    def __init__(
        self, folder: Path, silence: float = SILENCE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.silence, self._clock = folder, silence, clock
        self._seen: dict[str, _Seen] = {}

    @contextlib.contextmanager
    def claim(self, name: str, wait: bool) -> Iterator[bool]:
        """Whether this process may do the work ``name``, claimed until the block ends; ``wait`` for another's to end.

        False as well where another process did all the work and removed the claims this moment.
        """
        holder = Holder.of_this_process()
        claimed = self._take(name, holder)
        while wait and not claimed and self.folder.is_dir():
            time.sleep(_POLL_SECONDS)
            claimed = self._take(name, holder)
        if not claimed:
            yield False
            return
        stop = threading.Event()
        threading.Thread(target=_touch, args=(self.folder / name, stop), name="claim", daemon=True).start()
        try:
            yield True
        finally:
            stop.set()
            self._give_up(name, holder)

    def remove(self) -> None:
        """Delete the folder of claims, which nobody needs once all work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self, name: str, holder: Holder) -> bool:
        """Write the claim if nobody holds it, or a dead process does."""
        path = self.folder / name
        with contextlib.suppress(FileExistsError):  # it was there, and is removed this moment
            self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                try:
                    os.write(descriptor, holder.text().encode())
                finally:
                    os.close(descriptor)
                self._seen.pop(name, None)
                return True
            if not self._is_dead(name):
                return False
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return False

    def _is_dead(self, name: str) -> bool:
        """Whether the claim's holder has ended, or the claim has stood still for `silence` seconds of our clock."""
        try:
            with open(self.folder / name, encoding="utf-8") as file:  # network disks ask their server when it is opened
                holder, touched = Holder.read(file.read(1 << 16)), os.fstat(file.fileno()).st_mtime_ns
        except (OSError, ValueError):
            return False  # it has gone this moment, and is taken at the next attempt
        if holder.is_dead():
            return True
        seen = self._seen.get(name)
        if seen is None or (seen.holder, seen.touched) != (holder, touched):
            self._seen[name] = seen = _Seen(holder, touched, self._clock())
        return self._clock() - seen.since >= self.silence

    def _give_up(self, name: str, holder: Holder) -> None:
        """Remove our claim, and not that of a process that has taken it from us."""
        path = self.folder / name
        with contextlib.suppress(OSError, ValueError):
            if Holder.read(path.read_text(encoding="utf-8")).nonce == holder.nonce:
                path.unlink()


def _touch(path: Path, stop: threading.Event) -> None:
    """Touch a claim until ``stop``; the time is that of the disk."""
    while not stop.wait(BEAT_SECONDS):
        try:
            os.utime(path)
        except FileNotFoundError:
            return
        except OSError:  # the disk may be back at the next beat
            continue
