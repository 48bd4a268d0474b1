"""Keep freed memory in the process while large tensors come and go at every step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
# Where glibc's thresholds, which grow with what is freed, end up in any process that handles photos
_RETURN = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 64 * 2**20))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within it, memory that tensors free is used again instead of being returned to the system.

    glibc returns each large block and asks for a new one, which the system then clears page by page: a fifth of a
    training step on one core. At the end what is free is returned. Changes nothing but time; elsewhere than on glibc,
    nothing at all.
    """
    library = _glibc()
    if library is None:
        yield
        return
    mallopt: Callable[[int, int], int] = library.mallopt
    for parameter, value in _KEEP:
        mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _RETURN:
            mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The process's C library where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
