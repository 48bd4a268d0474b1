"""Share work between processes on one disk: a file's lock says which process has claimed it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the system's lock on a file or folder; False at once if another process has it and ``wait`` is off.

    False too where ``path`` does not exist. The system lets go of the lock of a process that dies.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


class Claims:
    """The pieces of work that processes have claimed, each a locked file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def claim(self, name: str, wait: bool) -> Iterator[bool]:
        """Whether this process may do the work ``name``, claimed until the block ends; ``wait`` for another's to end.

        False as well where another process did all the work and removed the claims this moment.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / name).touch()
        with locked(self.folder / name, wait) as claimed:
            yield claimed

    def remove(self) -> None:
        """Delete the folder of claims, which nobody needs once all work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
