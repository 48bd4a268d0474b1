"""Turn what a disk refuses into a sentence that says what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from weaksam.config import UserError

_ADVICE = {
    errno.ENOSPC: "make room, then rerun the same command, which goes on where it stopped",
    errno.EDQUOT: "make room within your quota, then rerun the same command, which goes on where it stopped",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), then rerun the same command",
    errno.EROFS: "name a folder on another disk, or mount this one for writing",
    errno.EACCES: "name a folder that you may write to, or change its permissions",
    errno.EPERM: "name a folder that you may write to, or change its permissions",
    errno.ENOTDIR: "a file stands where a folder is wanted: name another folder, or move that file away",
    errno.EEXIST: "a file stands where a folder is wanted: name another folder, or move that file away",
    errno.EISDIR: "a folder stands where a file is wanted: name another file, or move that folder away",
    errno.ENAMETOOLONG: "name a folder with a shorter path",
    errno.EMFILE: "raise the limit on open files (ulimit -n), then rerun the same command",
    errno.EIO: "check the disk, then rerun the same command, which goes on where it stopped",
    errno.ESTALE: "mount the network disk again, then rerun the same command",
}
"""What to do, by the number of the system's error."""
_ELSE = "free the disk or use another folder"
_SYSTEM_ERROR = re.compile(r"os error (\d{1,4})")
"""How safetensors, which is written in Rust, ends the text of a refusal."""


def refusal(path: Path, error: BaseException) -> UserError | None:
    """The sentence for ``error``, met while ``path`` was written; None where no disk had a part in it.

    safetensors and pyarrow have error kinds of their own, with the system's number in the text or as an attribute.
    """
    if isinstance(error, UserError):
        return None
    number = _number_of(error)
    if number is None and not isinstance(error, OSError):
        return None
    reason = os.strerror(number) if number is not None else str(error)
    return UserError(f"cannot write {_shortened(str(path))} ({reason}): {_ADVICE.get(number or 0, _ELSE)}")


def _number_of(error: BaseException) -> int | None:
    """The system's number of an error; None where it has none."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    match = _SYSTEM_ERROR.search(str(error))
    return None if match is None else int(match[1])


def _shortened(path: str) -> str:
    """A path as text, the middle of a very long one left out."""
    return path if len(path) <= 300 else f"{path[:140]}...{path[-140:]}"
