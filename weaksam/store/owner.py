"""Let one run at a time own an output folder, across processes and machines, and its workers join it.

The owner is a file in ``OUT/.running``, which is renamed into place with its folder: only one process can do that while
another's file is there. The owner touches its file every few seconds. Nobody compares clocks of two machines: a file
whose time changes has a living owner, one that stands still for half a minute has none. On one machine the process
itself is asked for, so that a killed run can be resumed at once. System locks are not used, as network disks have none
that hold between machines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weaksam.config import UserError
from weaksam.store.disk_errors import refusal
from weaksam.store.records import read_record

FOLDER = ".running"
"""Folder of the owner's file, below the output folder."""
BEAT_SECONDS = 3.0
"""How often an owner touches its file."""
SILENCE_SECONDS = 30.0
"""An owner on another machine that has not touched its file for so long is dead."""


@dataclass(frozen=True)
class Owner:
    """The process that owns an output folder, as its file describes it; a damaged file says nothing but its name."""

    path: Path
    """The file."""
    fingerprint: str = ""
    """Of the run's settings: workers join a run of the same fingerprint."""
    machine: str = ""
    """What tells machines, their restarts and containers apart."""
    host: str = "an unknown machine"
    pid: int = 0
    process: str = ""
    """When the process began, as its system counts: numbers of processes come again."""
    since: str = "an unknown time"
    command: str = "an unknown command"
    ready: bool = False
    """Whether the folder has been cleaned, so that workers may write to it."""

    @classmethod
    def of_this_process(cls, out: Path, fingerprint: str, command: str) -> Owner:
        """This process, which would like to own ``out``."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        pid, path = os.getpid(), out / FOLDER / f"{uuid.uuid4().hex}.json"
        return cls(path, fingerprint, this_machine(), platform.node(), pid, process_start(pid) or "", since, command)

    @classmethod
    def read(cls, out: Path) -> Owner | None:
        """The owner of ``out``; None where nobody is."""
        try:
            path = min((out / FOLDER).iterdir(), default=None)
        except OSError:
            return None
        if path is None:
            return None
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls) if field.name != "path"}
        values = read_record(path) or {}
        return cls(path, **{name: values[name] for name, kind in kinds.items() if type(values.get(name)) is kind})

    def text(self) -> str:
        """The content of the file."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"}
        return json.dumps(values) + "\n"

    def __str__(self) -> str:
        return f"'{self.command}', process {self.pid} on {self.host} since {self.since}"

    def runs_here(self) -> bool | None:
        """Whether the process runs on this machine; None where it is of another one, which only a beat can tell."""
        if not self.machine or self.machine != this_machine():
            return None
        return process_start(self.pid) == self.process

    def beat(self) -> int | None:
        """When the file was touched, in nanoseconds of the disk's own clock; None where it is gone.

        The file is opened for it: network disks then ask their server.
        """
        try:
            with open(self.path, "rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None

    def lives(self, silence: float = SILENCE_SECONDS) -> bool:
        """Whether the process lives; of another machine's it is waited for a beat, ``silence`` seconds at most."""
        here = self.runs_here()
        if here is not None:
            return here and self.beat() is not None
        first, deadline = self.beat(), time.monotonic() + silence
        while (now := self.beat()) == first and now is not None and time.monotonic() < deadline:
            time.sleep(min(0.1, silence))
        return now is not None and now != first


class Ownership:
    """This process as the owner of the output folder ``out``, from `acquire` to `release`."""

    def __init__(self, out: Path, fingerprint: str, command: str, note: Callable[[str], None]) -> None:
        self.out, self.note = Path(out), note
        self.owner = Owner.of_this_process(self.out, fingerprint, command)
        self._stop = threading.Event()

    def acquire(self, on_loss: Callable[[], None]) -> None:
        """Own the folder, after waiting for signs of life of an owner that is no more.

        ``on_loss`` is called on another thread where another process takes the folder, as it may after this one was
        stopped for long. Raises `UserError` where a living process owns it, or the disk refuses.
        """
        try:
            while not self._install():
                self._make_way()
        except OSError as error:
            raise refusal(self.out, error) or error from None
        threading.Thread(target=self._touch, args=(on_loss,), name="owner", daemon=True).start()

    def admit_workers(self) -> None:
        """Say that the folder is clean, so that workers join."""
        temporary = self.out / f".{FOLDER}.{os.getpid()}.tmp"
        try:
            temporary.write_text(dataclasses.replace(self.owner, ready=True).text(), encoding="utf-8")
            os.replace(temporary, self.owner.path)
        except OSError as error:
            raise refusal(self.out, error) or error from None

    def release(self) -> None:
        """Leave the folder to the next."""
        self._stop.set()
        _remove(self.owner)

    def _install(self) -> bool:
        """Put the file in place with its folder; False where another one is there."""
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / f".{FOLDER}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            (temporary / self.owner.path.name).write_text(self.owner.text(), encoding="utf-8")
            os.rename(temporary, self.out / FOLDER)  # takes the place of an empty folder, never of one with a file
        except OSError as error:
            if error.errno in (
                errno.ENOTEMPTY,
                errno.EEXIST,
                errno.ENOENT,
            ):  # an owner is there, or cleaned up just now
                return False
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def _make_way(self) -> None:
        """Remove the file of an owner that is dead; `UserError` where it lives."""
        owner = Owner.read(self.out)
        if owner is None:
            return
        if owner.runs_here() is None:
            self.note(f"{self.out} is in use by {owner}: waiting up to {SILENCE_SECONDS:.0f} s for a sign of life")
        if owner.lives():
            same = "the same run" if owner.fingerprint == self.owner.fingerprint else "a run with other settings"
            raise UserError(
                f"wanted {self.out} for this run alone, found that {same} is under way there ({owner}): wait for its "
                "end, stop it, or name another out=DIR"
            )
        _remove(owner)

    def _touch(self, on_loss: Callable[[], None]) -> None:
        """Touch the file until `release`; the time is that of the disk."""
        while not self._stop.wait(BEAT_SECONDS):
            try:
                os.utime(self.owner.path)
            except FileNotFoundError:
                if not self._stop.is_set():
                    on_loss()
                return
            except OSError:  # the disk may be back at the next beat
                continue


def _remove(owner: Owner) -> None:
    """Remove the file of ``owner`` and no other one's, and the folder if nobody else has come."""
    with contextlib.suppress(OSError):
        owner.path.unlink()
    with contextlib.suppress(OSError):
        owner.path.parent.rmdir()


def this_machine() -> str:
    """A text that two processes share where they see each other's numbers: host, its start, its container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
        parts += [os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """When process ``pid`` of this machine began, in its system's own words; None where it does not run (any more)."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]  # a zombie has ended
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
