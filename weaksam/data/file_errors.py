"""Say in one sentence why the system does not open a file or folder that somebody named."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from weaksam.config import UserError
from weaksam.data.text_files import printable

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")

_ADVICE = {
    errno.EACCES: "give yourself the right to read it",
    errno.EPERM: "give yourself the right to read it",
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file and not a folder",
    errno.ENOTDIR: "name a folder and not a file",
    errno.ENAMETOOLONG: "check the path",
    errno.ELOOP: "mend the link, which leads to itself",
}
"""What to do about an error of the system, by its number."""


def reads(wanted: str) -> Callable[[Callable[Parameters, Value]], Callable[Parameters, Value]]:
    """Decorate a reader of ``wanted``, a noun phrase: an `OSError` in it becomes a `UserError` that names the path.

    Every reader that looks at paths which somebody gave it is such a door: a closed folder, a folder where a file
    should be or a link that leads to itself raise wherever they are looked at first.
    """

    def decorate(read: Callable[Parameters, Value]) -> Callable[Parameters, Value]:
        @functools.wraps(read)
        def reader(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Value:
            try:
                return read(*args, **kwargs)
            except OSError as error:
                raise UserError(_sentence(error, wanted)) from None

        return reader

    return decorate


def _sentence(error: OSError, wanted: str) -> str:
    """What was wanted, which path cannot be opened and why, and what to do."""
    path = "a file" if error.filename is None else printable(str(error.filename))
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    advice = _ADVICE.get(error.errno or 0, "check the path and the disk it is on")
    return f"wanted {wanted}, found that {path} cannot be opened ({reason}): {advice}"
