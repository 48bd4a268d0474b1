"""Own an output folder while a run is under way, so that no second one writes to it."""

from __future__ import annotations

import _thread
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from weaksam.store.owner import Ownership
from weaksam.terminal import printable, say


@contextlib.contextmanager
def owned(out: Path, fingerprint: str) -> Iterator[Ownership]:
    """Own ``out``, which is made, while the block runs; ``fingerprint`` is that of the run's settings.

    Raises `UserError` where another living process owns the folder, or it cannot be written to. The process is
    interrupted where another one takes the folder over, as it may after this one was stopped for long.
    """
    ownership = Ownership(out, fingerprint, _command(), note)
    try:
        ownership.acquire(lambda: _lost(out))
        yield ownership
    finally:
        ownership.release()


def note(sentence: str) -> None:
    """Say a sentence about the folder on standard error."""
    say(f"weaksam: {sentence}", error=True)


def _lost(out: Path) -> None:
    note(f"another process has taken over {out} while this one stood still: this one ends, the other one goes on")
    _thread.interrupt_main()


def _command() -> str:
    """The command line of this process, as it is shown to others."""
    return printable(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))[:300]
