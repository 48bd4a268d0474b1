"""Own the output folder of a run while it is under way, and let its worker processes join."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from weaksam.config import UserError, fingerprint_of
from weaksam.engine.output_folder import note, owned
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import CEILING
from weaksam.stages import STAGE_NAMES
from weaksam.store.leftovers import remove_leftovers
from weaksam.store.owner import Owner

FOLDERS = (*STAGE_NAMES, *(f"{name}{CEILING}" for name in STAGE_NAMES), "embeddings")
"""Folders below OUT that a run writes to."""
JOIN_SECONDS = 600.0
"""How long a worker process waits for the first one, which may start later on another machine."""
SILENT_SECONDS = 5.0
"""After how long it says that it waits."""
GRACE_SECONDS = 5.0
"""How long a worker goes on without a first process: it may just be ending too."""


@contextlib.contextmanager
def owning(settings: RunSettings) -> Iterator[None]:
    """Own the run's output folder while the block runs; what a killed run left there is removed first.

    Raises `UserError` where another process is at work there, or the folder cannot be written to.
    """
    with owned(settings.out, fingerprint_of(settings)) as ownership:
        remove_leftovers(settings.out, FOLDERS)
        ownership.admit_workers()
        yield


@contextlib.contextmanager
def joining(settings: RunSettings, finished: Callable[[], bool]) -> Iterator[None]:
    """Work in the block as a further process of the run that owns the output folder; end when that one dies.

    It is waited for unless the work is ``finished``. Raises `UserError` where a run with other settings owns the
    folder, or none comes.
    """
    fingerprint, ended = fingerprint_of(settings), threading.Event()
    _await_owner(settings.out, fingerprint, finished)
    arguments = (settings.out, fingerprint, finished, ended)
    threading.Thread(target=_end_with_owner, args=arguments, name="owner", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _await_owner(out: Path, fingerprint: str, finished: Callable[[], bool]) -> None:
    """Wait until the first process of the run admits workers, or there is nothing left to do."""
    began, said = time.monotonic(), False
    while not finished():
        owner = Owner.read(out)
        if owner is not None and owner.fingerprint == fingerprint and owner.ready and owner.lives():
            return
        if owner is not None and owner.fingerprint not in ("", fingerprint) and owner.lives():
            raise UserError(
                f"wanted to help the run in {out}, found a run with other settings there ({owner}): give all "
                "processes of a run the same settings"
            )
        if not said and time.monotonic() > began + SILENT_SECONDS:
            said = True
            note(f"waits for the first process of the run in {out}, for {JOIN_SECONDS:.0f} s at most")
        if time.monotonic() > began + JOIN_SECONDS:
            raise UserError(
                f"wanted the first process of the run in {out}, found none in {JOIN_SECONDS:.0f} s: start the one of "
                "rank 0 as well"
            )
        time.sleep(0.2)


def _end_with_owner(out: Path, fingerprint: str, finished: Callable[[], bool], ended: threading.Event) -> None:
    """End this worker process some seconds after the run's first process has died, unless its work has ``ended``."""
    misses = 0
    while not ended.wait(1.0):
        owner = Owner.read(out)
        alive = owner is not None and owner.fingerprint == fingerprint and owner.lives()
        misses = 0 if alive else misses + 1
        if misses > GRACE_SECONDS:
            done = finished()
            if not done:
                note(f"the first process of the run in {out} is no more: this one ends too")
            os._exit(0 if done else 1)
