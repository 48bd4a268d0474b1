"""End a command on Ctrl-C or SIGTERM at any moment: within two seconds, with one sentence, as 128 + the signal.

The signal raises `KeyboardInterrupt` in the body of a command, which writes its notes and removes its temporary files
on the way out. Outside a body and within an import, where an exception would be swallowed or leave a module half made,
the process ends on the spot: every file of a run is written whole or not at all. A thread ends the process too where
the exception gets lost or its way out is long, and at a second signal. Needs nothing but the standard library, so that
it comes before everything slow.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

PATIENCE = 1.5
"""Seconds from a signal to the end of the process, whatever it does."""
SENTENCES = {
    int(signal.SIGINT): "interrupted: rerun the same command to resume",
    int(signal.SIGTERM): "terminated: rerun the same command to resume",
}
"""What is said at the end, by signal."""


class _State:
    """What this process knows of signals; the signal handler, the watching thread and the commands share it."""

    received: int | None = None
    """The first signal that came."""
    handled: bool = False
    """Whether the handler has run."""
    raising: bool = False
    """Whether a signal raises `KeyboardInterrupt`; else it ends the process."""
    spoken: bool = False
    """Whether the sentence has been written."""


_state = _State()


def catch_signals() -> None:
    """Catch Ctrl-C and SIGTERM from now on; a signal that the parent process had ignored stays ignored."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SENTENCES:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _handle)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written to at once, also while a long operation computes
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """While the block runs, a signal raises `KeyboardInterrupt` in the main thread."""
    before, _state.raising = _state.raising, True
    try:
        yield
    finally:
        _state.raising = before


def received() -> int | None:
    """The signal that came, also where its exception was swallowed or turned into another; None if there was none."""
    return _state.received


def say(number: int) -> None:
    """Write the sentence of signal ``number`` to the standard error stream."""
    _state.spoken = True
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"\n{SENTENCES[number]}\n")
        sys.stderr.flush()


def end_after(number: int) -> None:
    """End the process with 128 + ``number`` now, after its sentence where that has not been written."""
    if not _state.spoken:
        _state.spoken = True
        with contextlib.suppress(OSError):
            os.write(2, f"\n{SENTENCES[number]}\n".encode())  # Python's own stream may be in use by what was stopped
    os._exit(128 + number)


def leave(end: SystemExit) -> None:
    """End a process that a signal interrupted by the code of ``end``, without waiting for threads; else raise it."""
    if _state.received is None:
        raise end
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    end_after(_state.received)


def _handle(number: int, frame: FrameType | None) -> None:
    again, _state.handled = _state.handled, True
    _state.received = _state.received or number  # the watching thread may have been faster
    if again or not _state.raising or _importing(frame):
        end_after(_state.received)
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way where the signal came."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(reader: int) -> None:
    """End the process `PATIENCE` seconds after its first signal, or at the second one."""
    number = _next_signal(reader)
    _state.received = _state.received or number
    with contextlib.suppress(OSError):
        if select.select([reader], [], [], PATIENCE)[0]:
            os.read(reader, 1)
    end_after(number)


def _next_signal(reader: int) -> int:
    """Wait for one of the signals of `SENTENCES`; others that Python handles are passed over."""
    while True:
        number = os.read(reader, 1)[0]
        if number in SENTENCES:
            return number
