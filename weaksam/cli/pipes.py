"""End a command without a word once nobody reads its output any more, as when ``head`` has its lines."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

CODE = 141
"""The exit code, 128 + SIGPIPE, as of any other program in a pipe."""


def reader_left(error: BaseException | None) -> bool:
    """Whether ``error`` was raised since nobody reads the output or the errors of this process any more."""
    return isinstance(error, BrokenPipeError) and any(map(_is_unread, (1, 2)))


@contextlib.contextmanager
def as_exit() -> Iterator[None]:
    """Turn what is raised in the block as nobody reads any more into the end of the process."""
    try:
        yield
    except BrokenPipeError as error:
        if not reader_left(error):
            raise
        raise SystemExit(CODE) from error


def silence() -> None:
    """Let what may still be written to a stream that nobody reads go nowhere."""
    for number in filter(_is_unread, (1, 2)):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def flushed(end: SystemExit) -> SystemExit:
    """Write out what streams still hold; ``end``, or one of `CODE` where its reader had left."""
    left = reader_left(end.__context__)  # of the help and of wrong usage, which typer writes
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            left = True
        except (OSError, ValueError):  # closed, or on a full disk
            continue
    if left:
        silence()
    return SystemExit(CODE) if left else end


def _is_unread(number: int) -> bool:
    """Whether the file of this number is a pipe or a socket whose reader has closed it."""
    watch = select.poll()
    watch.register(number, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0))
