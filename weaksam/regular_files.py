"""Open regular files for reading, and refuse pipes, devices and sockets, which may block or never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_DO_NOT_WAIT = getattr(os, "O_NONBLOCK", 0)
"""Opens a pipe at once, so that it can be told from a file; no such thing exists on Windows."""


class NotRegularError(OSError):
    """What lies at a path is no regular file; ``strerror`` says what it is: "a named pipe, not a file"."""

    def __init__(self, path: Path | str, kind: str) -> None:
        super().__init__(errno.EINVAL, f"{kind}, not a file", str(path))


class TooLargeError(OSError):
    """A file has more bytes, ``num_bytes``, than the limit; ``strerror`` gives both numbers."""

    def __init__(self, path: Path | str, num_bytes: int, max_bytes: int) -> None:
        self.num_bytes = num_bytes
        super().__init__(errno.EFBIG, f"{num_bytes:,} bytes, over the limit of {max_bytes:,}", str(path))


def open_regular(path: Path | str) -> BinaryIO:
    """The regular file at ``path``, also behind links, opened to read bytes; never waits for a pipe.

    Raises `NotRegularError` for anything else, and what `open` raises.
    """
    descriptor = os.open(path, os.O_RDONLY | _DO_NOT_WAIT | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")
            raise NotRegularError(path, kind)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path | str, max_bytes: int) -> bytes:
    """All bytes of the regular file at ``path``; raises as `open_regular`, and `TooLargeError` over ``max_bytes``.

    The limit holds for a file that grows, too: no more than ``max_bytes`` + 1 bytes are ever read.
    """
    with open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        data = b""
        if num_bytes <= max_bytes:
            data = file.read(num_bytes + 1)
            if len(data) > num_bytes:  # it grows, or does not know its length
                data += file.read(max_bytes + 1 - len(data))
            num_bytes = len(data)
        if num_bytes > max_bytes:
            raise TooLargeError(path, num_bytes, max_bytes)
    return data
